//! So many requests a second, and so many at once after a pause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bucket that fills by `per_second` up to `burst`; a request takes one out of it.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: f64,
    burst: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left: f64,
    at: Instant,
}

impl Rate {
    pub(super) fn new(per_second: f64, burst: f64) -> Rate {
        Rate { per_second, burst, state: Mutex::new(State { left: burst, at: Instant::now() }) }
    }

    /// Takes one, or says when there will be one.
    pub(super) fn take(&self) -> Result<(), Duration> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        state.left = (state.left + passed * self.per_second).min(self.burst);
        state.at = now.max(state.at);
        if state.left >= 1.0 {
            state.left -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - state.left) / self.per_second;
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX).min(Duration::from_secs(86_400)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_the_wait_is_true() {
        let rate = Rate::new(2.0, 3.0);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(rate.take_at(start), Ok(()));
        }
        assert!(rate.take_at(start).is_err_and(|wait| wait > Duration::from_millis(400)));
        assert!(rate.take_at(start + Duration::from_millis(300)).is_err());
        assert_eq!(rate.take_at(start + Duration::from_millis(510)), Ok(()));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..5).filter(|_| rate.take_at(later).is_ok()).count(), 3);
    }
}
