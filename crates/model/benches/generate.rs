//! Generation by SmolLM2-135M and GPT-2 small beside transformers, CTranslate2 and llama.cpp at the same number of bits.
//!
//! All sides use two threads and take turns; each figure is the better of two runs. The interpreter is
//! `TIDEMILL_BENCH_PYTHON` (default `python3`) with what `xtask/peers/generate.txt` names; it also lays the models out,
//! unless `TIDEMILL_BENCH_MODELS` is a folder where it did. `TIDEMILL_BENCH_BATCHES` (default `1,8,32`) says how many
//! prompts are answered at once. Prints one JSON object a goal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tch::{Device, Kind, Tensor};
use tidemill_model::Checkpoint;
use tidemill_model::checkpoint::{ExportOptions, StoredType, export};
use tidemill_model::generation::SamplingConfig;
use tidemill_model::tasks::generation::{GenerateRequest, Generator, GeneratorOptions, Input};
use tidemill_torch::{PackedWeight, Precision};

const THREADS: i32 = 2;
const NEW: usize = 64;
const PROMPTS: [usize; 2] = [32, 512];
/// Weights that every token of SmolLM2-135M takes part with, the table of tokens once.
const SMOLLM2_WEIGHTS: f64 = 134_515_008.0;
const SMOLLM2_WEIGHTS_IN_LAYERS: f64 = 106_168_320.0;

/// One model at one number of bits, and who else runs it.
struct Contest {
    name: &'static str,
    /// Below the folder of models.
    model: &'static str,
    precision: Option<Precision>,
    peers: &'static [Peer],
    /// Bytes of weights that a step reads, where the memory's bandwidth is a goal.
    bytes: Option<f64>,
}

struct Peer {
    name: &'static str,
    /// Below the folder of models.
    model: &'static str,
    kind: &'static str,
    /// How many times as fast one answer is to be.
    goal: f64,
}

const SMOLLM2: &str = "smollm2";
const GPT2: &str = "gpt2";

const CONTESTS: [Contest; 6] = [
    Contest {
        name: "SmolLM2 float32",
        model: SMOLLM2,
        precision: Some(Precision::Float32),
        peers: &[
            Peer { name: "transformers", model: SMOLLM2, kind: "float32", goal: 3.5 },
            Peer { name: "ctranslate2", model: SMOLLM2, kind: "float32", goal: 2.5 },
        ],
        bytes: Some(4.0 * SMOLLM2_WEIGHTS),
    },
    Contest {
        name: "SmolLM2 bfloat16",
        model: SMOLLM2,
        precision: Some(Precision::BFloat16),
        peers: &[Peer { name: "transformers", model: SMOLLM2, kind: "bfloat16", goal: 3.5 }],
        bytes: Some(2.0 * SMOLLM2_WEIGHTS),
    },
    Contest {
        name: "SmolLM2 Q8_0",
        model: "smollm2-q8_0.gguf",
        precision: None,
        peers: &[Peer { name: "llama.cpp", model: "smollm2-q8_0.gguf", kind: "stored", goal: 1.2 }],
        bytes: None,
    },
    Contest {
        name: "SmolLM2 Q4_1",
        model: "smollm2.gguf",
        precision: None,
        peers: &[Peer { name: "llama.cpp", model: "smollm2.gguf", kind: "stored", goal: 1.2 }],
        bytes: None,
    },
    Contest {
        name: "GPT-2 float32",
        model: GPT2,
        precision: Some(Precision::Float32),
        peers: &[
            Peer { name: "transformers", model: GPT2, kind: "float32", goal: 3.5 },
            Peer { name: "ctranslate2", model: GPT2, kind: "float32", goal: 2.5 },
        ],
        bytes: None,
    },
    Contest {
        name: "GPT-2 bfloat16",
        model: GPT2,
        precision: Some(Precision::BFloat16),
        peers: &[Peer { name: "transformers", model: GPT2, kind: "bfloat16", goal: 3.5 }],
        bytes: None,
    },
];

