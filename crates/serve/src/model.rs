//! One model as the services see it: its description, whether it is ready, and an async `classify` that puts texts into
//! its line and waits for the answer. The thread at the other end is in `executor.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::queue::{Answer, Entry, Failure, PushError, Queue};
use crate::refusal::Refusal;

/// What a model is called and what it answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name on the wire.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its labels, in the order of the probabilities.
    pub labels: Vec<String>,
}

/// The probabilities of a request's texts, and what they took.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Classified {
    /// One row a text, one value a label, in the order of [`ModelInfo::labels`].
    pub(crate) probabilities: Vec<Vec<f32>>,
    /// The longest wait of any part of the request before it ran.
    pub(crate) waited: Duration,
    /// Time in the model, added up over the request's parts.
    pub(crate) computed: Duration,
    /// Texts in the largest batch that a part of the request ran in, those of others included.
    pub(crate) batch_size: usize,
}

/// A handle on a model that runs on a thread of its own. Cheap to clone; the thread ends when the last handle is dropped
/// and what was waiting is done.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    info: ModelInfo,
    queue: Arc<Queue>,
    ready: watch::Receiver<bool>,
    max_batch_size: usize,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Model {
    pub(crate) fn new(
        info: ModelInfo,
        queue: Arc<Queue>,
        ready: watch::Receiver<bool>,
        max_batch_size: usize,
    ) -> Model {
        Model { shared: Arc::new(Shared { info, queue, ready, max_batch_size }) }
    }

    /// What the model is called and what it answers with.
    pub(crate) fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Whether it takes requests: false for good once its thread has ended.
    pub(crate) fn is_ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// Returns when the model is no longer ready.
    pub(crate) async fn stopped(&self) {
        // An error means that the sender, the thread, is gone.
        let _ = self.shared.ready.clone().wait_for(|ready| !ready).await;
    }

    #[cfg(test)]
    pub(crate) fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    /// Takes no more requests; what waits is still served, then the thread ends.
    pub(crate) fn close(&self) {
        self.shared.queue.close();
    }

    /// Classifies texts, together with those of other callers that wait at the same time. Dropping the future gives the
    /// place in the line up.
    ///
    /// # Errors
    /// At once when the line is full or the model is not ready; at the deadline; or when the model fails or stops.
    pub(crate) async fn classify(&self, texts: Vec<String>, deadline: Option<Instant>) -> Result<Classified, Refusal> {
        if texts.is_empty() {
            return Ok(Classified {
                probabilities: Vec::new(),
                waited: Duration::ZERO,
                computed: Duration::ZERO,
                batch_size: 0,
            });
        }
        if !self.is_ready() {
            return Err(self.not_ready());
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Refusal::DeadlineExceeded);
        }
        let replies = self.enqueue(texts, deadline)?;
        match deadline {
            None => self.gather(replies).await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), self.gather(replies))
                .await
                .unwrap_or(Err(Refusal::DeadlineExceeded)),
        }
    }

    fn enqueue(&self, texts: Vec<String>, deadline: Option<Instant>) -> Result<Replies<'_>, Refusal> {
        let arrived = Instant::now();
        let mut receivers = Vec::new();
        let entries = parts(texts, self.shared.max_batch_size).into_iter().map(|texts| {
            let (reply, receiver) = oneshot::channel();
            receivers.push(receiver);
            Entry { texts, deadline, arrived, reply }
        });
        self.shared.queue.push(entries).map_err(|error| match error {
            PushError::Full => {
                Refusal::QueueFull { model: self.info().name.clone(), max: self.shared.queue.max_texts() }
            }
            PushError::Closed => self.not_ready(),
        })?;
        Ok(Replies { queue: &self.shared.queue, receivers, finished: false })
    }

    async fn gather(&self, mut replies: Replies<'_>) -> Result<Classified, Refusal> {
        let mut whole: Option<Classified> = None;
        for receiver in &mut replies.receivers {
            let part = match receiver.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(Failure(reason))) => {
                    return Err(Refusal::Failed { model: self.info().name.clone(), reason });
                }
                Err(_) => {
                    return Err(Refusal::Stopped { model: self.info().name.clone() });
                }
            };
            match &mut whole {
                None => whole = Some(part.into()),
                Some(whole) => whole.append(part),
            }
        }
        replies.finished = true;
        whole.ok_or_else(|| Refusal::Stopped { model: self.info().name.clone() })
    }

    fn not_ready(&self) -> Refusal {
        Refusal::NotReady { model: self.info().name.clone() }
    }
}

// The answers that one caller waits for. Dropped before they are all there, it tells the line that the caller has left.
struct Replies<'a> {
    queue: &'a Queue,
    receivers: Vec<oneshot::Receiver<Result<Answer, Failure>>>,
    finished: bool,
}

impl Drop for Replies<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.receivers.clear();
            self.queue.note_abandoned();
        }
    }
}

impl From<Answer> for Classified {
    fn from(answer: Answer) -> Classified {
        let Answer { probabilities, waited, computed, batch_size } = answer;
        Classified { probabilities, waited, computed, batch_size }
    }
}

impl Classified {
    fn append(&mut self, part: Answer) {
        self.probabilities.extend(part.probabilities);
        self.waited = self.waited.max(part.waited);
        self.computed = self.computed.saturating_add(part.computed);
        self.batch_size = self.batch_size.max(part.batch_size);
    }
}

// Splits what is longer than a batch.
fn parts(mut texts: Vec<String>, size: usize) -> Vec<Vec<String>> {
    let size = size.max(1);
    let mut parts = Vec::with_capacity(texts.len().div_ceil(size));
    while texts.len() > size {
        let rest = texts.split_off(size);
        parts.push(std::mem::replace(&mut texts, rest));
    }
    parts.push(texts);
    parts
}
