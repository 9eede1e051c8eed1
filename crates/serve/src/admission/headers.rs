//! What the headers of a request say that the gate acts on.

use std::time::Duration;

use tonic::codegen::http::HeaderMap;

use crate::priority::{self, Priority};
use crate::refusal::Refusal;

/// The header, or gRPC's metadata, that says how soon an answer is wanted.
const PRIORITY: &str = "x-priority";

// How soon the caller wants the answer.
pub(super) fn priority(headers: &HeaderMap) -> Result<Option<Priority>, Refusal> {
    let Some(value) = headers.get(PRIORITY) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    match number.and_then(Priority::new) {
        Some(priority) => Ok(Some(priority)),
        None => Err(Refusal::invalid(PRIORITY, priority::PROBLEM)),
    }
}

// The caller's deadline: at most eight digits and a unit, by the gRPC specification. What cannot be read is no deadline.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::codegen::http::HeaderValue;

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
}
