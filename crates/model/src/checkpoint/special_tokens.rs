//! The special tokens of a checkpoint: which they are, and which are put around every text. In a Hugging Face folder they
//! are spread over six files; this is the one place that knows which counts.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A token with a meaning of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its number.
    pub id: u32,
    /// How it is written.
    pub text: String,
}

/// The special tokens of a checkpoint, as far as its files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<SpecialToken>,
    /// Every one that ends an answer, the tokeniser's or the generation's own first.
    pub eos: Vec<SpecialToken>,
    /// Fills a batch.
    pub pad: Option<SpecialToken>,
    /// Stands for what the tokeniser does not know.
    pub unk: Option<SpecialToken>,
    /// Stands for a word to be guessed.
    pub mask: Option<SpecialToken>,
    /// Whether the tokeniser puts `bos` before every text. A chat template may write it too: encode its result without.
    pub adds_bos: bool,
    /// Whether the tokeniser puts `eos` after every text.
    pub adds_eos: bool,
    /// Every token that the tokeniser puts before a text, as far as its files say.
    pub before: Vec<u32>,
    /// Every token that it puts after one.
    pub after: Vec<u32>,
}

/// What of a `tokenizer.json` is needed to know the special tokens; its vocabulary is skipped.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TokenizerOutline {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Debug, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// The files that say something of special tokens; an empty map for one that is not there.
#[derive(Debug, Default)]
pub(super) struct Sources<'a> {
    pub(super) config: Option<&'a Map<String, Value>>,
    pub(super) generation_config: Option<&'a Map<String, Value>>,
    pub(super) tokenizer_config: Option<&'a Map<String, Value>>,
    pub(super) special_tokens_map: Option<&'a Map<String, Value>>,
    pub(super) outline: TokenizerOutline,
}

impl Sources<'_> {
    /// `look_up` asks the whole tokeniser, for a text or an id that no small file has.
    pub(super) fn special_tokens(
        &self,
        look_up: &mut dyn FnMut(&TokenKey<'_>) -> Option<SpecialToken>,
    ) -> SpecialTokens {
        let table = self.table();
        let mut find = |key: TokenKey<'_>| table.find(&key).or_else(|| look_up(&key));
        let mut named = |name: &str| {
            let text = self.text(&format!("{name}_token"));
            let id = self.ids(&format!("{name}_token_id")).first().copied();
            match text {
                Said::Text(text) => find(TokenKey::Text(text)),
                Said::None => None,
                Said::Nothing => id.and_then(|id| find(TokenKey::Id(id))),
            }
        };
        let (bos, mut pad, unk, mask) = (named("bos"), named("pad"), named("unk"), named("mask"));
        let mut eos: Vec<SpecialToken> = Vec::new();
        let by_id = self.ids("eos_token_id").into_iter().filter_map(|id| find(TokenKey::Id(id)));
        let mut found: Vec<SpecialToken> = by_id.collect();
        if let Said::Text(text) = self.text("eos_token") {
            found.extend(find(TokenKey::Text(text)));
        }
        for end in found {
            if !eos.contains(&end) {
                eos.push(end);
            }
        }
        if pad.is_none() {
            pad = self.ids("pad_token_id").first().and_then(|id| find(TokenKey::Id(*id)));
        }
        let (before, after) = frame(&self.outline.post_processor);
        let adds_bos = bos.as_ref().is_some_and(|bos| before.contains(&bos.id));
        let adds_eos = eos.iter().any(|eos| after.contains(&eos.id));
        SpecialTokens { bos, eos, pad, unk, mask, adds_bos, adds_eos, before, after }
    }

    fn table(&self) -> Table {
        let mut table = Table::default();
        let decoder =
            self.tokenizer_config.and_then(|config| config.get("added_tokens_decoder")).and_then(Value::as_object);
        for (id, token) in decoder.into_iter().flatten() {
            if let (Ok(id), Some(text)) = (id.parse(), token_text(token)) {
                table.insert(id, text);
            }
        }
        for token in &self.outline.added_tokens {
            table.insert(token.id, &token.content);
        }
        table
    }

    /// What the tokeniser's configuration says of one token. A `null` there is an answer too.
    fn text(&self, key: &str) -> Said<'_> {
        let files = [self.tokenizer_config, self.special_tokens_map];
        let mut said = Said::Nothing;
        for value in files.into_iter().flatten().filter_map(|file| file.get(key)) {
            match token_text(value) {
                Some(text) => return Said::Text(text),
                None => said = Said::None,
            }
        }
        said
    }

    /// Ids under a key: of the generation's configuration if it has any, else of the model's. They may be one or many.
    fn ids(&self, key: &str) -> Vec<u32> {
        let text_config = self.config.and_then(|config| config.get("text_config")).and_then(Value::as_object);
        let files = [self.generation_config, self.config, text_config];
        let ids = files.into_iter().flatten().filter_map(|file| file.get(key)).map(|value| match value {
            Value::Array(ids) => ids.iter().filter_map(as_id).collect(),
            one => as_id(one).into_iter().collect(),
        });
        ids.into_iter().find(|ids: &Vec<u32>| !ids.is_empty()).unwrap_or_default()
    }
}

