//! A server that a command asks: its address, its key and how TLS is spoken with it, and the client that calls it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tidemill_client::{Client, ClientError, ClientOptions, Tls};

/// Names the key, which has no place on a command line that others can see.
const KEY: &str = "TIDEMILL_API_KEY";
/// Longer than any server of ours works on one request of a command.
const DEADLINE: Duration = Duration::from_secs(300);

/// The key that `TIDEMILL_API_KEY` holds, if any.
pub(crate) fn api_key() -> anyhow::Result<Option<String>> {
    match std::env::var(KEY) {
        Ok(key) if key.is_empty() => Ok(None),
        Ok(key) => Ok(Some(key)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).with_context(|| KEY.to_owned()),
    }
}

/// How TLS is spoken with a server, by a command that has its `address`.
#[derive(clap::Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArguments {
    /// Speak TLS, and believe a server whose certificate these authorities sign, PEM
    #[arg(long, value_name = "FILE", requires = "address")]
    ca: Option<PathBuf>,

    /// The certificate to show to a server that wants one, PEM: mutual TLS
    #[arg(long, value_name = "FILE", requires_all = ["ca", "tls_key"])]
    tls_certificate: Option<PathBuf>,

    /// The private key of --tls-certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,

    /// The name that the server's certificate is for, where it is not the address's host
    #[arg(long, value_name = "NAME", requires = "ca")]
    server_name: Option<String>,
}

impl TlsArguments {
    /// What they say, if anything; the files are read.
    pub(crate) fn read(&self) -> anyhow::Result<Option<Tls>> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let mut tls = Tls::trusting(&bytes(ca)?).with_context(|| ca.display().to_string())?;
        if let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) {
            let files = || format!("{} and {}", certificate.display(), key.display());
            tls = tls.with_identity(&bytes(certificate)?, &bytes(key)?).with_context(files)?;
        }
        if let Some(name) = &self.server_name {
            tls = tls.with_server_name(name)?;
        }
        Ok(Some(tls))
    }
}

fn bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))
}

/// A client of the server at this address, connected.
pub(crate) async fn connect(address: &str, tls: &TlsArguments) -> anyhow::Result<Client> {
    let options =
        ClientOptions { deadline: Some(DEADLINE), api_key: api_key()?, tls: tls.read()?, ..ClientOptions::default() };
    Client::connect(address, options).await.map_err(|error| match error {
        ClientError::Unreachable { .. } => anyhow!("{error}; start one with tidemill serve"),
        error => error.into(),
    })
}
