//! Chats served by the program: 32 at once by the figure of the engine in process, the pauses between their tokens, the
//! time from start to ready, and what the process holds in memory.
//!
//! SmolLM2-135M-Instruct in bfloat16 on two threads, which the callers share. The interpreter `TIDEMILL_BENCH_PYTHON`
//! (default `python3`), with what `xtask/peers/generate.txt` names, lays the model out, unless `TIDEMILL_BENCH_MODELS` is
//! a folder where it did. Prints one JSON object a goal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemill_model::Checkpoint;
use tidemill_model::checkpoint::{ExportOptions, StoredType, export};
use tidemill_model::generation::{ChatInput, Message, SamplingConfig};
use tidemill_model::tasks::generation::{GenerateRequest, Generator, GeneratorOptions, Input};
use tidemill_proto::v1::chat_client::ChatClient;
use tidemill_proto::v1::{ChatMessage, ChatRequest, Sampling};
use tonic::transport::Channel;

const THREADS: i32 = 2;
const CHATS: usize = 32;
const NEW: usize = 128;
const ROUNDS: usize = 3;
const MEGABYTE: f64 = 1e6;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let models = std::env::var_os("TIDEMILL_BENCH_MODELS").map_or(folder.path().to_path_buf(), PathBuf::from);
    if !models.join("smollm2.gguf").exists()
        && let Err(problem) = lay_out(&models)
    {
        println!("skipped: {problem}");
        return;
    }
    let model = models.join("smollm2-bfloat16");
    if !model.exists() {
        let stored = Checkpoint::open(&models.join("smollm2.gguf")).unwrap();
        let options = ExportOptions { stored: StoredType::BFloat16, ..ExportOptions::default() };
        export(&stored, &model, &options, &mut |_| ()).unwrap();
    }
    start_to_ready(&model);
    let alone = in_process(&model);
    served(&model, alone);
}

fn lay_out(models: &Path) -> Result<(), String> {
    let python = std::env::var_os("TIDEMILL_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/benches/generate_peer.py");
    let output = Command::new(&python).arg(script).arg("models").arg(models).output();
    let output = output.map_err(|error| format!("{}: {error}", python.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| said.lines().last().unwrap_or("it said nothing").to_owned())
}

/// The program, serving; ended with the value.
struct Server {
    child: Child,
    address: String,
    ready_in: Duration,
}

impl Server {
    fn start(model: &Path) -> Server {
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args(["serve", "--json", "--address", "127.0.0.1:0", "--threads", &THREADS.to_string()])
            .arg(model)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready_in = started.elapsed();
        let said: Value = serde_json::from_str(&line).unwrap();
        Server { child, address: format!("http://{}", said["address"].as_str().unwrap()), ready_in }
    }

    /// Bytes of a line of `/proc/PID/status`.
    fn memory(&self, line: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
        found.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_to_ready(model: &Path) {
    let started: Vec<Server> = (0..ROUNDS).map(|_| Server::start(model)).collect();
    let best = started.iter().map(|server| server.ready_in).min().unwrap();
    report("chat: start to ready", "s", None, best.as_secs_f64(), Some((1.0, "lower")));
    let weights = std::fs::metadata(model.join("model.safetensors")).unwrap().len() as f64;
    let held = started[0].memory("VmRSS");
    report(
        "chat: resident when ready, less the weights",
        "MB",
        None,
        (held - weights) / MEGABYTE,
        Some((300.0, "lower")),
    );
}

/// Tokens a second of the engine alone.
fn in_process(model: &Path) -> f64 {
    tidemill_torch::set_threads(THREADS);
    let mut generator = Generator::open(model, &GeneratorOptions::default()).unwrap();
    let preparation = generator.preparation();
    let mut best = f64::INFINITY;
    for round in 0..=ROUNDS {
        let start = Instant::now();
        for chat in 0..CHATS {
            let messages = vec![Message::new("user", &question(round, chat))];
            let chat = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
            let sampling = SamplingConfig { max_tokens: Some(NEW), ignore_eos: true, ..SamplingConfig::greedy() };
            let request = GenerateRequest { sampling, ..GenerateRequest::of(Input::Chat(chat)) };
            generator.submit(preparation.prepare(&request).unwrap()).map_err(|_| "refused").unwrap();
        }
        while !generator.is_idle() {
            black_box(generator.step().unwrap());
        }
        if round > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    (CHATS * NEW) as f64 / best
}

fn served(model: &Path, alone: f64) {
    let server = Server::start(model);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (speed, pauses) = runtime.block_on(async {
        let channel = Channel::from_shared(server.address.clone()).unwrap().connect().await.unwrap();
        let (mut best, mut pauses) = (0.0, Vec::new());
        for round in 0..=ROUNDS {
            let start = Instant::now();
            let chats: Vec<_> =
                (0..CHATS).map(|chat| tokio::spawn(converse(channel.clone(), question(round, chat)))).collect();
            let mut between = Vec::new();
            for chat in chats {
                between.extend(chat.await.unwrap());
            }
            let speed = (CHATS * NEW) as f64 / start.elapsed().as_secs_f64();
            if round > 0 && speed > best {
                (best, pauses) = (speed, between);
            }
        }
        (best, pauses)
    });
    let title = format!("chat: {CHATS} at once through the server");
    report(&format!("{title}, by the engine in process"), "tokens/s", Some(alone), speed, Some((0.9, "higher")));
    let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
    let mut sorted = pauses;
    sorted.sort_by(f64::total_cmp);
    let p99 = sorted[sorted.len() * 99 / 100];
    let title = format!("{title}, p99 of the time between tokens by its mean");
    report(&title, "ms", Some(mean * 1e3), p99 * 1e3, Some((3.0, "lower")));
    let peak = (server.memory("VmHWM")) / MEGABYTE;
    report("chat: the most that was resident", "MB", None, peak, None);
}

/// The seconds between the pieces of one answer.
async fn converse(channel: Channel, question: String) -> Vec<f64> {
    let request = ChatRequest {
        messages: vec![ChatMessage { role: "user".into(), content: question, ..ChatMessage::default() }],
        sampling: Some(Sampling {
            max_tokens: Some(NEW as u32),
            temperature: Some(0.0),
            ignore_end: true,
            ..Sampling::default()
        }),
        ..ChatRequest::default()
    };
    let mut pieces = ChatClient::new(channel).complete_stream(request).await.unwrap().into_inner();
    let (mut last, mut between, mut tokens) = (None::<Instant>, Vec::new(), 0);
    while let Some(piece) = pieces.message().await.unwrap() {
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            between.push((now - last).as_secs_f64());
        }
        tokens = piece.usage.map_or(tokens, |usage| usage.completion_tokens);
    }
    assert_eq!(tokens, NEW as u64);
    between
}

/// No two begin alike, so that no prompt is in the cache.
fn question(round: usize, chat: usize) -> String {
    format!(
        "{round}.{chat}: Tell me in a few sentences how a tide mill works, who built the first ones, and where one still runs."
    )
}

fn report(name: &str, unit: &str, peer: Option<f64>, ours: f64, goal: Option<(f64, &str)>) {
    let measured = peer.map_or(ours, |peer| ours / peer);
    let met = goal.map(|(goal, better)| if better == "higher" { measured >= goal } else { measured <= goal });
    println!(
        "{}",
        json!({"name": name, "unit": unit, "peer": peer, "ours": ours, "ratio": peer.map(|_| measured),
            "goal": goal.map(|(goal, _)| goal), "met": met, "better": goal.map(|(_, better)| better)})
    );
}
