//! From a text to the ids that a model reads: cleaning, tokens, truncation, hashed n-grams.
//! Owns everything that must be the same in training and in serving, and the part of a package's
//! manifest that says so ([`Preprocessing`]). Knows nothing of labels, batches or models.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::TextCleaning;
use crate::tokenize::interner::HASH_SEED;
use crate::tokenize::subword::{PieceCache, Subword};
use crate::tokenize::words::{PAD_ID, UNK_ID, WordVocabulary};
use crate::tokenize::{
    self, CharNgrams, MAX_BUCKETS, MAX_VOCABULARY, TokenizeError, TokenizerConfig, TokenizerKind, check_lengths,
};

/// What a package's manifest says about preprocessing: all that `tokenizer.json` does not hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// The tokenizer's kind: how `tokenizer.json` is read.
    pub tokenizer: TokenizerKind,
    /// Ids of `tokenizer.json`, padding included, n-gram buckets not included.
    pub vocabulary: usize,
    /// Tokens kept of a text.
    pub max_length: usize,
    /// Add the special tokens that `tokenizer.json` adds.
    pub special_tokens: bool,
    /// Word n-grams up to this many words; 1 is none.
    pub ngrams: usize,
    /// Ids that the hashed n-grams share.
    pub buckets: usize,
    /// Character n-grams of words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub char_ngrams: Option<CharNgrams>,
    /// The text cleaning.
    pub cleaning: TextCleaning,
}

/// Text cleaning, tokenizer, truncation and hashed n-grams: from text to ids.
///
/// The ids of a text are the hashed ids of its word n-grams, then its tokens, `max_length` at most, each
/// followed by the hashed ids of its character n-grams. Tokens are below [`Encoder::tokens`], hashed ids from
/// there up to [`Encoder::vocab_size`], so that the order alone says which n-grams belong to which token. No text
/// has no ids: one without tokens is one unknown token.
///
/// ```
/// use tidemill_data::{Encoder, TextCleaning, TokenizerConfig};
/// let texts = ["a good film", "a bad film"];
/// let encoder = Encoder::train(
///     &TokenizerConfig::default(),
///     TextCleaning::default(),
///     &mut texts.into_iter(),
/// )?;
/// let ids = encoder.encode("A good one");
/// assert_eq!(ids.len(), 3);
/// assert_eq!(ids[2], encoder.unk_id().unwrap());
///
/// let json = serde_json::to_vec(&encoder.to_json()).unwrap();
/// let again = Encoder::load(&encoder.preprocessing(), &json)?;
/// assert_eq!(again.encode("A good one"), ids);
/// # Ok::<(), tidemill_data::TokenizeError>(())
/// ```
pub struct Encoder {
    cleaning: TextCleaning,
    kind: TokenizerKind,
    model: Model,
    max_length: usize,
    special_tokens: bool,
    ngrams: usize,
    buckets: usize,
    char_ngrams: Option<CharNgrams>,
    /// Working memory of threads that are not encoding just now.
    idle: Mutex<Vec<Scratch>>,
}

enum Model {
    Words(WordVocabulary),
    Subword(Box<Subword>),
}

/// One thread's working memory, reused from text to text.
#[derive(Default)]
struct Scratch {
    text: String,
    pieces: PieceCache,
    hashes: Vec<u64>,
    extra: Vec<u32>,
    word: Vec<u8>,
    starts: Vec<usize>,
}

