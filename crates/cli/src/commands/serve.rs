//! `tidemill serve MODEL…`: packages and checkpoints behind gRPC and HTTP until Ctrl-C or SIGTERM.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tidemill_serve::{CheckpointPrecision, ModelPath, ServerConfig};

use crate::commands::print_json;

/// Serve packages and checkpoints over gRPC and, for OpenAI's clients, over HTTP, on one port
///
/// Ctrl-C or SIGTERM: not ready, no new connections, finish what was accepted, exit 0.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Package folders, Hugging Face folders and .gguf files, besides those that --config names; NAME=PATH gives one
    /// another name on the wire
    #[arg(required_unless_present = "config", value_name = "MODEL")]
    packages: Vec<String>,

    /// Where to listen, by default 127.0.0.1:8080; port 0 takes a free one and prints it
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,

    /// Settings of the server, TOML; the options here go before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Most texts that run as one batch
    #[arg(long, value_name = "TEXTS")]
    max_batch_size: Option<usize>,

    /// How long a request may wait for company, in milliseconds
    #[arg(long, value_name = "MS")]
    max_delay: Option<u64>,

    /// Threads of libtorch for each model
    #[arg(long, value_name = "N")]
    threads: Option<i32>,

    /// The precision of checkpoints' weights; by default as they are stored
    #[arg(long, value_enum)]
    precision: Option<Precision>,

    /// The longest context of models that generate, prompt and answer together
    #[arg(long, value_name = "TOKENS")]
    max_context: Option<usize>,

    /// A smaller checkpoint that drafts for the models that generate, which must have its tokens
    #[arg(long, value_name = "PATH")]
    draft: Option<PathBuf>,

    /// What the keys and values of a model that generates may take
    #[arg(long, value_name = "BYTES")]
    cache_bytes: Option<usize>,

    /// Most sequences that a model generates at once
    #[arg(long, value_name = "N")]
    max_sequences: Option<usize>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Precision {
    /// 32 bits
    Float32,
    /// 16 bits, with float32's range
    Bfloat16,
    /// 8 bits, in groups
    Int8,
    /// 4 bits, in groups
    Int4,
}

impl From<Precision> for CheckpointPrecision {
    fn from(precision: Precision) -> CheckpointPrecision {
        match precision {
            Precision::Float32 => CheckpointPrecision::Float32,
            Precision::Bfloat16 => CheckpointPrecision::Bfloat16,
            Precision::Int8 => CheckpointPrecision::Int8,
            Precision::Int4 => CheckpointPrecision::Int4,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  tidemill serve run/package
  tidemill serve run/package --address 0.0.0.0:8080 --threads 4
  tidemill serve chat=SmolLM2-135M-Instruct.Q4_1.gguf --max-sequences 32
  grpcurl -plaintext 127.0.0.1:8080 list
  grpcurl -plaintext -d '{\"texts\": [\"a fine film\"]}' 127.0.0.1:8080 tidemill.v1.TextClassification/Classify

Logs go to standard error; RUST_LOG=tidemill_serve=debug says more. Texts are never logged.";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    start_logging(json);
    let config = config(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = async {
            if signalled().await.is_ok() {
                tracing::info!("stopping: finishing what was accepted");
            }
        };
        tidemill_serve::serve(config, shutdown, |address| listening(address, json)).await
    })?;
    Ok(())
}

fn config(arguments: Arguments) -> anyhow::Result<ServerConfig> {
    let mut config: ServerConfig = match &arguments.config {
        Some(path) => tidemill_data::toml_file::read(path)?,
        None => ServerConfig::default(),
    };
    if let Some(folder) = arguments.config.as_ref().and_then(|path| path.parent()) {
        config.packages.iter_mut().for_each(|package| *package = package.within(folder));
        config.draft = config.draft.map(|draft| folder.join(draft));
    }
    if let Some(text) = &arguments.address {
        config.address = address(text)?;
    }
    config.packages.extend(arguments.packages.iter().map(|text| ModelPath::from(text.as_str())));
    if let Some(size) = arguments.max_batch_size {
        config.max_batch_size = size;
    }
    if let Some(delay) = arguments.max_delay {
        config.max_delay = Duration::from_millis(delay);
    }
    config.threads = arguments.threads.or(config.threads);
    config.precision = arguments.precision.map(CheckpointPrecision::from).or(config.precision);
    config.max_context = arguments.max_context.or(config.max_context);
    config.draft = arguments.draft.or(config.draft);
    config.cache_bytes = arguments.cache_bytes.or(config.cache_bytes);
    config.max_sequences = arguments.max_sequences.unwrap_or(config.max_sequences);
    Ok(config)
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    let mut found = std::net::ToSocketAddrs::to_socket_addrs(text)
        .with_context(|| format!("--address {text}: not HOST:PORT, such as 127.0.0.1:8080"))?;
    found.next().with_context(|| format!("--address {text}: the host has no address"))
}

/// Tell where the server is: one line that a script can wait for.
fn listening(address: SocketAddr, json: bool) {
    if json {
        let _ = print_json(&serde_json::json!({ "event": "listening", "address": address.to_string() }));
    } else {
        println!("listening on {}", address);
    }
}

/// Wait for Ctrl-C or, on Unix, SIGTERM.
pub(crate) async fn signalled() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupt = tokio::signal::ctrl_c() => interrupt,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

fn start_logging(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { log.json().init() } else { log.with_ansi(crate::terminal::interactive()).init() }
}
