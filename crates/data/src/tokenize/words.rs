//! Word vocabularies: counted here, saved in a small format of ours. Ids: 0 `<pad>`, 1 `<unk>`, then
//! the most frequent words first, ties in byte order, so that a vocabulary depends on nothing else.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::interner::{Interner, hash_token};
use super::segment::Segmenter;
use super::{Digits, MAX_VOCABULARY, TokenizeError, TokenizerConfig, TokenizerKind};

pub(crate) const PAD: &str = "<pad>";
pub(crate) const UNK: &str = "<unk>";
pub(crate) const PAD_ID: u32 = 0;
pub(crate) const UNK_ID: u32 = 1;
/// What the file says it is.
const FORMAT: &str = "tidemill-words";
const FORMAT_VERSION: u32 = 1;

/// `tokenizer.json` of a word vocabulary.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WordsFile {
    format: String,
    version: u32,
    kind: TokenizerKind,
    lower_case: bool,
    punctuation: bool,
    digits: Digits,
    /// The tokens, in the order of their ids.
    vocabulary: Vec<String>,
}

/// A vocabulary of whole words with the rules that cut them.
pub(crate) struct WordVocabulary {
    segmenter: Segmenter,
    tokens: Interner,
}

impl WordVocabulary {
    /// Counts the words of `texts`.
    pub(crate) fn train(
        config: &TokenizerConfig,
        texts: &mut dyn Iterator<Item = &str>,
    ) -> Result<WordVocabulary, TokenizeError> {
        let segmenter = Segmenter {
            words: config.kind == TokenizerKind::Words,
            lower_case: config.lower_cases(),
            punctuation: config.punctuation,
            digits: config.digits,
        };
        let mut seen = Interner::with_capacity(1 << 12);
        let mut counts: Vec<u64> = Vec::new();
        let mut buffer = String::new();
        let mut read = 0;
        for text in texts {
            read += 1;
            segmenter.each(text, &mut buffer, |token| count(&mut seen, &mut counts, token));
        }
        let order = by_frequency(&seen, &counts, config.min_count);
        if order.is_empty() {
            return Err(TokenizeError::NoTokens { texts: read, min_count: config.min_count });
        }
        let mut tokens = Interner::with_capacity(order.len() + 2);
        let words = order.iter().map(|&number| seen.get(number));
        for token in [PAD.as_bytes(), UNK.as_bytes()].into_iter().chain(words) {
            if tokens.len() == config.vocabulary {
                break;
            }
            tokens.insert(token, hash_token(token));
        }
        Ok(WordVocabulary { segmenter, tokens })
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Calls `emit` with each token's id and hash, until it says stop.
    #[inline]
    pub(crate) fn each(&self, text: &str, buffer: &mut String, mut emit: impl FnMut(u32, u64, &[u8]) -> bool) {
        self.segmenter.each(text, buffer, |token| {
            let hash = hash_token(token);
            let id = self.tokens.find(token, hash).map_or(UNK_ID, |id| id as u32);
            // A text may spell out "<pad>": it is not padding.
            emit(if id == PAD_ID { UNK_ID } else { id }, hash, token)
        });
    }

    pub(crate) fn to_json(&self) -> Value {
        let token = |id| String::from_utf8_lossy(self.tokens.get(id)).into_owned();
        let file = WordsFile {
            format: FORMAT.to_owned(),
            version: FORMAT_VERSION,
            kind: self.kind(),
            lower_case: self.segmenter.lower_case,
            punctuation: self.segmenter.punctuation,
            digits: self.segmenter.digits,
            vocabulary: (0..self.tokens.len()).map(token).collect(),
        };
        serde_json::to_value(file).unwrap_or(Value::Null)
    }

    pub(crate) fn load(bytes: &[u8], origin: &str) -> Result<WordVocabulary, TokenizeError> {
        let unusable = |reason: String| TokenizeError::unusable(origin, reason);
        let file: WordsFile = serde_json::from_slice(bytes).map_err(|e| unusable(e.to_string()))?;
        if file.format != FORMAT || file.version != FORMAT_VERSION {
            return Err(unusable(format!(
                "format {:?} version {} is not {FORMAT:?} version {FORMAT_VERSION}",
                file.format, file.version
            )));
        }
        if !file.kind.is_word_vocabulary() {
            return Err(unusable(format!("kind {:?} is no word vocabulary", file.kind.name())));
        }
        if file.vocabulary.len() > MAX_VOCABULARY {
            return Err(unusable(format!("more than {MAX_VOCABULARY} tokens")));
        }
        if file.vocabulary.get(..2) != Some(&[PAD.to_owned(), UNK.to_owned()]) {
            return Err(unusable(format!("the vocabulary must begin with {PAD:?}, {UNK:?}")));
        }
        let mut tokens = Interner::with_capacity(file.vocabulary.len());
        for (id, token) in file.vocabulary.iter().enumerate() {
            match tokens.insert(token.as_bytes(), hash_token(token.as_bytes())) {
                Some(number) if number == id => {}
                Some(first) => {
                    return Err(unusable(format!("token {token:?} has two ids, {first} and {id}")));
                }
                None => return Err(unusable("the tokens are longer than 4 GiB".to_owned())),
            }
        }
        let segmenter = Segmenter {
            words: file.kind == TokenizerKind::Words,
            lower_case: file.lower_case,
            punctuation: file.punctuation,
            digits: file.digits,
        };
        Ok(WordVocabulary { segmenter, tokens })
    }

    pub(crate) fn kind(&self) -> TokenizerKind {
        if self.segmenter.words { TokenizerKind::Words } else { TokenizerKind::Whitespace }
    }
}

/// Adds one to the count of `token`. False when the table is full.
pub(crate) fn count(seen: &mut Interner, counts: &mut Vec<u64>, token: &[u8]) -> bool {
    let Some(number) = seen.insert(token, hash_token(token)) else {
        return false;
    };
    match counts.get_mut(number) {
        Some(count) => *count += 1,
        None => counts.push(1),
    }
    true
}

/// The numbers of the strings that occur `min_count` times or more: most frequent first, then in
/// byte order.
pub(crate) fn by_frequency(seen: &Interner, counts: &[u64], min_count: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..counts.len()).filter(|&i| counts[i] >= min_count).collect();
    order.sort_unstable_by(|&a, &b| counts[b].cmp(&counts[a]).then_with(|| seen.get(a).cmp(seen.get(b))));
    order
}