impl Encoder {
    /// Learns a vocabulary from texts that are clean already, or reads the file that
    /// `kind = "file"` names. Equal texts in equal order give equal bytes.
    pub fn train(
        config: &TokenizerConfig,
        cleaning: TextCleaning,
        texts: &mut dyn Iterator<Item = &str>,
    ) -> Result<Encoder, TokenizeError> {
        config.check()?;
        let model = match (config.kind, &config.path) {
            (TokenizerKind::Words | TokenizerKind::Whitespace, _) => {
                Model::Words(WordVocabulary::train(config, texts)?)
            }
            (TokenizerKind::File, Some(path)) => {
                let bytes = std::fs::read(path).map_err(|source| TokenizeError::Read { path: path.clone(), source })?;
                let origin = path.display().to_string();
                Model::Subword(Box::new(Subword::load(&bytes, config.special_tokens, &origin)?))
            }
            _ => {
                let json = tokenize::train(config, texts)?;
                let bytes = serde_json::to_vec(&json).unwrap_or_default();
                let origin = format!("the {} tokenizer just trained", config.kind.name());
                Model::Subword(Box::new(Subword::load(&bytes, config.special_tokens, &origin)?))
            }
        };
        let encoder = Encoder {
            cleaning,
            kind: config.kind,
            model,
            max_length: config.max_length,
            special_tokens: config.special_tokens,
            ngrams: config.ngrams,
            buckets: config.buckets,
            char_ngrams: config.char_ngrams,
            idle: Mutex::default(),
        };
        encoder.check().map_err(|(key, reason)| TokenizeError::Setting { key, reason })?;
        Ok(encoder)
    }

    /// Puts an encoder together again from a package's manifest and its `tokenizer.json`, checking
    /// both and that they belong together. It encodes exactly as the one that was saved.
    pub fn load(preprocessing: &Preprocessing, tokenizer_json: &[u8]) -> Result<Encoder, TokenizeError> {
        let Preprocessing { tokenizer: kind, max_length, special_tokens, .. } = *preprocessing;
        let Preprocessing { ngrams, buckets, char_ngrams, vocabulary, .. } = *preprocessing;
        let manifest = |key: &str, reason: String| {
            TokenizeError::unusable("the package's manifest", format!("preprocessing.{key}: {reason}"))
        };
        check_lengths(max_length, ngrams, buckets, char_ngrams).map_err(|(key, reason)| manifest(key, reason))?;
        let origin = "the package's tokenizer.json";
        let model = match kind.is_word_vocabulary() {
            true => Model::Words(WordVocabulary::load(tokenizer_json, origin)?),
            false => Model::Subword(Box::new(Subword::load(tokenizer_json, special_tokens, origin)?)),
        };
        if let Model::Words(words) = &model
            && words.kind() != kind
        {
            let found = words.kind().name();
            return Err(manifest("tokenizer", format!("{:?}, but tokenizer.json is {found:?}", kind.name())));
        }
        if model.len() != vocabulary {
            let found = model.len();
            return Err(manifest("vocabulary", format!("{vocabulary}, but tokenizer.json has {found} ids")));
        }
        let encoder = Encoder {
            cleaning: preprocessing.cleaning.clone(),
            kind,
            model,
            max_length,
            special_tokens,
            ngrams,
            buckets,
            char_ngrams,
            idle: Mutex::default(),
        };
        encoder.check().map_err(|(key, reason)| manifest(key, reason))?;
        Ok(encoder)
    }

