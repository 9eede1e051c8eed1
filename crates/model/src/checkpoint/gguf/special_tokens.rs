//! The special tokens that a GGUF file names, and the settings for sampling that it carries.

use serde_json::{Map, Value as Json, json};

use super::metadata::{count, shortest};
use super::problem::Problem;
use super::reader::{Gguf, Value};
use super::tokenizer::{Frame, TokenType, Vocabulary};
use crate::checkpoint::special_tokens::{SpecialToken, SpecialTokens};
use crate::error::WeightsError;

/// What models end their turn with. Files name one end of text, and instruction models have two or three; llama.cpp too
/// finds the others by what they are called.
const ENDS_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];

pub(crate) fn special_tokens(gguf: &Gguf) -> Result<SpecialTokens, WeightsError> {
    read(gguf).map_err(|problem| problem.in_file(gguf.file()))
}

fn read(gguf: &Gguf) -> Result<SpecialTokens, Problem> {
    if gguf.value("tokenizer.ggml.tokens").is_none() {
        return Ok(SpecialTokens::default());
    }
    let vocabulary = Vocabulary::read(gguf)?;
    let token = |name: &str| -> Result<Option<SpecialToken>, Problem> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = count(gguf, &key)? else {
            return Ok(None);
        };
        let text = usize::try_from(id).ok().and_then(|id| vocabulary.tokens.get(id));
        let text = text.ok_or_else(|| {
            Problem::new(format!("key {key:?} is {id}, and there are {} tokens", vocabulary.tokens.len()))
        })?;
        Ok(Some(SpecialToken { id: id as u32, text: text.to_string() }))
    };
    let mut eos: Vec<SpecialToken> = Vec::new();
    let named = [token("eos")?, token("eot")?, token("eom")?].into_iter().flatten();
    let by_text = vocabulary.tokens.iter().zip(&vocabulary.types).enumerate().filter_map(|(id, (text, kind))| {
        let ends = *kind == TokenType::Control && ENDS_OF_TURN.contains(&text.as_ref());
        ends.then(|| SpecialToken { id: id as u32, text: text.to_string() })
    });
    for end in named.chain(by_text) {
        if !eos.contains(&end) {
            eos.push(end);
        }
    }
    let frame = Frame::read(gguf, &vocabulary)?;
    Ok(SpecialTokens {
        bos: token("bos")?,
        eos,
        pad: token("padding")?,
        unk: token("unknown")?,
        mask: token("mask")?,
        adds_bos: frame.bos.is_some(),
        adds_eos: frame.eos.is_some(),
        before: frame.bos.iter().map(|(id, _)| *id as u32).collect(),
        after: frame.eos.iter().map(|(id, _)| *id as u32).collect(),
    })
}

/// The settings under `general.sampling` by the names of `generation_config.json`; nothing when there are none.
pub(crate) fn generation_config(gguf: &Gguf) -> Option<Map<String, Json>> {
    const NAMES: [(&str, &str); 5] = [
        ("temp", "temperature"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ];
    let settings: Map<String, Json> = NAMES
        .iter()
        .filter_map(|(key, name)| {
            let value = match gguf.value(&format!("general.sampling.{key}"))? {
                Value::Float(value) => shortest(value),
                Value::Double(value) => json!(value),
                Value::Unsigned(value) => json!(value),
                Value::Signed(value) => json!(value),
                _ => return None,
            };
            Some(((*name).to_string(), value))
        })
        .collect();
    (!settings.is_empty()).then_some(settings)
}
