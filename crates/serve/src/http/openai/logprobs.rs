//! Log-probabilities of tokens, in the two shapes that the interface has: of chats, and of completions.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::generation::TokenChoice;

/// What stands for minus infinity, which JSON does not have.
const LEAST: f32 = -9999.0;

/// Of a chat's answer.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<TopToken>,
}

#[derive(Debug, Serialize)]
struct TopToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    pub(super) fn new(tokens: Vec<TokenChoice>) -> ChatLogprobs {
        let top = |(_, token, logprob): (u32, String, f32)| {
            let bytes = token.as_bytes().to_vec();
            TopToken { token, logprob: finite(logprob), bytes }
        };
        let token = |token: TokenChoice| ChatToken {
            logprob: token.logprob.map_or(LEAST, finite),
            bytes: token.text.as_bytes().to_vec(),
            token: token.text,
            top_logprobs: token.top.into_iter().map(top).collect(),
        };
        ChatLogprobs { content: tokens.into_iter().map(token).collect(), refusal: None }
    }
}

/// Of a completion's answer.
#[derive(Debug, Default, Serialize)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Map<String, Value>>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Of tokens whose text begins at character `offset` of the answer, which is moved on.
    pub(super) fn new(tokens: Vec<TokenChoice>, offset: &mut usize) -> CompletionLogprobs {
        let mut logprobs = CompletionLogprobs::default();
        for token in tokens {
            logprobs.text_offset.push(*offset);
            *offset += token.text.chars().count();
            logprobs.token_logprobs.push(token.logprob.map(finite));
            let top = token.top.into_iter().map(|(_, text, logprob)| (text, Value::from(finite(logprob))));
            logprobs.top_logprobs.push(top.collect());
            logprobs.tokens.push(token.text);
        }
        logprobs
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LEAST }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_characters_and_what_json_lacks_is_replaced() {
        let token = |text: &str, logprob| TokenChoice {
            token: 1,
            text: text.into(),
            logprob,
            top: vec![(1, text.into(), f32::NEG_INFINITY)],
        };
        let mut offset = 2;
        let logprobs = CompletionLogprobs::new(vec![token("é", None), token("tide", Some(-0.5))], &mut offset);
        let json = serde_json::to_value(logprobs).unwrap();
        assert_eq!(json["text_offset"], serde_json::json!([2, 3]));
        assert_eq!(json["token_logprobs"], serde_json::json!([null, -0.5]));
        assert_eq!(json["top_logprobs"][1]["tide"], -9999.0);
        assert_eq!(offset, 7);
    }
}
