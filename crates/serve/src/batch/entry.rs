//! What waits in a line, and what comes back of it.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::priority::Priority;

/// What a model answers to one entry.
#[derive(Debug)]
pub(crate) struct Answer<A> {
    /// One for each item.
    pub(crate) answers: Vec<A>,
    /// From the arrival to the start of the batch.
    pub(crate) waited: Duration,
    /// The batch's time in the model.
    pub(crate) computed: Duration,
    /// Items in the batch.
    pub(crate) batch_size: usize,
}

/// The model's error, as text for the caller.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

/// The terms on which an entry waits.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) arrived: Instant,
    /// When the answer is no longer wanted.
    pub(crate) deadline: Option<Instant>,
    pub(crate) priority: Priority,
    /// On whose behalf: keys take turns.
    pub(crate) key: String,
}

/// Items that wait for the model, never more than a batch holds.
#[derive(Debug)]
pub(crate) struct Entry<T, A> {
    pub(crate) items: Vec<T>,
    /// Their tokens in all; 0 where the model does not count them.
    pub(crate) tokens: usize,
    pub(crate) terms: Terms,
    pub(crate) reply: oneshot::Sender<Result<Answer<A>, Failure>>,
}

impl<T, A> Entry<T, A> {
    /// Whether its caller is still there and in time.
    pub(crate) fn is_wanted(&self, now: Instant) -> bool {
        !self.reply.is_closed() && self.terms.deadline.is_none_or(|deadline| now < deadline)
    }
}
