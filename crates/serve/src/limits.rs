//! The bounds on one request that can change while the server runs, and which those are.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;

use crate::config::ServerConfig;

/// The keys of the configuration that a running server takes. The files of keys and certificates are read again besides.
const LIVE: [&str; 6] =
    ["max_texts", "max_text_bytes", "max_tensors", "max_request_time", "max_generation_time", "max_receive_time"];

/// The bounds, as the configuration last said. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    current: Arc<RwLock<Bounds>>,
}

/// The bounds of one moment, as the configuration calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) max_texts: usize,
    pub(crate) max_text_bytes: usize,
    pub(crate) max_tensors: usize,
    pub(crate) max_request_time: Duration,
    pub(crate) max_generation_time: Duration,
    pub(crate) max_receive_time: Duration,
}

impl From<&ServerConfig> for Bounds {
    fn from(config: &ServerConfig) -> Bounds {
        Bounds {
            max_texts: config.max_texts,
            max_text_bytes: config.max_text_bytes,
            max_tensors: config.max_tensors,
            max_request_time: config.max_request_time,
            max_generation_time: config.max_generation_time,
            max_receive_time: config.max_receive_time,
        }
    }
}

impl Limits {
    pub(crate) fn new(config: &ServerConfig) -> Limits {
        Limits { current: Arc::new(RwLock::new(Bounds::from(config))) }
    }

    pub(crate) fn now(&self) -> Bounds {
        *self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes those of a new configuration, for requests from now on, and gives the keys that differ from `running` and need
    /// a restart.
    ///
    /// # Errors
    /// Those that make no sense beside what stays; nothing changes then.
    pub(crate) fn take(&self, running: &ServerConfig, new: &ServerConfig) -> Result<Vec<String>, crate::ServeError> {
        let taken = ServerConfig {
            max_texts: new.max_texts,
            max_text_bytes: new.max_text_bytes,
            max_tensors: new.max_tensors,
            max_request_time: new.max_request_time,
            max_generation_time: new.max_generation_time,
            max_receive_time: new.max_receive_time,
            ..running.clone()
        };
        new.check()?;
        taken.check()?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Bounds::from(&taken);
        Ok(differing(running, new))
    }
}

fn differing(running: &ServerConfig, new: &ServerConfig) -> Vec<String> {
    let written = |config: &ServerConfig| serde_json::to_value(config).unwrap_or_default();
    let (Value::Object(running), Value::Object(new)) = (written(running), written(new)) else { return Vec::new() };
    let differs = |key: &str| running.get(key) != new.get(key) && !LIVE.contains(&key);
    running.keys().filter(|key| differs(key)).cloned().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let running = ServerConfig::default();
        let limits = Limits::new(&running);
        let new = ServerConfig { max_texts: 7, max_batch_size: 3, keys: Some("k".into()), ..running.clone() };
        assert_eq!(limits.take(&running, &new).unwrap(), ["keys", "max_batch_size"]);
        assert_eq!(limits.now().max_texts, 7);
        // The line does not grow, so that what it must hold cannot either.
        let more = ServerConfig { max_texts: 9_000, max_queue: 9_000, ..running.clone() };
        limits.take(&running, &more).unwrap_err();
        assert_eq!(limits.now().max_texts, 7);
    }
}
