//! The line of requests before one model: bounded, in order of arrival, between async callers and the model's thread.
//! Knows nothing of gRPC or of what a classifier does. A caller that has left, or whose deadline has passed, loses its
//! place without reaching the model.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// What a model answers to one entry.
#[derive(Debug)]
pub(crate) struct Answer {
    /// One row a text, one value a label.
    pub(crate) probabilities: Vec<Vec<f32>>,
    /// From the arrival to the start of the batch.
    pub(crate) waited: Duration,
    /// The batch's time in the model.
    pub(crate) computed: Duration,
    /// Texts in the batch.
    pub(crate) batch_size: usize,
}

/// The model's error, as text for the caller.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

/// Texts that wait for the model, never more than a batch holds.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) texts: Vec<String>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) arrived: Instant,
    pub(crate) reply: oneshot::Sender<Result<Answer, Failure>>,
}

impl Entry {
    /// Whether its caller is still there and in time.
    pub(crate) fn is_wanted(&self, now: Instant) -> bool {
        !self.reply.is_closed() && self.deadline.is_none_or(|deadline| now < deadline)
    }
}

/// Why entries were not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushError {
    /// They do not fit.
    Full,
    /// The model's thread has ended or is about to.
    Closed,
}

/// The line before one model.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    // A caller has left since the line was last cleared of such callers' entries.
    abandoned: AtomicBool,
    max_texts: usize,
}

#[derive(Debug)]
struct Waiting {
    entries: VecDeque<Entry>,
    texts: usize,
    open: bool,
}

impl Queue {
    /// A line of at most `max_texts` texts.
    pub(crate) fn new(max_texts: usize) -> Queue {
        let waiting = Waiting { entries: VecDeque::new(), texts: 0, open: true };
        Queue { waiting: Mutex::new(waiting), changed: Condvar::new(), abandoned: AtomicBool::new(false), max_texts }
    }

    /// The bound, in texts.
    pub(crate) fn max_texts(&self) -> usize {
        self.max_texts
    }

