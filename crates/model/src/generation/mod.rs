//! Everything about choosing tokens and text, and nothing about models: logits of a position as `&mut [f32]`, tokens as
//! `u32`, no tensors. What is chosen depends on the request alone, never on what shares the batch.
//!
//! - [`SamplingConfig`] says how; [`Sampler`] chooses the tokens of one output, [`BeamSearch`] searches for several;
//!   [`verify`] does a sampler's work for tokens that were drafted in advance ([`PromptLookup`]).
//! - [`ConstraintCompiler`] makes [`Constraint`]s that keep an output to a JSON schema, an expression or a grammar.
//! - [`Output`] turns tokens into text and knows where it ends ([`TextStream`], [`StopScanner`], [`FinishReason`]).
//! - [`ChatTemplate`] turns a conversation into a prompt, [`ToolParser`] an answer into text and calls of tools.

mod beam;
mod constraint;
mod error;
mod mask;
mod output;
mod processors;
mod prompt_lookup;
mod random;
mod sampler;
mod sampling;
mod scan;
mod shortlist;
mod speculation;
mod stop;
mod template;
mod text_stream;
mod tools;

pub use beam::{BeamSearch, Continuation, EndsBeam, Hypothesis};
pub use constraint::{Constraint, ConstraintCompiler, ConstraintError, ConstraintLimits, ConstraintSpec};
pub use error::SamplingError;
pub use mask::TokenMask;
pub use output::{Output, Piece};
pub use prompt_lookup::PromptLookup;
pub use sampler::{Chosen, Sampler};
pub use sampling::{EarlyStopping, SamplingConfig};
pub use speculation::{DraftLength, StepError, Verified, verify};
pub use stop::{FinishReason, StopScanner};
pub use template::{
    ChatInput, ChatTemplate, Content, FunctionCall, Message, Part, TemplateError, TemplateLimits, ToolCall,
};
pub use text_stream::{DecodeError, TextDecoder, TextStream};
pub use tools::{ParsedToolCall, ToolEvent, ToolFormat, ToolParser};
