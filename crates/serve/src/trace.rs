//! What joins the logs, the traces and the answer of one request together: its id, and W3C trace context. Spans are
//! `tracing`'s; the program decides whether they are exported.

use std::time::{Duration, SystemTime};

use opentelemetry::global;
use opentelemetry::trace::{Span as _, TraceContextExt as _, Tracer as _};
use opentelemetry_http::HeaderExtractor;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header of a request's id, the caller's own if it has one that is fit for a log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that tells a caller which span of its trace answered it, by W3C Trace Context, level 2.
const TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");
/// The longest id that is taken over.
const MAX_ID: usize = 128;

/// One request, as logs and traces know it.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    id: HeaderValue,
    span: Span,
}

impl Trace {
    /// Of a request that uses a model: a span of the trace that its caller has begun, or of one of its own.
    pub(crate) fn begin(method: &'static str, headers: &HeaderMap) -> Trace {
        let id = request_id(headers);
        let span = tracing::info_span!(
            "request",
            id = id.to_str().unwrap_or_default(),
            method,
            trace_id = tracing::field::Empty,
            otel.name = method.trim_start_matches('/'),
            otel.kind = "server",
        );
        let caller = global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)));
        // An error means that spans are not exported.
        let _ = span.set_parent(caller);
        let context = span.context();
        let own = context.span().span_context().clone();
        if own.is_valid() {
            span.record("trace_id", tracing::field::display(own.trace_id()));
        }
        Trace { id, span }
    }

    /// Of a request that uses none: it has an id, and no span of a trace.
    pub(crate) fn beside(headers: &HeaderMap) -> Trace {
        let id = request_id(headers);
        let span = tracing::debug_span!("request", id = id.to_str().unwrap_or_default());
        Trace { id, span }
    }

    /// What runs for the request runs in it.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// Tells the caller the id, and its place in the trace.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.id.clone());
        let context = self.span.context();
        let span = context.span();
        let own = span.span_context();
        if own.is_valid() {
            let (trace, span, flags) = (own.trace_id(), own.span_id(), own.trace_flags().to_u8());
            if let Ok(value) = HeaderValue::try_from(format!("00-{trace}-{span}-{flags:02x}")) {
                headers.insert(TRACE_RESPONSE, value);
            }
        }
    }

    /// The request ended: `ok`, or why it was not answered.
    pub(crate) fn end(&self, outcome: &'static str, took: Duration) {
        self.span.set_attribute("outcome", outcome);
        if outcome != "ok" {
            self.span.set_status(opentelemetry::trace::Status::error(outcome));
        }
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.span.in_scope(|| tracing::debug!(outcome, took_us, "ended"));
    }
}

/// Notes in the current request's trace how long it waited and how long the model took, just now.
pub(crate) fn note_stages(waited: Duration, computed: Duration) {
    let context = Span::current().context();
    if !context.span().span_context().is_sampled() {
        return;
    }
    let ended = SystemTime::now();
    let begun = ended.checked_sub(computed).unwrap_or(ended);
    let arrived = begun.checked_sub(waited).unwrap_or(begun);
    let tracer = global::tracer("tidemill");
    for (name, from, to) in [("queue", arrived, begun), ("compute", begun, ended)] {
        let mut span = tracer.span_builder(name).with_start_time(from).start_with_context(&tracer, &context);
        span.end_with_timestamp(to);
    }
}

/// Notes a moment in the current request's trace.
pub(crate) fn note_event(name: &'static str) {
    Span::current().context().span().add_event(name, Vec::new());
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_fit = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=MAX_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    if let Some(id) = headers.get(REQUEST_ID).filter(is_fit) {
        return id.clone();
    }
    let own = format!("{:032x}", rand::random::<u128>());
    HeaderValue::try_from(own).unwrap_or_else(|_| HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_over_if_it_is_fit_for_a_log() {
        let of = |id: &str| {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(id.as_bytes()) {
                headers.insert(REQUEST_ID, value);
            }
            request_id(&headers)
        };
        assert_eq!(of("a-1"), "a-1");
        let long = "x".repeat(MAX_ID + 1);
        for unfit in ["", "two words", "é", long.as_str()] {
            let id = of(unfit);
            assert!(id != unfit && id.len() == 32, "{unfit:?}: {id:?}");
        }
        assert_ne!(of(""), of(""));
    }
}
