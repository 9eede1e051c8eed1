//! What came of a request of inference: measured, counted and told to its trace when it ends, however it ends.

use std::sync::Arc;
use std::time::Instant;

use metrics::Gauge;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::is_grpc;
use crate::admitted::{Broken, Reason};
use crate::metrics::Metrics;
use crate::trace::Trace;

// One open request, measured and counted when it ends, however it ends.
pub(super) struct Account {
    metrics: Arc<Metrics>,
    open: Gauge,
    method: &'static str,
    pub(super) started: Instant,
    pub(super) outcome: Option<&'static str>,
    pub(super) broken: Broken,
    pub(super) trace: Trace,
}

impl Account {
    pub(super) fn open(metrics: Arc<Metrics>, method: &'static str, trace: Trace) -> Account {
        let open = metrics.open_requests();
        open.increment(1.0);
        Account { metrics, open, method, started: Instant::now(), outcome: None, broken: Broken::default(), trace }
    }

    // What a response's head says of the outcome.
    pub(super) fn note(&mut self, answer: &Response<Body>) {
        if let Some(Reason(reason)) = answer.extensions().get() {
            self.outcome = Some(reason);
        } else if is_grpc(self.method) {
            self.note_grpc(answer.headers());
        } else if answer.status() != StatusCode::OK {
            self.outcome = Some("invalid");
        }
    }

    // The status of gRPC, in the head of a response or in its trailers.
    pub(super) fn note_grpc(&mut self, headers: &HeaderMap) {
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
pub(super) fn set_bound_code(headers: &mut HeaderMap) {
    if let Some(code) = headers.get_mut("grpc-status")
        && *code == (Code::OutOfRange as i32).to_string()
    {
        *code = HeaderValue::from(Code::ResourceExhausted as i32);
    }
}
