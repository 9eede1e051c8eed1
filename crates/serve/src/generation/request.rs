//! What a generator answers. What it is asked is the model library's.

pub use tidemill_model::engine::EngineState;
pub use tidemill_model::generation::{
    ChatInput, ConstraintSpec, Content, FunctionCall, Message, ParsedToolCall, Part, SamplingConfig, ToolCall,
};
pub use tidemill_model::tasks::generation::{GenerateRequest, Input, TokenChoice};

/// What a step brought to one answer of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Which answer of the request, from 0.
    pub sample: usize,
    /// What is new of its text. May be empty: text is held back until it is whole characters and no stop string.
    pub text: String,
    /// Functions that it calls, each whole.
    pub tool_calls: Vec<ParsedToolCall>,
    /// The tokens that were chosen, where log-probabilities are wanted.
    pub tokens: Vec<TokenChoice>,
    /// Why the answer ends with this piece, if it does.
    pub finish: Option<Finish>,
    /// With the last piece of a request: what it took.
    pub usage: Option<Usage>,
}

/// Why an answer ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// By itself, or at a stop string or token.
    Stop,
    /// It is as long as it may be.
    Length,
    /// It calls functions.
    ToolCalls,
    /// It could not be carried on: why.
    Failed(String),
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were in the cache already, where that is known.
    pub shared_tokens: Option<usize>,
    /// Tokens of all answers.
    pub completion_tokens: usize,
}
