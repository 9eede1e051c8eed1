//! What the server costs beside the model: the identity model against a bare tonic echo and against Triton's, and a text
//! classifier served to 64 callers against the same pipeline in process and against PyTorch in Triton.
//!
//! All sides run on this machine with the generator, and are measured in turn; each figure is the best of
//! `TIDEMILL_BENCH_ROUNDS` (default 2) of `TIDEMILL_BENCH_SECONDS` (default 2) each. The generator is `tidemill-load`, and
//! beside Triton also its own `perf_analyzer`. `TIDEMILL_BENCH_TRITON` names a folder that holds both (docs/CLIENTS.md says
//! how to make it); `TIDEMILL_BENCH_PACKAGE` a package of a text classifier, by default the demo's. What is not there is
//! skipped with a line that says so. Prints one JSON object a goal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "serve/echo.rs"]
mod echo;
#[path = "serve/triton.rs"]
mod triton;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tidemill_load::{Arrivals, Connections, Contents, Load, Requests, drive, never};
use tidemill_model::{Pipeline, PipelineOptions};
use tidemill_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::inference::{ModelInferRequest, ModelMetadataResponse};
use tidemill_proto::tensor::{Datatype, decode_fp32, encode_bytes, tensor_metadata};
use tidemill_serve::{ModelPath, ServerConfig, serve};
use tokio::runtime::Runtime;

const CALLERS: [usize; 4] = [1, 8, 32, 128];
const SIZES: [(&str, i64); 2] = [("1 KB", 256), ("1 MB", 262_144)];
const MANY: usize = 64;
const IDENTITY: &str = "builtin:identity";

/// Requests a second, and the 99th percentile of the latency in ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p99: f64,
}

impl Figures {
    pub(crate) const NONE: Figures = Figures { per_second: 0.0, p99: f64::INFINITY };

    pub(crate) fn better(self, other: Figures) -> Figures {
        Figures { per_second: self.per_second.max(other.per_second), p99: self.p99.min(other.p99) }
    }
}

/// The generator, on a thread of its own.
pub(crate) struct Generator {
    runtime: Runtime,
    seconds: f64,
    pub(crate) rounds: usize,
}

fn main() {
    let number = |name: &str, other: f64| std::env::var(name).map_or(other, |text| text.parse().unwrap());
    let generator = Generator {
        runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
        seconds: number("TIDEMILL_BENCH_SECONDS", 2.0),
        rounds: number("TIDEMILL_BENCH_ROUNDS", 2.0) as usize,
    };
    // As the program has it.
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let identity = match start(&servers, IDENTITY.into()) {
        Ok(identity) => Some(identity),
        Err(problem) => {
            println!("skipped: the identity model: {problem}");
            None
        }
    };
    if let Some(identity) = &identity {
        beside_echo(&generator, identity, &echo::start(&servers));
    }
    let package = Served::start(&servers);
    if let Some(package) = &package {
        batching(&generator, package);
    }
    triton::beside_triton(&generator, identity.as_deref(), package.as_ref());
}

/// A package of a text classifier, served and open here.
pub(crate) struct Served {
    pub(crate) folder: PathBuf,
    pub(crate) pipeline: Pipeline,
    pub(crate) model: String,
    pub(crate) address: String,
}

impl Served {
    fn start(servers: &Runtime) -> Option<Served> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let named = std::env::var_os("TIDEMILL_BENCH_PACKAGE").map(PathBuf::from);
        let folder = named.unwrap_or_else(|| root.join("target/demo/run/package"));
        let Ok(folder) = folder.canonicalize() else {
            println!("skipped: a text classifier: no package at {}; cargo xtask demo trains it", folder.display());
            return None;
        };
        let pipeline = Pipeline::open(&folder, &PipelineOptions::default()).unwrap();
        let model = pipeline.manifest().name.clone();
        let address = start(servers, ModelPath::from(folder.as_path())).unwrap();
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as i32);
        tidemill_torch::set_threads(threads);
        Some(Served { folder, pipeline, model, address })
    }
}

fn beside_echo(generator: &Generator, identity: &str, echo: &str) {
    for (size, elements) in SIZES {
        let requests = requests("identity", &[elements]);
        for callers in CALLERS {
            let (mut ours, mut bare) = (Figures::NONE, Figures::NONE);
            for _ in 0..generator.rounds {
                bare = bare.better(generator.measure(echo, &requests, callers));
                ours = ours.better(generator.measure(identity, &requests, callers));
            }
            let name = format!("serve {size}, {callers} callers, by a tonic echo");
            report(&name, (bare, ours), 0.8, 1.5);
        }
    }
}

/// A pair of goals: requests a second by the peer's at least, p99 by the peer's at most.
pub(crate) fn report(name: &str, (peer, ours): (Figures, Figures), least: f64, most: f64) {
    goal(name, "requests/s", (peer.per_second, ours.per_second), (least, "higher"));
    goal(&format!("{name}: p99"), "ms", (peer.p99, ours.p99), (most, "lower"));
}

pub(crate) fn goal(name: &str, unit: &str, (peer, ours): (f64, f64), (goal, better): (f64, &str)) {
    let ratio = ours / peer;
    let met = if better == "higher" { ratio >= goal } else { ratio <= goal };
    println!(
        "{}",
        json!({"name": name, "unit": unit, "peer": peer, "ours": ours, "ratio": ratio, "goal": goal, "met": met,
            "better": better})
    );
}

