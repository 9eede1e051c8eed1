//! The gate before the services: who may call them, how many requests of inference may be open at once, and for how long.
//! It stands before a message is read, so that a request beyond the bound costs neither memory nor a model's time. Health
//! passes it freely, and metadata and reflection with any key: a busy server still answers its probes.
//!
//! `gate.rs` decides, `headers.rs` reads what a caller wants, `account.rs` counts what came of a request, and `bodies.rs` holds
//! its place until its answer is sent.

mod account;
mod bodies;
mod gate;
mod headers;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::service::Routes;
use tracing::Instrument as _;

use crate::access::{self, Access};
use crate::admitted::Admitted;
use crate::connections::ConnectionInfo;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::trace::Trace;
use account::{Account, set_bound_code};
use bodies::{Held, Place, busy, received_within};
pub(crate) use gate::Gate;
use gate::{METHODS, Time, is_of};
use headers::{grpc_timeout, priority};

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