fn main() {
    tidemill_torch::set_threads(THREADS);
    let folder = tempfile::tempdir().unwrap();
    let models = std::env::var_os("TIDEMILL_BENCH_MODELS").map_or(folder.path().to_path_buf(), PathBuf::from);
    if !models.join("smollm2-q8_0.gguf").exists()
        && let Err(problem) = python(&["models".as_ref(), models.as_ref()])
    {
        println!("skipped: {problem}");
        return;
    }
    if !models.join(SMOLLM2).exists() {
        let stored = Checkpoint::open(&models.join("smollm2.gguf")).unwrap();
        let options = ExportOptions { stored: StoredType::Float32, ..ExportOptions::default() };
        export(&stored, &models.join(SMOLLM2), &options, &mut |_| ()).unwrap();
    }
    let batches = std::env::var("TIDEMILL_BENCH_BATCHES").unwrap_or_else(|_| "1,8,32".to_owned());
    let batches: Vec<usize> = batches.split(',').map(|text| text.parse().unwrap()).collect();
    let plan = folder.path().join("plan.json");
    for contest in &CONTESTS {
        generate(contest, &models, &batches, &plan);
    }
    prefill(&models, &plan);
}

/// Tokens a second for each number of prompts and each length of them.
fn generate(contest: &Contest, models: &Path, batches: &[usize], plan: &Path) {
    let shapes: Vec<(usize, usize)> = batches.iter().flat_map(|&batch| PROMPTS.map(|length| (batch, length))).collect();
    let cases: Vec<Vec<Vec<u32>>> = shapes.iter().map(|&(batch, length)| prompts(batch, length)).collect();
    write_plan(plan, &cases, NEW);
    let theirs: Vec<(&Peer, Vec<f64>)> = contest.peers.iter().filter_map(|peer| ask(peer, models, plan)).collect();
    let mut generator = open(&models.join(contest.model), contest.precision);
    let ours: Vec<f64> = cases.iter().map(|case| seconds(&mut generator, case, NEW)).collect();
    drop(generator);
    for (index, &(batch, length)) in shapes.iter().enumerate() {
        let speed = |seconds: f64| (batch * NEW) as f64 / seconds;
        let own = speed(ours[index]);
        let title = format!("generate {}: {batch} at once, prompts of {length}", contest.name);
        let best = theirs.iter().map(|(_, seconds)| speed(seconds[index])).fold(0.0, f64::max);
        for (peer, seconds) in &theirs {
            let theirs = speed(seconds[index]);
            let goal = match batch {
                1 => Some(peer.goal),
                32 if theirs == best => Some(1.5),
                _ => None,
            };
            report(&format!("{title}, against {}", peer.name), "tokens/s", Some(theirs), own, goal);
        }
        if let (1, Some(bytes), true) = (batch, contest.bytes, length == PROMPTS[0]) {
            let allowed = read_bandwidth() / bytes;
            let title = format!("generate {}: 1 at once, by what reading the weights allows", contest.name);
            report(&title, "tokens/s", Some(allowed), own, Some(0.65));
        }
    }
}

/// A prompt of 512 tokens up to the first new one.
fn prefill(models: &Path, plan: &Path) {
    let case = vec![prompts(1, 512)];
    write_plan(plan, &case, 1);
    for (precision, kind) in [(Precision::Float32, Kind::Float), (Precision::BFloat16, Kind::BFloat16)] {
        let mut generator = open(&models.join(SMOLLM2), Some(precision));
        let speed = 512.0 / seconds(&mut generator, &case[0], 1);
        let peak = gemm_peak(kind);
        let title = format!("generate SmolLM2 {precision:?}: prefill of 512, by the peak of products");
        report(&title, "GFLOP/s", Some(peak / 1e9), 2.0 * SMOLLM2_WEIGHTS_IN_LAYERS * speed / 1e9, Some(0.7));
    }
    for contest in &CONTESTS[2..4] {
        let Some((_, theirs)) = ask(&contest.peers[0], models, plan) else { continue };
        let mut generator = open(&models.join(contest.model), None);
        let own = 512.0 / seconds(&mut generator, &case[0], 1);
        report(
            &format!("generate {}: prefill of 512, against llama.cpp", contest.name),
            "tokens/s",
            Some(512.0 / theirs[0]),
            own,
            Some(1.0),
        );
    }
}

fn open(path: &Path, precision: Option<Precision>) -> Generator {
    let mut options = GeneratorOptions { precision, ..GeneratorOptions::default() };
    options.cache_bytes = 4 << 30;
    Generator::open(path, &options).unwrap()
}

