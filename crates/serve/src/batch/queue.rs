//! The line of requests before one model: bounded, between async callers and the threads of the model's instances; whose
//! turn it is stands in `turns.rs`. Knows nothing of the wire or of what the model does. A caller that has left, or whose
//! deadline has passed, loses its place without reaching the model.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::turns::Turns;

/// How much runs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchSize {
    /// Most items in a batch.
    pub(crate) items: usize,
    /// Most tokens in a batch. One item alone may have more.
    pub(crate) tokens: usize,
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
pub(crate) struct Queue<T, A> {
    waiting: Mutex<Waiting<T, A>>,
    changed: Condvar,
    // A caller has left since the line was last cleared of such callers' entries.
    abandoned: AtomicBool,
    max_items: usize,
    // Sizes that batches are best of, the smallest first.
    preferred: Vec<usize>,
}

#[derive(Debug)]
struct Waiting<T, A> {
    entries: Turns<T, A>,
    items: usize,
    tokens: usize,
    open: bool,
}

impl<T, A> Queue<T, A> {
    /// A line of at most `max_items` items. Batches are best of one of the `preferred` sizes, if there are any.
    pub(crate) fn new(max_items: usize, mut preferred: Vec<usize>) -> Queue<T, A> {
        preferred.sort_unstable();
        let waiting = Waiting { entries: Turns::default(), items: 0, tokens: 0, open: true };
        let abandoned = AtomicBool::new(false);
        Queue { waiting: Mutex::new(waiting), changed: Condvar::new(), abandoned, max_items, preferred }
    }

    /// The bound, in items.
    pub(crate) fn max_items(&self) -> usize {
        self.max_items
    }

