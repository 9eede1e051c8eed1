//! OpenAI's interface, so that its clients work as they are. One file an endpoint.

pub(super) mod chat;
mod chat_messages;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod errors;
mod logprobs;
pub(super) mod models;
mod prompts;
mod sampling;
mod stream;

use serde::Serialize;

use crate::generation::{Finish, Usage};

/// What a request took.
#[derive(Clone, Copy, Debug, Serialize)]
struct UsageObject {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PromptTokens {
    cached_tokens: usize,
}

impl From<Usage> for UsageObject {
    fn from(usage: Usage) -> UsageObject {
        UsageObject {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: usage.shared_tokens.map(|cached_tokens| PromptTokens { cached_tokens }),
        }
    }
}

/// Why an answer ends, as the interface calls it.
fn finish_reason(finish: Option<&Finish>) -> Option<&'static str> {
    match finish? {
        Finish::Length => Some("length"),
        Finish::ToolCalls => Some("tool_calls"),
        // What failed ends as an error.
        Finish::Stop | Finish::Failed(_) => Some("stop"),
    }
}
