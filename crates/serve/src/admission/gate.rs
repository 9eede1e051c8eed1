//! Which requests are let in: by their caller, by where they came to, and by how many are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::body::Body;
use tonic::codegen::http::Request;

use crate::access::Access;
use crate::config::{AdminConfig, ServerConfig};
use crate::connections::{ConnectionInfo, Door};
use crate::host;
use crate::keys::{Caller, Keys};
use crate::limits::Limits;
use crate::refusal::Refusal;

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// `max_request_time`.
    Request,
    /// `max_generation_time`, the streamed answer included.
    Generation,
    /// As long as its caller goes on sending.
    Stream,
}

/// The methods that use a model. What everything else needs, `access.rs` says.
pub(super) const METHODS: [(&str, Time); 22] = [
    ("/inference.GRPCInferenceService/ModelInfer", Time::Generation),
    ("/inference.GRPCInferenceService/ModelStreamInfer", Time::Stream),
    ("/tidemill.v1.TextClassification/Classify", Time::Request),
    ("/tidemill.v1.TextClassification/ClassifyStream", Time::Stream),
    ("/tidemill.v1.Embedding/Embed", Time::Request),
    ("/tidemill.v1.Embedding/EmbedStream", Time::Stream),
    ("/tidemill.v1.Embedding/Rerank", Time::Request),
    ("/tidemill.v1.Entities/Find", Time::Request),
    ("/tidemill.v1.Entities/FindStream", Time::Stream),
    ("/tidemill.v1.TextToText/Summarise", Time::Generation),
    ("/tidemill.v1.TextToText/Translate", Time::Generation),
    ("/tidemill.v1.Generation/Generate", Time::Generation),
    ("/tidemill.v1.Generation/GenerateStream", Time::Generation),
    ("/tidemill.v1.Chat/Complete", Time::Generation),
    ("/tidemill.v1.Chat/CompleteStream", Time::Generation),
    ("/v1/chat/completions", Time::Generation),
    ("/v1/completions", Time::Generation),
    ("/v1/embeddings", Time::Request),
    ("/v1/rerank", Time::Request),
    ("/rerank", Time::Request),
    ("/v2/models/*/infer", Time::Generation),
    ("/v2/models/*/versions/*/infer", Time::Generation),
];

/// Whether a path is one of these, where a star stands for any one part.
pub(super) fn is_of(pattern: &str, path: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == path;
    }
    let (mut parts, mut own) = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.next(), own.next()) {
            (None, None) => return true,
            (Some(part), Some(own)) if part == "*" || part == own => {}
            _ => return false,
        }
    }
}

/// Counts the open requests of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    max_requests: usize,
    pub(super) limits: Limits,
    pub(super) keys: Option<Keys>,
    is_private: bool,
    admin: AdminConfig,
    max_header_bytes: usize,
    pub(super) max_stream_idle: Duration,
    shut: Arc<watch::Sender<bool>>,
    entered: Arc<AtomicU64>,
}

impl Gate {
    /// A gate for `max_requests` at once, of callers with one of `keys`; without them, of everybody.
    pub(crate) fn new(config: &ServerConfig, keys: Option<Keys>) -> Gate {
        let max_requests = config.max_requests.min(Semaphore::MAX_PERMITS);
        Gate {
            places: Arc::new(Semaphore::new(max_requests)),
            max_requests,
            limits: Limits::new(config),
            // With TLS a site of another name has no certificate to be taken for.
            is_private: keys.is_none() && config.tls.is_none() && !config.allow_anyone,
            keys,
            admin: config.admin.clone(),
            max_header_bytes: config.max_header_bytes as usize,
            max_stream_idle: config.max_stream_idle,
            shut: Arc::new(watch::Sender::new(false)),
            entered: Arc::default(),
        }
    }

    /// How many requests were let in so far, and whether none of them is open.
    pub(crate) fn traffic(&self) -> (u64, bool) {
        let is_idle = self.places.available_permits() == self.max_requests;
        (self.entered.load(Ordering::Relaxed), is_idle)
    }