    /// Puts entries at the end of the line, all or none, without waiting.
    pub(crate) fn push(&self, entries: impl IntoIterator<Item = Entry>) -> Result<(), PushError> {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let arriving: usize = entries.iter().map(|entry| entry.texts.len()).sum();
        let mut waiting = self.lock();
        if !waiting.open {
            return Err(PushError::Closed);
        }
        let fits = |waiting: &Waiting| arriving <= self.max_texts.saturating_sub(waiting.texts);
        if !fits(&waiting) && self.abandoned.swap(false, Ordering::Relaxed) {
            waiting.forget_unwanted();
        }
        if !fits(&waiting) {
            return Err(PushError::Full);
        }
        waiting.texts += arriving;
        waiting.entries.extend(entries);
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    /// Notes that a caller has left before its answer. Its entry goes when the line is next worked on or short of room.
    pub(crate) fn note_abandoned(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Blocks until something waits, then takes all of it that fits a batch of `max_batch` texts, oldest first. With a
    /// `delay`, waits until the oldest is that old or the batch is full. `None` when the line is closed and empty.
    pub(crate) fn take(&self, max_batch: usize, delay: Duration) -> Option<Vec<Entry>> {
        let mut waiting = self.lock();
        loop {
            while waiting.entries.is_empty() {
                if !waiting.open {
                    return None;
                }
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting = self.wait_for_more(waiting, max_batch, delay);
            let batch = waiting.take_batch(max_batch);
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }

    /// Takes in nothing more; what waits is still served.
    pub(crate) fn close(&self) {
        self.lock().open = false;
        self.changed.notify_all();
    }

    /// Takes in nothing more and drops what waits, so that its callers learn that no answer will come.
    pub(crate) fn abort(&self) {
        let mut waiting = self.lock();
        waiting.open = false;
        waiting.texts = 0;
        let dropped = std::mem::take(&mut waiting.entries);
        drop(waiting);
        drop(dropped);
        self.changed.notify_all();
    }

    /// Texts that wait.
    #[cfg(test)]
    pub(crate) fn waiting_texts(&self) -> usize {
        self.lock().texts
    }

    fn wait_for_more<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting>,
        max_batch: usize,
        delay: Duration,
    ) -> MutexGuard<'a, Waiting> {
        if delay.is_zero() {
            return waiting;
        }
        let Some(until) = waiting.entries.front().and_then(|first| first.arrived.checked_add(delay)) else {
            return waiting;
        };
        while waiting.open && waiting.texts < max_batch {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting
    }

    // A panic while the lock is held is not possible in a way that leaves the counts wrong: no code of others runs there.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take_batch(&mut self, max_batch: usize) -> Vec<Entry> {
        let now = Instant::now();
        let mut batch = Vec::new();
        let mut texts = 0usize;
        while let Some(entry) = self.entries.front() {
            let wanted = entry.is_wanted(now);
            if wanted && !batch.is_empty() && texts.saturating_add(entry.texts.len()) > max_batch {
                break;
            }
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.texts = self.texts.saturating_sub(entry.texts.len());
            if wanted {
                texts = texts.saturating_add(entry.texts.len());
                batch.push(entry);
            }
        }
        batch
    }

    fn forget_unwanted(&mut self) {
        let now = Instant::now();
        self.entries.retain(|entry| entry.is_wanted(now));
        self.texts = self.entries.iter().map(|entry| entry.texts.len()).sum();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Reply = oneshot::Receiver<Result<Answer, Failure>>;

    fn entry(texts: &[&str]) -> (Entry, Reply) {
        let (reply, receiver) = oneshot::channel();
        let texts = texts.iter().map(|text| text.to_string()).collect();
        (Entry { texts, deadline: None, arrived: Instant::now(), reply }, receiver)
    }

    fn sizes(batch: &[Entry]) -> Vec<usize> {
        batch.iter().map(|entry| entry.texts.len()).collect()
    }

    #[test]
    fn a_batch_is_what_waits_in_order_up_to_its_size() {
        let queue = Queue::new(100);
        let mut replies = Vec::new();
        for size in [2, 1, 3, 1] {
            let (entry, reply) = entry(&vec!["x"; size]);
            queue.push([entry]).unwrap();
            replies.push(reply);
        }
        assert_eq!(sizes(&queue.take(4, Duration::ZERO).unwrap()), [2, 1]);
        assert_eq!(sizes(&queue.take(4, Duration::ZERO).unwrap()), [3, 1]);
        queue.close();
        assert!(queue.take(4, Duration::ZERO).is_none());
    }

    #[test]
    fn callers_that_left_or_are_late_never_reach_the_model() {
        let queue = Queue::new(100);
        let (left, reply) = entry(&["left"]);
        drop(reply);
        let (mut late, _late_reply) = entry(&["late"]);
        late.deadline = Some(Instant::now());
        let (here, _here_reply) = entry(&["here"]);
        queue.push([left, late, here]).unwrap();
        let batch = queue.take(10, Duration::ZERO).unwrap();
        assert_eq!(batch.len(), 1);
        assert_eq!(batch[0].texts, ["here"]);
    }

    #[test]
    fn a_full_line_refuses_at_once_and_room_comes_back_from_those_who_left() {
        let queue = Queue::new(3);
        let (first, first_reply) = entry(&["a", "b"]);
        queue.push([first]).unwrap();
        let (second, _second_reply) = entry(&["c", "d"]);
        assert_eq!(queue.push([second]), Err(PushError::Full));

        drop(first_reply);
        queue.note_abandoned();
        let (third, _third_reply) = entry(&["e", "f", "g"]);
        queue.push([third]).unwrap();
        assert_eq!(sizes(&queue.take(10, Duration::ZERO).unwrap()), [3]);
    }

    #[test]
    fn parts_of_one_request_are_taken_in_whole_or_not_at_all() {
        let queue = Queue::new(3);
        let ((first, _r1), (second, _r2)) = (entry(&["a", "b"]), entry(&["c", "d"]));
        assert_eq!(queue.push([first, second]), Err(PushError::Full));
        queue.close();
        assert!(queue.take(10, Duration::ZERO).is_none());
    }

    #[test]
    fn the_delay_lets_later_requests_join() {
        let queue = Queue::new(100);
        let (first, _first_reply) = entry(&["a"]);
        let (second, _second_reply) = entry(&["b"]);
        queue.push([first]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                queue.push([second]).unwrap();
            });
            // The batch is full with the second text: the delay is not waited out.
            let started = Instant::now();
            let batch = queue.take(2, Duration::from_secs(30)).unwrap();
            assert_eq!(batch.len(), 2);
            assert!(started.elapsed() < Duration::from_secs(10));
        });
    }

    #[test]
    fn an_aborted_line_tells_its_callers() {
        let queue = Queue::new(100);
        let (entry, mut reply) = entry(&["a"]);
        queue.push([entry]).unwrap();
        queue.abort();
        assert!(reply.try_recv().is_err());
        assert!(queue.take(1, Duration::ZERO).is_none());
    }
}
