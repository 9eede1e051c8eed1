//! A `tokenizer.json` as the keys of a GGUF file: the other direction of `tokenizer.rs`. Byte-level BPE whose words are cut
//! in a way that llama.cpp has a name for is said in llama.cpp's keys alone, where what these keys describe is seen to be
//! the same tokeniser. Any other stands in the file as it is too (`tokenizer.huggingface.json`), for readers that know
//! that key; SentencePiece's BPE also has llama.cpp's keys, other kinds only their tokens.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tidemill_data::load_tokenizer;

use super::pre_tokenizers;
use super::reader::Gguf;
use super::writer::Header;
use crate::checkpoint::{Checkpoint, CheckpointError};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Many scripts, numbers, spaces, contractions, line ends and signs: where two tokenisers of one vocabulary differ, they
/// differ here.
const PROBE: &str = "The tide's in; they'll WE'LL sail\u{2014}3.14159 miles, 1234567 \t\n\n  \r\n x = {y[0]} != \"z\"; \
    Übergröße naïve e\u{301}; Москва 2024; 東京タワー、大阪; 서울; مرحبا بالعالم; नमस्ते; ไทย; \u{1F600}\u{1F469}\u{200D}\u{1F4BB}\u{1F1E9}\u{1F1EA} \
    don't  stop...   #tag @name a_b-c/d\\e 100% ½ ² \u{200b}end\n";

/// Adds the keys of the checkpoint's tokeniser for a model of so many tokens.
pub(super) fn write(checkpoint: &Checkpoint, vocabulary: usize, header: &mut Header) -> Result<(), CheckpointError> {
    let bytes = checkpoint.tokenizer_json()?;
    let unusable = |problem: String| {
        CheckpointError::path(checkpoint.path(), format!("has a tokeniser that cannot be written as GGUF: {problem}"))
    };
    let json: Json = serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
    let (tokens, types) = vocabulary_of(&json, vocabulary).map_err(unusable)?;
    header.texts("tokenizer.ggml.tokens", tokens.iter().map(String::as_str));
    header.integers("tokenizer.ggml.token_type", &types);
    let model = &json["model"];
    let merges = merges_of(model);
    let is_byte_level = model["type"] == "BPE" && json["decoder"]["type"] == "ByteLevel";
    let is_sentence_piece = model["type"] == "BPE" && !is_byte_level && !merges.is_empty();
    let mut told = false;
    if is_byte_level {
        let ignore_merges = model["ignore_merges"] == true;
        let name = pre_tokenizers::name_of(&json["pre_tokenizer"], &json["normalizer"], ignore_merges);
        header.text("tokenizer.ggml.model", "gpt2");
        if let Some(name) = name {
            header.text("tokenizer.ggml.pre", name);
        }
        let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        header.texts("tokenizer.ggml.merges", merges.iter().map(String::as_str));
        told = name.is_some();
    } else if is_sentence_piece {
        header.text("tokenizer.ggml.model", "llama");
        header.numbers("tokenizer.ggml.scores", &scores(&tokens, &types, &merges));
        let prepends = json["normalizer"].to_string().contains("\"Prepend\"");
        header.flag("tokenizer.ggml.add_space_prefix", prepends);
    }
    special_tokens(checkpoint, header);
    if !(told && is_told(header, &bytes).map_err(unusable)?) {
        header.text("tokenizer.huggingface.json", str::from_utf8(&bytes).map_err(|error| unusable(error.to_string()))?);
    }
    for (name, template) in checkpoint.chat_templates() {
        let key = if name == "default" { String::new() } else { format!(".{name}") };
        header.text(&format!("tokenizer.chat_template{key}"), template);
    }
    Ok(())
}

