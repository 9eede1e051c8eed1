//! `tidemill chat MODEL`: a conversation on the terminal. Answers stream; Ctrl-C ends the answer, not the conversation.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::bail;
use serde_json::json;
use tidemill_model::generation::{ChatInput, Message};
use tidemill_model::tasks::generation::{GenerateRequest, Generator, Input, Usage};

use super::generate::{ModelArguments, SamplingArguments, speed};
use crate::exit::Internal;
use crate::terminal::{bold, yellow};

/// Talk to a checkpoint that has a chat template
///
/// A line is a message; a line that ends with a backslash goes on in the next. /new begins a new conversation, /exit or the
/// end of input leaves. Ctrl-C ends an answer.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    sampling: SamplingArguments,
}

const EXAMPLES: &str = "\
Examples:
  tidemill chat SmolLM2-135M-Instruct.Q4_1.gguf
  tidemill chat model-folder --system 'Answer in one sentence.' --temperature 0.7
  echo 'What is a tide mill?' | tidemill chat model-folder";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let mut generator = arguments.model.open()?;
    let preparation = generator.preparation();
    if !preparation.has_chat_template() {
        bail!(
            "{}: the checkpoint has no chat template, so it cannot chat; let it go on with a text by tidemill generate",
            arguments.model.model.display()
        );
    }
    let sampling = arguments.sampling.over(preparation.defaults());
    let format = arguments.sampling.format()?;
    let stop = stop_on_interrupt()?;
    let system = || arguments.system.iter().map(|text| Message::new("system", text)).collect::<Vec<_>>();
    let mut messages = system();
    let person = std::io::stdin().is_terminal() && !json;
    if person {
        eprintln!(
            "{}, {} tokens of context. /new begins anew, /exit leaves.",
            bold(preparation.name()),
            preparation.context_length()
        );
    }
    while let Some(text) = read_message(person)? {
        match text.trim() {
            "" => continue,
            "/exit" | "/quit" => break,
            "/new" => {
                messages = system();
                continue;
            }
            _ => messages.push(Message::new("user", &text)),
        }
        let chat = ChatInput { messages: messages.clone(), add_generation_prompt: true, ..ChatInput::default() };
        let request = GenerateRequest {
            sampling: sampling.clone(),
            format: format.clone(),
            ..GenerateRequest::of(Input::Chat(chat))
        };
        stop.store(false, Ordering::Relaxed);
        let started = Instant::now();
        match answer(&mut generator, &request, &stop, json) {
            Ok((text, usage)) => {
                let seconds = started.elapsed().as_secs_f64();
                if json {
                    super::print_json(&json!({
                        "answer": text, "prompt_tokens": usage.prompt_tokens,
                        "completion_tokens": usage.completion_tokens, "seconds": seconds,
                    }))?;
                } else if person {
                    eprintln!("{}", yellow(&speed(usage, seconds)));
                }
                messages.push(Message::new("assistant", &text));
            }
            // What was wrong with one message need not end the conversation of a person.
            Err(error) if person && !error.is::<Internal>() => {
                eprintln!("{} {error:#}", crate::terminal::red("error:"));
                messages.pop();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One answer, streamed.
fn answer(
    generator: &mut Generator,
    request: &GenerateRequest,
    stop: &AtomicBool,
    json: bool,
) -> anyhow::Result<(String, Usage)> {
    let prepared = generator.preparation().prepare(request)?;
    let mut usage = Usage { prompt_tokens: prepared.prompt_tokens(), ..Usage::default() };
    let id = generator.submit(prepared)?;
    let mut text = String::new();
    while !generator.is_idle() {
        if stop.load(Ordering::Relaxed) {
            generator.cancel(id);
            break;
        }
        for output in generator.step().map_err(|error| Internal(error.to_string()))? {
            if let Some(problem) = &output.problem {
                generator.cancel(id);
                bail!("the answer could not be finished: {problem}");
            }
            text.push_str(&output.text);
            usage = output.usage.unwrap_or(usage);
            if !json {
                print!("{}", output.text);
                std::io::stdout().flush()?;
            }
        }
    }
    if !json {
        println!();
    }
    Ok((text, usage))
}

/// The next message; nothing at the end of input.
fn read_message(person: bool) -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    loop {
        if person {
            eprint!("{}", bold(if text.is_empty() { "> " } else { "… " }));
            std::io::stderr().flush()?;
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok((!text.is_empty()).then_some(text));
        }
        let line = line.trim_end_matches(['\n', '\r']);
        match line.strip_suffix('\\') {
            Some(part) => {
                text.push_str(part);
                text.push('\n');
            }
            None => {
                text.push_str(line);
                return Ok(Some(text));
            }
        }
    }
}

/// A flag that Ctrl-C raises; a second Ctrl-C without an answer between them ends the program.
fn stop_on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, Arc::clone(&stop))?;
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop))?;
    Ok(stop)
}
