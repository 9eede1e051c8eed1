//! What one version of a model has done since it was loaded, in numbers that add up: for who asks the server itself.
//! Distributions are in `metrics.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::thread::lock;

/// Sizes of batches that are kept apart; larger ones are counted as the largest.
const MAX_SIZES: usize = 1024;

/// How often something was done, and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) count: u64,
    pub(crate) time: Duration,
}

impl Total {
    fn add(&mut self, time: Duration) {
        self.count = self.count.saturating_add(1);
        self.time = self.time.saturating_add(time);
    }
}

/// The numbers of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    /// Requests that were answered, from their arrival to the answer.
    pub(crate) answered: Total,
    /// Requests that were not.
    pub(crate) failed: Total,
    /// Waiting for the model.
    pub(crate) queued: Total,
    /// Batches, or steps, in the model.
    pub(crate) computed: Total,
    /// Items answered.
    pub(crate) items: u64,
    /// Batches by their size.
    pub(crate) batches: BTreeMap<usize, Total>,
    /// When a request was last answered.
    pub(crate) last: Option<SystemTime>,
}

impl Numbers {
    fn note_end(&mut self, is_answered: bool, items: usize, took: Duration) {
        if is_answered {
            self.answered.add(took);
            self.items = self.items.saturating_add(items as u64);
            self.last = Some(SystemTime::now());
        } else {
            self.failed.add(took);
        }
    }
}

/// The running numbers. Cheap to clone: all clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statistics(Arc<Mutex<Numbers>>);

impl Statistics {
    /// A request waited for the model.
    pub(crate) fn note_wait(&self, waited: Duration) {
        lock(&self.0).queued.add(waited);
    }

    /// The model ran a batch, or a step of so many sequences.
    pub(crate) fn note_batch(&self, size: usize, computed: Duration) {
        let mut numbers = lock(&self.0);
        numbers.computed.add(computed);
        let size = size.min(MAX_SIZES);
        numbers.batches.entry(size).or_default().add(computed);
    }

    /// A request of so many items was answered, or not.
    pub(crate) fn note_end(&self, is_answered: bool, items: usize, took: Duration) {
        lock(&self.0).note_end(is_answered, items, took);
    }

    /// A request of one item was answered, or not, by a model that has no line to wait in.
    pub(crate) fn note_at_once(&self, is_answered: bool, took: Duration) {
        let mut numbers = lock(&self.0);
        if is_answered {
            // Triton's perf_analyzer looks for the version of a model that has done something in these.
            numbers.queued.add(Duration::ZERO);
            numbers.computed.add(took);
            numbers.batches.entry(1).or_default().add(took);
        }
        numbers.note_end(is_answered, 1, took);
    }

    /// The numbers of now.
    pub(crate) fn now(&self) -> Numbers {
        lock(&self.0).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_at_once_has_waited_and_run_too() {
        let statistics = Statistics::default();
        statistics.note_at_once(true, Duration::from_millis(2));
        statistics.note_at_once(false, Duration::from_millis(1));
        let Numbers { answered, failed, queued, computed, items, .. } = statistics.now();
        assert_eq!((queued.count, computed, items), (1, answered, 1));
        assert_eq!((answered.time, failed.time), (Duration::from_millis(2), Duration::from_millis(1)));
    }

    #[test]
    fn numbers_add_up_and_sizes_are_bounded() {
        let statistics = Statistics::default();
        let ms = Duration::from_millis;
        statistics.note_batch(3, ms(2));
        statistics.note_batch(3, ms(4));
        statistics.note_batch(usize::MAX, ms(1));
        statistics.note_end(true, 5, ms(10));
        statistics.note_end(false, 7, ms(1));
        let numbers = statistics.now();
        assert_eq!(numbers.computed, Total { count: 3, time: ms(7) });
        assert_eq!(numbers.batches[&3], Total { count: 2, time: ms(6) });
        assert_eq!(numbers.batches.keys().copied().collect::<Vec<_>>(), [3, MAX_SIZES]);
        assert_eq!((numbers.items, numbers.answered.count, numbers.failed.count), (5, 1, 1));
        assert!(numbers.last.is_some());
    }
}
