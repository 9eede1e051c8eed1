//! Subword tokenizers: Hugging Face `tokenizer.json` files run by the `tokenizers` library.
//! Owns reading such a file with suspicion, and encoding fast: a text is cut at white space where
//! that provably changes nothing, and each piece's ids are remembered, so that the library sees a
//! piece once. Knows nothing of cleaning, n-grams or batches.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper, Tokenizer};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::interner::Interner;
use super::{MAX_VOCABULARY, TokenizeError, load_tokenizer};

/// Largest tokenizer.json that is read, in bytes.
const MAX_FILE_BYTES: usize = 256 << 20;
/// A cache holds this many pieces and this many bytes of them, then starts afresh.
const CACHED_PIECES: usize = 1 << 16;
const CACHED_BYTES: usize = 4 << 20;
const LONGEST_CACHED: usize = 128;
/// Names of the padding token, most usual first, where the file does not say.
const PADDING_NAMES: [&str; 6] = ["[PAD]", "<pad>", "<PAD>", "<|pad|>", "<|padding|>", "[pad]"];
const UNKNOWN_NAMES: [&str; 4] = ["[UNK]", "<unk>", "<UNK>", "<|unk|>"];

/// Where a text may be cut without changing its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// At white space, which belongs to no piece (BERT).
    BetweenSpaces,
    /// Before a single space, which belongs to the piece after it (GPT-2, SentencePiece).
    BeforeSpace,
    /// Nowhere that we know of.
    WholeText,
}

/// A tokenizer.json, ready to encode.
pub(crate) struct Subword {
    /// Without its post-processor, so that what it gives can still be truncated.
    tokenizer: Tokenizer,
    /// Puts special tokens around texts and joins two of them.
    processor: Option<PostProcessorWrapper>,
    json: Value,
    pieces: Pieces,
    /// Added tokens that swallow white space or hold some: a text with one is not cut.
    sticky: Vec<String>,
    /// Special tokens before and after every text, `None` where it is not that simple.
    frame: Option<(Vec<u32>, Vec<u32>)>,
    size: usize,
    pad_id: u32,
    unk_id: Option<u32>,
}

/// What the library said for each piece, for one thread at a time.
pub(crate) struct PieceCache {
    seed: u64,
    pieces: Interner,
    spans: Vec<(u32, u32)>,
    ids: Vec<u32>,
}

impl Default for PieceCache {
    fn default() -> PieceCache {
        use std::hash::{BuildHasher, RandomState};
        PieceCache {
            // Unguessable, so that no text can be made to collide; ids do not depend on it.
            seed: RandomState::new().hash_one(0),
            pieces: Interner::with_capacity(64),
            spans: Vec::new(),
            ids: Vec::new(),
        }
    }
}

impl Subword {
    /// Reads a tokenizer.json. `special_tokens`: add what its post-processor adds.
    pub(crate) fn load(bytes: &[u8], special_tokens: bool, origin: &str) -> Result<Subword, TokenizeError> {
        let unusable = |reason: String| TokenizeError::unusable(origin, reason);
        if bytes.len() > MAX_FILE_BYTES {
            let reason = format!("{} bytes is more than {MAX_FILE_BYTES}", bytes.len());
            return Err(unusable(reason));
        }
        let json: Value = serde_json::from_slice(bytes).map_err(|e| unusable(e.to_string()))?;
        if json.get("model").is_none_or(|model| !model.is_object()) {
            return Err(unusable("it has no \"model\": not a Hugging Face tokenizer.json".into()));
        }
        let mut tokenizer = load_tokenizer(bytes).map_err(unusable)?;
        let vocabulary = Vocabulary::read(&tokenizer, &json).map_err(unusable)?;
        let frame = match special_tokens && !json["post_processor"].is_null() {
            true => frame(&tokenizer).map_err(unusable)?,
            false => Some((Vec::new(), Vec::new())),
        };
        let processor = tokenizer.get_post_processor().cloned();
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        let (sticky, cuttable) = sticky(&json);
        let pieces = if frame.is_some() && cuttable { pieces(&json) } else { Pieces::WholeText };
        Ok(Subword {
            sticky,
            size: vocabulary.size,
            pad_id: vocabulary.pad_id,
            unk_id: vocabulary.unk_id,
            tokenizer,
            processor,
            json,
            pieces,
            frame,
        })
    }

