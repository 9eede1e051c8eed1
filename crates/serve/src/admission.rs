//! The gate before the inference services: how many requests may be open at once, and for how long. It stands before a
//! message is read, so that a request beyond the bound costs neither memory nor a model's time. Health, metadata and
//! reflection pass it freely: a busy server still answers its probes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::codegen::{BoxFuture, Bytes, Service};
use tonic::service::Routes;
use tonic::{Code, Status};

use crate::refusal::Refusal;

const UNARY: [&str; 2] = ["/tidemill.v1.TextClassification/Classify", "/inference.GRPCInferenceService/ModelInfer"];
const STREAMS: [&str; 1] = ["/tidemill.v1.TextClassification/ClassifyStream"];

/// When a request's answer is no longer wanted: an extension of every admitted request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline(pub(crate) Option<Instant>);

/// Counts the open requests of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    max_requests: usize,
    max_time: Duration,
    shut: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// A gate for `max_requests` at once, each unary one for `max_time` at most.
    pub(crate) fn new(max_requests: usize, max_time: Duration) -> Gate {
        let max_requests = max_requests.min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(max_requests));
        Gate { places, max_requests, max_time, shut: Arc::new(watch::Sender::new(false)) }
    }

    /// Lets nobody in any more.
    pub(crate) fn shut(&self) {
        self.shut.send_replace(true);
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
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::TooManyRequests { max: self.max_requests })
    }
}

/// The services behind a gate.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    gate: Gate,
    services: Routes,
}

impl Admission {
    pub(crate) fn new(gate: Gate, services: Routes) -> Admission {
        Admission { gate, services }
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
        let is_unary = UNARY.contains(&path);
        if !is_unary && !STREAMS.contains(&path) {
            return Box::pin(self.services.call(request));
        }
        let place = match self.gate.enter() {
            Ok(place) => place,
            Err(refusal) => return Box::pin(std::future::ready(Ok(refused(refusal)))),
        };

        let now = Instant::now();
        let asked = grpc_timeout(request.headers());
        let limit = if is_unary { Some(self.gate.max_time) } else { None };
        let time = [asked, limit].into_iter().flatten().min();
        let deadline = time.and_then(|time| now.checked_add(time));
        request.extensions_mut().insert(Deadline(deadline));

        let answer = self.services.call(request);
        Box::pin(async move {
            let answer = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline.into(), answer)
                    .await
                    .unwrap_or_else(|_| Ok(refused(Refusal::DeadlineExceeded))),
                None => answer.await,
            };
            answer.map(|mut answer| {
                set_bound_code(answer.headers_mut());
                answer.map(|body| Body::new(Held { body, _place: place }))
            })
        })
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    Status::from(refusal).into_http()
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

// A response's body that keeps the request's place until it is sent or dropped.
struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            set_bound_code(trailers);
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
        let gate = Gate::new(1, Duration::from_secs(1));
        let place = gate.enter().unwrap();
        assert_eq!(gate.enter().unwrap_err(), Refusal::TooManyRequests { max: 1 });
        gate.shut();
        assert_eq!(gate.enter().unwrap_err(), Refusal::ShuttingDown);
        drop(place);
        gate.emptied().await;
    }
}
