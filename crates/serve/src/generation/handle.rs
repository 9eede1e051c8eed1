//! One generator as the services see it: its description, whether it is ready, and an async `generate` that has a request
//! checked and prepared, puts it in line and gives its pieces. The thread at the other end is in `executor.rs`.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::executor::Arrival;
use super::pieces::{PieceReceiver, pieces};
use super::{
    Finish, GenerateRequest, ParsedToolCall, Piece, Preparation, RequestError, SamplingConfig, TokenChoice, Usage,
};
use crate::model_info::ModelInfo;
use crate::refusal::Refusal;
use crate::statistics::{Request, Statistics};
use crate::tasks::TextToTextInput;
use crate::thread::{Abort, Readiness, lock};
use crate::trace;

/// A handle on a generator that runs on a thread of its own. Cheap to clone; the thread ends when the last handle is
/// dropped and what it had is done.
#[derive(Clone)]
pub(crate) struct GeneratorHandle {
    shared: Arc<Shared>,
}

struct Shared {
    info: ModelInfo,
    line: Arc<dyn Line>,
    readiness: Readiness,
    abort: Abort,
    statistics: Statistics,
}

impl fmt::Debug for GeneratorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeneratorHandle").field("info", &self.shared.info).finish_non_exhaustive()
    }
}

impl GeneratorHandle {
    pub(super) fn new<P: Send + 'static>(
        info: ModelInfo,
        line: PreparedLine<P>,
        readiness: Readiness,
        abort: Abort,
        statistics: Statistics,
    ) -> GeneratorHandle {
        GeneratorHandle { shared: Arc::new(Shared { info, line: Arc::new(line), readiness, abort, statistics }) }
    }

    /// What the model is called.
    pub(crate) fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Whether it takes requests.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.shared.readiness
    }

    /// What it has done.
    pub(crate) fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    /// Takes no more requests; what it has is finished, then the thread ends.
    pub(crate) fn close(&self) {
        self.shared.line.close();
    }

    /// Ends everything at the next step.
    pub(crate) fn abort(&self) {
        self.close();
        self.shared.abort.set();
    }

    /// How tokens are chosen where a request does not say.
    pub(crate) fn defaults(&self) -> SamplingConfig {
        self.shared.line.defaults()
    }

    /// The longest context, prompt and answer together, in tokens.
    pub(crate) fn context_length(&self) -> usize {
        self.shared.line.context_length()
    }

    /// Whether there is a template for conversations.
    pub(crate) fn has_chat_template(&self) -> bool {
        self.shared.line.has_chat_template()
    }

    /// Has a request checked, prepared and taken by the generator. Dropping the future, or the generation, cancels it.
    ///
    /// # Errors
    /// The request is wrong, the line is full, the model is not ready, or the deadline passed.
    pub(crate) async fn generate(
        &self,
        request: GenerateRequest,
        deadline: Option<Instant>,
    ) -> Result<Generation, Refusal> {
        self.begin(Ask::Generate(Box::new(request)), deadline).await
    }

    /// The same for a text to be summarised or translated.
    ///
    /// # Errors
    /// As [`GeneratorHandle::generate`].
    pub(crate) async fn rewrite(
        &self,
        input: TextToTextInput,
        deadline: Option<Instant>,
    ) -> Result<Generation, Refusal> {
        self.begin(Ask::Rewrite(input), deadline).await
    }

    async fn begin(&self, request: Ask, deadline: Option<Instant>) -> Result<Generation, Refusal> {
        let mut counted = self.shared.statistics.begin();
        let submitted = self.submit(request, counted.arrived());
        let placed = match deadline {
            None => submitted.await,
            Some(until) => {
                tokio::time::timeout_at(until.into(), submitted).await.unwrap_or(Err(Refusal::DeadlineExceeded))
            }
        };
        let Placed { pieces, ended, .. } = placed.inspect_err(|refusal| counted.refused(refusal))?;
        let model = self.info().name.clone();
        Ok(Generation { pieces, ended, deadline, model, has_begun: false, is_over: false, counted })
    }

    async fn submit(&self, request: Ask, arrived: Instant) -> Result<Placed, Refusal> {
        if !self.readiness().is_ready() {
            return Err(self.not_ready());
        }
        let line = Arc::clone(&self.shared.line);
        // Writing a conversation out, tokenising it and compiling a grammar take too long for a worker of the runtime.
        let put = tokio::task::spawn_blocking(move || line.put(request, arrived));
        let model = || self.info().name.clone();
        let stopped = || Refusal::Stopped { model: model() };
        let refused = |error| match error {
            RequestError::Full { max } => Refusal::QueueFull { model: model(), max },
            RequestError::TooLong { problem } => Refusal::TooLong { problem },
            RequestError::Invalid { field, problem } => Refusal::Invalid { field, problem },
        };
        let mut placed = put.await.map_err(|_| stopped())?.map_err(|error| match error {
            PutError::Refused(error) => refused(error),
            PutError::Closed => self.not_ready(),
        })?;
        (&mut placed.accepted).await.map_err(|_| stopped())?.map_err(refused)?;
        Ok(placed)
    }

    fn not_ready(&self) -> Refusal {
        Refusal::NotReady { model: self.info().name.clone() }
    }
}

/// The pieces of one request, as they come. Dropped, it cancels the request.
#[derive(Debug)]
pub(crate) struct Generation {
    pieces: PieceReceiver,
    ended: Arc<OnceLock<Refusal>>,
    deadline: Option<Instant>,
    model: String,
    has_begun: bool,
    is_over: bool,
    counted: Request,
}

