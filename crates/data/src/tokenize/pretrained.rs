//! The tokenizer of a checkpoint: a Hugging Face `tokenizer.json` as its authors made it, with its special tokens. Owns
//! truncation, pairs, windows over long texts and where in a text a token stands. Ids alone come by the fast path of
//! `subword.rs`; what needs offsets comes by the `tokenizers` library. Knows nothing of models.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::{Encoding, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings};

use super::TokenizeError;
use super::subword::{PieceCache, Subword};
use crate::encoder::EncodedRows;

/// Texts that one thread encodes before it takes more.
const TEXTS_AT_ONCE: usize = 64;

/// A checkpoint's `tokenizer.json`, ready to encode.
///
/// ```
/// use tidemill_data::PretrainedTokenizer;
/// let json = br###"{"version": "1.0", "added_tokens": [], "normalizer": null,
///     "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
///     "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
///     "model": {"type": "WordLevel", "unk_token": "[UNK]",
///               "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "good": 3, "film": 4}}}"###;
/// let tokenizer = PretrainedTokenizer::load(json, "tokenizer.json")?;
/// assert_eq!(tokenizer.ids(&["good film"], 8)?.get(0), [1, 3, 4, 2]);
/// let pair = tokenizer.encode("good", Some("film"), 8)?;
/// assert_eq!(pair.ids, [1, 3, 2, 4, 2]);
/// assert_eq!(pair.type_ids, [0, 0, 0, 1, 1]);
/// assert_eq!((pair.tokens[3].start, pair.tokens[3].end, pair.tokens[3].text), (0, 4, Some(1)));
/// # Ok::<(), tidemill_data::TokenizeError>(())
/// ```
pub struct PretrainedTokenizer {
    subword: Subword,
    origin: String,
    direction: TruncationDirection,
    /// Working memory of threads that are not encoding just now.
    idle: Mutex<Vec<PieceCache>>,
}

/// A text, or a pair of them, as a model reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedText {
    /// The tokens, special ones included.
    pub ids: Vec<u32>,
    /// 0 for tokens of the first text, 1 for those of the second, as the tokenizer's template says.
    pub type_ids: Vec<u32>,
    /// Where each token stands.
    pub tokens: Vec<TextToken>,
}

/// Where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextToken {
    /// The text it belongs to, 0 or 1; none for a special token.
    pub text: Option<usize>,
    /// Its first character (a Unicode scalar value) in that text.
    pub start: usize,
    /// One past its last character.
    pub end: usize,
    /// Which word of the text it is a part of, where the tokenizer tells.
    pub word: Option<u32>,
}

impl PretrainedTokenizer {
    /// Reads a `tokenizer.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// [`TokenizeError::Unusable`] where it is not one, or contradicts itself.
    pub fn load(json: &[u8], origin: &str) -> Result<PretrainedTokenizer, TokenizeError> {
        let subword = Subword::load(json, true, origin)?;
        let left = subword.json().pointer("/truncation/direction").and_then(Value::as_str) == Some("Left");
        let direction = if left { TruncationDirection::Left } else { TruncationDirection::Right };
        Ok(PretrainedTokenizer { subword, origin: origin.to_owned(), direction, idle: Mutex::default() })
    }

    /// The ids of each text, special tokens included, `max_length` at most, on all threads of the current rayon pool.
    ///
    /// # Errors
    /// [`TokenizeError::Unusable`] where `max_length` leaves no room beside the special tokens.
    pub fn ids<T: AsRef<str> + Sync>(&self, texts: &[T], max_length: usize) -> Result<EncodedRows, TokenizeError> {
        self.check_room(max_length, false)?;
        Ok(EncodedRows::collect(texts.len(), TEXTS_AT_ONCE, &|rows, ids, ends| {
            let mut cache = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            for text in texts.get(rows).unwrap_or_default() {
                self.append(text.as_ref(), max_length, &mut cache, ids);
                ends.push(ids.len());
            }
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
        }))
    }

    fn append(&self, text: &str, max_length: usize, cache: &mut PieceCache, ids: &mut Vec<u32>) {
        if self.direction == TruncationDirection::Right {
            self.subword.encode(text, max_length, cache, ids);
            return;
        }
        // The end of a text is kept: all of it is encoded, and the excess taken out behind the first special tokens.
        let start = ids.len();
        self.subword.encode(text, usize::MAX - start, cache, ids);
        let excess = (ids.len() - start).saturating_sub(max_length);
        let from = start + self.subword.frame().map_or(0, |(before, _)| before.len());
        ids.drain(from..from + excess);
    }

