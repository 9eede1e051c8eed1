//! What one version of a model has done since it was loaded, in numbers that add up: for who asks the server itself.
//! Distributions are in `metrics.rs`; a request is counted here and there at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tonic::Code;

use crate::metrics::RequestMetrics;
use crate::refusal::Refusal;
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

/// The running numbers. Cheap to clone: all clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    numbers: Arc<Mutex<Numbers>>,
    requests: RequestMetrics,
}

impl Statistics {
    /// Nothing yet. Requests are counted in `requests` too.
    pub(crate) fn new(requests: RequestMetrics) -> Statistics {
        Statistics { numbers: Arc::default(), requests }
    }

    /// A request waited for the model.
    pub(crate) fn note_wait(&self, waited: Duration) {
        lock(&self.numbers).queued.add(waited);
    }

    /// The model ran a batch, or a step of so many sequences.
    pub(crate) fn note_batch(&self, size: usize, computed: Duration) {
        let mut numbers = lock(&self.numbers);
        numbers.computed.add(computed);
        let size = size.min(MAX_SIZES);
        numbers.batches.entry(size).or_default().add(computed);
    }

    /// A request has arrived.
    pub(crate) fn begin(&self) -> Request {
        let status = Code::Cancelled;
        Request { statistics: self.clone(), arrived: Instant::now(), items: 0, status }
    }

    /// The numbers of now.
    pub(crate) fn now(&self) -> Numbers {
        lock(&self.numbers).clone()
    }
}

/// A request that the model has, counted when this is dropped: as cancelled unless its end was noted.
#[derive(Debug)]
pub(crate) struct Request {
    statistics: Statistics,
    arrived: Instant,
    items: usize,
    status: Code,
}

impl Request {
    /// When it arrived.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// It was answered, with so many items.
    pub(crate) fn answered(&mut self, items: usize) {
        (self.items, self.status) = (items, Code::Ok);
    }

    /// It was not answered, and why.
    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.status = refusal.code();
    }

    /// It was answered with so many items, or refused.
    pub(crate) fn note<T>(&mut self, items: usize, result: &Result<T, Refusal>) {
        match result {
            Ok(_) => self.answered(items),
            Err(refusal) => self.refused(refusal),
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let took = self.arrived.elapsed();
        self.statistics.requests.ended(self.status, took);
        let mut numbers = lock(&self.statistics.numbers);
        if self.status == Code::Ok {
            numbers.answered.add(took);
            numbers.items = numbers.items.saturating_add(self.items as u64);
            numbers.last = Some(SystemTime::now());
        } else {
            numbers.failed.add(took);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::model_info::ModelInfo;

    #[test]
    fn numbers_add_up_and_sizes_are_bounded() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let info = ModelInfo { name: "m".to_owned(), version: "1".to_owned(), labels: Vec::new() };
        let statistics = Statistics::new(metrics.requests(&info));
        let ms = Duration::from_millis;
        statistics.note_batch(3, ms(2));
        statistics.note_batch(3, ms(4));
        statistics.note_batch(usize::MAX, ms(1));
        statistics.begin().answered(5);
        statistics.begin().note(7, &Err::<(), _>(Refusal::DeadlineExceeded));
        drop(statistics.begin());
        let numbers = statistics.now();
        assert_eq!(numbers.computed, Total { count: 3, time: ms(7) });
        assert_eq!(numbers.batches[&3], Total { count: 2, time: ms(6) });
        assert_eq!(numbers.batches.keys().copied().collect::<Vec<_>>(), [3, MAX_SIZES]);
        assert_eq!((numbers.items, numbers.answered.count, numbers.failed.count), (5, 1, 2));
        assert!(numbers.last.is_some());
        let text = metrics.render();
        for status in ["OK", "DEADLINE_EXCEEDED", "CANCELLED"] {
            let line = format!(r#"tidemill_model_requests_total{{model="m",version="1",status="{status}"}} 1"#);
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }
}
