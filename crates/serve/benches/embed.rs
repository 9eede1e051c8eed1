//! all-MiniLM-L6-v2 on sentences and on longer texts, in process and through the server, beside onnxruntime and
//! sentence-transformers.
//!
//! All sides use two threads, tokenise what they embed, and are measured in turn; each figure is the best of several
//! passes. The interpreter is `TIDEMILL_BENCH_PYTHON` (default `python3`) with what `xtask/peers/embed.txt` names; it also
//! lays the checkpoint out, unless `TIDEMILL_BENCH_CHECKPOINT` is a folder where it did. `TIDEMILL_BENCH_SECONDS` is the
//! time for one figure, `TIDEMILL_BENCH_ROUNDS` how often each side has its turn. Reads `../shared/data/sst2` beside the checkout. Prints one JSON object a goal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde::Deserialize;
use serde_json::json;
use tidemill_model::Checkpoint;
use tidemill_model::tasks::{Embedder, EmbeddingOptions, TaskOptions, TooLong};
use tidemill_proto::v1::EmbedRequest;
use tidemill_proto::v1::embedding_client::EmbeddingClient;
use tidemill_serve::{CheckpointPrecision, ModelPath, ServerConfig, serve};
use tidemill_torch::Precision;

const THREADS: i32 = 2;
/// The longest text in tokens, on every side.
const LONGEST: usize = 512;
const LONG_TEXTS: usize = 96;
const CALLERS: usize = 64;
const PRECISIONS: [(&str, Precision, f64); 2] =
    [("float32", Precision::Float32, 1.3), ("bfloat16", Precision::BFloat16, 2.2)];

type Texts = BTreeMap<String, Vec<String>>;
type Vectors = Vec<Vec<f32>>;

/// What a peer says of one list of texts.
#[derive(Deserialize)]
struct Figures {
    seconds: f64,
    /// For the first text alone.
    one: Option<f64>,
    vectors: Option<Vectors>,
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let Ok(dev) = std::fs::read_to_string(root.join("../shared/data/sst2/dev.tsv")) else {
        println!("skipped: no ../shared/data");
        return;
    };
    let seconds = std::env::var("TIDEMILL_BENCH_SECONDS").map_or(4.0, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let model = match std::env::var_os("TIDEMILL_BENCH_CHECKPOINT") {
        Some(model) => PathBuf::from(model),
        None => folder.path().join("all-MiniLM-L6-v2"),
    };
    if !model.join("model.onnx").exists()
        && let Err(problem) = peer("model", &model, None)
    {
        println!("skipped: {problem}");
        return;
    }
    tidemill_torch::set_threads(THREADS);
    let embedders = PRECISIONS.map(|(_, precision, _)| open(&model, precision));
    let texts = texts(&dev, &embedders[0]);
    let file = folder.path().join("texts.json");
    std::fs::write(&file, serde_json::to_vec(&texts).unwrap()).unwrap();
    let mut best = Best::default();
    let mut theirs: BTreeMap<String, Vectors> = BTreeMap::new();
    let rounds = std::env::var("TIDEMILL_BENCH_ROUNDS").map_or(2, |text| text.parse().unwrap());
    for _ in 0..rounds {
        for name in ["onnxruntime", "sentence-transformers"] {
            let figures = match peer(name, &model, Some((&file, seconds))) {
                Ok(figures) => figures,
                Err(problem) => {
                    println!("skipped: {problem}");
                    return;
                }
            };
            for (list, figures) in figures {
                best.note(&format!("{name} {list}"), figures.seconds);
                figures.one.into_iter().for_each(|one| best.note(&format!("{name} {list} one"), one));
                theirs.extend(figures.vectors.map(|vectors| (list.clone(), vectors)));
            }
        }
        for ((precision, _, _), embedder) in PRECISIONS.iter().zip(&embedders) {
            for (list, texts) in &texts {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let key = format!("{precision} {list}");
                best.note(&key, least(seconds, || drop(embedder.embed(&texts).unwrap())));
                let one = || (0..20).for_each(|_| drop(embedder.embed(&texts[..1]).unwrap()));
                best.note(&format!("{key} one"), least(seconds / 4.0, one) / 20.0);
            }
        }
    }
    in_process(&texts, &best);
    for ((precision, _, _), embedder) in PRECISIONS.iter().zip(&embedders) {
        agreement(precision, embedder, &embedders[0], &texts, &theirs);
    }
    drop(embedders);
    for (precision, served) in [("float32", CheckpointPrecision::Float32), ("bfloat16", CheckpointPrecision::Bfloat16)]
    {
        let served = through_the_server(&model, served, &texts["sentences"], seconds);
        let alone = texts["sentences"].len() as f64 / best.of(&format!("{precision} sentences"));
        report(
            &format!("embed {precision}: through the server, {CALLERS} callers, by the figure in process"),
            "sentences/s",
            (Some(alone), served, served / alone),
            Some((0.85, "higher")),
        );
    }
}

/// The least time of each thing measured.
#[derive(Default)]
struct Best(BTreeMap<String, f64>);

impl Best {
    fn note(&mut self, key: &str, seconds: f64) {
        let least = self.0.entry(key.to_owned()).or_insert(f64::INFINITY);
        *least = least.min(seconds);
    }