    /// A text, or two, with offsets. What is longer than `max_length` is cut, the longer of a pair first.
    ///
    /// # Errors
    /// [`TokenizeError::Unusable`] where `max_length` leaves no room beside the special tokens, or the library fails.
    pub fn encode(&self, text: &str, pair: Option<&str>, max_length: usize) -> Result<EncodedText, TokenizeError> {
        let room = self.check_room(max_length, pair.is_some())?;
        let (first, second) = (self.bare(text)?, pair.map(|pair| self.bare(pair)).transpose()?);
        let params = TruncationParams {
            direction: self.direction,
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (first, second) = truncate_encodings(first, second, &params).map_err(|error| self.failed(error))?;
        self.finish(first, second)
    }

    /// Many texts or pairs as [`PretrainedTokenizer::encode`] has them, on all threads of the current rayon pool.
    ///
    /// # Errors
    /// As [`PretrainedTokenizer::encode`].
    pub fn encode_many(
        &self,
        texts: &[(&str, Option<&str>)],
        max_length: usize,
    ) -> Result<Vec<EncodedText>, TokenizeError> {
        let encode = |&(text, pair): &(&str, Option<&str>)| self.encode(text, pair, max_length);
        match texts {
            [] | [_] => texts.iter().map(encode).collect(),
            _ => texts.par_iter().map(encode).collect(),
        }
    }

    /// A question beside each window of a document: windows overlap by `stride` tokens and cover all of it.
    ///
    /// # Errors
    /// [`TokenizeError::LongQuestion`] where question and overlap leave no room for the document, and
    /// [`TokenizeError::Unusable`] where the special tokens leave none, or the library fails.
    pub fn windows(
        &self,
        question: &str,
        document: &str,
        max_length: usize,
        stride: usize,
    ) -> Result<Vec<EncodedText>, TokenizeError> {
        let room = self.check_room(max_length, true)?;
        let (question, mut document) = (self.bare(question)?, self.bare(document)?);
        let tokens = question.len();
        let room = room.checked_sub(tokens).filter(|room| *room > stride);
        let room = room.ok_or(TokenizeError::LongQuestion { tokens, stride, max_length })?;
        document.truncate(room, stride, TruncationDirection::Right);
        let rest = document.take_overflowing();
        let windows = std::iter::once(document).chain(rest);
        windows.map(|window| self.finish(question.clone(), Some(window))).collect()
    }

    /// Tokens of a text that was cut up elsewhere, with the special ones around them; `max_length` at most.
    ///
    /// # Errors
    /// [`TokenizeError::Unusable`] where `max_length` leaves no room, or the special tokens are not simply one list before
    /// every text and one after.
    pub fn framed(&self, tokens: &[u32], max_length: usize) -> Result<Vec<u32>, TokenizeError> {
        let room = self.check_room(max_length, false)?;
        let (before, after) = self
            .subword
            .frame()
            .ok_or_else(|| self.failed("its special tokens depend on the text; give the text instead of its tokens"))?;
        let excess = tokens.len().saturating_sub(room);
        let kept = match self.direction {
            TruncationDirection::Left => tokens.get(excess..),
            TruncationDirection::Right => tokens.get(..tokens.len() - excess),
        };
        Ok([before, kept.unwrap_or_default(), after].concat())
    }

    /// The text of tokens, without the special ones.
    ///
    /// # Errors
    /// [`TokenizeError::Unusable`] where the library fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizeError> {
        self.subword.library().decode(ids, true).map_err(|error| self.failed(error))
    }

    /// How a token is written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.subword.library().id_to_token(id)
    }

    /// The id of a token as it is written in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.subword.library().token_to_id(token)
    }

    /// One more than the largest id: what an embedding must have rows for.
    pub fn vocabulary(&self) -> usize {
        let tokens = self.subword.library().get_vocab(true);
        tokens.values().max().map_or(0, |largest| *largest as usize + 1)
    }

    /// The `tokenizer.json`.
    pub fn json(&self) -> &Value {
        self.subword.json()
    }

    /// A text without special tokens, offsets in characters.
    fn bare(&self, text: &str) -> Result<Encoding, TokenizeError> {
        self.subword.library().encode_char_offsets(text, false).map_err(|error| self.failed(error))
    }

    fn finish(&self, first: Encoding, second: Option<Encoding>) -> Result<EncodedText, TokenizeError> {
        // Some post-processors panic on what they do not expect.
        let encoding = catch_unwind(AssertUnwindSafe(|| self.subword.finish(first, second)));
        let encoding = encoding.unwrap_or_else(|_| Err("its post-processor contradicts itself".to_owned()));
        let encoding = encoding.map_err(|reason| self.failed(reason))?;
        let texts = encoding.get_sequence_ids();
        let special = encoding.get_special_tokens_mask();
        let places = encoding.get_offsets().iter().zip(encoding.get_word_ids()).zip(texts.iter().zip(special));
        let tokens = places.map(|((&(start, end), &word), (&text, &special))| TextToken {
            text: text.filter(|_| special == 0),
            start,
            end,
            word,
        });
        Ok(EncodedText {
            tokens: tokens.collect(),
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
        })
    }

    /// The tokens that are left for texts.
    fn check_room(&self, max_length: usize, pair: bool) -> Result<usize, TokenizeError> {
        let added = self.subword.added_tokens(pair);
        max_length.checked_sub(added).filter(|room| *room > 0).ok_or_else(|| {
            self.failed(format!("a length of {max_length} tokens leaves no room beside {added} special ones"))
        })
    }

    fn failed(&self, reason: impl ToString) -> TokenizeError {
        TokenizeError::unusable(&self.origin, reason.to_string())
    }
}

