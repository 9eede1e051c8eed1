//! The thread that owns one generator: takes requests in between steps, steps while there is work, sleeps when there is
//! none, and sends every piece to its caller. Plain synchronous code that knows nothing of sockets.
//!
//! A caller that has left is noticed before the next step. One that reads more slowly than it is answered is cut off when
//! its backlog is full. A model's error ends the requests that it had; a panic ends the thread.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::handle::{GeneratorHandle, PreparedLine};
use super::pieces::{PieceSender, SendError};
use super::{EngineState, Generator, OpenedGenerator, Piece, RequestError};
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::metrics::{GenerationMetrics, Metrics};
use crate::model::Model;
use crate::model_info::ModelInfo;
use crate::refusal::Refusal;
use crate::statistics::Statistics;
use crate::thread::{self, Abort, Loading, Serving};

/// A request on its way to the generator.
pub(super) struct Arrival<P> {
    pub(super) prepared: P,
    pub(super) arrived: Instant,
    /// Told whether the generator takes it.
    pub(super) accepted: oneshot::Sender<Result<(), RequestError>>,
    pub(super) pieces: PieceSender,
    /// Why the pieces end before the last one.
    pub(super) ended: Arc<OnceLock<Refusal>>,
}

/// Starts a thread that opens a generator and then serves it. `label` names it until its own name is known; `wrap` says what
/// kind of model it is.
pub(crate) fn spawn<G: Generator>(
    label: String,
    config: &ServerConfig,
    metrics: Arc<Metrics>,
    wrap: impl FnOnce(GeneratorHandle) -> Model + Send + 'static,
    open: impl FnOnce() -> Result<(ModelInfo, OpenedGenerator<G>), ServeError> + Send + 'static,
) -> Result<Loading, ServeError> {
    let (max_waiting, backlog) = (config.max_waiting, config.max_stream_backlog);
    thread::spawn(label, move |tell| {
        let (info, OpenedGenerator { generator, preparation }) = match open() {
            Ok(opened) => opened,
            Err(error) => return drop(tell.send(Err(error))),
        };
        let (sender, arrivals) = mpsc::channel(max_waiting);
        let statistics = Statistics::new(metrics.requests(&info));
        let (name, metrics) = (info.name.clone(), metrics.generation(&info));
        let (serving, readiness) = Serving::new(&info.name, || {});
        let abort = Abort::default();
        let line = PreparedLine::new(preparation, sender, backlog);
        let handle = GeneratorHandle::new(info, line, readiness, abort.clone(), statistics.clone());
        let state = generator.state();
        let active = BTreeMap::new();
        let mut executor = Executor { serving, active, generator, arrivals, abort, metrics, statistics, state, name };
        if tell.send(Ok(wrap(handle))).is_ok() {
            executor.run();
        }
    })
}

// In a panic fields are dropped in this order: everybody is told that the model is not ready before the callers that wait
// learn that their pieces end.
struct Executor<G: Generator> {
    serving: Serving,
    active: BTreeMap<G::Id, Call>,
    generator: G,
    arrivals: mpsc::Receiver<Arrival<G::Prepared>>,
    abort: Abort,
    metrics: GenerationMetrics,
    statistics: Statistics,
    state: EngineState,
    name: String,
}

// A request that the generator has.
struct Call {
    arrived: Instant,
    has_begun: bool,
    // When the last piece of each answer came.
    last: Vec<Option<Instant>>,
    pieces: PieceSender,
    ended: Arc<OnceLock<Refusal>>,
}

impl Call {
    fn end(self, why: Refusal) {
        let _ = self.ended.set(why);
    }
}

impl<G: Generator> Executor<G> {
    fn run(&mut self) {
        while self.take_arrivals() {
            if self.abort.is_set() {
                self.end_all(&Refusal::ShuttingDown);
                return;
            }
            self.forget_callers_who_left();
            if !self.active.is_empty() {
                self.step();
            }
        }
    }

    // Waits for a request when there is nothing else to do. False when the line is closed and everything is done.
    fn take_arrivals(&mut self) -> bool {
        if self.active.is_empty() {
            self.report();
            match self.arrivals.blocking_recv() {
                Some(arrival) => self.admit(arrival),
                None => return false,
            }
        }
        loop {
            match self.arrivals.try_recv() {
                Ok(arrival) => self.admit(arrival),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.active.is_empty(),
            }
        }
    }

