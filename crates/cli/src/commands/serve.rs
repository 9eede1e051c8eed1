//! `tidemill serve MODEL…`: packages and checkpoints behind gRPC and HTTP until Ctrl-C or SIGTERM.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use tidemill_serve::{CheckpointPrecision, ModelPath, RepositoryConfig, RepositoryMode, ServerConfig, TlsFiles};

use crate::commands::{observe, print_json, supervisor};

/// Serve packages and checkpoints over gRPC and, for OpenAI's clients, over HTTP, on one port
///
/// Ctrl-C or SIGTERM: not ready, no new connections, finish what was accepted, exit 0. SIGHUP: read --config, keys and
/// certificates again. Under systemd: Type=notify-reload, with WatchdogSec= if wanted.
#[derive(Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Package folders, Hugging Face folders, .gguf, .pt and .pt2 files, besides those that --config names; NAME=PATH gives
    /// one another name on the wire; builtin:identity gives back what it is given
    #[arg(required_unless_present_any = ["config", "repository"], value_name = "MODEL")]
    packages: Vec<String>,

    /// A folder of models that come and go while the server runs: NAME/VERSION/, a version being a whole number. Or its URL
    /// in an object store, s3://bucket/models, gs://…, az://… or file:///…, by the credentials of the environment
    #[arg(long, value_name = "FOLDER|URL")]
    repository: Option<PathBuf>,

    /// Look at the repository again and again, and load and unload what came and went
    #[arg(long, requires = "repository")]
    poll: bool,

    /// Where to listen, by default 127.0.0.1:8080; port 0 takes a free one and prints it
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,

    /// Settings of the server, TOML; the options here go before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// API keys, TOML, as `tidemill key new` prints them; every call but a probe then needs one. Read again when it changes
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,

    /// Open TorchScript (.pt) and AOTInductor (.pt2) files, which run code of their own: only from where you trust
    #[arg(long)]
    allow_code: bool,

    /// The server's certificate, PEM; with --tls-key, TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,

    /// Take callers alone whose certificates these authorities sign, PEM: mutual TLS
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_client_ca: Option<PathBuf>,

    /// Listen where other machines reach the server, though anybody could then call it: without --keys and --tls-client-ca
    #[arg(long)]
    allow_anyone: bool,

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
  tidemill serve run/package --address 0.0.0.0:8080 --keys keys.toml --tls-certificate cert.pem --tls-key key.pem
  tidemill serve --repository models --poll
  AWS_REGION=eu-west-1 tidemill serve --repository s3://bucket/models
  tidemill serve chat=SmolLM2-135M-Instruct.Q4_1.gguf --max-sequences 32
  tidemill serve scorer.pt --allow-code
  grpcurl -plaintext 127.0.0.1:8080 list
  grpcurl -plaintext -d '{\"texts\": [\"a fine film\"]}' 127.0.0.1:8080 tidemill.v1.TextClassification/Classify

Logs go to standard error; RUST_LOG=tidemill_serve=debug says more. Texts are never logged.";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let config = config(arguments.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _watch = observe::start(config.traces.as_ref(), json, &runtime)?;
    runtime.block_on(async {
        let shutdown = async {
            tokio::select! {
                signal = signalled() => match signal {
                    Ok(()) => tracing::info!("stopping: finishing what was accepted"),
                    Err(error) => tracing::error!(%error, "stopping: signals cannot be waited for"),
                },
                () = supervisor::keep_alive() => {}
            }
            supervisor::stopping();
        };
        tidemill_serve::serve_reloaded(config, reloads(arguments), shutdown, |address| {
            listening(address, json);
            supervisor::ready();
        })
        .await
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
        config.repository = config.repository.map(|repository| repository.within(folder));
        if let Some(file) = &mut config.keys {
            *file = folder.join(&*file);
        }
        config.tls = config.tls.map(|files| files.within(folder));
        config.draft = config.draft.map(|draft| folder.join(draft));
    }
    if let Some(text) = &arguments.address {
        config.address = address(text)?;
    }
    if let Some(path) = arguments.repository {
        let written = config.repository.unwrap_or_default();
        let mode = if arguments.poll { RepositoryMode::Poll } else { written.mode };
        config.repository = Some(RepositoryConfig { path, mode, ..written });
    }
    config.packages.extend(arguments.packages.iter().map(|text| ModelPath::from(text.as_str())));
    if let Some(size) = arguments.max_batch_size {
        config.max_batch_size = size;
    }
    if let Some(delay) = arguments.max_delay {
        config.max_delay = Duration::from_millis(delay);
    }
    if let (Some(certificate), Some(key)) = (arguments.tls_certificate, arguments.tls_key) {
        config.tls = Some(TlsFiles { certificate, key, client_ca: arguments.tls_client_ca });
    }
    config.allow_anyone |= arguments.allow_anyone;
    config.keys = arguments.keys.or(config.keys);
    config.allow_code |= arguments.allow_code;
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

/// The configuration, read again at every SIGHUP. One that cannot be read is logged and passed over.
fn reloads(arguments: Arguments) -> impl Stream<Item = ServerConfig> + Send {
    let hangups = hangups();
    futures::stream::unfold((hangups, false), move |(mut hangups, mut taken)| {
        let arguments = arguments.clone();
        async move {
            loop {
                if taken {
                    supervisor::ready();
                }
                hangups.next().await?;
                supervisor::reloading();
                taken = true;
                match config(arguments.clone()) {
                    Ok(config) => return Some((config, (hangups, taken))),
                    Err(error) => tracing::error!(error = format!("{error:#}"), "the configuration stays as it was"),
                }
            }
        }
    })
}

#[cfg(unix)]
fn hangups() -> BoxStream<'static, ()> {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::hangup()) {
        Ok(signal) => {
            futures::stream::unfold(signal, async |mut signal| signal.recv().await.map(|()| ((), signal))).boxed()
        }
        Err(error) => {
            tracing::error!(%error, "SIGHUP cannot be waited for; a new configuration needs a restart");
            futures::stream::pending().boxed()
        }
    }
}

#[cfg(not(unix))]
fn hangups() -> BoxStream<'static, ()> {
    futures::stream::pending().boxed()
}