impl std::fmt::Debug for PretrainedTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PretrainedTokenizer").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokenizer(change: impl FnOnce(&mut Value)) -> PretrainedTokenizer {
        let words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "a", "b", "c", "d", "e", "##e", "é"];
        let vocabulary: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| (word.to_string(), json!(id))).collect();
        let mut json = json!({
            "version": "1.0", "added_tokens": [], "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
            "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocabulary}});
        change(&mut json);
        PretrainedTokenizer::load(&serde_json::to_vec(&json).unwrap(), "here").unwrap()
    }

    #[test]
    fn the_fast_path_gives_what_the_library_gives() {
        for direction in ["Left", "Right"] {
            let tokenizer = tokenizer(|json| json["truncation"]["direction"] = json!(direction));
            for text in ["", "a", "A b  ae\tzz é", "a b c d e a b c d e"] {
                for length in [3, 4, 7, 100] {
                    let fast = tokenizer.ids(&[text], length).unwrap();
                    let whole = tokenizer.encode(text, None, length).unwrap();
                    assert_eq!(fast.get(0), whole.ids, "{text:?} to {length} from the {direction}");
                    assert_eq!(whole.tokens.len(), whole.ids.len());
                }
            }
        }
        let left = tokenizer(|json| json["truncation"]["direction"] = json!("Left"));
        assert_eq!(left.ids(&["a b c d"], 4).unwrap().get(0), [1, 6, 7, 2]);
    }

    #[test]
    fn offsets_are_characters_and_special_tokens_have_none() {
        let encoded = tokenizer(|_| ()).encode("É ae", None, 10).unwrap();
        assert_eq!(encoded.ids, [1, 10, 4, 9, 2]);
        let token = |text, start, end, word| TextToken { text, start, end, word };
        assert_eq!(encoded.tokens[1], token(Some(0), 0, 1, Some(0)));
        assert_eq!(encoded.tokens[3], token(Some(0), 3, 4, Some(1)));
        assert!(encoded.tokens[0].text.is_none() && encoded.tokens[4].text.is_none());
    }

    #[test]
    fn the_longer_of_a_pair_is_cut_first() {
        let tokenizer = tokenizer(|_| ());
        let pair = tokenizer.encode("a b", Some("a b c d e"), 8).unwrap();
        assert_eq!(pair.ids, [1, 4, 5, 2, 4, 5, 6, 2]);
        assert_eq!(pair.type_ids, [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(pair.tokens[5].text, Some(1));
        let many = tokenizer.encode_many(&[("a", None), ("b", Some("c"))], 8).unwrap();
        assert_eq!((many[0].ids.len(), many[1].ids.len()), (3, 5));
    }

    #[test]
    fn windows_cover_a_document_and_overlap() {
        let tokenizer = tokenizer(|_| ());
        let windows = tokenizer.windows("e", "a b c d", 7, 1).unwrap();
        let ids: Vec<&[u32]> = windows.iter().map(|window| window.ids.as_slice()).collect();
        assert_eq!(ids, [&[1, 8, 2, 4, 5, 6, 2][..], &[1, 8, 2, 6, 7, 2]]);
        assert_eq!((windows[1].tokens[3].start, windows[1].tokens[3].text), (4, Some(1)));
        let error = tokenizer.windows("a b c d", "a", 8, 2).unwrap_err().to_string();
        assert!(error.contains("a question of 4 tokens leaves no room"), "{error}");
        assert_eq!(tokenizer.windows("e", "", 7, 1).unwrap().len(), 1);
    }

    #[test]
    fn a_length_without_room_is_an_error() {
        let tokenizer = tokenizer(|_| ());
        for length in [0, 1, 2] {
            assert!(tokenizer.ids(&["a"], length).unwrap_err().to_string().contains("no room beside 2 special"));
            assert!(tokenizer.encode("a", None, length).is_err());
        }
        assert!(tokenizer.encode("a", Some("b"), 3).is_err());
        assert_eq!(tokenizer.ids(&[] as &[&str], 8).unwrap().len(), 0);
    }

    #[test]
    fn tokens_that_come_as_such_are_framed() {
        let right = tokenizer(|_| ());
        assert_eq!(right.framed(&[4, 5, 6], 100).unwrap(), [1, 4, 5, 6, 2]);
        assert_eq!(right.framed(&[4, 5, 6], 4).unwrap(), [1, 4, 5, 2]);
        assert!(right.framed(&[4], 2).is_err());
        let left = tokenizer(|json| json["truncation"]["direction"] = json!("Left"));
        assert_eq!(left.framed(&[4, 5, 6], 4).unwrap(), [1, 5, 6, 2]);
    }

    #[test]
    fn tokens_have_ids_and_texts() {
        let tokenizer = tokenizer(|_| ());
        assert_eq!((tokenizer.token(9).as_deref(), tokenizer.id("[PAD]")), (Some("##e"), Some(3)));
        assert_eq!(tokenizer.decode(&[4, 9]).unwrap(), "ae");
        assert_eq!(tokenizer.vocabulary(), 11);
    }
}