    fn admit(&mut self, arrival: Arrival<G::Prepared>) {
        let Arrival { prepared, arrived, accepted, pieces, ended } = arrival;
        if accepted.is_closed() {
            return;
        }
        let submitted = {
            let _tell = self.serving.while_it_runs();
            self.generator.submit(prepared)
        };
        match submitted {
            Ok(id) => {
                self.active.insert(id, Call { arrived, has_begun: false, last: Vec::new(), pieces, ended });
                // A caller that has left meanwhile is noticed before the next step.
                let _ = accepted.send(Ok(()));
            }
            Err(error) => drop(accepted.send(Err(error))),
        }
    }

    fn forget_callers_who_left(&mut self) {
        let left: Vec<G::Id> =
            self.active.iter().filter(|(_, call)| call.pieces.is_closed()).map(|(id, _)| *id).collect();
        for id in left {
            self.active.remove(&id);
            self.generator.cancel(id);
        }
    }

    fn step(&mut self) {
        let started = Instant::now();
        let stepped = {
            let _tell = self.serving.while_it_runs();
            self.generator.step()
        };
        let computed = started.elapsed();
        self.metrics.step.record(computed);
        match stepped {
            Ok(pieces) => {
                self.note_beginnings(started);
                let mut sequences = self.generator.state().running;
                for (id, piece) in pieces {
                    sequences += usize::from(piece.finish.is_some());
                    self.deliver(id, piece);
                }
                if sequences > 0 {
                    self.metrics.batch_size.record(sequences as f64);
                    self.statistics.note_batch(sequences, computed);
                }
                self.report();
                if self.generator.is_idle() {
                    let model = self.name.clone();
                    self.end_all(&Refusal::Failed { model, reason: "it lost the request".to_owned() });
                }
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(model = self.name, requests = self.active.len(), reason, "the model failed");
                self.end_all(&Refusal::Failed { model: self.name.clone(), reason });
            }
        }
    }

    // Requests that the step took up waited until it began.
    fn note_beginnings(&mut self, started: Instant) {
        for (id, call) in self.active.iter_mut().filter(|(_, call)| !call.has_begun) {
            if !self.generator.is_waiting(*id) {
                call.has_begun = true;
                let waited = started.saturating_duration_since(call.arrived);
                self.metrics.queue.record(waited);
                self.statistics.note_wait(waited);
            }
        }
    }

    fn deliver(&mut self, id: G::Id, piece: Piece) {
        let Some(call) = self.active.get_mut(&id) else { return };
        let is_last = piece.usage.is_some();
        self.metrics.measure(call, &piece);
        match call.pieces.send(piece) {
            Ok(()) if is_last => drop(self.active.remove(&id)),
            Ok(()) => {}
            Err(error) => {
                self.generator.cancel(id);
                if let Some(call) = self.active.remove(&id)
                    && error == SendError::TooSlow
                {
                    call.end(Refusal::TooSlow);
                }
            }
        }
    }

    fn end_all(&mut self, why: &Refusal) {
        for (id, call) in std::mem::take(&mut self.active) {
            self.generator.cancel(id);
            call.end(why.clone());
        }
        self.report();
    }

    fn report(&mut self) {
        let (before, now) = (self.state, self.generator.state());
        let metrics = &self.metrics;
        metrics.waiting.set((now.waiting + self.arrivals.len()) as f64);
        metrics.running.set(now.running as f64);
        metrics.cache_blocks.set(now.blocks as f64);
        metrics.cache_used.set(now.blocks_held as f64 / now.blocks.max(1) as f64);
        metrics.prompt_tokens.increment(now.prompt_tokens.saturating_sub(before.prompt_tokens));
        metrics.shared_tokens.increment(now.shared_tokens.saturating_sub(before.shared_tokens));
        metrics.generated_tokens.increment(now.generated_tokens.saturating_sub(before.generated_tokens));
        metrics.drafted_tokens.increment(now.drafted_tokens.saturating_sub(before.drafted_tokens));
        metrics.accepted_tokens.increment(now.accepted_tokens.saturating_sub(before.accepted_tokens));
        metrics.preemptions.increment(now.preemptions.saturating_sub(before.preemptions));
        self.state = now;
    }
}

impl GenerationMetrics {
    fn measure(&self, call: &mut Call, piece: &Piece) {
        let now = Instant::now();
        if call.last.is_empty() {
            self.first_token.record(now.saturating_duration_since(call.arrived));
        }
        if call.last.len() <= piece.sample {
            call.last.resize(piece.sample + 1, None);
        }
        if let Some(last) = call.last.get_mut(piece.sample) {
            if let Some(last) = last {
                self.per_token.record(now.saturating_duration_since(*last));
            }
            *last = Some(now);
        }
    }
}