    /// The library's tokenizer, without a post-processor.
    pub(crate) fn library(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What comes before and after every text, if it is that simple.
    pub(crate) fn frame(&self) -> Option<(&[u32], &[u32])> {
        self.frame.as_ref().map(|(before, after)| (before.as_slice(), after.as_slice()))
    }

    /// How many special tokens a text, or a pair of them, gets.
    pub(crate) fn added_tokens(&self, pair: bool) -> usize {
        self.processor.as_ref().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// Puts special tokens around what the library gave, and joins a pair.
    pub(crate) fn finish(&self, first: Encoding, second: Option<Encoding>) -> Result<Encoding, String> {
        match &self.processor {
            Some(processor) => processor.process(first, second, true).map_err(|error| error.to_string()),
            None => Ok(Encoding::merge(std::iter::once(first).chain(second), false)),
        }
    }

    pub(crate) fn json(&self) -> &Value {
        &self.json
    }

    /// One more than the largest id.
    pub(crate) fn len(&self) -> usize {
        self.size
    }

    pub(crate) fn pad_id(&self) -> u32 {
        self.pad_id
    }

    pub(crate) fn unk_id(&self) -> Option<u32> {
        self.unk_id
    }

    /// How many special tokens frame every text.
    pub(crate) fn frame_len(&self) -> usize {
        self.frame.as_ref().map_or(0, |(before, after)| before.len() + after.len())
    }

    /// Appends at most `max_length` ids of `text` to `ids`.
    pub(crate) fn encode(&self, text: &str, max_length: usize, cache: &mut PieceCache, ids: &mut Vec<u32>) {
        let start = ids.len();
        let Some((before, after)) = &self.frame else {
            self.ask(text, true, ids);
            ids.truncate(start + max_length);
            return;
        };
        ids.extend_from_slice(before);
        let limit = start + max_length.saturating_sub(after.len());
        let whole = self.pieces == Pieces::WholeText || self.sticky.iter().any(|token| text.contains(token.as_str()));
        if whole {
            self.ask(text, false, ids);
        } else {
            each_piece(text, self.pieces, |piece| {
                self.encode_piece(piece, cache, ids);
                ids.len() < limit
            });
        }
        ids.truncate(limit);
        ids.extend_from_slice(after);
    }

    #[inline]
    fn encode_piece(&self, piece: &str, cache: &mut PieceCache, ids: &mut Vec<u32>) {
        let hash = xxh3_64_with_seed(piece.as_bytes(), cache.seed);
        if let Some(number) = cache.pieces.find(piece.as_bytes(), hash) {
            let (start, end) = cache.spans[number];
            ids.extend_from_slice(&cache.ids[start as usize..end as usize]);
            return;
        }
        let first = ids.len();
        self.ask(piece, false, ids);
        cache.remember(piece, hash, &ids[first..]);
    }

    /// Asks the library. A piece that it refuses is unknown.
    fn ask(&self, text: &str, special_tokens: bool, ids: &mut Vec<u32>) {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| error.to_string());
        let encoding = if special_tokens { encoding.and_then(|bare| self.finish(bare, None)) } else { encoding };
        match encoding {
            Ok(encoding) => ids.extend_from_slice(encoding.get_ids()),
            Err(_) => ids.extend(self.unk_id),
        }
    }
}

impl PieceCache {
    fn remember(&mut self, piece: &str, hash: u64, ids: &[u32]) {
        if piece.len() > LONGEST_CACHED {
            return;
        }
        if self.pieces.len() >= CACHED_PIECES || self.pieces.bytes_len() >= CACHED_BYTES {
            self.pieces.clear();
            self.spans.clear();
            self.ids.clear();
        }
        if self.pieces.insert(piece.as_bytes(), hash) == Some(self.spans.len()) {
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(ids);
            self.spans.push((start, self.ids.len() as u32));
        }
    }
}

/// Calls `emit` with each piece in order until it returns false.
pub(crate) fn each_piece<'a>(text: &'a str, pieces: Pieces, mut emit: impl FnMut(&'a str) -> bool) {
    let bytes = text.as_bytes();
    match pieces {
        Pieces::WholeText => {
            emit(text);
        }
        Pieces::BetweenSpaces => {
            let mut start = 0;
            while start < bytes.len() {
                let rest = &bytes[start..];
                let length = rest.iter().position(|b| is_space(*b)).unwrap_or(rest.len());
                if length > 0 && !emit(&text[start..start + length]) {
                    return;
                }
                start += length + 1;
            }
        }
        Pieces::BeforeSpace => {
            let mut start = 0;
            for at in 1..bytes.len() {
                if bytes[at] == b' ' && is_lone_space(text, at) {
                    if !emit(&text[start..at]) {
                        return;
                    }
                    start = at;
                }
            }
            if start < bytes.len() {
                emit(&text[start..]);
            }
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether the space at `at` has no white space on either side.
fn is_lone_space(text: &str, at: usize) -> bool {
    let bytes = text.as_bytes();
    let solid = |byte: u8, c: Option<char>| match byte {
        0..0x80 => !byte.is_ascii_whitespace() && byte != 0x0b,
        _ => c.is_some_and(|c| !c.is_whitespace()),
    };
    bytes
        .get(at + 1)
        .is_some_and(|&after| solid(after, if after < 0x80 { None } else { text[at + 1..].chars().next() }))
        && solid(bytes[at - 1], if bytes[at - 1] < 0x80 { None } else { text[..at].chars().next_back() })
}

struct Vocabulary {
    size: usize,
    pad_id: u32,
    unk_id: Option<u32>,
}

impl Vocabulary {
    fn read(tokenizer: &Tokenizer, json: &Value) -> Result<Vocabulary, String> {
        let tokens = tokenizer.get_vocab(true);
        let largest = tokens.values().copied().max().ok_or("its vocabulary is empty")? as usize;
        if largest >= MAX_VOCABULARY || largest > tokens.len() * 2 + 1024 {
            let count = tokens.len();
            return Err(format!("id {largest} is out of all proportion to its {count} tokens"));
        }
        let mut owner: Vec<Option<&str>> = vec![None; largest + 1];
        let mut sorted: Vec<(&String, &u32)> = tokens.iter().collect();
        sorted.sort_unstable();
        for (token, &id) in sorted {
            if let Some(other) = owner[id as usize].replace(token) {
                return Err(format!("tokens {other:?} and {token:?} share the id {id}"));
            }
        }
        let find = |names: &[&str]| names.iter().find_map(|name| tokens.get(*name).copied());
        let unk_id = unknown(tokenizer, json)?.or_else(|| find(&UNKNOWN_NAMES));
        let stated = json["padding"].get("pad_id").and_then(Value::as_u64);
        let pad_id = match stated.or(find(&PADDING_NAMES).map(u64::from)) {
            Some(id) if id as usize > largest => {
                return Err(format!("its padding id {id} is not in the vocabulary"));
            }
            Some(id) => id as u32,
            // No padding token: one id of ours after the last.
            None => largest as u32 + 1,
        };
        Ok(Vocabulary { size: (largest + 1).max(pad_id as usize + 1), pad_id, unk_id })
    }
}

/// The unknown token that the model names. Refuses a model that would fail on an unknown word.
fn unknown(tokenizer: &Tokenizer, json: &Value) -> Result<Option<u32>, String> {
    let model = &json["model"];
    if let Some(id) = model.get("unk_id").and_then(Value::as_u64) {
        return Ok(u32::try_from(id).ok());
    }
    let kind = model.get("type").and_then(Value::as_str).unwrap_or_default();
    let name = model.get("unk_token").and_then(Value::as_str);
    let id = name.and_then(|name| tokenizer.token_to_id(name));
    match (kind, name, id) {
        ("Unigram", ..) if model["byte_fallback"] != Value::Bool(true) => {
            Err("its Unigram model has no unk_id".to_owned())
        }
        ("WordPiece" | "WordLevel", _, None) | (_, Some(_), None) => {
            Err(format!("its unk_token {:?} is not in the vocabulary", name.unwrap_or("[UNK]")))
        }
        _ => Ok(id),
    }
}

/// Special tokens before and after a text.
type Frame = (Vec<u32>, Vec<u32>);

/// The special tokens around every text, found by trying.
fn frame(tokenizer: &Tokenizer) -> Result<Option<Frame>, String> {
    let ask = |special| {
        catch_unwind(AssertUnwindSafe(|| tokenizer.encode_fast("a", special)))
            .map_err(|_| "the tokenizers library fails on the text \"a\"".to_owned())?
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| e.to_string())
    };
    let (bare, framed): (Vec<u32>, Vec<u32>) = (ask(false)?, ask(true)?);
    if bare.is_empty() {
        return Ok(None);
    }
    let at = framed.windows(bare.len()).position(|window| window == bare);
    Ok(at.map(|at| (framed[..at].to_vec(), framed[at + bare.len()..].to_vec())))
}

/// Where texts may be cut, by what the file's normalizer and pre-tokenizer do.
fn pieces(json: &Value) -> Pieces {
    if !is_local(&json["normalizer"]) {
        return Pieces::WholeText;
    }
    let pre = &json["pre_tokenizer"];
    let is = |key: &str, value: bool| pre.get(key).and_then(Value::as_bool).unwrap_or(value);
    match kind_of(pre) {
        "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" => Pieces::BetweenSpaces,
        "ByteLevel" if is("use_regex", true) => Pieces::BeforeSpace,
        "Metaspace" if is("split", true) => Pieces::BeforeSpace,
        "Sequence" => {
            let parts = pre["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
            let cuts = |part| matches!(kind_of(part), "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit");
            let local = |part| cuts(part) || matches!(kind_of(part), "Punctuation" | "Digits");
            match parts.first().is_some_and(cuts) && parts.iter().all(local) {
                true => Pieces::BetweenSpaces,
                false => Pieces::WholeText,
            }
        }
        _ => Pieces::WholeText,
    }
}

/// Whether a normalizer treats what stands on either side of a space independently.
fn is_local(normalizer: &Value) -> bool {
    match kind_of(normalizer) {
        "" => normalizer.is_null(),
        "BertNormalizer" | "Lowercase" | "NFC" | "NFD" | "NFKC" | "NFKD" | "StripAccents" => true,
        "Sequence" => normalizer["normalizers"].as_array().is_some_and(|parts| parts.iter().all(is_local)),
        _ => false,
    }
}

fn kind_of(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The added tokens that reach over white space, and whether looking for them in the raw text finds
/// them all: those that the library looks for in the normalised text may be spelt differently.
fn sticky(json: &Value) -> (Vec<String>, bool) {
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let flag = |token: &Value, name: &str| token[name] == Value::Bool(true);
    let mut found = Vec::new();
    let mut cuttable = true;
    for token in added {
        let Some(content) = token["content"].as_str() else {
            continue;
        };
        let strips = flag(token, "lstrip") || flag(token, "rstrip");
        if strips || content.contains(char::is_whitespace) {
            cuttable &= !flag(token, "normalized");
            found.push(content.to_owned());
        }
    }
    (found, cuttable)
}