/// The better of two runs over all prompts at once.
fn seconds(generator: &mut Generator, prompts: &[Vec<u32>], new: usize) -> f64 {
    let preparation = generator.preparation();
    let mut best = f64::INFINITY;
    for run in 0..3 {
        let start = Instant::now();
        for prompt in prompts {
            // Another beginning each time: nothing may be left from the run before.
            let mut prompt = prompt.clone();
            prompt[0] = 100 + run;
            let sampling = SamplingConfig { max_tokens: Some(new), ignore_eos: true, ..SamplingConfig::greedy() };
            let request = GenerateRequest { sampling, ..GenerateRequest::of(Input::Tokens(prompt)) };
            generator.submit(preparation.prepare(&request).unwrap()).map_err(|_| "refused").unwrap();
        }
        while !generator.is_idle() {
            black_box(generator.step().unwrap());
        }
        if run > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best
}

/// Random tokens, none of them special.
fn prompts(batch: usize, length: usize) -> Vec<Vec<u32>> {
    let mut state = 42u64;
    // A linear congruential generator (Knuth's MMIX) is random enough for ids.
    let mut id = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1000 + ((state >> 33) % 40_000) as u32
    };
    (0..batch).map(|_| (0..length).map(|_| id()).collect()).collect()
}

fn write_plan(path: &Path, cases: &[Vec<Vec<u32>>], new: usize) {
    let plan = json!({"threads": THREADS, "new": new, "cases": cases});
    std::fs::write(path, plan.to_string()).unwrap();
}

/// The peer's seconds for each case of the plan; a peer that cannot is named and left out.
fn ask<'a>(peer: &'a Peer, models: &Path, plan: &Path) -> Option<(&'a Peer, Vec<f64>)> {
    let model = models.join(peer.model);
    match python(&[peer.name.as_ref(), model.as_ref(), peer.kind.as_ref(), plan.as_ref()]) {
        Ok(output) => {
            let last = output.lines().last().unwrap_or_default().to_owned();
            let seconds: Vec<Value> = serde_json::from_str(&last).unwrap();
            Some((peer, seconds.iter().map(|value| value.as_f64().unwrap()).collect()))
        }
        Err(problem) => {
            println!("skipped: {problem}");
            None
        }
    }
}

fn python(arguments: &[&std::ffi::OsStr]) -> Result<String, String> {
    let python = std::env::var_os("TIDEMILL_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/generate_peer.py");
    let output = Command::new(&python).arg(script).args(arguments).env("OMP_NUM_THREADS", THREADS.to_string()).output();
    let output = output.map_err(|error| format!("{}: {error}", python.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("it said nothing").to_owned();
        return Err(format!("{:?} ended with: {last}", arguments[0]));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

/// Bytes a second: sums of all threads over 512 MB, the best of ten.
fn read_bandwidth() -> f64 {
    let numbers = vec![1u64; 64 << 20];
    let share = numbers.len() / THREADS as usize;
    let once = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in numbers.chunks(share) {
                scope.spawn(|| black_box(part.iter().fold(0u64, |sum, number| sum.wrapping_add(*number))));
            }
        });
        start.elapsed().as_secs_f64()
    };
    numbers.len() as f64 * 8.0 / (0..10).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// Operations a second of a large product by the fastest kernel that this crate has.
fn gemm_peak(kind: Kind) -> f64 {
    let random = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind);
    let (x, weight) = (random([512, 1536]), random([1536, 1536]));
    let packed = PackedWeight::new(&weight, 512).unwrap();
    let once = || {
        let start = Instant::now();
        drop(black_box(packed.linear(&x, None).unwrap()));
        start.elapsed().as_secs_f64()
    };
    2.0 * 512.0 * 1536.0 * 1536.0 / (0..30).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn report(name: &str, unit: &str, peer: Option<f64>, ours: f64, goal: Option<f64>) {
    let ratio = peer.map(|peer| ours / peer);
    let met = goal.zip(ratio).map(|(goal, ratio)| ratio >= goal);
    println!(
        "{}",
        json!({"name": name, "unit": unit, "peer": peer, "ours": ours, "ratio": ratio, "goal": goal, "met": met,
            "better": "higher"})
    );
}
