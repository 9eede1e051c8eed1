//! What an engine is to those who use it: requests in, events out, a step at a time.

use tch::Kind;

use crate::error::ModelError;
use crate::generation::{Chosen, Constraint, FinishReason, Hypothesis, PromptLookup, SamplingConfig};

/// The number of a request, unique within an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// How much an engine does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most sequences that generate at once. Default 64.
    pub max_sequences: usize,
    /// Most requests that wait. Default 256.
    pub max_waiting: usize,
    /// Most tokens that one step runs; a longer prompt is run in pieces. Default 512.
    pub step_tokens: usize,
    /// Tokens in a block of the cache. Default 32.
    pub block_size: usize,
    /// Tokens that the cache holds in all. Default 65,536.
    pub cache_tokens: usize,
    /// The element type of keys and values: float32 or bfloat16. Default float32.
    pub cache_kind: Kind,
    /// Whether prompts that begin alike share their beginning's blocks. Default yes.
    pub share_prefixes: bool,
    /// Guesses the next tokens by looking the last ones up earlier in the sequence, and checks them all in one step. The
    /// answers do not change. Default none.
    pub lookup: Option<PromptLookup>,
    /// Most tokens that a draft model guesses at once, where there is one. Default 8.
    pub draft_tokens: usize,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            max_sequences: 64,
            max_waiting: 256,
            step_tokens: 512,
            block_size: 32,
            cache_tokens: 65_536,
            cache_kind: Kind::Float,
            share_prefixes: true,
            lookup: None,
            draft_tokens: 8,
        }
    }
}

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What an encoder-decoder reads; a decoder reads none.
    pub source: Vec<u32>,
    /// The prompt's tokens, at least one; an encoder-decoder's are those that its answers begin with.
    pub prompt: Vec<u32>,
    /// How tokens are chosen, and when it ends.
    pub sampling: SamplingConfig,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// What the answer must look like.
    pub constraint: Option<Constraint>,
    /// When it is let in, beside others that wait.
    pub turn: Turn,
}

/// When a request is let in, beside others that wait: those of the lowest `priority` first, and among them the keys in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// The lower, the sooner. Default 0.
    pub priority: u8,
    /// On whose behalf.
    pub key: String,
}

impl Request {
    /// How many tokens of it the model reads: the source's, or where there is none the prompt's.
    pub fn read_tokens(&self) -> usize {
        if self.source.is_empty() { self.prompt.len() } else { self.source.len() }
    }
}

/// What a step brought.
#[derive(Clone, Debug)]
pub enum Event {
    /// A decoder's request has its turn, for the first time.
    Started {
        /// Which.
        request: RequestId,
        /// How many of its prompt's tokens were found in the cache.
        shared_tokens: usize,
    },
    /// The next token of an answer.
    Token {
        /// Of which request.
        request: RequestId,
        /// Which of its answers, from 0.
        sample: usize,
        /// The token and its log-probabilities.
        chosen: Chosen,
        /// Why the answer ends with it, if it does.
        finish: Option<FinishReason>,
    },
    /// The answers of a beam search, all at once, the best first.
    Beams {
        /// Of which request.
        request: RequestId,
        /// The answers' tokens without the prompt, and their scores.
        hypotheses: Vec<Hypothesis>,
    },
    /// A request that could not be carried to its end.
    Failed {
        /// Which.
        request: RequestId,
        /// Why, as a sentence.
        problem: String,
    },
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Too many wait already.
    #[error("{max} requests are waiting already; try again later")]
    Full {
        /// How many may wait.
        max: usize,
    },
    /// Its prompt has no token.
    #[error("the prompt has no token")]
    Empty,
    /// A source for a model that has no encoder.
    #[error("the model continues prompts and has no encoder that could read a source")]
    NoSources,
    /// A token that the model does not have.
    #[error("the prompt has the token {token}, and the model's tokens are those below {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// How many tokens there are.
        vocabulary: usize,
    },
    /// More than the model or the cache can hold.
    #[error("the prompt has {tokens} tokens and at most {max} fit with room for an answer; shorten it")]
    TooLong {
        /// The prompt's tokens.
        tokens: usize,
        /// The most that fit.
        max: usize,
    },
    /// More answers at once than the engine runs sequences.
    #[error("{asked} answers at once were asked for and the engine runs at most {max} sequences")]
    TooMany {
        /// How many were asked for.
        asked: usize,
        /// The most.
        max: usize,
    },
}

/// What an engine is doing, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Requests that wait.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// Blocks of the cache that are held.
    pub blocks_held: usize,
    /// Blocks of the cache in all.
    pub blocks: usize,
    /// Steps so far.
    pub steps: u64,
    /// Prompt tokens that were run.
    pub prompt_tokens: u64,
    /// Prompt tokens whose keys and values were found in the cache.
    pub shared_tokens: u64,
    /// Tokens that were generated.
    pub generated_tokens: u64,
    /// Tokens that were guessed ahead, by look-up or by a draft model.
    pub drafted_tokens: u64,
    /// Those among them that turned out right.
    pub accepted_tokens: u64,
    /// Requests that lost their memory to others and had to start again.
    pub preemptions: u64,
}

/// What runs requests of tokens together, whatever kind of model it has.
pub trait TokenEngine {
    /// The longest context: of a decoder, prompt and answer together; of an encoder-decoder, the longest answer with what it
    /// begins with.
    fn longest(&self) -> usize;

    /// Puts a request in line.
    ///
    /// # Errors
    /// [`Refused`] when it can never run, or too many wait.
    fn submit(&mut self, request: Request) -> Result<RequestId, Refused>;

    /// Forgets a request; its memory is free for the next step. One that is not known any more is no error.
    fn cancel(&mut self, request: RequestId);

    /// Ends one answer of a request, as when a stop string was found in its text; the others go on.
    fn finish(&mut self, request: RequestId, sample: usize);

    /// Whether there is nothing to do.
    fn is_idle(&self) -> bool;

    /// Whether a request waits for its turn.
    fn is_waiting(&self, request: RequestId) -> bool;

    /// What it is doing.
    fn state(&self) -> EngineState;

    /// Runs one step, and gives what came out.
    ///
    /// # Errors
    /// [`ModelError`] when the model fails. Everything that was running is then forgotten; what waits is not.
    fn step(&mut self) -> Result<Vec<Event>, ModelError>;
}
