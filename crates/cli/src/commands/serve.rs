//! `tidemill serve FOLDER…`: packages behind gRPC until Ctrl-C or SIGTERM.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tidemill_serve::ServerConfig;

use crate::commands::print_json;

/// Serve packages over gRPC: typed classification, the Open Inference Protocol, health and reflection
///
/// Ctrl-C or SIGTERM: not ready, no new connections, finish what was accepted, exit 0.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Package folders, besides those that --config names; a package's name on the wire is its manifest's
    #[arg(required_unless_present = "config", value_name = "FOLDER")]
    packages: Vec<PathBuf>,

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
}

const EXAMPLES: &str = "\
Examples:
  tidemill serve run/package
  tidemill serve run/package --address 0.0.0.0:8080 --threads 4
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
        config.packages.iter_mut().for_each(|package| *package = folder.join(&*package));
    }
    if let Some(text) = &arguments.address {
        config.address = address(text)?;
    }
    config.packages.extend(arguments.packages);
    if let Some(size) = arguments.max_batch_size {
        config.max_batch_size = size;
    }
    if let Some(delay) = arguments.max_delay {
        config.max_delay = Duration::from_millis(delay);
    }
    config.threads = arguments.threads.or(config.threads);
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
