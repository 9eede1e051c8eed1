//! `cargo xtask demo --chat`: a chat model out of a package, served, and asked one question through
//! OpenAI's interface; the answer is printed as it is streamed.
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Built, Options, quoted, relative, shown};
use crate::progress::{self, seconds};
use crate::server::Server;
use crate::{cache, chat_model};

const NAME: &str = "smollm2";
const QUESTION: &str = "Why does the sea rise and fall twice a day? Answer in two sentences.";
const MAX_TOKENS: u64 = 120;
/// Longest wait for the next piece of the answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What an answer took.
#[derive(Debug)]
struct Took {
    prompt_tokens: u64,
    tokens: u64,
    first: Duration,
    whole: Duration,
}

pub(super) fn run(options: &Options, cache_folder: Option<&Path>) -> Result<()> {
    let Built { root, here, program } = super::build_after_setup(options, cache_folder)?;

    progress::heading("3. Fetch the model");
    let model = chat_model::in_cache(&cache::folder(cache_folder)?).context("The model was not fetched.")?;
    progress::done(&format!("SmolLM2-135M-Instruct, in 4 bits, is {}", model.display()));
    let folder = super::output_folder(&root, options.output.as_deref())?;
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made.", folder.display()))?;

    progress::heading("4. Serve, and ask over HTTP");
    let served = format!("{NAME}={}", model.display());
    let mut serve = Command::new(&program);
    serve.args(["serve", &served, "--address", "127.0.0.1:0", "--json"]);
    progress::note(&shown(&serve, &here));
    let server = Server::start(serve, &folder.join("chat-server.log")).context("The server did not start.")?;
    progress::done(&format!("The server listens on {}", server.address()));
    let asked = request();
    progress::note(&format!(
        "curl -N http://{}/v1/chat/completions -H 'Content-Type: application/json' -d '{asked}'",
        server.address()
    ));
    let took = ask(server.address(), &asked, &mut io::stdout()).context("The server did not answer.")?;
    progress::done(&took.sentence());

    let is_kept = options.keep;
    let address = server.address().to_owned();
    if !is_kept {
        server.stop().context("The server did not stop as it should.")?;
        progress::done("The server finished what it had and stopped");
        finish(&relative(&program, &here), &model, &served);
        return Ok(());
    }
    finish(&relative(&program, &here), &model, &served);
    progress::note(&format!("The server stays up on {address}; Ctrl-C stops it."));
    server.wait_for_interrupt().context("The server did not stop as it should.")
}

fn request() -> Value {
    json!({
        "model": NAME,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
    })
}

/// Asks the server at `address`, and writes the answer to `out` as it comes.
fn ask(address: &str, request: &Value, out: &mut impl Write) -> Result<Took> {
    let body = request.to_string();
    let mut stream = TcpStream::connect(address).with_context(|| format!("{address} cannot be reached"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let asked = Instant::now();
    // In HTTP/1.0 an answer is not cut into chunks, and ends with the connection.
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().context("the connection was closed")??;
    if status.split(' ').nth(1) != Some("200") {
        let body = lines.map_while(Result::ok).last().unwrap_or_default();
        bail!("{status}: {body}");
    }
    read(lines, asked, out)
}

/// Reads server-sent events of OpenAI's chunks to their end.
fn read(lines: impl Iterator<Item = io::Result<String>>, asked: Instant, out: &mut impl Write) -> Result<Took> {
    let mut first = None;
    let mut usage = None;
    for line in lines {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            writeln!(out)?;
            let whole = asked.elapsed();
            let usage: Value = usage.context("the stream ended without saying what it took")?;
            let count = |name: &str| usage[name].as_u64().unwrap_or_default();
            let (prompt_tokens, tokens) = (count("prompt_tokens"), count("completion_tokens"));
            return Ok(Took { prompt_tokens, tokens, first: first.unwrap_or(whole), whole });
        }
        let chunk: Value = serde_json::from_str(data).context("a chunk is not JSON")?;
        if let Some(message) = chunk["error"]["message"].as_str() {
            bail!("{message}");
        }
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
            first.get_or_insert_with(|| asked.elapsed());
            write!(out, "{text}")?;
            out.flush()?;
        }
        if chunk["usage"].is_object() {
            usage = Some(chunk["usage"].clone());
        }
    }
    bail!("the stream broke off")
}

impl Took {
    fn sentence(&self) -> String {
        let (prompt, tokens) = (self.prompt_tokens, self.tokens);
        let first = format!("{tokens} tokens to a prompt of {prompt}, the first after {}", seconds(self.first));
        let rest = self.whole.saturating_sub(self.first).as_secs_f64();
        if tokens < 2 || rest == 0.0 {
            return first;
        }
        format!("{first}, then {:.1} tokens a second", tokens.saturating_sub(1) as f64 / rest)
    }
}

fn finish(program: &str, model: &Path, served: &str) {
    progress::heading("Done. To go on by yourself:");
    for (what, command) in [
        ("Talk to it", format!("{program} chat {}", quoted(&model.display().to_string()))),
        ("Serve it on 127.0.0.1:8080, for any client of OpenAI's", format!("{program} serve {}", quoted(served))),
    ] {
        eprintln!("  # {what}\n  {command}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(stream: &str) -> (Result<Took>, String) {
        let mut out = Vec::new();
        let took = read(stream.as_bytes().lines(), Instant::now(), &mut out);
        (took, String::from_utf8(out).unwrap())
    }

    const PIECES: &str = "content-type: text/event-stream\n\n\
        data: {\"choices\": [{\"delta\": {\"role\": \"assistant\", \"content\": \"The \"}}], \"usage\": null}\n\n\
        : a comment\n\n\
        data: {\"choices\": [{\"delta\": {\"content\": \"moon.\"}}], \"usage\": null}\n\n";

    #[test]
    fn an_answer_is_written_as_it_comes_and_counted() {
        let usage = "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 9, \"completion_tokens\": 3}}\n\n";
        let (took, text) = told(&format!("{PIECES}{usage}data: [DONE]\n\n"));
        let took = took.unwrap();
        assert_eq!((took.prompt_tokens, took.tokens, text.as_str()), (9, 3, "The moon.\n"));
        let took = Took { first: Duration::from_millis(500), whole: Duration::from_millis(1500), ..took };
        assert!(took.sentence().ends_with("then 2.0 tokens a second"), "{}", took.sentence());
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        let (took, text) = told(PIECES);
        assert!(took.is_err_and(|error| error.to_string().contains("broke off")));
        assert_eq!(text, "The moon.");
        let (took, _) =
            told(&format!("{PIECES}data: {{\"error\": {{\"message\": \"too slow\"}}}}\n\ndata: [DONE]\n\n"));
        assert!(took.is_err_and(|error| error.to_string() == "too slow"));
    }
}
