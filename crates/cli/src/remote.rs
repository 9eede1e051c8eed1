//! A server that a command asks: its address and its key, and the client that calls it.

use std::time::Duration;

use anyhow::{Context, anyhow};
use tidemill_client::{Client, ClientError, ClientOptions};

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

/// A client of the server at this address, connected.
pub(crate) async fn connect(address: &str) -> anyhow::Result<Client> {
    let options = ClientOptions { deadline: Some(DEADLINE), api_key: api_key()?, ..ClientOptions::default() };
    Client::connect(address, options).await.map_err(|error| match error {
        ClientError::Unreachable { .. } => anyhow!("{error}; start one with tidemill serve"),
        error => error.into(),
    })
}
