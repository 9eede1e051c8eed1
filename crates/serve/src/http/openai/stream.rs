//! Answers as server-sent events: one JSON object a `data:` line, an error object if it breaks off, `[DONE]` at the end.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt as _};
use serde::Serialize;

use super::errors::ErrorObject;
use crate::admitted::Admitted;
use crate::refusal::Refusal;

/// How often a comment is sent while there is nothing to say, so that nothing on the way takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The response that streams `chunks`, each a list of objects. After an error there is nothing but `[DONE]`.
pub(super) fn respond<T: Serialize + Send + 'static>(
    chunks: impl Stream<Item = Result<Vec<T>, Refusal>> + Send + 'static,
    admitted: Admitted,
) -> Response {
    let events = chunks.flat_map(move |chunk| {
        let lines: Vec<String> = match &chunk {
            Ok(objects) => objects.iter().filter_map(|object| serde_json::to_string(object).ok()).collect(),
            Err(refusal) => {
                admitted.note_broken(refusal);
                serde_json::to_string(&ErrorObject::from(refusal)).into_iter().collect()
            }
        };
        stream::iter(lines)
    });
    let done = stream::once(async { "[DONE]".to_owned() });
    let events = events.chain(done).map(|line| Ok::<Event, Infallible>(Event::default().data(line)));
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // nginx would gather events otherwise.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
