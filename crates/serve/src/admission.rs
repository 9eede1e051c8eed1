//! The gate before the services: who may call them, how many requests of inference may be open at once, and for how long.
//! It stands before a message is read, so that a request beyond the bound costs neither memory nor a model's time. Health
//! passes it freely, and metadata and reflection with any key: a busy server still answers its probes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Frame, SizeHint};
use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tonic::codegen::{BoxFuture, Bytes, Service};
use tonic::service::Routes;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::access::{self, Access};
use crate::admitted::{Admitted, Broken, Reason};
use crate::config::{AdminConfig, ServerConfig};
use crate::connections::{Busy, ConnectionInfo, Door};
use crate::host;
use crate::keys::{Caller, Keys};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::priority::{self, Priority};
use crate::refusal::Refusal;
use crate::trace::Trace;

/// The header, or gRPC's metadata, that says how soon an answer is wanted.
const PRIORITY: &str = "x-priority";

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    /// `max_request_time`.
    Request,
    /// `max_generation_time`, the streamed answer included.
    Generation,
    /// As long as its caller goes on sending.
    Stream,
}

/// The methods that use a model. What everything else needs, `access.rs` says.
const METHODS: [(&str, Time); 22] = [
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
fn is_of(pattern: &str, path: &str) -> bool {
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
    limits: Limits,
    keys: Option<Keys>,
    is_private: bool,
    admin: AdminConfig,
    max_header_bytes: usize,
    max_stream_idle: Duration,
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

    fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if *self.shut.borrow() {
            return Err(Refusal::ShuttingDown);
        }
        self.entered.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::TooManyRequests { max: self.max_requests })
    }

    // Who makes a request that needs this, if they may.
    fn caller(&self, access: Access, request: &Request<Body>) -> Result<Caller, Refusal> {
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

    fn limit(&self, time: Time) -> Option<Duration> {
        match time {
            Time::Request => Some(self.limits.now().max_request_time),
            Time::Generation => Some(self.limits.now().max_generation_time),
            Time::Stream => None,
        }
    }
}

/// The services behind a gate.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    gate: Gate,
    metrics: Arc<Metrics>,
    services: Routes,
}

impl Admission {
    pub(crate) fn new(gate: Gate, metrics: Arc<Metrics>, services: Routes) -> Admission {
        Admission { gate, metrics, services }
    }
}

impl Service<Request<Body>> for Admission {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.services, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let Some(&(method, time)) = METHODS.iter().find(|(method, _)| is_of(method, path)) else {
            return self.call_beside(request);
        };
        let trace = Trace::begin(method, request.headers());
        let mut account = Account::open(Arc::clone(&self.metrics), method, trace.clone());
        let entered = self.gate.caller(Access::Infer, &request).and_then(|caller| {
            let priority = caller.priority(priority(request.headers())?);
            let place = Place { _server: Some(self.gate.enter()?), _key: caller.enter()?, connection: busy(&request) };
            Ok((caller, priority, place))
        });
        let (caller, priority, place) = match entered {
            Ok(entered) => entered,
            Err(refusal) => {
                account.outcome = Some(refusal.reason());
                let mut refused = refused(method, is_grpc(method), refusal);
                trace.tell(refused.headers_mut());
                return Box::pin(std::future::ready(Ok(refused)));
            }
        };

        let asked = grpc_timeout(request.headers());
        let time_limit = time;
        let time = [asked, self.gate.limit(time)].into_iter().flatten().min();
        let deadline = time.and_then(|time| account.started.checked_add(time));
        let key = caller.name().map_or_else(|| key_of(&request), str::to_owned);
        let admitted = Admitted { deadline, key, priority, caller, broken: account.broken.clone() };
        request.extensions_mut().insert(admitted);

