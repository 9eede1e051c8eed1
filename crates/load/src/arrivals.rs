//! When requests come.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// When requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// A closed loop: this many callers, each of whom sends its next request when it has an answer. The server sets
    /// the pace.
    Closed {
        /// How many callers.
        concurrency: usize,
    },
    /// An open loop: so many a second, whatever the server does.
    Open {
        /// Requests a second.
        rate: f64,
        /// What lies between them.
        spacing: Spacing,
    },
}

/// What lies between the requests of an open loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// The same time always.
    #[default]
    Constant,
    /// Times as between callers who know nothing of each other: a Poisson process.
    Poisson,
}

/// The times at which requests are due, from the beginning on, without an end.
pub(crate) fn due_times(rate: f64, spacing: Spacing, seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut count, mut seconds) = (0_u64, 0.0);
    std::iter::repeat_with(move || {
        match spacing {
            // Not a sum of gaps, whose rounding would drift.
            Spacing::Constant => seconds = count as f64 / rate,
            Spacing::Poisson => seconds -= (1.0 - random.random::<f64>()).ln() / rate,
        }
        count += 1;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_are_evenly_apart() {
        let times: Vec<u128> = due_times(1000.0, Spacing::Constant, 1).take(4).map(|t| t.as_micros()).collect();
        assert_eq!(times, [0, 1000, 2000, 3000]);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_an_exponential_spread() {
        let times: Vec<f64> = due_times(1000.0, Spacing::Poisson, 1).take(20_001).map(|t| t.as_secs_f64()).collect();
        let gaps: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 1000.0 - 1.0).abs() < 0.03, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
    }
}
