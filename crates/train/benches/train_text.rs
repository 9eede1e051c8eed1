//! A training step of three text classifiers beside the same models in PyTorch eager: time, memory, losses.
//!
//! Both sides run in processes of their own, in turn, on two threads, from the same weights on the same batches, with
//! Adam. The interpreter is `TIDEMILL_BENCH_PYTHON` (default `python3`); it needs `torch` 2.13. Prints one JSON object a
//! goal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tch::Device;
use tidemill_data::TextBatch;
use tidemill_model::architectures::Vocabulary;
use tidemill_model::{Parameters, Weights, architectures};
use tidemill_train::{Loss, Trainer};

/// Set by this program for the processes that it measures.
const MEASURED: &str = "TIDEMILL_BENCH_MEASURED";
const VOCABULARY: usize = 20_000;
const PEAK_GOAL: f64 = 0.6;

/// What both sides read.
#[derive(Serialize, Deserialize)]
struct Plan {
    threads: i32,
    batch: usize,
    length: usize,
    learning_rate: f64,
    /// Steps that are timed, the first `warm_up` of which do not count.
    steps: usize,
    warm_up: usize,
    /// One step of losses is made on each.
    batches: Vec<Batch>,
}

#[derive(Serialize, Deserialize)]
struct Batch {
    ids: Vec<u32>,
    labels: Vec<usize>,
}

/// What both sides print.
#[derive(Serialize, Deserialize)]
struct Figures {
    losses: Vec<f64>,
    seconds: Vec<f64>,
    peak_bytes: u64,
}

fn main() {
    if let Some(folder) = std::env::var_os(MEASURED) {
        println!("{}", serde_json::to_string(&measure(Path::new(&folder))).unwrap());
        return;
    }
    let models = [
        ("text_cnn", json!({"embedding_dim": 128, "widths": [3, 4, 5], "filters": 100}), 0.75),
        ("bilstm", json!({"embedding_dim": 128, "hidden_dim": 128}), 0.75),
        ("transformer", json!({"hidden_dim": 256, "layers": 4, "max_positions": 64}), 0.65),
    ];
    let only = std::env::var("TIDEMILL_BENCH_MODEL").ok();
    for (name, keys, goal) in models {
        if only.as_deref().is_none_or(|only| only == name) {
            compare(name, keys.as_object().unwrap(), goal);
        }
    }
}

/// Runs both sides in turn and prints the goals.
fn compare(name: &str, keys: &Map<String, Value>, goal: f64) {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), name, keys);
    let rounds = std::env::var("TIDEMILL_BENCH_ROUNDS").map_or(3, |text| text.parse().unwrap());
    let (mut peers, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        match peer(folder.path()) {
            Ok(figures) => peers.push(figures),
            Err(problem) => {
                println!("skipped: {problem}");
                return;
            }
        }
        ours.push(ourselves(folder.path()));
    }
    let time = |all: &[Figures]| 1e3 * median(all.iter().flat_map(|figures| figures.seconds.iter().copied()));
    let (theirs, own) = (time(&peers), time(&ours));
    report(&format!("train-text {name}: time a step"), "ms", theirs, own, goal);
    let memory = |all: &[Figures]| median(all.iter().map(|figures| figures.peak_bytes as f64)) / f64::from(1 << 20);
    let (theirs, own) = (memory(&peers), memory(&ours));
    report(&format!("train-text {name}: peak memory"), "MiB", theirs, own, PEAK_GOAL);
    let losses = peers.iter().zip(&ours).flat_map(|(peer, own)| peer.losses.iter().zip(&own.losses));
    let apart = losses.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!(
        "{}",
        json!({"name": format!("train-text {name}: losses of 20 steps, greatest difference"), "unit": "",
            "peer": null, "ours": apart, "ratio": null, "goal": 1e-4, "met": apart <= 1e-4, "better": "lower"})
    );
}

