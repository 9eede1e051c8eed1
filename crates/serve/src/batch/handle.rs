//! One batch model as the services see it: its description, whether it is ready, and an async `answer` that prepares
//! inputs, puts them into the model's line and waits. The thread at the other end is in `executor.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::entry::{Answer, Entry, Failure, Terms};
use super::queue::{BatchSize, PushError, Queue};
use super::{Input, Prepare, Prepared, Schedule};
use crate::admitted::Admitted;
use crate::metrics::BatchMetrics;
use crate::model_info::ModelInfo;
use crate::refusal::Refusal;
use crate::shadow::Beside;
use crate::statistics::Statistics;
use crate::thread::Readiness;

/// Inputs longer than this are prepared on a thread for blocking work, not on a worker of the runtime.
const LONG: usize = 16 * 1024;

/// The answers to a request's inputs, and what they took.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answered<A> {
    /// One for each input.
    pub(crate) answers: Vec<A>,
    /// Tokens of all inputs; 0 where the model does not count them.
    pub(crate) tokens: usize,
    /// The longest wait of any part of the request before it ran.
    pub(crate) waited: Duration,
    /// Time in the model, added up over the request's parts.
    pub(crate) computed: Duration,
    /// Items in the largest batch that a part of the request ran in, those of others included.
    pub(crate) batch_size: usize,
}

/// A handle on a model that runs on a thread of its own. Cheap to clone; the thread ends when the last handle is dropped
/// and what was waiting is done.
pub(crate) struct BatchHandle<I, A> {
    shared: Arc<Shared<I, A>>,
    shadow: Option<Arc<Beside<I, A>>>,
}

struct Shared<I, A> {
    info: ModelInfo,
    schedule: Schedule,
    line: Arc<dyn Line<I, A>>,
    readiness: Readiness,
    statistics: Statistics,
}

impl<I, A> Clone for BatchHandle<I, A> {
    fn clone(&self) -> Self {
        BatchHandle { shared: Arc::clone(&self.shared), shadow: self.shadow.clone() }
    }
}

impl<I, A> fmt::Debug for BatchHandle<I, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchHandle").field("info", &self.shared.info).finish_non_exhaustive()
    }
}

impl<I, A> Drop for Shared<I, A> {
    fn drop(&mut self) {
        self.line.close();
    }
}

impl<I: Input, A: Send + 'static> BatchHandle<I, A> {
    pub(super) fn new<T: Send + 'static>(
        info: ModelInfo,
        schedule: Schedule,
        line: PreparedLine<I, T, A>,
        readiness: Readiness,
        statistics: Statistics,
    ) -> BatchHandle<I, A> {
        BatchHandle {
            shared: Arc::new(Shared { info, schedule, line: Arc::new(line), readiness, statistics }),
            shadow: None,
        }
    }

    /// The same model, whose requests are put to a shadow too.
    pub(crate) fn with_shadow(&self, shadow: Beside<I, A>) -> BatchHandle<I, A> {
        BatchHandle { shared: Arc::clone(&self.shared), shadow: Some(Arc::new(shadow)) }
    }

    /// The shadow that a request is put to besides.
    pub(crate) fn shadow(&self) -> Option<&Beside<I, A>> {
        self.shadow.as_deref()
    }

    /// What the model is called and what it answers with.
    pub(crate) fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// How its requests are scheduled.
    pub(crate) fn schedule(&self) -> &Schedule {
        &self.shared.schedule
    }

    /// Whether it takes requests.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.shared.readiness
    }

    /// What it has done.
    pub(crate) fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    /// Takes no more requests; what waits is still served, then the thread ends.
    pub(crate) fn close(&self) {
        self.shared.line.close();
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.shared.line.waiting()
    }

    /// Answers inputs, together with those of other callers that wait at the same time; when, depends on who asks and how
    /// soon it is wanted. `field` is what the request calls them. Dropping the future gives the place in the line up.
    ///
    /// # Errors
    /// At once when an input is wrong, the line is full or the model is not ready; at the deadline; or when the model
    /// fails or stops.
    pub(crate) async fn answer(
        &self,
        inputs: Vec<I>,
        field: &'static str,
        admitted: &Admitted,
    ) -> Result<Answered<A>, Refusal> {
        if inputs.is_empty() {
            let (waited, computed) = (Duration::ZERO, Duration::ZERO);
            return Ok(Answered { answers: Vec::new(), tokens: 0, waited, computed, batch_size: 0 });
        }
        let items = inputs.iter().map(Input::count).sum();
        let mut request = self.shared.statistics.begin();
        let result = self.answer_some(inputs, field, admitted).await;
        request.note(items, &result);
        result
    }

    async fn answer_some(
        &self,
        inputs: Vec<I>,
        field: &'static str,
        admitted: &Admitted,
    ) -> Result<Answered<A>, Refusal> {
        let deadline = admitted.deadline;
        if !self.readiness().is_ready() {
            return Err(self.not_ready());
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Refusal::DeadlineExceeded);
        }
        let answered = async {
            let (replies, tokens) = self.enqueue(inputs, field, admitted).await?;
            self.gather(replies, tokens).await
        };
        match deadline {
            None => answered.await,
            Some(deadline) => {
                tokio::time::timeout_at(deadline.into(), answered).await.unwrap_or(Err(Refusal::DeadlineExceeded))
            }
        }
    }

    async fn enqueue(
        &self,
        inputs: Vec<I>,
        field: &'static str,
        admitted: &Admitted,
    ) -> Result<(Replies<I, A>, usize), Refusal> {
        let &Admitted { deadline, priority, .. } = admitted;
        let terms = Terms { arrived: Instant::now(), deadline, priority, key: admitted.key.clone() };
        let bytes: usize = inputs.iter().map(Input::bytes).sum();
        let line = Arc::clone(&self.shared.line);
        let put = move || {
            let result = line.put(inputs, terms);
            result.map(|(receivers, tokens)| (Replies { line, receivers, finished: false }, tokens))
        };
        let result =
            if bytes > LONG { tokio::task::spawn_blocking(put).await.unwrap_or(Err(PutError::Closed)) } else { put() };
        result.map_err(|error| match error {
            PutError::Input { index, problem } => Refusal::invalid(format!("{field}[{index}]"), problem),
            PutError::Full { max } => Refusal::QueueFull { model: self.info().name.clone(), max },
            PutError::Closed => self.not_ready(),
        })
    }

    async fn gather(&self, mut replies: Replies<I, A>, tokens: usize) -> Result<Answered<A>, Refusal> {
        let model = || self.info().name.clone();
        let mut whole: Option<Answered<A>> = None;
        for receiver in &mut replies.receivers {
            let part = match receiver.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(Failure(reason))) => return Err(Refusal::Failed { model: model(), reason }),
                Err(_) => return Err(Refusal::Stopped { model: model() }),
            };
            match &mut whole {
                None => whole = Some(Answered::first(part, tokens)),
                Some(whole) => whole.append(part),
            }
        }
        replies.finished = true;
        whole.ok_or_else(|| Refusal::Stopped { model: model() })
    }

    fn not_ready(&self) -> Refusal {
        Refusal::NotReady { model: self.info().name.clone() }
    }
}