    /// Lets nobody in any more.
    pub(crate) fn shut(&self) {
        self.shut.send_replace(true);
    }

    /// The bounds on requests.
    pub(crate) fn limits(&self) -> Limits {
        self.limits.clone()
    }

    /// Becomes true when the gate is shut.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.shut.subscribe()
    }

    /// Returns when no request is open. To be called on a shut gate.
    pub(crate) async fn emptied(&self) {
        if let Ok(all) = u32::try_from(self.max_requests)
            && let Ok(places) = self.places.acquire_many(all).await
        {
            places.forget();
        }
    }

    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if *self.shut.borrow() {
            return Err(Refusal::ShuttingDown);
        }
        self.entered.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::TooManyRequests { max: self.max_requests })
    }

    // Who makes a request that needs this, if they may.
    pub(super) fn caller(&self, access: Access, request: &Request<Body>) -> Result<Caller, Refusal> {
        // HTTP/2 has this bound of itself, counted in the same way.
        let head = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>();
        if head > self.max_header_bytes {
            return Err(Refusal::HeadTooLarge { max: self.max_header_bytes });
        }
        if self.is_private && !host::is_private(request) {
            let problem = "a server without keys is asked by an address or a local name, not by one that any site could \
                           have; allow_anyone in its configuration lets every name in";
            return Err(Refusal::Forbidden { problem: problem.to_owned() });
        }
        if access == Access::Everyone {
            return Ok(Caller::default());
        }
        let headers = request.headers();
        let caller = match &self.keys {
            Some(keys) => keys.caller(headers)?,
            None => Caller::default(),
        };
        let (may, scope) = match access {
            Access::Everyone | Access::Key => (true, ""),
            Access::Infer => (caller.may_infer(), "infer"),
            Access::Metrics => (caller.may_measure(), "metrics"),
            Access::Admin => (caller.may_manage(), "admin"),
        };
        if !may {
            let problem = format!("this key may not do that: it has no scope {scope:?}");
            return Err(Refusal::Forbidden { problem });
        }
        self.check_door(access, request)?;
        Ok(caller)
    }

    // Whether what a request needs is there at all, and at the address that it came to.
    fn check_door(&self, access: Access, request: &Request<Body>) -> Result<(), Refusal> {
        let door = request.extensions().get::<ConnectionInfo>().map_or(Door::Public, |connection| connection.door);
        let problem = match (access, door) {
            (Access::Admin, _) if !self.admin.enabled => {
                "the server's management is switched off; admin.enabled in its configuration switches it on"
            }
            (Access::Admin, Door::Public) if self.admin.address.is_some() => {
                "the server is managed at another address than this"
            }
            (Access::Infer, Door::Management) => {
                "this address is for the server's management; models answer at another"
            }
            _ => return Ok(()),
        };
        Err(Refusal::Forbidden { problem: problem.to_owned() })
    }

    pub(super) fn limit(&self, time: Time) -> Option<Duration> {
        match time {
            Time::Request => Some(self.limits.now().max_request_time),
            Time::Generation => Some(self.limits.now().max_generation_time),
            Time::Stream => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_one_part_of_a_path() {
        assert!(is_of("/v2/models/*/infer", "/v2/models/a.b/infer"));
        assert!(is_of("/rerank", "/rerank"));
        for other in ["/v2/models/a/b/infer", "/v2/models/infer", "/v2/models/a/infer/", "/v2/models/a/stats"] {
            assert!(!is_of("/v2/models/*/infer", other), "{other}");
        }
    }

    #[tokio::test]
    async fn places_are_bounded_and_come_back() {
        let gate = Gate::new(&ServerConfig { max_requests: 1, ..ServerConfig::default() }, None);
        let place = gate.enter().unwrap();
        assert_eq!(gate.enter().unwrap_err(), Refusal::TooManyRequests { max: 1 });
        gate.shut();
        assert_eq!(gate.enter().unwrap_err(), Refusal::ShuttingDown);
        drop(place);
        gate.emptied().await;
    }
}
