//! What was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::LoadError;

/// The longest latency that is told apart, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;
/// Digits that a latency keeps.
const DIGITS: u8 = 3;

/// What a load has measured: of the requests that were due after the warm-up.
#[derive(Clone, Debug)]
pub struct Measured {
    pub(crate) recorder: Recorder,
    /// From the end of the warm-up to the end of the load, without the time for the last answers to come.
    pub elapsed: Duration,
    /// Whether it was ended before its time.
    pub stopped: bool,
}

impl Measured {
    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.recorder.latency.len()
    }

    /// Answers a second while the load lasted.
    pub fn per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.recorder.within as f64 / seconds } else { 0.0 }
    }

    /// The latency that the part `quantile` of the answered requests did not exceed: 0.5 is the median, 1 the greatest.
    /// From when a request was due to the end of its answer.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.recorder.latency.value_at_quantile(quantile))
    }

    /// The mean latency.
    pub fn mean_latency(&self) -> Duration {
        Duration::from_nanos(self.recorder.latency.mean() as u64)
    }

    /// How late the generator itself sent requests, by quantile: where it is not small beside the latency, the
    /// generator and not the server is measured. Nothing in a closed loop.
    pub fn lateness(&self, quantile: f64) -> Option<Duration> {
        let lateness = &self.recorder.lateness;
        (!lateness.is_empty()).then(|| Duration::from_nanos(lateness.value_at_quantile(quantile)))
    }

    /// Requests without an answer, by gRPC's name of the code; and `UNSENT`, those that were due while as many were open
    /// as are allowed, and `UNFINISHED`, those that were open when all was over.
    pub fn errors(&self) -> &BTreeMap<&'static str, u64> {
        &self.recorder.errors
    }

    /// How many they are.
    pub fn failed(&self) -> u64 {
        self.recorder.errors.values().sum()
    }

    /// Bytes of all answers that came while the load lasted.
    pub fn received_bytes(&self) -> u64 {
        self.recorder.bytes
    }
}

/// Counts as answers come.
#[derive(Clone, Debug)]
pub struct Recorder {
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    errors: BTreeMap<&'static str, u64>,
    within: u64,
    bytes: u64,
}

impl Recorder {
    pub(crate) fn new() -> Result<Recorder, LoadError> {
        let empty = || {
            Histogram::new_with_bounds(1, LONGEST, DIGITS)
                .map_err(|error| LoadError::Setting { name: "the histogram", problem: error.to_string() })
        };
        let (latency, lateness) = (empty()?, empty()?);
        Ok(Recorder { latency, lateness, errors: BTreeMap::new(), within: 0, bytes: 0 })
    }

    /// An answer to a request that was due after the warm-up.
    pub(crate) fn answered(&mut self, latency: Duration) {
        self.latency.saturating_record(nanoseconds(latency));
    }

    /// An answer that came while the load was on, to whichever request.
    pub(crate) fn came(&mut self, bytes: usize) {
        self.within += 1;
        self.bytes += bytes as u64;
    }

    pub(crate) fn failed(&mut self, code: &'static str, count: u64) {
        if count > 0 {
            *self.errors.entry(code).or_default() += count;
        }
    }

    pub(crate) fn late(&mut self, by: Duration) {
        self.lateness.saturating_record(nanoseconds(by));
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
