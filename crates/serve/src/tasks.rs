//! What callers send to the kinds of models other than classifiers and generators, and what they are answered.

use std::sync::Arc;

pub use tidemill_model::tasks::text_to_text::{Purpose, TextToTextInput};

use crate::batch::Input;

/// A text to be turned into a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedInput {
    /// The text, or its tokens.
    pub text: TextOrTokens,
    /// Whether a text longer than the model takes is cut off; otherwise it is refused.
    pub truncate: bool,
}

/// A text as it was written, or as tokens of the model's own vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextOrTokens {
    /// As it was written.
    Text(String),
    /// Tokens, without those that the model's tokenizer puts around a text.
    Tokens(Vec<u32>),
}

/// A text to be scored by how well it answers a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RerankInput {
    /// The query, shared by all texts of a request.
    pub query: Arc<str>,
    /// The text.
    pub text: String,
    /// Whether a pair longer than the model takes is cut off; otherwise it is refused.
    pub truncate: bool,
}

/// A span of a text that names something.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// What it names, such as `PER`.
    pub label: String,
    /// Between 0 and 1.
    pub score: f32,
    /// Its first character, counted in characters from 0.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
}

/// A question about a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuestionInput {
    /// What is asked.
    pub(crate) question: String,
    /// Where the answer stands.
    pub(crate) document: String,
}

/// The span of a document that answers a question best; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FoundAnswer {
    /// The span itself.
    pub(crate) text: String,
    /// Between 0 and 1.
    pub(crate) score: f32,
}

/// What a text-to-text model answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextToTextAnswer {
    /// The text.
    pub text: String,
    /// How many tokens were generated.
    pub tokens: usize,
}

impl Input for String {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Input for EmbedInput {
    fn bytes(&self) -> usize {
        match &self.text {
            TextOrTokens::Text(text) => text.len(),
            TextOrTokens::Tokens(_) => 0,
        }
    }
}

impl Input for RerankInput {
    fn bytes(&self) -> usize {
        self.query.len() + self.text.len()
    }
}

impl Input for QuestionInput {
    fn bytes(&self) -> usize {
        self.question.len() + self.document.len()
    }
}

impl Input for TextToTextInput {
    fn bytes(&self) -> usize {
        self.text.len()
    }
}
