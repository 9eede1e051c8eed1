//! When a call is tried again, and after how long: pure decisions over a status.
//!
//! Sources: gRPC's proposal A6 (retries and `grpc-retry-pushback-ms`), the `google.rpc.RetryInfo` of a status, and the
//! full jitter of "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::error::{ClientError, Transport, transport_failure};

/// When a call is tried again.
///
/// After UNAVAILABLE, and after a connection that could not be made or that broke; and after RESOURCE_EXHAUSTED where the
/// server says when to come back (`retry-after`, `google.rpc.RetryInfo` or `grpc-retry-pushback-ms`): without it a message
/// may be too large for ever. Never after another code, never once a stream has given its first message, and never
/// where the pause would end after the deadline. A server that asks for no more tries gets none.
///
/// The pause before try `n + 1` is random, between nothing and `first_pause * 2^(n - 1)`, `longest_pause` at most, and at
/// least what the server asks for.
///
/// ```
/// use tidemill_client::RetryPolicy;
///
/// assert_eq!(RetryPolicy::default().tries, 4);
/// assert_eq!(RetryPolicy::NEVER.tries, 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most tries, the first included: 1 never tries again. Default 4, from 1 to 100.
    pub tries: u32,
    /// The longest first pause. Default 100 ms.
    pub first_pause: Duration,
    /// The longest pause of our own. Default 5 s.
    pub longest_pause: Duration,
    /// The longest pause that a server may ask for; asked for more, the call ends. Default 30 s.
    pub longest_asked_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            tries: 4,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            longest_asked_pause: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// One try.
    pub const NEVER: RetryPolicy = RetryPolicy {
        tries: 1,
        first_pause: Duration::ZERO,
        longest_pause: Duration::ZERO,
        longest_asked_pause: Duration::ZERO,
    };

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if (1..=100).contains(&self.tries) {
            return Ok(());
        }
        Err(ClientError::Option { name: "retry.tries", problem: "is not from 1 to 100".to_owned() })
    }

    /// The pause after try number `tries` (from 1) ended with `status`; nothing when it was the last. `luck` is random,
    /// from 0 to 1.
    pub(crate) fn pause(&self, status: &Status, tries: u32, luck: f64) -> Option<Duration> {
        if tries >= self.tries {
            return None;
        }
        let asked = match asked_pause(status) {
            Asked::Never => return None,
            Asked::After(pause) => Some(pause),
            Asked::Nothing => None,
        };
        let again = match transport_failure(status) {
            Some(Transport::TimedOut) => false,
            Some(Transport::Unconnected | Transport::Broken) => true,
            None => match status.code() {
                Code::Unavailable => true,
                Code::ResourceExhausted => asked.is_some(),
                _ => false,
            },
        };
        if !again || asked.is_some_and(|asked| asked > self.longest_asked_pause) {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << (tries - 1).min(30));
        let own = doubled.min(self.longest_pause).mul_f64(luck.clamp(0.0, 1.0));
        // All who were refused together were told the same time: the random part keeps them apart.
        Some(asked.map_or(own, |asked| asked.saturating_add(own)))
    }
}

/// What a server asks of those whom it refuses.
#[derive(Debug, PartialEq)]
enum Asked {
    Nothing,
    After(Duration),
    Never,
}

fn asked_pause(status: &Status) -> Asked {
    let header = |name| status.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(pushback) = header("grpc-retry-pushback-ms") {
        // "If the value for pushback is negative or unparseable, then it will be seen as the server asking the client
        // not to retry at all."
        return pushback.parse().map_or(Asked::Never, |ms| Asked::After(Duration::from_millis(ms)));
    }
    if let Some(pause) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        return Asked::After(pause);
    }
    match header("retry-after").map(str::parse) {
        Some(Ok(seconds)) => Asked::After(Duration::from_secs(seconds)),
        _ => Asked::Nothing,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    const POLICY: RetryPolicy = RetryPolicy {
        tries: 4,
        first_pause: Duration::from_millis(100),
        longest_pause: Duration::from_millis(300),
        longest_asked_pause: Duration::from_secs(10),
    };

    fn with_header(code: Code, name: &'static str, value: &str) -> Status {
        let mut status = Status::new(code, "");
        status.metadata_mut().insert(name, value.parse().unwrap());
        status
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_luck_shortens_them() {
        let status = Status::unavailable("");
        let pauses = [1, 2, 3].map(|tries| POLICY.pause(&status, tries, 1.0).unwrap().as_millis());
        assert_eq!(pauses, [100, 200, 300]);
        assert_eq!(POLICY.pause(&status, 2, 0.5), Some(Duration::from_millis(100)));
        assert_eq!(POLICY.pause(&status, 4, 1.0), None, "four tries are all");
    }

    #[test]
    fn other_codes_are_final() {
        for code in 1..=16 {
            let code = Code::from(code);
            let again = POLICY.pause(&Status::new(code, ""), 1, 0.5).is_some();
            assert_eq!(again, code == Code::Unavailable, "{code:?}");
        }
    }

    #[test]
    fn a_server_that_is_full_is_asked_again_when_it_says_so() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(700)));
        let full = Status::with_error_details(Code::ResourceExhausted, "", details);
        assert_eq!(POLICY.pause(&full, 1, 0.0), Some(Duration::from_millis(700)));
        assert_eq!(POLICY.pause(&full, 1, 1.0), Some(Duration::from_millis(800)));
        let after = |seconds: &str| with_header(Code::ResourceExhausted, "retry-after", seconds);
        assert_eq!(POLICY.pause(&after("2"), 1, 0.0), Some(Duration::from_secs(2)));
        assert_eq!(POLICY.pause(&after("11"), 1, 0.0), None, "longer than the policy bears");
        assert_eq!(POLICY.pause(&after("Wed, 21 Oct 2026"), 1, 0.0), None);
        let pushback = |ms: &str| with_header(Code::Unavailable, "grpc-retry-pushback-ms", ms);
        assert_eq!(POLICY.pause(&pushback("40"), 1, 0.0), Some(Duration::from_millis(40)));
        assert_eq!(POLICY.pause(&pushback("-1"), 1, 0.0), None);
    }
}
