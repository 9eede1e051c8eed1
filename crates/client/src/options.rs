//! What a client is told once, for all its calls.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

use crate::error::ClientError;
use crate::retry::RetryPolicy;
use crate::tls::Tls;

/// The most connections of one client.
const MOST_CONNECTIONS: usize = 256;

/// What a client is told once, for all its calls.
#[derive(Clone)]
pub struct ClientOptions {
    /// HTTP/2 connections, from 1 to 256. Calls take them in turn, and many share one: more than one pays where a server
    /// has more cores than one connection keeps busy, or a load balancer counts connections. Default 1.
    pub connections: usize,
    /// Most calls that are open at once, streams included; the next waits for its turn. Default 256, at least 1.
    pub max_open: usize,
    /// How long a call may take, all tries and pauses included, and a stream to its last piece. Sent to the server as
    /// `grpc-timeout`. Default: as long as it likes.
    pub deadline: Option<Duration>,
    /// How long a connection may take to come about. Default 5 s.
    pub connect_timeout: Duration,
    /// When a call is tried again.
    pub retry: RetryPolicy,
    /// Sent as `authorization: Bearer KEY`. Default: none. It is never printed.
    pub api_key: Option<String>,
    /// How TLS is spoken, with `https://HOST:PORT`. Default: not at all.
    pub tls: Option<Tls>,
    /// Most bytes of one message that is received. Default 64 MiB.
    pub max_message_bytes: usize,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connections: 1,
            max_open: 256,
            deadline: None,
            connect_timeout: Duration::from_secs(5),
            retry: RetryPolicy::default(),
            api_key: None,
            tls: None,
            max_message_bytes: 64 << 20,
        }
    }
}

impl std::fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientOptions")
            .field("connections", &self.connections)
            .field("max_open", &self.max_open)
            .field("deadline", &self.deadline)
            .field("connect_timeout", &self.connect_timeout)
            .field("retry", &self.retry)
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("tls", &self.tls.is_some())
            .field("max_message_bytes", &self.max_message_bytes)
            .finish()
    }
}

impl ClientOptions {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let wrong = |name, problem: &str| Err(ClientError::Option { name, problem: problem.to_owned() });
        if !(1..=MOST_CONNECTIONS).contains(&self.connections) {
            return wrong("connections", "is not from 1 to 256");
        }
        if !(1..=tokio::sync::Semaphore::MAX_PERMITS).contains(&self.max_open) {
            return wrong("max_open", "must be at least 1");
        }
        if self.deadline.is_some_and(|deadline| deadline.is_zero()) {
            return wrong("deadline", "must be above 0");
        }
        if self.connect_timeout.is_zero() {
            return wrong("connect_timeout", "must be above 0");
        }
        self.retry.check()
    }

    /// The value of `authorization`, marked so that nothing prints it.
    pub(crate) fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, ClientError> {
        let Some(key) = &self.api_key else {
            return Ok(None);
        };
        let mut value = MetadataValue::try_from(format!("Bearer {key}")).map_err(|_| ClientError::Option {
            name: "api_key",
            problem: "has a character that no header can carry; a key is visible ASCII".to_owned(),
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_and_the_key_is_not_printed() {
        let with = |change: fn(&mut ClientOptions)| {
            let mut options = ClientOptions::default();
            change(&mut options);
            options.check().map_err(|error| error.to_string())
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|options| options.connections = 0).is_err_and(|error| error.contains("connections")));
        assert!(with(|options| options.deadline = Some(Duration::ZERO)).is_err_and(|error| error.contains("deadline")));
        assert!(with(|options| options.retry.tries = 0).is_err_and(|error| error.contains("tries")));
        let options = ClientOptions { api_key: Some("secret".into()), ..ClientOptions::default() };
        assert!(!format!("{options:?}").contains("secret"));
        assert!(options.authorization().is_ok_and(|value| !format!("{value:?}").contains("secret")));
        let options = ClientOptions { api_key: Some("a\nb".into()), ..ClientOptions::default() };
        assert!(options.authorization().is_err_and(|error| error.to_string().contains("api_key")));
    }
}
