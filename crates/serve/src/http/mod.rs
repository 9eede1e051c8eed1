//! HTTP, beside gRPC on the same port: the page, the Open Inference Protocol, OpenAI's interface, reranking as Text
//! Embeddings Inference has it, probes and metrics. JSON in, checked; models called; JSON or server-sent events out. What a
//! request means is the services'.

mod body;
mod open_inference;
mod openai;
mod page;
mod rerank;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tonic::Status;
use tonic::service::Routes;

use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::services::Base;

/// What the handlers have.
#[derive(Clone, Debug)]
struct Http {
    base: Base,
    metrics: Arc<Metrics>,
    started: u64,
}

/// The gRPC services with HTTP's paths beside them.
pub(crate) fn beside(grpc: Routes, base: Base, metrics: &Arc<Metrics>) -> Routes {
    let http = Http { base, metrics: Arc::clone(metrics), started: now() };
    let router = Router::new()
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*model}", get(openai::models::one))
        .route("/v1/chat/completions", post(openai::chat::complete))
        .route("/v1/completions", post(openai::completions::complete))
        .route("/v1/embeddings", post(openai::embeddings::embed))
        .route("/v1/rerank", post(rerank::rank))
        .route("/rerank", post(rerank::rank))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(measured))
        .merge(open_inference::routes())
        .merge(page::routes())
        .with_state(http);
    // The last word on a path that nobody knows is its own protocol's.
    let router = grpc.into_axum_router().merge(router).fallback(unknown).method_not_allowed_fallback(wrong_method);
    Routes::from(router)
}

/// What the gate answers in the place of a handler.
pub(crate) fn refused(path: &str, refusal: &Refusal) -> Response {
    if path.ends_with("/rerank") {
        rerank::refused(refusal)
    } else if open_inference::is_below(path) {
        open_inference::refused(refusal)
    } else {
        openai::errors::refused(refusal)
    }
}

/// The HTTP status that stands for a refusal.
fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Invalid { .. } | Refusal::TooLong { .. } => StatusCode::BAD_REQUEST,
        Refusal::UnknownModel { .. } | Refusal::UnknownRegion { .. } => StatusCode::NOT_FOUND,
        Refusal::Idle(_) | Refusal::TooLate => StatusCode::REQUEST_TIMEOUT,
        Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Refusal::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
        Refusal::Forbidden { .. } => StatusCode::FORBIDDEN,
        Refusal::QueueFull { .. }
        | Refusal::TooManyRequests { .. }
        | Refusal::TooFast { .. }
        | Refusal::KeyBusy { .. }
        | Refusal::TooSlow => StatusCode::TOO_MANY_REQUESTS,
        Refusal::NotReady { .. } | Refusal::CannotLoad { .. } | Refusal::Unreadable { .. } | Refusal::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Refusal::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Refusal::Stopped { .. } | Refusal::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Tells a caller that found the server full when to come back, in seconds, as HTTP counts them; and one without a key how
/// to send one.
fn advise(response: &mut Response, refusal: &Refusal) {
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        let seconds = refusal.retry().unwrap_or_default().as_secs_f64().ceil().max(1.0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds as u64));
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

async fn ready(State(http): State<Http>) -> (StatusCode, &'static str) {
    if !http.base.is_shut() && http.base.models.all_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn measured(State(http): State<Http>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], http.metrics.render())
}

async fn unknown(request: Request<axum::body::Body>) -> Response {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return Status::unimplemented("").into_http();
    }
    match open_inference::is_below(request.uri().path()) {
        true => open_inference::not_found(),
        false => openai::errors::not_found(),
    }
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    match open_inference::is_below(uri.path()) {
        true => open_inference::wrong_method(&method),
        false => openai::errors::wrong_method(&method, uri.path()),
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