/// One token, asked for by what is known of it.
#[derive(Debug)]
pub(super) enum TokenKey<'a> {
    Id(u32),
    Text(&'a str),
}

enum Said<'a> {
    Text(&'a str),
    None,
    Nothing,
}

#[derive(Default)]
struct Table {
    by_id: BTreeMap<u32, String>,
    by_text: BTreeMap<String, u32>,
}

impl Table {
    fn insert(&mut self, id: u32, text: &str) {
        self.by_id.insert(id, text.to_string());
        self.by_text.insert(text.to_string(), id);
    }

    fn find(&self, key: &TokenKey<'_>) -> Option<SpecialToken> {
        match key {
            TokenKey::Id(id) => self.by_id.get(id).map(|text| SpecialToken { id: *id, text: text.clone() }),
            TokenKey::Text(text) => {
                self.by_text.get(*text).map(|id| SpecialToken { id: *id, text: (*text).to_string() })
            }
        }
    }
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A token is written as its text, or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}

/// The ids that a post-processor of `tokenizer.json` puts before and after a single text.
fn frame(post_processor: &Value) -> (Vec<u32>, Vec<u32>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let steps = match post_processor.get("processors").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![post_processor],
    };
    for step in steps {
        match step.get("type").and_then(Value::as_str) {
            Some("TemplateProcessing") => {
                let mut seen_text = false;
                for piece in step.get("single").and_then(Value::as_array).into_iter().flatten() {
                    let name = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
                    let token = name.and_then(|name| step.get("special_tokens")?.get(name)?.get("ids")?.as_array());
                    let ids = token.into_iter().flatten().filter_map(as_id);
                    if piece.get("Sequence").is_some() {
                        seen_text = true;
                    } else if seen_text {
                        after.extend(ids);
                    } else {
                        before.extend(ids);
                    }
                }
            }
            Some("RobertaProcessing" | "BertProcessing") => {
                before.extend(step.pointer("/cls/1").and_then(as_id));
                after.extend(step.pointer("/sep/1").and_then(as_id));
            }
            _ => {}
        }
    }
    (before, after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(id: u32, text: &str) -> SpecialToken {
        SpecialToken { id, text: text.to_string() }
    }

    #[test]
    fn several_ends_and_a_first_token_as_llama_3_has_them() {
        let generation = json!({"eos_token_id": [128_001, 128_009], "bos_token_id": 128_000});
        let tokenizer = json!({
            "bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>"}, "pad_token": null,
            "added_tokens_decoder": {"128000": {"content": "<|begin_of_text|>"}, "128001": {"content": "<|end_of_text|>"},
                                     "128009": {"content": "<|eot_id|>"}}});
        let template = json!({"post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel"},
            {"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
             "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [128_000]}}}]}});
        let sources = Sources {
            generation_config: generation.as_object(),
            tokenizer_config: tokenizer.as_object(),
            outline: serde_json::from_value(template).unwrap_or_default(),
            ..Sources::default()
        };
        let tokens = sources.special_tokens(&mut |_| None);
        assert_eq!(tokens.bos, Some(token(128_000, "<|begin_of_text|>")));
        assert_eq!(tokens.eos, [token(128_001, "<|end_of_text|>"), token(128_009, "<|eot_id|>")]);
        assert_eq!((tokens.pad, tokens.adds_bos, tokens.adds_eos), (None, true, false));
    }

    #[test]
    fn a_null_in_the_tokenisers_configuration_outweighs_the_models() {
        let (config, tokenizer) = (json!({"bos_token_id": 7}), json!({"bos_token": null}));
        let sources =
            Sources { config: config.as_object(), tokenizer_config: tokenizer.as_object(), ..Sources::default() };
        assert_eq!(sources.special_tokens(&mut |_| Some(token(7, "x"))).bos, None);
    }

    #[test]
    fn the_whole_tokeniser_is_asked_when_no_small_file_knows() {
        let map = json!({"unk_token": "[UNK]"});
        let sources = Sources { special_tokens_map: map.as_object(), ..Sources::default() };
        let tokens =
            sources.special_tokens(&mut |key| matches!(key, TokenKey::Text("[UNK]")).then(|| token(3, "[UNK]")));
        assert_eq!(tokens.unk, Some(token(3, "[UNK]")));
    }
}
