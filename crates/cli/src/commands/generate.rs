//! `tidemill generate MODEL PROMPT`: a checkpoint goes on with a text, or an encoder-decoder writes one from it; it is printed
//! as it comes.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::json;
use tidemill_model::generation::{ConstraintSpec, SamplingConfig};
use tidemill_model::tasks::generation::{GenerateRequest, Generator, GeneratorOptions, Input, Output, Usage};
use tidemill_torch::Precision;

use crate::commands::{print_json, use_threads};
use crate::exit::Internal;

/// Let a checkpoint go on with a text, or write one from it
///
/// The prompt comes from the argument, else from standard input. The text is printed as it comes.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// The text to go on with; without it standard input is read
    prompt: Option<String>,

    #[command(flatten)]
    sampling: SamplingArguments,
}

const EXAMPLES: &str = "\
Examples:
  tidemill generate SmolLM2-135M-Instruct.Q4_1.gguf 'The tide' --max-tokens 60
  tidemill generate flan-t5-small 'translate English to German: The tide' --beams 4
  tidemill generate model-folder 'Once' --temperature 0.8 --top-p 0.95 --seed 7 -n 3
  tidemill generate model-folder 'A date: ' --regex '[0-9]{4}-[0-9]{2}-[0-9]{2}'
  cat prompt.txt | tidemill generate model-folder --json";

/// The checkpoint, and how it is held.
#[derive(clap::Args)]
pub(crate) struct ModelArguments {
    /// A Hugging Face folder, or a .gguf file
    pub(crate) model: PathBuf,

    /// The precision of the weights; by default as they are stored
    #[arg(long, value_enum)]
    precision: Option<PrecisionArgument>,

    /// The longest context in tokens, prompt and answer together
    #[arg(long, value_name = "TOKENS")]
    max_context: Option<usize>,

    /// A smaller checkpoint of the same tokens that drafts ahead; the text does not change, only the speed
    #[arg(long, value_name = "PATH")]
    draft: Option<PathBuf>,

    /// Threads that libtorch uses; by default all that this process may use
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    threads: Option<i32>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PrecisionArgument {
    /// 32 bits
    Float32,
    /// 16 bits, with float32's range
    Bfloat16,
    /// 8 bits, in groups
    Int8,
    /// 4 bits, in groups
    Int4,
}

impl ModelArguments {
    /// Opens the checkpoint.
    pub(crate) fn open(&self) -> anyhow::Result<Generator> {
        use_threads(self.threads);
        let precision = self.precision.map(|precision| match precision {
            PrecisionArgument::Float32 => Precision::Float32,
            PrecisionArgument::Bfloat16 => Precision::BFloat16,
            PrecisionArgument::Int8 => Precision::Int8,
            PrecisionArgument::Int4 => Precision::Int4,
        });
        let (max_context, draft) = (self.max_context, self.draft.clone());
        let options = GeneratorOptions { precision, max_context, draft, ..GeneratorOptions::default() };
        Ok(Generator::open(&self.model, &options)?)
    }
}

/// How tokens are chosen.
#[derive(clap::Args)]
pub(crate) struct SamplingArguments {
    /// Most tokens of an answer
    #[arg(long, value_name = "COUNT")]
    max_tokens: Option<usize>,

    /// 0 takes the likeliest token each time; higher is more varied
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f32>,

    /// Draw from this many likeliest tokens; 0 is all
    #[arg(long, value_name = "COUNT")]
    top_k: Option<usize>,

    /// Draw from the likeliest tokens that have this share of the probability
    #[arg(long, value_name = "SHARE")]
    top_p: Option<f32>,

    /// Draw from the tokens that are at least this likely, compared to the likeliest
    #[arg(long, value_name = "SHARE")]
    min_p: Option<f32>,

    /// Divide the scores of tokens that were there before
    #[arg(long, value_name = "NUMBER")]
    repetition_penalty: Option<f32>,

    /// The same seed gives the same text
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// How many answers
    #[arg(short, long, value_name = "COUNT", default_value_t = 1)]
    n: usize,

    /// Search with this many beams instead of drawing; by default as the checkpoint says
    #[arg(long, value_name = "COUNT")]
    beams: Option<usize>,

    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// The answer must be a JSON object
    #[arg(long, group = "format")]
    json_object: bool,

    /// The answer must fit the JSON schema in this file
    #[arg(long, value_name = "FILE", group = "format")]
    json_schema: Option<PathBuf>,

    /// The answer must match this regular expression
    #[arg(long, value_name = "PATTERN", group = "format")]
    regex: Option<String>,

