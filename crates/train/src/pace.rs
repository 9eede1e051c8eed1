//! How fast a run goes, over its last steps.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Steps that the pace is taken over.
const WINDOW: usize = 64;

/// The moments at which the last steps ended.
#[derive(Default)]
pub(crate) struct Pace {
    ends: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// A step over `rows` rows has ended.
    pub(crate) fn tick(&mut self, rows: u64) {
        if self.ends.len() > WINDOW {
            self.ends.pop_front();
        }
        self.ends.push_back((Instant::now(), rows));
    }

    /// Rows a second; 0 before the second step.
    pub(crate) fn rows_per_second(&self) -> f64 {
        let rows: u64 = self.ends.iter().skip(1).map(|(_, rows)| rows).sum();
        match self.span() {
            Some(span) if !span.is_zero() => rows as f64 / span.as_secs_f64(),
            _ => 0.0,
        }
    }

    /// How long `steps` more take.
    pub(crate) fn time_for(&self, steps: u64) -> Option<Duration> {
        let intervals = self.ends.len().checked_sub(1).filter(|intervals| *intervals > 0)?;
        let seconds = self.span()?.as_secs_f64() / intervals as f64 * steps as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn span(&self) -> Option<Duration> {
        Some(self.ends.back()?.0.duration_since(self.ends.front()?.0))
    }
}