    /// What the settings and the tokenizer allow only together.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let Model::Subword(subword) = &self.model else {
            return Ok(());
        };
        if self.char_ngrams.is_some() {
            let reason = "need whole words: kind = \"words\" or \"whitespace\"".to_owned();
            return Err(("char_ngrams", reason));
        }
        if subword.frame_len() >= self.max_length {
            let frame = subword.frame_len();
            let reason = format!("{} leaves no room beside {frame} special tokens", self.max_length);
            return Err(("max_length", reason));
        }
        Ok(())
    }

    /// The ids of a raw text: it is cleaned first, as the training texts were.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_clean(&self.cleaning.apply(text))
    }

    /// The ids of a text that is clean already.
    pub fn encode_clean(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut scratch = self.borrow_scratch();
        self.append(text, &mut scratch, &mut ids);
        self.return_scratch(scratch);
        ids
    }

    /// The ids of many raw texts, in their order, on all threads of the current rayon pool.
    pub fn encode_many<T: AsRef<str> + Sync>(&self, texts: &[T]) -> EncodedRows {
        self.rows(texts.len(), &|i, scratch, ids| {
            let clean = self.cleaning.apply(texts[i].as_ref());
            self.append(&clean, scratch, ids);
        })
    }

    /// The ids of `count` clean texts, one after another, on all threads of the current rayon pool.
    pub fn encode_rows<'t>(&self, count: usize, text: impl Fn(usize) -> &'t str + Sync) -> EncodedRows {
        self.rows(count, &|i, scratch, ids| self.append(text(i), scratch, ids))
    }

    /// The tokens of the vocabulary, padding included: ids from here on are hashed n-grams.
    pub fn tokens(&self) -> usize {
        self.model.len()
    }

    /// The rows that an embedding needs: tokens, padding and n-gram buckets.
    pub fn vocab_size(&self) -> usize {
        self.model.len() + self.buckets
    }

    /// The id that fills a batch up. 0, but where `kind = "file"` found another in its file.
    pub fn pad_id(&self) -> u32 {
        match &self.model {
            Model::Words(_) => PAD_ID,
            Model::Subword(subword) => subword.pad_id(),
        }
    }

    /// The id of what the vocabulary lacks. Byte-level vocabularies lack nothing.
    pub fn unk_id(&self) -> Option<u32> {
        match &self.model {
            Model::Words(_) => Some(UNK_ID),
            Model::Subword(subword) => subword.unk_id(),
        }
    }

    /// Tokens kept of a text (n-grams come on top).
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The text cleaning that [`Encoder::encode`] runs.
    pub fn cleaning(&self) -> &TextCleaning {
        &self.cleaning
    }

    /// The package's `tokenizer.json`: Hugging Face's format for subwords, which `tokenizers` and
    /// `transformers` load, and for word vocabularies `{"format": "tidemill-words", "version": 1,
    /// "kind", "lower_case", "punctuation", "digits", "vocabulary": [tokens in the order of ids]}`.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.model {
            Model::Words(words) => words.to_json(),
            Model::Subword(subword) => subword.json().clone(),
        }
    }

    /// What goes into the package's manifest.
    pub fn preprocessing(&self) -> Preprocessing {
        Preprocessing {
            tokenizer: self.kind,
            vocabulary: self.model.len(),
            max_length: self.max_length,
            special_tokens: self.special_tokens,
            ngrams: self.ngrams,
            buckets: self.buckets,
            char_ngrams: self.char_ngrams,
            cleaning: self.cleaning.clone(),
        }
    }

    fn append(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let start = ids.len();
        scratch.hashes.clear();
        match &self.model {
            Model::Words(words) => self.append_words(words, text, scratch, ids),
            Model::Subword(subword) => {
                subword.encode(text, self.max_length, &mut scratch.pieces, ids);
                if self.ngrams > 1 {
                    scratch.hashes.extend(ids[start..].iter().map(|&id| fold(HASH_SEED, u64::from(id))));
                }
            }
        }
        if ids.len() == start {
            ids.push(self.unk_id().unwrap_or(self.pad_id()));
        }
        let base = self.model.len() as u32;
        scratch.extra.clear();
        for (at, &first) in scratch.hashes.iter().enumerate() {
            let mut hash = first;
            for &next in scratch.hashes[at + 1..].iter().take(self.ngrams - 1) {
                hash = fold(hash, next);
                scratch.extra.push(base + bucket(hash, self.buckets));
            }
        }
        ids.splice(start..start, scratch.extra.drain(..));
    }

    fn append_words(&self, words: &WordVocabulary, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { text: buffer, hashes, word, starts, .. } = scratch;
        let base = words.len() as u32;
        let mut room = self.max_length;
        words.each(text, buffer, |id, hash, token| {
            ids.push(id);
            if self.ngrams > 1 {
                hashes.push(hash);
            }
            if let Some(sizes) = self.char_ngrams {
                each_char_ngram(token, sizes, word, starts, |piece| {
                    let hash = xxh3_64_with_seed(piece, HASH_SEED + 1);
                    ids.push(base + bucket(hash, self.buckets));
                });
            }
            room -= 1;
            room > 0
        });
    }

    fn rows(&self, count: usize, encode: &(dyn Fn(usize, &mut Scratch, &mut Vec<u32>) + Sync)) -> EncodedRows {
        EncodedRows::collect(count, 512, &|rows, ids, ends| {
            let mut scratch = self.borrow_scratch();
            for row in rows {
                encode(row, &mut scratch, ids);
                ends.push(ids.len());
            }
            self.return_scratch(scratch);
        })
    }

    fn borrow_scratch(&self) -> Scratch {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn return_scratch(&self, mut scratch: Scratch) {
        const KEPT_TEXT: usize = 1 << 20;
        scratch.text.shrink_to(KEPT_TEXT);
        scratch.hashes.shrink_to(KEPT_TEXT);
        scratch.extra.shrink_to(KEPT_TEXT);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("preprocessing", &self.preprocessing()).finish_non_exhaustive()
    }
}

