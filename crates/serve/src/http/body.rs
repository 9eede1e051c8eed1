//! Reading the JSON of a request: bounded, and with errors that name the field and never repeat what it says.

use axum::body::Body;
use axum::http::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::refusal::Refusal;

/// The JSON object that is a request's body, of `max` bytes at most.
pub(super) async fn read(request: Request<Body>, max: usize) -> Result<Value, Refusal> {
    let wrong = |problem: String| Refusal::invalid("body", problem);
    // Without this a page in a browser could send requests to a server on its machine.
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with(b"application/json") {
        return Err(wrong("must be JSON, with the header Content-Type: application/json".to_owned()));
    }
    // What is compressed could be far larger than it looks.
    let encoding = request.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes).unwrap_or(b"identity");
    if !encoding.eq_ignore_ascii_case(b"identity") {
        return Err(wrong("must not be compressed; leave out the header Content-Encoding".to_owned()));
    }
    let bytes = axum::body::to_bytes(request.into_body(), max).await.map_err(|error| {
        let is_too_large = std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("limit"));
        let late = Refusal::TooLate.to_string();
        let is_late = error.to_string().contains(&late);
        match (is_too_large, is_late) {
            (true, _) => Refusal::TooLarge { max },
            (_, true) => Refusal::TooLate,
            _ => wrong("cannot be read".to_owned()),
        }
    })?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(wrong("must be a JSON object".to_owned())) }
}

/// The fields of a body that `T` has; the others are passed over.
pub(super) fn fields<T: DeserializeOwned>(body: &Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let (field, problem) = explained(error.path().to_string(), &error.inner().to_string());
        Refusal::Invalid { field, problem }
    })
}

// serde says what it found, which may be the caller's own text, and what it expected. Only the latter is repeated.
fn explained(path: String, message: &str) -> (String, String) {
    let within = |name: &str| if path == "." { name.to_owned() } else { format!("{path}.{name}") };
    let quoted = |message: &str| message.split('`').nth(1).map(within).unwrap_or_else(|| path.clone());
    if message.starts_with("missing field") {
        return (quoted(message), "is missing".to_owned());
    }
    if message.starts_with("duplicate field") {
        return (quoted(message), "is there twice".to_owned());
    }
    let Some((_, expected)) = message.rsplit_once(", expected ") else { return (path, message.to_owned()) };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    (path, format!("must be {expected}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Fields {
        name: String,
        count: Option<usize>,
        parts: Option<Vec<Part>>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Part {
        size: f32,
    }

    #[test]
    fn the_field_is_named_and_its_content_is_not_repeated() {
        let refused = |body: Value| match fields::<Fields>(&body).unwrap_err() {
            Refusal::Invalid { field, problem } => format!("{field} {problem}"),
            other => other.to_string(),
        };
        assert_eq!(refused(json!({})), "name is missing");
        assert_eq!(refused(json!({"name": 3})), "name must be a string");
        let secret = json!({"name": "a", "count": "my secret, expected nothing"});
        assert_eq!(refused(secret), "count must be a whole number, 0 or more");
        assert_eq!(refused(json!({"name": "a", "count": -1})), "count must be a whole number, 0 or more");
        assert_eq!(refused(json!({"name": "a", "parts": [{"size": 1}, {}]})), "parts[1].size is missing");
        assert_eq!(refused(json!({"name": "a", "parts": {"size": 1}})), "parts must be a list");
        fields::<Fields>(&json!({"name": "a", "count": null, "unknown": [1]})).unwrap();
    }
}