/// One text a request from 64 callers, against the pipeline alone with the batch size that suits it best.
fn batching(generator: &Generator, package: &Served) {
    let texts = texts();
    let views: Vec<&str> = texts.iter().map(String::as_str).collect();
    let requests = text_requests(&package.model, &[1]);
    let (mut alone, mut best_batch, mut served) = (0.0, 0, Figures::NONE);
    for _ in 0..generator.rounds {
        for batch in [1, 4, 8, 16, 32, 64, 128] {
            let (started, mut count) = (Instant::now(), 0);
            while started.elapsed().as_secs_f64() < generator.seconds / 4.0 {
                for part in views.chunks(batch) {
                    package.pipeline.classify(part).unwrap();
                    count += part.len();
                }
            }
            let per_second = count as f64 / started.elapsed().as_secs_f64();
            if per_second > alone {
                (alone, best_batch) = (per_second, batch);
            }
        }
        served = served.better(generator.measure(&package.address, &requests, MANY));
    }
    let name = format!("serve texts, {MANY} callers, by the pipeline alone in batches of {best_batch}");
    goal(&name, "texts/s", (alone, served.per_second), (0.9, "higher"));
}

/// Made-up reviews of 5 to 40 words.
pub(crate) fn texts() -> Vec<String> {
    const WORDS: [&str; 16] = [
        "a",
        "film",
        "with",
        "the",
        "plot",
        "dull",
        "wonderful",
        "cast",
        "and",
        "music",
        "that",
        "nobody",
        "forgets",
        "too",
        "long",
        "moving",
    ];
    let text = |index: usize| -> String {
        let words = (0..5 + index * 7 % 36).map(|word| WORDS[(index * 31 + word * word + 5 * word) % WORDS.len()]);
        words.collect::<Vec<_>>().join(" ")
    };
    (0..512).map(text).collect()
}

pub(crate) fn requests(model: &str, elements: &[i64]) -> Requests {
    filled(model, "x", Datatype::Fp32, elements, &Contents::Random)
}

/// One text a request.
pub(crate) fn text_requests(model: &str, shape: &[i64]) -> Requests {
    filled(model, "text", Datatype::Bytes, shape, &Contents::Texts(texts()))
}

fn filled(model: &str, input: &str, datatype: Datatype, shape: &[i64], contents: &Contents) -> Requests {
    let inputs = vec![tensor_metadata(input, datatype, shape)];
    let metadata = ModelMetadataResponse { name: model.into(), inputs, ..ModelMetadataResponse::default() };
    Requests::for_model(&metadata, &[].into(), contents, 1).unwrap()
}

/// A server of this model alone, and where it listens.
fn start(servers: &Runtime, model: ModelPath) -> Result<String, String> {
    let config =
        ServerConfig { address: "127.0.0.1:0".parse().unwrap(), packages: vec![model], ..ServerConfig::default() };
    let (tell, listening) = std::sync::mpsc::channel();
    let served = tell.clone();
    servers.spawn(async move {
        let ended =
            serve(config, std::future::pending(), |address| served.send(Ok(address.to_string())).unwrap()).await;
        let _ = tell.send(ended.map(|()| String::new()).map_err(|error| error.to_string()));
    });
    listening.recv().unwrap()
}

impl Generator {
    pub(crate) fn measure(&self, address: &str, requests: &Requests, callers: usize) -> Figures {
        self.runtime.block_on(async {
            let connections = Connections::open(address, 1, None).await.unwrap();
            let arrivals = Arrivals::Closed { concurrency: callers };
            let time = Duration::from_secs_f64(self.seconds);
            let load = Load { arrivals, warm_up: time / 4, ..Load::for_time(time) };
            // A task of the runtime: what block_on runs itself is on a thread without its queues.
            let requests = requests.clone();
            let driven = tokio::spawn(async move { drive(&connections, &requests, &load, never()).await });
            let measured = driven.await.unwrap().unwrap();
            assert_eq!(measured.failed(), 0, "{address}: {:?}", measured.errors());
            Figures { per_second: measured.per_second(), p99: measured.latency(0.99).as_secs_f64() * 1e3 }
        })
    }

    /// Of the probabilities that two servers give for these texts.
    pub(crate) fn greatest_difference(&self, ours: &str, theirs: &str, model: &str, texts: &[String]) -> f32 {
        let ask = async |address: &str, batched: bool| {
            let mut client = GrpcInferenceServiceClient::connect(format!("http://{address}")).await.unwrap();
            let mut all = Vec::new();
            for text in texts {
                let shape = if batched { vec![1, 1] } else { vec![1] };
                let (name, datatype) = ("text".to_owned(), Datatype::Bytes.name().to_owned());
                let request = ModelInferRequest {
                    model_name: model.to_owned(),
                    inputs: vec![InferInputTensor { name, datatype, shape, ..InferInputTensor::default() }],
                    raw_input_contents: vec![encode_bytes([text]).unwrap()],
                    ..ModelInferRequest::default()
                };
                let answer = client.model_infer(request).await.unwrap().into_inner();
                let index = answer.outputs.iter().position(|output| output.name == "probabilities").unwrap();
                let raw = &answer.raw_output_contents[index];
                all.extend(decode_fp32(raw, raw.len() / 4).unwrap());
            }
            all
        };
        let (ours, theirs) = self.runtime.block_on(async { (ask(ours, false).await, ask(theirs, true).await) });
        assert_eq!(ours.len(), theirs.len());
        ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }
}
