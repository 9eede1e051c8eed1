//! Who makes a request, once the gate knows: a key with its scopes and its limits, or anybody where keys are off.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::OwnedSemaphorePermit;

use super::file::Scope;
use super::{Key, Keys};
use crate::priority::Priority;
use crate::refusal::Refusal;

/// Who makes a request. By default anybody, who may do everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    key: Option<(Arc<Key>, Keys)>,
}

impl Caller {
    pub(super) fn new(key: Arc<Key>, keys: Keys) -> Caller {
        Caller { key: Some((key, keys)) }
    }

    /// The key's name, where there are keys.
    pub(crate) fn name(&self) -> Option<&str> {
        self.key.as_ref().map(|(key, _)| key.entry.name.as_str())
    }

    /// Whether the caller may use the model of this name.
    pub(crate) fn may_use(&self, model: &str) -> bool {
        self.has(|scope| match scope {
            Scope::Every => true,
            Scope::Model(name) => name == model,
            Scope::Metrics | Scope::Admin => false,
        })
    }

    /// Whether there is a model that the caller may use.
    pub(crate) fn may_infer(&self) -> bool {
        self.has(|scope| matches!(scope, Scope::Every | Scope::Model(_)))
    }

    /// Whether the caller may read the metrics.
    pub(crate) fn may_measure(&self) -> bool {
        self.has(|scope| matches!(scope, Scope::Metrics))
    }

    /// Whether the caller may manage the server.
    pub(crate) fn may_manage(&self) -> bool {
        self.has(|scope| matches!(scope, Scope::Admin))
    }

    /// How soon a request is wanted that asks for this: no sooner than its key's requests are; without a key as it asks.
    pub(crate) fn priority(&self, asked: Option<Priority>) -> Priority {
        match &self.key {
            Some((key, _)) => key.entry.priority().max(asked.unwrap_or_else(|| key.entry.priority())),
            None => asked.unwrap_or_default(),
        }
    }

    fn has(&self, wanted: impl Fn(&Scope) -> bool) -> bool {
        self.key.as_ref().is_none_or(|(key, _)| key.entry.scopes.iter().any(wanted))
    }

    /// Counts a request: one of those that may be made in a second, and a place among those that may be open.
    pub(crate) fn enter(&self) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        let Some((key, _)) = &self.key else { return Ok(None) };
        let place = key.usage.places.as_ref().map(|places| Arc::clone(places).try_acquire_owned()).transpose();
        let max = key.entry.max_concurrent.unwrap_or_default();
        let place = place.map_err(|_| Refusal::KeyBusy { max })?;
        if let Some(rate) = &key.usage.rate {
            rate.take().map_err(|retry| Refusal::TooFast { retry })?;
        }
        Ok(place)
    }

    /// Waits until one more request may be made: a message of a stream is read no faster.
    pub(crate) async fn pace(&self) {
        let Some(rate) = self.key.as_ref().and_then(|(key, _)| key.usage.rate.as_ref()) else { return };
        while let Err(retry) = rate.take() {
            tokio::time::sleep(retry).await;
        }
    }

    /// Whether the key is still known and has not expired: a stream may outlive it.
    pub(crate) fn is_valid(&self) -> bool {
        self.key.as_ref().is_none_or(|(key, keys)| {
            let known = keys.find(&key.entry.hash.0);
            known.is_some_and(|key| !key.entry.is_expired(SystemTime::now()))
        })
    }
}
