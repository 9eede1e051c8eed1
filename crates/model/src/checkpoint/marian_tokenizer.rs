//! The tokeniser of a Marian folder (OPUS-MT), rebuilt as a `tokenizer.json`: `transformers` has none for it. `source.spm` cuts
//! a text into pieces, `vocab.json` numbers them, those of the target language among them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::error::CheckpointError;
use super::folder::{self, read_json, read_optional};
use super::sentencepiece::SentencePieceModel;

const SOURCE: &str = "source.spm";
const VOCABULARY: &str = "vocab.json";
const TARGET_VOCABULARY: &str = "target_vocab.json";

/// The score of pieces that only the target language has: taken where the source's pieces cover nothing.
const FOREIGN: f64 = -1e6;

/// What several characters in a row that the source does not have become: a character that no vocabulary has.
const UNKNOWN_RUN: &str = "\u{e000}";

/// The tokeniser of a folder that has Marian's files; nothing when it has others.
///
/// # Errors
/// [`CheckpointError`] that names the file that is wrong.
pub(super) fn tokenizer_json(path: &Path, config: &Map<String, Value>) -> Result<Option<Vec<u8>>, CheckpointError> {
    if config.get("model_type").and_then(Value::as_str) != Some("marian") {
        return Ok(None);
    }
    let (source, vocabulary) = (path.join(SOURCE), path.join(VOCABULARY));
    let (Some(model), Some(ids)) = (read_optional(&source)?, read_json(&vocabulary)?) else { return Ok(None) };
    let tokenizer_config = read_json(&path.join(folder::TOKENIZER_CONFIG))?.unwrap_or_default();
    let separate = tokenizer_config.get("separate_vocabs").and_then(Value::as_bool).unwrap_or(false);
    let target = path.join(TARGET_VOCABULARY);
    if separate || target.is_file() {
        let problem = "is a second vocabulary for the target language, and such models are not read; take one whose \
                       languages share vocab.json";
        return Err(CheckpointError::file(&target, problem));
    }
    let model = SentencePieceModel::read(&model).map_err(|problem| CheckpointError::file(&source, problem))?;
    if !model.is_unigram {
        return Err(CheckpointError::file(&source, "is not a unigram model, as Marian's are"));
    }
    let pieces = numbered(&ids).map_err(|problem| CheckpointError::file(&vocabulary, problem))?;
    let token = |name: &str, usual: &'static str| {
        let text = tokenizer_config.get(name);
        let text = text.and_then(|token| token.as_str().or_else(|| token.get("content").and_then(Value::as_str)));
        let text = text.unwrap_or(usual);
        let id = pieces.iter().position(|piece| *piece == text);
        id.map(|id| (id, text)).ok_or_else(|| CheckpointError::file(&vocabulary, format!("has no {usual}")))
    };
    let (eos, unk, pad) = (token("eos_token", "</s>")?, token("unk_token", "<unk>")?, token("pad_token", "<pad>")?);
    let json = build(&model, &pieces, [eos, unk, pad]);
    Ok(Some(json.to_string().into_bytes()))
}

/// The pieces in the order of their numbers, of which none may be missing.
fn numbered(ids: &Map<String, Value>) -> Result<Vec<&str>, String> {
    let mut pieces: Vec<Option<&str>> = vec![None; ids.len()];
    for (piece, id) in ids {
        let place = id.as_u64().and_then(|id| pieces.get_mut(usize::try_from(id).ok()?));
        match place {
            Some(place @ None) => *place = Some(piece),
            _ => return Err("does not number its pieces from 0 on, each once".to_string()),
        }
    }
    Ok(pieces.into_iter().flatten().collect())
}

/// An expression that matches several characters after one another that no piece of the source has. SentencePiece makes one
/// piece of them, which no vocabulary has; a single one may be a piece of the target language's.
fn unknown_runs(model: &SentencePieceModel) -> String {
    let single = |(piece, _): &(String, f32)| {
        let mut characters = piece.chars();
        characters.next().filter(|_| characters.next().is_none())
    };
    let mut known: BTreeSet<char> = model.pieces.iter().filter_map(single).collect();
    known.extend([' ', '\u{2581}']);
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for code in known.into_iter().map(u32::from) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == code => *last = code,
            _ => ranges.push((code, code)),
        }
    }
    let ranges: String = ranges.iter().map(|(first, last)| format!("\\x{{{first:X}}}-\\x{{{last:X}}}")).collect();
    format!("[^{ranges}]{{2,}}")
}

fn build(model: &SentencePieceModel, pieces: &[&str], [eos, unk, pad]: [(usize, &str); 3]) -> Value {
    let scores: BTreeMap<&str, f32> = model.pieces.iter().map(|(piece, score)| (piece.as_str(), *score)).collect();
    let scored =
        pieces.iter().map(|piece| json!([piece, scores.get(piece).map_or(FOREIGN, |score| f64::from(*score))]));
    let is_language = |piece: &str| piece.starts_with(">>") && piece.ends_with("<<");
    let languages = pieces.iter().copied().enumerate().filter(|(_, piece)| is_language(piece));
    let mut added: BTreeMap<usize, (&str, bool)> = languages.map(|(id, piece)| (id, (piece, false))).collect();
    added.extend([eos, unk, pad].map(|(id, piece)| (id, (piece, true))));
    let added = added.into_iter().map(|(id, (content, special))| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": special,
        })
    });
    let mut normalizers = Vec::new();
    if !model.precompiled_charsmap.is_empty() {
        let charsmap = base64::engine::general_purpose::STANDARD.encode(&model.precompiled_charsmap);
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": charsmap}));
    }
    normalizers.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
    normalizers.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    normalizers.push(json!({"type": "Replace", "pattern": {"Regex": unknown_runs(model)}, "content": UNKNOWN_RUN}));
    let prepend = if model.adds_space { "always" } else { "never" };
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": prepend, "split": true});
    let text = |sequence: &str| json!({"Sequence": {"id": sequence, "type_id": 0}});
    let end = json!({"SpecialToken": {"id": eos.1, "type_id": 0}});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text("A"), end],
            "pair": [text("A"), text("B"), end],
            "special_tokens": {eos.1: {"id": eos.1, "ids": [eos.0], "tokens": [eos.1]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": unk.0, "vocab": scored.collect::<Vec<_>>(), "byte_fallback": false},
    })
}
