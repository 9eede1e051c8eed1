//! Models that generate: requests join and leave between steps, answers come piece by piece.
//!
//! `handle.rs` is the async side, `executor.rs` the thread that owns the generator, `pieces.rs` the way back between them, `tool_choice.rs` what a chat's choice
//! of tools means, `checkpoint.rs` the model library's generator. How tokens are chosen, cached and written out as text is
//! that library's.

mod checkpoint;
mod executor;
mod handle;
mod pieces;
mod request;
pub(crate) mod tool_choice;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

pub(crate) use executor::spawn;
pub(crate) use handle::{Answer, Generation, GeneratorHandle};
pub use request::{
    ChatInput, ConstraintSpec, Content, EngineState, Finish, FunctionCall, GenerateRequest, Input, Message,
    ParsedToolCall, Part, Piece, SamplingConfig, TokenChoice, ToolCall, Usage,
};

use crate::tasks::TextToTextInput;

/// Why a model failed.
pub type ModelFailure = Box<dyn Error + Send + Sync>;

/// A generator: many requests at once, a step at a time. One thread owns it and calls it.
pub trait Generator: 'static {
    /// The number of a request, never used twice.
    type Id: Copy + Ord + Send;
    /// A request that was checked and prepared.
    type Prepared: Send + 'static;

    /// Puts a request in line.
    ///
    /// # Errors
    /// It can never run, or too many wait.
    fn submit(&mut self, request: Self::Prepared) -> Result<Self::Id, RequestError>;

    /// Forgets a request. One that is not known any more is no error.
    fn cancel(&mut self, request: Self::Id);

    /// Runs one step and gives what came out: the last piece of a request has its usage.
    ///
    /// # Errors
    /// The model failed. Every request that it had is then cancelled, and its caller told; the message must not repeat
    /// what requests say.
    fn step(&mut self) -> Result<Vec<(Self::Id, Piece)>, ModelFailure>;

    /// Whether there is nothing to do.
    fn is_idle(&self) -> bool;

    /// Whether work on a request has not begun.
    fn is_waiting(&self, request: Self::Id) -> bool;

    /// What it is doing.
    fn state(&self) -> EngineState;
}

/// The half of a generator that any thread may use: checks and prepares requests before they cost.
pub trait Preparation: Send + Sync + 'static {
    /// What it makes of a request.
    type Prepared: Send + 'static;

    /// Checks a request, writes its conversation out and turns it into tokens.
    ///
    /// # Errors
    /// Names the field that is wrong. It must not repeat what the field says.
    fn prepare(&self, request: &GenerateRequest) -> Result<Self::Prepared, RequestError>;

    /// Checks a text to be summarised or translated, and turns it into tokens. Only encoder-decoders do that.
    ///
    /// # Errors
    /// As [`Preparation::prepare`].
    fn prepare_text_to_text(&self, input: &TextToTextInput) -> Result<Self::Prepared, RequestError> {
        let _ = input;
        Err(RequestError::invalid("model", "continues texts, and does not turn them into others"))
    }

    /// How tokens are chosen where a request does not say.
    fn defaults(&self) -> SamplingConfig;

    /// The longest context, prompt and answer together, in tokens.
    fn context_length(&self) -> usize;

    /// Whether there is a template for conversations.
    fn has_chat_template(&self) -> bool;
}

/// Why a generator does not take a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Too many wait.
    Full {
        /// The most that may.
        max: usize,
    },
    /// A field is wrong.
    Invalid {
        /// The field, as [`GenerateRequest`] and [`SamplingConfig`] call it.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Prompt and answer do not fit the model's context.
    TooLong {
        /// What is too long and by how much, as a sentence.
        problem: String,
    },
}

impl RequestError {
    /// A field is wrong.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> RequestError {
        RequestError::Invalid { field: field.into(), problem: problem.into() }
    }
}

/// A generator and the half of it that any thread may use.
pub struct OpenedGenerator<G: Generator> {
    /// What the model's thread owns and calls.
    pub generator: G,
    /// What checks and prepares requests.
    pub preparation: Arc<dyn Preparation<Prepared = G::Prepared>>,
}

impl<G: Generator> fmt::Debug for OpenedGenerator<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedGenerator").finish_non_exhaustive()
    }
}