impl Model {
    fn len(&self) -> usize {
        match self {
            Model::Words(words) => words.len(),
            Model::Subword(subword) => subword.len(),
        }
    }
}

/// The ids of many texts in one flat list: row `i` is `ids[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedRows {
    ids: Vec<u32>,
    /// One more than there are rows.
    offsets: Vec<usize>,
}

/// Encodes a range of rows: appends their ids to the first list, and after each row the ids so far to the second.
pub(crate) type EncodePart<'a> = &'a (dyn Fn(std::ops::Range<usize>, &mut Vec<u32>, &mut Vec<usize>) + Sync);

impl EncodedRows {
    /// `count` rows on all threads of the current rayon pool, `at_once` by one call of `encode`.
    pub(crate) fn collect(count: usize, at_once: usize, encode: EncodePart<'_>) -> EncodedRows {
        let part = |part: usize| {
            let rows = part * at_once..count.min((part + 1) * at_once);
            let (mut ids, mut ends) = (Vec::new(), Vec::with_capacity(rows.len()));
            encode(rows, &mut ids, &mut ends);
            (ids, ends)
        };
        let parts = count.div_ceil(at_once.max(1));
        let parts: Vec<(Vec<u32>, Vec<usize>)> = match parts {
            // Not worth waking a thread for.
            0 | 1 => (0..parts).map(part).collect(),
            _ => (0..parts).into_par_iter().map(part).collect(),
        };
        let mut all = EncodedRows {
            ids: Vec::with_capacity(parts.iter().map(|(ids, _)| ids.len()).sum()),
            offsets: Vec::with_capacity(count + 1),
        };
        all.offsets.push(0);
        for (ids, ends) in parts {
            let start = all.ids.len();
            all.ids.extend_from_slice(&ids);
            all.offsets.extend(ends.iter().map(|end| start + end));
        }
        all
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of a row; none for a row that is not there.
    pub fn get(&self, row: usize) -> &[u32] {
        match (self.offsets.get(row), self.offsets.get(row + 1)) {
            (Some(&start), Some(&end)) => &self.ids[start..end],
            _ => &[],
        }
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// How many ids all rows have together.
    pub fn ids(&self) -> usize {
        self.ids.len()
    }
}

const _: () = assert!(MAX_VOCABULARY + MAX_BUCKETS < u32::MAX as usize, "ids fit 32 bits");

/// The hash of a sequence from the hash of its beginning and of its last item. Part of the package
/// format: it decides which bucket an n-gram shares.
fn fold(hash: u64, next: u64) -> u64 {
    let mixed = (hash.rotate_left(23) ^ next).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

fn bucket(hash: u64, buckets: usize) -> u32 {
    (hash % buckets.max(1) as u64) as u32
}

/// Calls `emit` with the pieces of `<token>`, as fastText makes them: of `min` to `max` characters,
/// without the bare marks `<` and `>`.
fn each_char_ngram(
    token: &[u8],
    CharNgrams { min, max }: CharNgrams,
    word: &mut Vec<u8>,
    starts: &mut Vec<usize>,
    mut emit: impl FnMut(&[u8]),
) {
    word.clear();
    word.push(b'<');
    word.extend_from_slice(token);
    word.push(b'>');
    starts.clear();
    // A byte that does not continue a UTF-8 sequence starts a character.
    starts.extend((0..word.len()).filter(|&at| word[at] & 0xc0 != 0x80));
    starts.push(word.len());
    let chars = starts.len() - 1;
    for first in 0..chars {
        for end in first + min..=(first + max).min(chars) {
            let piece = &word[starts[first]..starts[end]];
            if piece != b"<" && piece != b">" {
                emit(piece);
            }
        }
    }
}
