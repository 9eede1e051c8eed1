//! Models that answer many inputs at once: classifying, embedding, scoring pairs, finding entities, text to text. What
//! waits together runs together: the next batch forms while the last one runs.
//!
//! `handle.rs` is the async side, `queue.rs` the line between, `turns.rs` whose turn it is, `executor.rs` the thread that owns
//! the model, or the threads where there are several instances of it.

mod entry;
mod executor;
mod handle;
mod queue;
mod turns;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use executor::spawn;
pub(crate) use handle::{Answered, BatchHandle};
use queue::BatchSize;

use crate::config::ServerConfig;

/// A model that answers a batch of items. One thread owns it and calls it.
pub trait BatchModel: 'static {
    /// What it is given: an input that was checked and prepared before it was queued.
    type Item: Send + 'static;
    /// What it answers for one item.
    type Answer: Send + 'static;

    /// One answer for each item, in order.
    ///
    /// # Errors
    /// Anything that keeps these items from being answered. The server then tries the requests of the batch one by one,
    /// so that a bad one fails alone. The message reaches the caller: it must not repeat what the items say.
    fn answer(&mut self, items: &[&Self::Item]) -> Result<Vec<Self::Answer>, Box<dyn Error + Send + Sync>>;

    /// How large a batch is, as it is counted: its items, unless an item is several.
    fn size(items: &[&Self::Item]) -> usize {
        items.len()
    }
}

/// An input that was checked and prepared, as by a tokeniser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared<T> {
    /// What the model is given.
    pub item: T,
    /// How many tokens it has: what batches are measured by, and what the caller is told that it used. 0 where a model
    /// does not count them.
    pub tokens: usize,
}

/// Checks and prepares an input, on any thread. The error is what is wrong with the input; it must not repeat it.
pub type Prepare<I, T> = Arc<dyn Fn(I) -> Result<Prepared<T>, String> + Send + Sync>;

/// A model and the half of it that any thread may use.
pub struct Opened<I, M: BatchModel> {
    /// What the model's thread owns and calls.
    pub model: M,
    /// What is done to an input before it is queued.
    pub prepare: Prepare<I, M::Item>,
}

impl<I, M: BatchModel> fmt::Debug for Opened<I, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

impl<M: BatchModel> Opened<M::Item, M> {
    /// A model that takes inputs as they come and does not count tokens.
    pub fn unprepared(model: M) -> Opened<M::Item, M> {
        Opened { model, prepare: Arc::new(|item| Ok(Prepared { item, tokens: 0 })) }
    }
}

/// Something that a caller sends.
pub(crate) trait Input: Send + 'static {
    /// About how many bytes a tokeniser has to read.
    fn bytes(&self) -> usize;

    /// As how many it counts.
    fn count(&self) -> usize {
        1
    }
}

/// How the requests of one model are scheduled.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) size: BatchSize,
    /// Sizes that batches are best of.
    pub(crate) preferred: Vec<usize>,
    pub(crate) max_delay: Duration,
    pub(crate) max_queue: usize,
    pub(crate) instances: usize,
}

impl Schedule {
    pub(crate) fn new(config: &ServerConfig) -> Schedule {
        Schedule {
            size: BatchSize { items: config.max_batch_size, tokens: config.max_batch_tokens },
            preferred: config.preferred_batch_sizes.clone(),
            max_delay: config.max_delay,
            max_queue: config.max_queue,
            instances: config.instances,
        }
    }
}
