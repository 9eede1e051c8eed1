//! `tidemill health ADDRESS`: whether a server is ready, as an exit code, for whoever watches over it and has no client.

use std::time::Duration;

use tidemill_client::{Client, ClientError, ClientOptions, RetryPolicy};

use crate::commands::print_json;
use crate::exit::Internal;
use crate::remote::TlsArguments;

/// Shorter than whoever asks is likely to wait.
const DEADLINE: Duration = Duration::from_secs(4);

/// Ask a server whether it is ready: exit code 0 if every model is, else 1
///
/// By the Open Inference Protocol's ServerReady, so of any server that has it. Needs no key.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The server
    #[arg(value_name = "[https://]HOST:PORT", default_value = "127.0.0.1:8080")]
    address: String,

    #[command(flatten)]
    tls: TlsArguments,
}

const EXAMPLES: &str = "\
Examples:
  tidemill health
  tidemill health https://127.0.0.1:8080 --ca ca.pem --server-name models.example.org";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let options = ClientOptions {
        deadline: Some(DEADLINE),
        connect_timeout: DEADLINE,
        retry: RetryPolicy::NEVER,
        tls: arguments.tls.read()?,
        ..ClientOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async { Client::connect(&arguments.address, options).await?.server_ready().await });
    let ready = match asked {
        Ok(ready) => ready,
        // What was asked for, not what came of it, is wrong.
        Err(error @ (ClientError::Address { .. } | ClientError::Tls { .. })) => return Err(error.into()),
        Err(error) => return Err(Internal(error.to_string()).into()),
    };
    if json {
        print_json(&serde_json::json!({ "address": arguments.address, "ready": ready }))?;
    } else if ready {
        println!("ready");
    }
    if ready { Ok(()) } else { Err(Internal(format!("{} is not ready", arguments.address)).into()) }
}