type Receivers<A> = Vec<oneshot::Receiver<Result<Answer<A>, Failure>>>;

enum PutError {
    Input { index: usize, problem: String },
    Full { max: usize },
    Closed,
}

// The line before a model, whatever its items are.
trait Line<I, A>: Send + Sync {
    /// Prepares inputs and puts them in line, all or none. Gives also their tokens.
    fn put(&self, inputs: Vec<I>, terms: Terms) -> Result<(Receivers<A>, usize), PutError>;
    fn note_abandoned(&self);
    fn close(&self);
    #[cfg(test)]
    fn waiting(&self) -> usize;
}

/// A model's queue, and what is done with inputs before they go there.
pub(super) struct PreparedLine<I, T, A> {
    pub(super) prepare: Prepare<I, T>,
    pub(super) queue: Arc<Queue<T, A>>,
    pub(super) size: BatchSize,
    pub(super) metrics: BatchMetrics,
}

impl<I, T: Send, A: Send> Line<I, A> for PreparedLine<I, T, A> {
    fn put(&self, inputs: Vec<I>, terms: Terms) -> Result<(Receivers<A>, usize), PutError> {
        let prepared = inputs.into_iter().enumerate().map(|(index, input)| {
            let prepared = (self.prepare)(input);
            prepared.map_err(|problem| PutError::Input { index, problem })
        });
        let prepared: Vec<Prepared<T>> = prepared.collect::<Result<_, _>>()?;
        let all_tokens = prepared.iter().map(|input| input.tokens).sum();

        let mut receivers = Vec::new();
        let entries = parts(prepared, self.size).into_iter().map(|(items, tokens)| {
            let (reply, receiver) = oneshot::channel();
            receivers.push(receiver);
            Entry { items, tokens, terms: terms.clone(), reply }
        });
        self.queue.push(entries.collect()).map_err(|error| match error {
            PushError::Full => PutError::Full { max: self.queue.max_items() },
            PushError::Closed => PutError::Closed,
        })?;
        self.metrics.waiting.set(self.queue.waiting_items() as f64);
        Ok((receivers, all_tokens))
    }

    fn note_abandoned(&self) {
        self.queue.note_abandoned();
    }

    fn close(&self) {
        self.queue.close();
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.queue.waiting_items()
    }
}

// The answers that one caller waits for. Dropped before they are all there, it tells the line that the caller has left.
struct Replies<I, A> {
    line: Arc<dyn Line<I, A>>,
    receivers: Receivers<A>,
    finished: bool,
}

impl<I, A> Drop for Replies<I, A> {
    fn drop(&mut self) {
        if !self.finished {
            self.receivers.clear();
            self.line.note_abandoned();
        }
    }
}

impl<A> Answered<A> {
    fn first(part: Answer<A>, tokens: usize) -> Answered<A> {
        let Answer { answers, waited, computed, batch_size } = part;
        Answered { answers, tokens, waited, computed, batch_size }
    }

    fn append(&mut self, part: Answer<A>) {
        self.answers.extend(part.answers);
        self.waited = self.waited.max(part.waited);
        self.computed = self.computed.saturating_add(part.computed);
        self.batch_size = self.batch_size.max(part.batch_size);
    }
}

// Splits what is longer than a batch: items and their tokens.
fn parts<T>(items: Vec<Prepared<T>>, size: BatchSize) -> Vec<(Vec<T>, usize)> {
    let mut parts: Vec<(Vec<T>, usize)> = Vec::new();
    for Prepared { item, tokens } in items {
        match parts.last_mut() {
            Some((part, sum)) if part.len() < size.items && sum.saturating_add(tokens) <= size.tokens => {
                part.push(item);
                *sum += tokens;
            }
            _ => parts.push((vec![item], tokens)),
        }
    }
    parts
}
