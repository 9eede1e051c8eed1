//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}` and the HTTP status that goes with it.

use axum::Json;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::admitted::Reason;
use crate::http::{advise, status};
use crate::refusal::Refusal;

/// The object that stands in the place of an answer.
#[derive(Debug, Serialize)]
pub(super) struct ErrorObject {
    error: Details,
}

#[derive(Debug, Serialize)]
struct Details {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl From<&Refusal> for ErrorObject {
    fn from(refusal: &Refusal) -> ErrorObject {
        let (kind, code) = match refusal {
            Refusal::Invalid { .. } | Refusal::UnknownRegion { .. } => ("invalid_request_error", None),
            Refusal::TooLong { .. } => ("invalid_request_error", Some("context_length_exceeded")),
            Refusal::TooLarge { .. } | Refusal::HeadTooLarge { .. } => {
                ("invalid_request_error", Some("request_too_large"))
            }
            Refusal::UnknownModel { .. } => ("invalid_request_error", Some("model_not_found")),
            Refusal::Unauthenticated { .. } => ("invalid_request_error", Some("invalid_api_key")),
            Refusal::Forbidden { .. } => ("invalid_request_error", Some("permission_denied")),
            Refusal::QueueFull { .. }
            | Refusal::TooManyRequests { .. }
            | Refusal::TooFast { .. }
            | Refusal::KeyBusy { .. } => ("rate_limit_error", Some("rate_limit_exceeded")),
            Refusal::TooSlow => ("rate_limit_error", Some("read_too_slowly")),
            Refusal::DeadlineExceeded | Refusal::Idle(_) | Refusal::TooLate => ("timeout_error", Some("timeout")),
            Refusal::NotReady { .. }
            | Refusal::CannotLoad { .. }
            | Refusal::Unreadable { .. }
            | Refusal::ShuttingDown => ("service_unavailable_error", Some("unavailable")),
            Refusal::Stopped { .. } | Refusal::Failed { .. } => ("server_error", Some("model_failed")),
        };
        let param = match refusal {
            Refusal::Invalid { field, .. } => Some(field.clone()),
            Refusal::UnknownModel { .. } => Some("model".to_owned()),
            _ => None,
        };
        ErrorObject { error: Details { message: refusal.to_string(), kind, param, code } }
    }
}

/// A refusal in this interface's shape.
#[derive(Debug)]
pub(in crate::http) struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        refused(&self.0)
    }
}

/// What is answered in the place of an answer.
pub(in crate::http) fn refused(refusal: &Refusal) -> Response {
    let mut response = (status(refusal), Json(ErrorObject::from(refusal))).into_response();
    response.extensions_mut().insert(Reason(refusal.reason()));
    advise(&mut response, refusal);
    response
}

/// No such path.
pub(in crate::http) fn not_found() -> Response {
    let message = "there is nothing at this path; see /v1/models for what is served".to_owned();
    answer(StatusCode::NOT_FOUND, message, "not_found")
}

/// A path that is asked in another way than it answers.
pub(in crate::http) fn wrong_method(method: &Method, path: &str) -> Response {
    let other = if *method == Method::POST { "GET" } else { "POST" };
    let path: String = path.chars().take(80).collect();
    answer(StatusCode::METHOD_NOT_ALLOWED, format!("{path} answers {other}, not {method}"), "method_not_allowed")
}

fn answer(status: StatusCode, message: String, code: &'static str) -> Response {
    let error = Details { message, kind: "invalid_request_error", param: None, code: Some(code) };
    (status, Json(ErrorObject { error })).into_response()
}
