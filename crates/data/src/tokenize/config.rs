//! The recipe's `[tokenizer]` section: one type, one default, one place of documentation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::TokenizeError;

/// The largest vocabulary and the largest number of n-gram buckets that are accepted (2²⁴, 2²⁶).
pub(crate) const MAX_VOCABULARY: usize = 1 << 24;
pub(crate) const MAX_BUCKETS: usize = 1 << 26;
/// The longest text, in tokens.
pub(crate) const MAX_LENGTH: usize = 1 << 20;
pub(crate) const MAX_NGRAMS: usize = 8;
pub(crate) const MAX_CHAR_NGRAM: usize = 16;

/// How a text is cut into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// Unicode words (UAX #29) with English clitics split off (`do|n't`, `film|'s`), counted into
    /// a vocabulary.
    #[default]
    Words,
    /// Whatever stands between white space, counted into a vocabulary.
    Whitespace,
    /// Byte-level byte-pair encoding (Sennrich 2016, Radford 2019): no text is unknown.
    Bpe,
    /// WordPiece with BERT's cutting into words (Devlin 2019).
    Wordpiece,
    /// Unigram language model (Kudo 2018).
    Unigram,
    /// A Hugging Face `tokenizer.json`, named by `path`.
    File,
}

impl TokenizerKind {
    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            TokenizerKind::Words => "words",
            TokenizerKind::Whitespace => "whitespace",
            TokenizerKind::Bpe => "bpe",
            TokenizerKind::Wordpiece => "wordpiece",
            TokenizerKind::Unigram => "unigram",
            TokenizerKind::File => "file",
        }
    }

    /// Whether the vocabulary is one of whole words, built here.
    pub fn is_word_vocabulary(self) -> bool {
        matches!(self, TokenizerKind::Words | TokenizerKind::Whitespace)
    }
}

/// What becomes of digits in a word vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digits {
    /// They stay.
    #[default]
    Keep,
    /// Each becomes `0`: `1984` and `2026` are one token, `0000`.
    Zero,
}

/// Character n-grams of words, as in fastText (Bojanowski 2017): pieces of `<word>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CharNgrams {
    /// Shortest piece, in characters, 1 or more.
    pub min: usize,
    /// Longest piece, in characters, 16 at most.
    pub max: usize,
}

/// The recipe's `[tokenizer]`.
///
/// ```
/// use tidemill_data::{TokenizerConfig, TokenizerKind};
/// let config: TokenizerConfig = toml::from_str("kind = 'bpe'\nvocabulary = 8000").unwrap();
/// assert_eq!(config.kind, TokenizerKind::Bpe);
/// assert_eq!(config.max_length, 256);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// How a text is cut into tokens. Default `words`.
    pub kind: TokenizerKind,
    /// Largest vocabulary, padding and unknown included. Default 20000.
    pub vocabulary: usize,
    /// A word (for `bpe` and `wordpiece` a merge) needs at least this many occurrences. Default 1.
    pub min_count: u64,
    /// Lower-case first. Default true, and false for `file`, whose file says it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_case: Option<bool>,
    /// `words`: keep punctuation marks as tokens. Default true.
    pub punctuation: bool,
    /// `words`, `whitespace`: what becomes of digits, `keep` (default) or `zero`.
    pub digits: Digits,
    /// `file`: the tokenizer.json, relative to the recipe's folder (see [`Self::resolve`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// `file`: add the special tokens that the file adds, such as `[CLS]` and `[SEP]`. Default true.
    pub special_tokens: bool,
    /// Tokens kept of a text, its beginning. Default 256.
    pub max_length: usize,
    /// Word n-grams up to this many words are added as hashed ids. Default 1: none.
    pub ngrams: usize,
    /// How many ids the hashed n-grams share. Default 0; needed when there are n-grams.
    pub buckets: usize,
    /// Character n-grams of words, hashed into the same buckets. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub char_ngrams: Option<CharNgrams>,
}

impl Default for TokenizerConfig {
    fn default() -> TokenizerConfig {
        TokenizerConfig {
            kind: TokenizerKind::default(),
            vocabulary: 20_000,
            min_count: 1,
            lower_case: None,
            punctuation: true,
            digits: Digits::default(),
            path: None,
            special_tokens: true,
            max_length: 256,
            ngrams: 1,
            buckets: 0,
            char_ngrams: None,
        }
    }
}

impl TokenizerConfig {
    /// Makes `path` relative to `folder`, the recipe's own.
    pub fn resolve(&mut self, folder: &std::path::Path) {
        if let Some(path) = &mut self.path
            && path.is_relative()
        {
            *path = folder.join(&path);
        }
    }

    /// Whether text is lower-cased before anything else.
    pub fn lower_cases(&self) -> bool {
        self.lower_case.unwrap_or(self.kind != TokenizerKind::File)
    }

    /// Says what is wrong with the settings, before any text is read.
    pub fn check(&self) -> Result<(), TokenizeError> {
        let wrong = |key, reason: &str| TokenizeError::setting(key, reason);
        if self.kind == TokenizerKind::File {
            if self.path.is_none() {
                return Err(wrong("path", "kind = \"file\" needs path = \"…/tokenizer.json\""));
            }
            if self.lower_case.is_some() {
                return Err(wrong("lower_case", "the tokenizer's file decides this; remove the key"));
            }
        } else {
            if self.path.is_some() {
                return Err(wrong("path", "is only read with kind = \"file\"; remove it or set kind"));
            }
            if self.vocabulary < 3 || self.vocabulary > MAX_VOCABULARY {
                let reason = format!("{} is not between 3 and {MAX_VOCABULARY}", self.vocabulary);
                return Err(wrong("vocabulary", &reason));
            }
            if self.min_count == 0 {
                return Err(wrong("min_count", "must be 1 or more"));
            }
        }
        check_lengths(self.max_length, self.ngrams, self.buckets, self.char_ngrams)
            .map_err(|(key, reason)| TokenizeError::setting(key, reason))
    }
}

/// The limits that a recipe and a package's manifest share.
pub(crate) fn check_lengths(
    max_length: usize,
    ngrams: usize,
    buckets: usize,
    char_ngrams: Option<CharNgrams>,
) -> Result<(), (&'static str, String)> {
    if max_length == 0 || max_length > MAX_LENGTH {
        return Err(("max_length", format!("{max_length} is not between 1 and {MAX_LENGTH}")));
    }
    if ngrams == 0 || ngrams > MAX_NGRAMS {
        return Err(("ngrams", format!("{ngrams} is not between 1 (none) and {MAX_NGRAMS}")));
    }
    if buckets > MAX_BUCKETS {
        return Err(("buckets", format!("{buckets} is more than {MAX_BUCKETS}")));
    }
    if let Some(CharNgrams { min, max }) = char_ngrams
        && !(1 <= min && min <= max && max <= MAX_CHAR_NGRAM)
    {
        let reason = format!("{{ min = {min}, max = {max} }} must satisfy 1 <= min <= max <= {MAX_CHAR_NGRAM}");
        return Err(("char_ngrams", reason));
    }
    let hashed = ngrams > 1 || char_ngrams.is_some();
    match (hashed, buckets) {
        (true, 0) => Err(("buckets", "n-grams are hashed into buckets: write buckets = 65536".into())),
        (false, 1..) => {
            Err(("buckets", "there are no n-grams to hash: set ngrams = 2 or char_ngrams, or remove buckets".into()))
        }
        _ => Ok(()),
    }
}