    fn of(&self, key: &str) -> f64 {
        self.0[key]
    }
}

fn in_process(texts: &Texts, best: &Best) {
    for (precision, _, goal) in PRECISIONS {
        for (list, texts) in texts {
            let speed = |who: &str| texts.len() as f64 / best.of(&format!("{who} {list}"));
            let ours = speed(precision);
            for (peer, goal) in [("onnxruntime", Some((goal, "higher"))), ("sentence-transformers", None)] {
                let name = format!("embed {precision}: {list}, by {peer}");
                report(&name, "texts/s", (Some(speed(peer)), ours, ours / speed(peer)), goal);
            }
        }
    }
    let one = |who: &str| 1e3 * best.of(&format!("{who} sentences one"));
    for (precision, _, _) in PRECISIONS {
        let (peer, ours) = (one("onnxruntime"), one(precision));
        let goal = (precision == "float32").then_some((1.0, "lower"));
        report(
            &format!("embed {precision}: one sentence, by onnxruntime"),
            "ms",
            (Some(peer), ours, ours / peer),
            goal,
        );
    }
}

/// Against our own float32, and in float32 against sentence-transformers'.
fn agreement(
    precision: &str,
    embedder: &Embedder,
    float: &Embedder,
    texts: &Texts,
    theirs: &BTreeMap<String, Vectors>,
) {
    for (list, texts) in texts {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let ours = embedder.embed(&texts).unwrap();
        let reference = if precision == "float32" { theirs[list].clone() } else { float.embed(&texts).unwrap() };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let cosine = |(a, b): (&Vec<f32>, &Vec<f32>)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        let least = ours.iter().zip(&reference).map(cosine).fold(f64::INFINITY, f64::min);
        let apart = ours.iter().flatten().zip(reference.iter().flatten());
        let apart = apart.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        let (other, goal) = match precision {
            "float32" => ("sentence-transformers'", 0.99999),
            _ => ("float32's", 0.999),
        };
        println!("{precision} {list}: greatest difference of a number from {other}: {apart:.2e}");
        let name = format!("embed {precision}: {list}, least cosine to {other}");
        report(&name, "", (None, least, least), Some((goal, "higher")));
    }
}

fn report(name: &str, unit: &str, (peer, ours, measured): (Option<f64>, f64, f64), goal: Option<(f64, &'static str)>) {
    let met = goal.map(|(goal, better)| if better == "higher" { measured >= goal } else { measured <= goal });
    println!(
        "{}",
        json!({"name": name, "unit": unit, "peer": peer, "ours": ours, "ratio": peer.map(|_| measured),
            "goal": goal.map(|(goal, _)| goal), "met": met, "better": goal.map(|(_, better)| better)})
    );
}

fn open(model: &Path, precision: Precision) -> Embedder {
    let checkpoint = Checkpoint::open(model).unwrap();
    let options = TaskOptions::for_checkpoint(&checkpoint, Some(precision)).unwrap();
    let model = TaskOptions { max_length: Some(LONGEST), ..options };
    Embedder::from_checkpoint(&checkpoint, &EmbeddingOptions { model, ..EmbeddingOptions::default() }).unwrap()
}

/// The sentences, and texts of 200 to 500 tokens that are put together of them.
fn texts(dev: &str, embedder: &Embedder) -> Texts {
    let sentences: Vec<String> = dev
        .lines()
        .filter_map(|line| Some(line.split('\t').next()?.to_owned()))
        .filter(|text| !text.is_empty())
        .collect();
    let preparation = embedder.preparation();
    let mut long = Vec::new();
    let mut next = sentences.iter().cycle();
    while long.len() < LONG_TEXTS {
        // Spread over the range, the same every time.
        let wanted = 220 + long.len() * 97 % 260;
        let (mut text, mut tokens) = (String::new(), 0);
        while tokens < wanted {
            text = format!("{text} {}.", next.next().unwrap());
            tokens = preparation.ids(&text, TooLong::Cut).unwrap().len();
        }
        if (200..=500).contains(&tokens) {
            long.push(text);
        }
    }
    Texts::from([("sentences".to_owned(), sentences), ("long texts".to_owned(), long)])
}

/// The least time of a run, of as many as fit in `seconds`, three at least; the first warms up.
fn least(seconds: f64, mut run: impl FnMut()) -> f64 {
    run();
    let (mut best, mut count, started) = (f64::INFINITY, 0, Instant::now());
    while count < 3 || started.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        run();
        (best, count) = (best.min(start.elapsed().as_secs_f64()), count + 1);
    }
    best
}

/// Sentences a second that the callers get, each with a connection of its own and one sentence a call.
fn through_the_server(model: &Path, precision: CheckpointPrecision, sentences: &[String], seconds: f64) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = ServerConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            packages: vec![ModelPath::from(model)],
            precision: Some(precision),
            threads: Some(THREADS),
            ..ServerConfig::default()
        };
        let (tell, listening) = tokio::sync::oneshot::channel();
        tokio::spawn(serve(config, std::future::pending(), |address| tell.send(address).unwrap()));
        let address = format!("http://{}", listening.await.unwrap());
        let sentences: Arc<[String]> = sentences.into();
        let mut best: f64 = 0.0;
        let started = Instant::now();
        while best == 0.0 || started.elapsed().as_secs_f64() < 2.0 * seconds {
            let next = Arc::new(AtomicUsize::new(0));
            let mut callers = Vec::new();
            for _ in 0..CALLERS {
                callers.push(EmbeddingClient::connect(address.clone()).await.unwrap());
            }
            let start = Instant::now();
            let callers = callers.into_iter().map(|mut client| {
                let (next, sentences) = (Arc::clone(&next), Arc::clone(&sentences));
                tokio::spawn(async move {
                    while let Some(text) = sentences.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let request = EmbedRequest { texts: vec![text.clone()], ..EmbedRequest::default() };
                        client.embed(request).await.unwrap();
                    }
                })
            });
            for caller in callers.collect::<Vec<_>>() {
                caller.await.unwrap();
            }
            best = best.max(sentences.len() as f64 / start.elapsed().as_secs_f64());
        }
        best
    })
}

fn peer(what: &str, model: &Path, texts: Option<(&Path, f64)>) -> Result<BTreeMap<String, Figures>, String> {
    let python = std::env::var_os("TIDEMILL_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(&python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/embed_peer.py")).arg(what).arg(model);
    if let Some((texts, seconds)) = texts {
        command.arg(texts).arg(seconds.to_string());
    }
    let output = command.output().map_err(|error| format!("{}: {error}", python.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("it said nothing").to_owned();
        return Err(format!("the peer, {}, ended with: {last}", python.display()));
    }
    if texts.is_none() {
        return Ok(BTreeMap::new());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("the peer's words cannot be read: {error}"))
}