        let request = match time_limit {
            Time::Stream => request,
            Time::Request | Time::Generation => received_within(self.gate.limits.now().max_receive_time, request),
        };
        let span = trace.span().clone();
        let answer = span.in_scope(|| self.services.call(request));
        let answer = async move {
            let answer = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline.into(), answer)
                    .await
                    .unwrap_or_else(|_| Ok(refused(method, is_grpc(method), Refusal::DeadlineExceeded))),
                None => answer.await,
            };
            answer.map(|mut answer| {
                set_bound_code(answer.headers_mut());
                trace.tell(answer.headers_mut());
                account.note(&answer);
                answer.map(|body| Body::new(Held::new(body, Some(account), place)))
            })
        };
        Box::pin(answer.instrument(span))
    }
}

impl Admission {
    // What is not inference: it takes no place on the server, but counts among its key's requests.
    fn call_beside(&mut self, mut request: Request<Body>) -> BoxFuture<Response<Body>, Infallible> {
        let path = request.uri().path();
        let trace = Trace::beside(request.headers());
        let access = access::of(path);
        let entered = self.gate.caller(access, &request).and_then(|caller| {
            // Where there are keys, a probe keeps no connection open: anybody can make one.
            let is_probe = access == Access::Everyone && self.gate.keys.is_some();
            let connection = busy(&request).filter(|_| !is_probe);
            let place = Place { _server: None, _key: caller.enter()?, connection };
            Ok((caller, place))
        });
        match entered {
            Ok((caller, place)) => {
                let is_stream = path.starts_with("/grpc.reflection.");
                let limit = self.gate.limits.now().max_receive_time;
                let limit = if is_stream { self.gate.max_stream_idle } else { limit };
                request.extensions_mut().insert(Admitted { caller, ..Admitted::default() });
                let span = trace.span().clone();
                let answer = span.in_scope(|| self.services.call(received_within(limit, request)));
                let answer = async move {
                    answer.await.map(|mut answer| {
                        trace.tell(answer.headers_mut());
                        answer.map(|body| Body::new(Held::new(body, None, place)))
                    })
                };
                Box::pin(answer.instrument(span))
            }
            Err(refusal) => {
                self.metrics.refused(refusal.reason());
                let kind = request.headers().get("content-type").map(HeaderValue::as_bytes).unwrap_or_default();
                let mut refused = refused(path, kind.starts_with(b"application/grpc"), refusal);
                trace.tell(refused.headers_mut());
                Box::pin(std::future::ready(Ok(refused)))
            }
        }
    }
}

fn key_of(request: &Request<Body>) -> String {
    if let Some(credential) = request.headers().get("authorization") {
        return String::from_utf8_lossy(credential.as_bytes()).into_owned();
    }
    let address = request.extensions().get::<ConnectionInfo>().and_then(|connection| connection.remote);
    address.map(|address| address.to_string()).unwrap_or_default()
}

fn refused(path: &str, is_grpc: bool, refusal: Refusal) -> Response<Body> {
    if is_grpc { Status::from(refusal).into_http() } else { crate::http::refused(path, &refusal).map(Body::new) }
}

fn is_grpc(method: &str) -> bool {
    method.starts_with("/tidemill.") || method.starts_with("/inference.")
}

// One open request, measured and counted when it ends, however it ends.
struct Account {
    metrics: Arc<Metrics>,
    open: Gauge,
    method: &'static str,
    started: Instant,
    outcome: Option<&'static str>,
    broken: Broken,
    trace: Trace,
}

impl Account {
    fn open(metrics: Arc<Metrics>, method: &'static str, trace: Trace) -> Account {
        let open = metrics.open_requests();
        open.increment(1.0);
        Account { metrics, open, method, started: Instant::now(), outcome: None, broken: Broken::default(), trace }
    }

    // What a response's head says of the outcome.
    fn note(&mut self, answer: &Response<Body>) {
        if let Some(Reason(reason)) = answer.extensions().get() {
            self.outcome = Some(reason);
        } else if is_grpc(self.method) {
            self.note_grpc(answer.headers());
        } else if answer.status() != StatusCode::OK {
            self.outcome = Some("invalid");
        }
    }