    /// Puts entries at the end of the line, all or none, without waiting.
    pub(crate) fn push(&self, entries: Vec<Entry<T, A>>) -> Result<(), PushError> {
        let arriving: usize = entries.iter().map(|entry| entry.items.len()).sum();
        let mut waiting = self.lock();
        if !waiting.open {
            return Err(PushError::Closed);
        }
        let fits = |waiting: &Waiting<T, A>| arriving <= self.max_items.saturating_sub(waiting.items);
        if !fits(&waiting) && self.abandoned.swap(false, Ordering::Relaxed) {
            waiting.forget_unwanted();
        }
        if !fits(&waiting) {
            return Err(PushError::Full);
        }
        waiting.items += arriving;
        waiting.tokens += entries.iter().map(|entry| entry.tokens).sum::<usize>();
        entries.into_iter().for_each(|entry| waiting.entries.push(entry));
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    /// Notes that a caller has left before its answer. Its entry goes when the line is next worked on or short of room.
    pub(crate) fn note_abandoned(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Blocks until something waits, then takes all of it that fits a batch, in turn. With a `delay`, waits until the
    /// oldest is that old, the batch is full, or as much waits as a batch is best of, and then takes no more than that.
    /// `None` when the line is closed and empty.
    pub(crate) fn take(&self, size: BatchSize, delay: Duration) -> Option<Vec<Entry<T, A>>> {
        let mut waiting = self.lock();
        loop {
            while waiting.entries.is_empty() {
                if !waiting.open {
                    return None;
                }
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting = self.wait_for_more(waiting, size, delay);
            let best = self.best(waiting.items).filter(|best| !delay.is_zero() && *best < size.items);
            let batch = waiting.take_batch(BatchSize { items: best.unwrap_or(size.items), ..size });
            if !waiting.entries.is_empty() {
                // Another instance may be idle, and was not woken for these.
                self.changed.notify_one();
            }
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
        (waiting.items, waiting.tokens) = (0, 0);
        let dropped = std::mem::take(&mut waiting.entries);
        drop(waiting);
        drop(dropped);
        self.changed.notify_all();
    }

    /// Items that wait.
    pub(crate) fn waiting_items(&self) -> usize {
        self.lock().items
    }

    fn wait_for_more<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting<T, A>>,
        size: BatchSize,
        delay: Duration,
    ) -> MutexGuard<'a, Waiting<T, A>> {
        if delay.is_zero() {
            return waiting;
        }
        let Some(until) = waiting.entries.oldest().and_then(|arrived| arrived.checked_add(delay)) else {
            return waiting;
        };
        let is_enough = |waiting: &Waiting<T, A>| {
            waiting.items >= size.items || waiting.tokens >= size.tokens || self.best(waiting.items).is_some()
        };
        while waiting.open && !is_enough(&waiting) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting
    }

    // The largest size that a batch is best of and that this many items fill.
    fn best(&self, items: usize) -> Option<usize> {
        self.preferred.iter().rev().copied().find(|size| *size <= items)
    }

    // A panic while the lock is held is not possible in a way that leaves the counts wrong: no code of others runs there.
    fn lock(&self) -> MutexGuard<'_, Waiting<T, A>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, A> Waiting<T, A> {
    fn take_batch(&mut self, size: BatchSize) -> Vec<Entry<T, A>> {
        let now = Instant::now();
        let mut batch: Vec<Entry<T, A>> = Vec::new();
        let (mut items, mut tokens) = (0usize, 0usize);
        while let Some(entry) = self.entries.front() {
            let wanted = entry.is_wanted(now);
            let (with_items, with_tokens) = (items + entry.items.len(), tokens.saturating_add(entry.tokens));
            if wanted && !batch.is_empty() && (with_items > size.items || with_tokens > size.tokens) {
                break;
            }
            let Some(entry) = self.entries.pop() else {
                break;
            };
            self.items = self.items.saturating_sub(entry.items.len());
            self.tokens = self.tokens.saturating_sub(entry.tokens);
            if wanted {
                (items, tokens) = (with_items, with_tokens);
                batch.push(entry);
            }
        }
        batch
    }

    fn forget_unwanted(&mut self) {
        let now = Instant::now();
        self.entries.retain(|entry| entry.is_wanted(now));
        self.items = self.entries.iter().map(|entry| entry.items.len()).sum();
        self.tokens = self.entries.iter().map(|entry| entry.tokens).sum();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::entry::{Answer, Failure, Terms};
    use super::*;
    use crate::priority::Priority;

    type Reply = oneshot::Receiver<Result<Answer<()>, Failure>>;

    // A token for each byte.
    fn entry(texts: &[&'static str]) -> (Entry<&'static str, ()>, Reply) {
        entry_of(texts, "", Priority::default())
    }

    fn entry_of(texts: &[&'static str], key: &str, priority: Priority) -> (Entry<&'static str, ()>, Reply) {
        let (reply, receiver) = oneshot::channel();
        let tokens = texts.iter().map(|text| text.len()).sum();
        let terms = Terms { arrived: Instant::now(), deadline: None, priority, key: key.to_owned() };
        (Entry { items: texts.to_vec(), tokens, terms, reply }, receiver)
    }

    fn sizes(batch: &[Entry<&str, ()>]) -> Vec<usize> {
        batch.iter().map(|entry| entry.items.len()).collect()
    }

    fn items(items: usize) -> BatchSize {
        BatchSize { items, tokens: usize::MAX }
    }

    #[test]
    fn a_batch_is_what_waits_in_order_up_to_its_size() {
        let queue = Queue::new(100, Vec::new());
        let mut replies = Vec::new();
        for size in [2, 1, 3, 1] {
            let (entry, reply) = entry(&vec!["x"; size]);
            queue.push(vec![entry]).unwrap();
            replies.push(reply);
        }
        assert_eq!(sizes(&queue.take(items(4), Duration::ZERO).unwrap()), [2, 1]);
        assert_eq!(sizes(&queue.take(items(4), Duration::ZERO).unwrap()), [3, 1]);
        queue.close();
        assert!(queue.take(items(4), Duration::ZERO).is_none());
    }

    #[test]
    fn a_batch_is_bounded_by_tokens_too_and_takes_one_long_item_alone() {
        let queue = Queue::new(100, Vec::new());
        let mut replies = Vec::new();
        for text in ["aaaa", "bb", "cccccccc", "d"] {
            let (entry, reply) = entry(&[text]);
            queue.push(vec![entry]).unwrap();
            replies.push(reply);
        }
        let size = BatchSize { items: 10, tokens: 6 };
        let taken = || sizes(&queue.take(size, Duration::ZERO).unwrap()).len();
        assert_eq!([taken(), taken(), taken()], [2, 1, 1]);
    }

    #[test]
    fn callers_that_left_or_are_late_never_reach_the_model() {
        let queue = Queue::new(100, Vec::new());
        let (left, reply) = entry(&["left"]);
        drop(reply);
        let (mut late, _late_reply) = entry(&["late"]);
        late.terms.deadline = Some(Instant::now());
        let (here, _here_reply) = entry(&["here"]);
        queue.push(vec![left, late, here]).unwrap();
        let batch = queue.take(items(10), Duration::ZERO).unwrap();
        assert_eq!(batch.len(), 1);
        assert_eq!(batch[0].items, ["here"]);
    }

    #[test]
    fn a_full_line_refuses_at_once_and_room_comes_back_from_those_who_left() {
        let queue = Queue::new(3, Vec::new());
        let (first, first_reply) = entry(&["a", "b"]);
        queue.push(vec![first]).unwrap();
        let (second, _second_reply) = entry(&["c", "d"]);
        assert_eq!(queue.push(vec![second]), Err(PushError::Full));

        drop(first_reply);
        queue.note_abandoned();
        let (third, _third_reply) = entry(&["e", "f", "g"]);
        queue.push(vec![third]).unwrap();
        assert_eq!(sizes(&queue.take(items(10), Duration::ZERO).unwrap()), [3]);
    }

    #[test]
    fn parts_of_one_request_are_taken_in_whole_or_not_at_all() {
        let queue = Queue::new(3, Vec::new());
        let ((first, _r1), (second, _r2)) = (entry(&["a", "b"]), entry(&["c", "d"]));
        assert_eq!(queue.push(vec![first, second]), Err(PushError::Full));
        queue.close();
        assert!(queue.take(items(10), Duration::ZERO).is_none());
    }

    #[test]
    fn the_delay_lets_later_requests_join() {
        let queue = Queue::new(100, Vec::new());
        let (first, _first_reply) = entry(&["a"]);
        let (second, _second_reply) = entry(&["b"]);
        queue.push(vec![first]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                queue.push(vec![second]).unwrap();
            });
            // The batch is full with the second text: the delay is not waited out.
            let started = Instant::now();
            let batch = queue.take(items(2), Duration::from_secs(30)).unwrap();
            assert_eq!(batch.len(), 2);
            assert!(started.elapsed() < Duration::from_secs(10));
        });
    }

    #[test]
    fn urgent_requests_come_first_and_keys_take_turns() {
        let queue = Queue::new(100, Vec::new());
        let mut replies = Vec::new();
        let later = Priority::new(5).unwrap();
        for (text, key, priority) in [
            ("later", "a", later),
            ("a1", "a", Priority::default()),
            ("a2", "a", Priority::default()),
            ("a3", "a", Priority::default()),
            ("b1", "b", Priority::default()),
            ("first", "b", Priority::new(1).unwrap()),
        ] {
            let (entry, reply) = entry_of(&[text], key, priority);
            queue.push(vec![entry]).unwrap();
            replies.push(reply);
        }
        let order: Vec<_> = queue.take(items(10), Duration::ZERO).unwrap().iter().map(|e| e.items[0]).collect();
        assert_eq!(order, ["first", "a1", "b1", "a2", "a3", "later"]);
    }

    #[test]
    fn a_preferred_size_ends_the_wait_and_is_what_is_taken() {
        let queue = Queue::new(100, vec![8, 4]);
        let mut replies = Vec::new();
        for _ in 0..6 {
            let (entry, reply) = entry(&["x"]);
            queue.push(vec![entry]).unwrap();
            replies.push(reply);
        }
        let started = Instant::now();
        assert_eq!(queue.take(items(64), Duration::from_secs(30)).unwrap().len(), 4);
        assert!(started.elapsed() < Duration::from_secs(10));
        // Nothing more comes: what is left runs when the delay is up.
        assert_eq!(queue.take(items(64), Duration::from_millis(5)).unwrap().len(), 2);
    }

    #[test]
    fn an_aborted_line_tells_its_callers() {
        let queue = Queue::new(100, Vec::new());
        let (entry, mut reply) = entry(&["a"]);
        queue.push(vec![entry]).unwrap();
        queue.abort();
        assert!(reply.try_recv().is_err());
        assert!(queue.take(items(1), Duration::ZERO).is_none());
    }
}