    /// The answer must be of the Lark grammar in this file
    #[arg(long, value_name = "FILE", group = "format")]
    grammar: Option<PathBuf>,
}

impl SamplingArguments {
    /// The keys that were given over `defaults`.
    pub(crate) fn over(&self, defaults: &SamplingConfig) -> SamplingConfig {
        let own = defaults.clone();
        let sampling = SamplingConfig {
            max_tokens: self.max_tokens.or(own.max_tokens),
            temperature: self.temperature.unwrap_or(own.temperature),
            top_k: self.top_k.unwrap_or(own.top_k),
            top_p: self.top_p.unwrap_or(own.top_p),
            min_p: self.min_p.unwrap_or(own.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(own.repetition_penalty),
            seed: self.seed.or(own.seed),
            n: self.n,
            beams: self.beams.unwrap_or(own.beams),
            stop: self.stop.clone(),
            ..own
        };
        if self.beams.is_some() { sampling } else { sampling.yielding_beams() }
    }

    /// What the answer must look like.
    pub(crate) fn format(&self) -> anyhow::Result<Option<ConstraintSpec>> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        Ok(match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(file), _, _) => {
                let schema = serde_json::from_str(&read(file)?);
                Some(ConstraintSpec::JsonSchema(schema.with_context(|| format!("{}: not JSON", file.display()))?))
            }
            (_, Some(pattern), _) => Some(ConstraintSpec::Regex(pattern.clone())),
            (_, _, Some(file)) => Some(ConstraintSpec::Grammar(read(file)?)),
            _ => self.json_object.then_some(ConstraintSpec::JsonObject),
        })
    }
}

/// The longest prompt that is read from standard input, in bytes.
const LONGEST_PROMPT: u64 = 16 << 20;

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let prompt = match arguments.prompt {
        Some(prompt) => prompt,
        None => {
            let mut prompt = String::new();
            let read = std::io::stdin().lock().take(LONGEST_PROMPT + 1).read_to_string(&mut prompt);
            read.context("the prompt on standard input is not UTF-8")?;
            if prompt.len() as u64 > LONGEST_PROMPT {
                bail!("the prompt on standard input is longer than {LONGEST_PROMPT} bytes");
            }
            prompt
        }
    };
    let mut generator = arguments.model.open()?;
    let preparation = generator.preparation();
    let request = GenerateRequest {
        sampling: arguments.sampling.over(preparation.defaults()),
        format: arguments.sampling.format()?,
        ..GenerateRequest::of(Input::Text(prompt))
    };
    let several = request.sampling.n > 1;
    let mut texts = vec![String::new(); request.sampling.n.max(1)];
    let started = Instant::now();
    let usage = run_one(&mut generator, &request, |output| {
        if let Some(text) = texts.get_mut(output.sample) {
            text.push_str(&output.text);
        }
        if !json && !several {
            print!("{}", output.text);
            std::io::stdout().flush()?;
        }
        Ok(())
    })?;
    let seconds = started.elapsed().as_secs_f64();
    if json {
        return print_json(&json!({
            "texts": texts, "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
            "seconds": seconds, "drafted_tokens": generator.state().drafted_tokens,
            "accepted_tokens": generator.state().accepted_tokens,
        }));
    }
    if several {
        for (i, text) in texts.iter().enumerate() {
            println!("{}: {text}", i + 1);
        }
    } else {
        println!();
    }
    if std::io::stderr().is_terminal() {
        eprintln!("{}", speed(usage, seconds));
    }
    Ok(())
}

/// Runs one request to its end, giving its pieces to `show`.
pub(crate) fn run_one(
    generator: &mut Generator,
    request: &GenerateRequest,
    mut show: impl FnMut(&Output) -> anyhow::Result<()>,
) -> anyhow::Result<Usage> {
    let prepared = generator.preparation().prepare(request)?;
    let id = generator.submit(prepared)?;
    let mut usage = Usage::default();
    while !generator.is_idle() {
        for output in generator.step().map_err(|error| Internal(error.to_string()))? {
            if let Some(problem) = &output.problem {
                generator.cancel(id);
                bail!("the answer could not be finished: {problem}");
            }
            show(&output)?;
            usage = output.usage.unwrap_or(usage);
        }
    }
    Ok(usage)
}

/// How fast it was, in words.
pub(crate) fn speed(usage: Usage, seconds: f64) -> String {
    let rate = usage.completion_tokens as f64 / seconds.max(1e-9);
    let Usage { prompt_tokens, completion_tokens, .. } = usage;
    format!("{prompt_tokens} tokens read, {completion_tokens} written in {seconds:.1} s: {rate:.1} a second")
}