    // The status of gRPC, in the head of a response or in its trailers.
    fn note_grpc(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.outcome = Some(match Code::from_bytes(code.as_bytes()) {
                Code::Ok => "ok",
                Code::InvalidArgument | Code::Unimplemented => "invalid",
                Code::NotFound => "unknown_model",
                Code::ResourceExhausted => "full",
                Code::DeadlineExceeded => "deadline",
                Code::Unavailable => "unavailable",
                Code::Cancelled => "cancelled",
                _ => "failed",
            });
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.open.decrement(1.0);
        // Without an outcome the caller left before there was one.
        let outcome = self.broken.reason().or(self.outcome).unwrap_or("cancelled");
        let took = self.started.elapsed();
        self.metrics.ended(self.method, outcome, took);
        self.trace.end(outcome, took);
    }
}

// tonic calls a message beyond its bound OUT_OF_RANGE. gRPC's own libraries, and every other bound here, say
// RESOURCE_EXHAUSTED; nothing of ours uses the former. A unary answer says it in its headers, a stream in its trailers.
fn set_bound_code(headers: &mut HeaderMap) {
    if let Some(code) = headers.get_mut("grpc-status")
        && *code == (Code::OutOfRange as i32).to_string()
    {
        *code = HeaderValue::from(Code::ResourceExhausted as i32);
    }
}

// How soon the caller wants the answer.
fn priority(headers: &HeaderMap) -> Result<Option<Priority>, Refusal> {
    let Some(value) = headers.get(PRIORITY) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    match number.and_then(Priority::new) {
        Some(priority) => Ok(Some(priority)),
        None => Err(Refusal::invalid(PRIORITY, priority::PROBLEM)),
    }
}

// The caller's deadline: at most eight digits and a unit, by the gRPC specification. What cannot be read is no deadline.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

// What an open request holds: if it is of inference one of the server's places, one of its key's, where that has a bound, and
// its connection.
struct Place {
    _server: Option<OwnedSemaphorePermit>,
    _key: Option<OwnedSemaphorePermit>,
    connection: Option<Busy>,
}

// The same request, whose body fails when it has not arrived in time: one that trickles in holds a place no longer.
fn received_within(limit: Duration, request: Request<Body>) -> Request<Body> {
    let late = Box::pin(tokio::time::sleep(limit));
    request.map(|body| Body::new(Arriving { body, late }))
}

struct Arriving {
    body: Body,
    late: Pin<Box<Sleep>>,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.late.as_mut().poll(context).map(|()| Some(Err(Refusal::TooLate.into()))),
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn busy(request: &Request<Body>) -> Option<Busy> {
    request.extensions().get::<ConnectionInfo>().map(ConnectionInfo::busy)
}

// A response's body that keeps the request's place until it is sent or dropped.
struct Held {
    body: Body,
    // Of a request of inference.
    account: Option<Account>,
    place: Place,
}

impl Held {
    fn new(body: Body, account: Option<Account>, place: Place) -> Held {
        if let Some(connection) = &place.connection {
            connection.offers();
        }
        Held { body, account, place }
    }

    fn end(&mut self) {
        if let Some(account) = &mut self.account {
            account.outcome = account.outcome.or(Some("ok"));
        }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let span = self.account.as_ref().map(|account| account.trace.span().clone());
        let entered = span.as_ref().map(tracing::Span::enter);
        let mut frame = Pin::new(&mut self.body).poll_frame(context);
        drop(entered);
        match &mut frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    set_bound_code(trailers);
                    if let Some(account) = &mut self.account {
                        account.note_grpc(trailers);
                    }
                }
            }
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        if let Some(connection) = &self.place.connection {
            if frame.is_pending() { connection.has_sent() } else { connection.offers() }
        }
        if self.body.is_end_stream() {
            self.end();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            grpc_timeout(&headers)
        };
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("150m"), Some(Duration::from_millis(150)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        for wrong in ["", "S", "123456789S", "1x", "-1S", "+1S", "1.5S", "1é"] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_bytes(wrong.as_bytes()).unwrap());
            assert_eq!(grpc_timeout(&headers), None, "{wrong}");
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