/// Tokens and their types in the order of their ids, with names for the model's rows that have no token.
fn vocabulary_of(json: &Json, rows: usize) -> Result<(Vec<String>, Vec<i32>), String> {
    let model = &json["model"];
    let mut known: BTreeMap<usize, (String, i32)> = BTreeMap::new();
    match &model["vocab"] {
        Json::Object(ids) => {
            for (token, id) in ids {
                let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
                known.insert(id.ok_or("an id is no number")?, (token.clone(), NORMAL));
            }
        }
        Json::Array(pieces) => {
            for (id, piece) in pieces.iter().enumerate() {
                known.insert(id, (piece[0].as_str().ok_or("a piece is no text")?.to_string(), NORMAL));
            }
        }
        _ => return Err("it has no vocabulary".to_string()),
    }
    if model["byte_fallback"] == true {
        let is_byte = |token: &str| token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        known.values_mut().filter(|(token, _)| is_byte(token)).for_each(|(_, kind)| *kind = BYTE);
    }
    for token in json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let id = token["id"].as_u64().and_then(|id| usize::try_from(id).ok());
        if let (Some(id), Some(content)) = (id, token["content"].as_str()) {
            let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
            known.insert(id, (content.to_string(), kind));
        }
    }
    if let Some(unknown) = model["unk_token"].as_str() {
        known.values_mut().filter(|(token, _)| token == unknown).for_each(|(_, kind)| *kind = UNKNOWN);
    }
    if let Some((last, _)) = known.last_key_value().filter(|(last, _)| **last >= rows) {
        return Err(format!("it has the token {last}, and the model has only {rows} tokens"));
    }
    let each = (0..rows).map(|id| known.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)));
    Ok(each.unzip())
}

/// Pairs, or as texts with a space between.
fn merges_of(model: &Json) -> Vec<(&str, &str)> {
    let merges = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    fn pair(merge: &Json) -> Option<(&str, &str)> {
        match merge {
            Json::String(both) => both.split_once(' '),
            parts => Some((parts[0].as_str()?, parts[1].as_str()?)),
        }
    }
    merges.iter().filter_map(pair).collect()
}

/// The earlier a piece is first joined, the better it scores; what no merge makes comes last.
fn scores(tokens: &[String], types: &[i32], merges: &[(&str, &str)]) -> Vec<f32> {
    let mut ranks: BTreeMap<String, usize> = BTreeMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |((id, token), kind): ((usize, &String), &i32)| match (*kind, ranks.get(token)) {
        (NORMAL, Some(rank)) => -(*rank as f32),
        (NORMAL, None) => -((merges.len() + id) as f32),
        _ => 0.0,
    };
    tokens.iter().enumerate().zip(types).map(score).collect()
}

fn special_tokens(checkpoint: &Checkpoint, header: &mut Header) {
    let tokens = checkpoint.special_tokens();
    let mut ends = tokens.eos.iter();
    let named = [
        ("bos", tokens.bos.as_ref()),
        ("eos", ends.next()),
        ("eot", ends.next()),
        ("eom", ends.next()),
        ("padding", tokens.pad.as_ref()),
        ("unknown", tokens.unk.as_ref()),
        ("mask", tokens.mask.as_ref()),
    ];
    for (name, token) in named {
        if let Some(token) = token {
            header.count(&format!("tokenizer.ggml.{name}_token_id"), token.id);
        }
    }
    header.flag("tokenizer.ggml.add_bos_token", tokens.adds_bos);
    header.flag("tokenizer.ggml.add_eos_token", tokens.adds_eos);
}

/// Whether what the keys describe is the tokeniser that they were made of.
fn is_told(header: &Header, json: &[u8]) -> Result<bool, String> {
    let (bytes, _) = header.bytes();
    let rebuilt = Gguf::from_bytes("the new file", bytes).and_then(|gguf| gguf.tokenizer_json());
    let Ok(rebuilt) = rebuilt.map_err(|error| error.to_string()).and_then(|json| load_tokenizer(&json)) else {
        return Ok(false);
    };
    let own = load_tokenizer(json)?;
    let special: Vec<String> = own.get_added_tokens_decoder().values().map(|token| token.content.clone()).collect();
    let probes = [PROBE.to_string(), special.join(" x "), special.concat()];
    let same = |text: &String, framed: bool| {
        let ids = |tokenizer: &tokenizers::Tokenizer| {
            tokenizer.encode(text.as_str(), framed).map(|encoding| encoding.get_ids().to_vec()).ok()
        };
        ids(&own) == ids(&rebuilt)
    };
    Ok(own.get_vocab(true) == rebuilt.get_vocab(true)
        && probes.iter().all(|text| same(text, true) && same(text, false)))
}