impl Generation {
    /// The whole answer is collected before anybody reads it: it is not cut off for being read slowly.
    pub(crate) fn collects(&self) {
        self.pieces.collects();
    }

    /// The next piece; `None` after the last. After an error there is no more.
    pub(crate) async fn next(&mut self) -> Option<Result<Piece, Refusal>> {
        if self.is_over {
            return None;
        }
        let next = match self.deadline {
            None => Ok(self.pieces.next().await),
            Some(deadline) => tokio::time::timeout_at(deadline.into(), self.pieces.next()).await,
        };
        let result = match next {
            Err(_) => Err(Refusal::DeadlineExceeded),
            Ok(None) => Err(self.ended.get().cloned().unwrap_or(Refusal::Stopped { model: self.model.clone() })),
            Ok(Some(Piece { finish: Some(Finish::Failed(reason)), .. })) => {
                Err(Refusal::Failed { model: self.model.clone(), reason })
            }
            Ok(Some(piece)) => Ok(piece),
        };
        if !self.has_begun {
            self.has_begun = true;
            trace::note_event("first piece");
        }
        self.is_over = result.as_ref().map_or(true, |piece| piece.usage.is_some());
        match &result {
            Ok(Piece { sample, usage: Some(_), .. }) => self.counted.answered(sample + 1),
            Ok(_) => {}
            Err(refusal) => self.counted.refused(refusal),
        }
        if self.is_over {
            self.pieces.close();
        }
        Some(result)
    }
}

/// One whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tool_calls: Vec<ParsedToolCall>,
    pub(crate) tokens: Vec<TokenChoice>,
    pub(crate) finish: Option<Finish>,
}

impl Answer {
    /// The answers of a request from all of its pieces, in order, and what they took.
    pub(crate) fn gather(pieces: impl IntoIterator<Item = Piece>) -> (Vec<Answer>, Usage) {
        let mut answers: Vec<Answer> = Vec::new();
        let mut usage = Usage::default();
        for piece in pieces {
            if answers.len() <= piece.sample {
                answers.resize_with(piece.sample + 1, Answer::default);
            }
            if let Some(answer) = answers.get_mut(piece.sample) {
                answer.text.push_str(&piece.text);
                answer.tool_calls.extend(piece.tool_calls);
                answer.tokens.extend(piece.tokens);
                answer.finish = piece.finish.or(answer.finish.take());
            }
            usage = piece.usage.unwrap_or(usage);
        }
        (answers, usage)
    }
}

// What a caller wants.
enum Ask {
    Generate(Box<GenerateRequest>),
    Rewrite(TextToTextInput),
}

enum PutError {
    Refused(RequestError),
    Closed,
}

// A request that waits for the generator's word.
struct Placed {
    accepted: oneshot::Receiver<Result<(), RequestError>>,
    pieces: PieceReceiver,
    ended: Arc<OnceLock<Refusal>>,
}

// The line before a generator, whatever it makes of requests.
trait Line: Send + Sync {
    fn put(&self, request: Ask, arrived: Instant) -> Result<Placed, PutError>;
    fn close(&self);
    fn defaults(&self) -> SamplingConfig;
    fn context_length(&self) -> usize;
    fn has_chat_template(&self) -> bool;
}

/// A generator's line, and what is done with requests before they go there.
pub(super) struct PreparedLine<P> {
    preparation: Arc<dyn Preparation<Prepared = P>>,
    // None when it is closed.
    arrivals: Mutex<Option<mpsc::Sender<Arrival<P>>>>,
    backlog: usize,
}

impl<P> PreparedLine<P> {
    pub(super) fn new(
        preparation: Arc<dyn Preparation<Prepared = P>>,
        arrivals: mpsc::Sender<Arrival<P>>,
        backlog: usize,
    ) -> PreparedLine<P> {
        PreparedLine { preparation, arrivals: Mutex::new(Some(arrivals)), backlog }
    }
}

impl<P: Send + 'static> Line for PreparedLine<P> {
    fn put(&self, request: Ask, arrived: Instant) -> Result<Placed, PutError> {
        let prepared = match &request {
            Ask::Generate(request) => self.preparation.prepare(request),
            Ask::Rewrite(input) => self.preparation.prepare_text_to_text(input),
        };
        let prepared = prepared.map_err(PutError::Refused)?;
        let (accept, accepted) = oneshot::channel();
        let (send, pieces) = pieces(self.backlog);
        let ended = Arc::new(OnceLock::new());
        let arrival = Arrival { prepared, arrived, accepted: accept, pieces: send, ended: Arc::clone(&ended) };
        let arrivals = lock(&self.arrivals);
        let arrivals = arrivals.as_ref().ok_or(PutError::Closed)?;
        arrivals.try_send(arrival).map_err(|error| match error {
            TrySendError::Full(_) => PutError::Refused(RequestError::Full { max: arrivals.max_capacity() }),
            TrySendError::Closed(_) => PutError::Closed,
        })?;
        Ok(Placed { accepted, pieces, ended })
    }

    fn close(&self) {
        lock(&self.arrivals).take();
    }

    fn defaults(&self) -> SamplingConfig {
        self.preparation.defaults()
    }

    fn context_length(&self) -> usize {
        self.preparation.context_length()
    }

    fn has_chat_template(&self) -> bool {
        self.preparation.has_chat_template()
    }
}