fn report(name: &str, unit: &str, peer: f64, ours: f64, goal: f64) {
    let ratio = ours / peer;
    println!(
        "{}",
        json!({"name": name, "unit": unit, "peer": peer, "ours": ours, "ratio": ratio, "goal": goal,
            "met": ratio <= goal, "better": "lower"})
    );
}

/// Writes configuration, weights and batches.
fn lay_out(folder: &Path, name: &str, keys: &Map<String, Value>) {
    let labels = ["negative".to_owned(), "positive".to_owned()];
    let config = architectures::complete_config(name, keys, Vocabulary::of_tokens(VOCABULARY), &labels).unwrap();
    let parameters = Parameters::new(1, Device::Cpu);
    architectures::build(&parameters.root(), &config).unwrap();
    parameters.save(&folder.join("weights.safetensors")).unwrap();
    let (batch, length) = (64, 64);
    // A linear congruential generator (Knuth's MMIX) is random enough for ids.
    let mut state = 42u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let batches = (0..20).map(|_| Batch {
        ids: (0..batch * length).map(|_| 1 + below(VOCABULARY - 1) as u32).collect(),
        labels: (0..batch).map(|_| below(2)).collect(),
    });
    let plan =
        Plan { threads: 2, batch, length, learning_rate: 1e-3, steps: 40, warm_up: 10, batches: batches.collect() };
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    write("config.json", serde_json::to_string(&config).unwrap());
    write("batches.json", serde_json::to_string(&plan).unwrap());
}

fn peer(folder: &Path) -> Result<Figures, String> {
    let python = std::env::var_os("TIDEMILL_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/train_text_peer.py");
    let output = Command::new(&python).arg(script).arg(folder).output();
    let output = output.map_err(|error| format!("{}: {error}", python.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("it said nothing").to_owned();
        return Err(format!("the peer, {}, ended with: {last}", python.display()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("the peer printed: {error}"))
}

fn ourselves(folder: &Path) -> Figures {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).env(MEASURED, folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Our side, in a process of its own.
fn measure(folder: &Path) -> Figures {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let config: Map<String, Value> = serde_json::from_slice(&read("config.json")).unwrap();
    let plan: Plan = serde_json::from_slice(&read("batches.json")).unwrap();
    tidemill_torch::set_threads(plan.threads);
    let batches: Vec<TextBatch> = plan.batches.iter().map(|batch| text_batch(batch, &plan)).collect();
    let mut without_dropout = config.clone();
    for (key, value) in &mut without_dropout {
        if key.ends_with("dropout") {
            *value = json!(0.0);
        }
    }
    let mut trainer = trainer(folder, &without_dropout);
    let losses = batches
        .iter()
        .enumerate()
        .map(|(step, batch)| trainer.step(std::slice::from_ref(batch), plan.learning_rate, step as u64).unwrap().loss);
    let losses = losses.collect();
    drop(trainer);
    let mut trainer = self::trainer(folder, &config);
    let mut seconds = Vec::new();
    for step in 0..plan.steps {
        let batch = &batches[step % batches.len()];
        let start = Instant::now();
        trainer.step(std::slice::from_ref(batch), plan.learning_rate, step as u64).unwrap();
        seconds.push(start.elapsed().as_secs_f64());
    }
    Figures { losses, seconds: seconds.split_off(plan.warm_up), peak_bytes: peak_bytes() }
}

fn trainer(folder: &Path, config: &Map<String, Value>) -> Trainer {
    let parameters = Parameters::new(1, Device::Cpu);
    let model = architectures::build(&parameters.root(), config).unwrap();
    parameters.load_from(&Weights::open(&folder.join("weights.safetensors")).unwrap()).unwrap();
    let loss = Loss::new(0.0, None, Device::Cpu).unwrap();
    Trainer::new(parameters, model, loss, 0, 1).unwrap().optimise("adam", &Map::new()).unwrap()
}

fn text_batch(batch: &Batch, plan: &Plan) -> TextBatch {
    let mut made = TextBatch::default();
    for (row, (ids, label)) in batch.ids.chunks(plan.length).zip(&batch.labels).enumerate() {
        made.push(ids, Some(*label), row);
    }
    made
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
