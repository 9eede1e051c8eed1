//! From texts to what an encoder reads. Needs no model, so that any thread may do it while another runs the last batch.

use tidemill_data::{EncodedText, PretrainedTokenizer};

use super::TaskError;
use crate::checkpoint::Checkpoint;

/// A checkpoint's tokeniser, and how long the model lets a text be.
#[derive(Debug)]
pub struct TextPreparation {
    pub(super) tokenizer: PretrainedTokenizer,
    max_length: usize,
    vocabulary: usize,
}

/// What is done with a text that is longer than the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// It is cut off: of a pair the longer text first.
    Cut,
    /// It is an error.
    Refuse,
}

impl TextPreparation {
    /// Reads the tokeniser. A text may have the tokens that `max_length` says, or else the checkpoint's files; never more
    /// than `longest`, the model's positions.
    pub(super) fn open(
        checkpoint: &Checkpoint,
        max_length: Option<usize>,
        longest: usize,
        vocabulary: usize,
    ) -> Result<TextPreparation, TaskError> {
        let path = checkpoint.path();
        let origin = path.join("tokenizer.json").display().to_string();
        let tokenizer = PretrainedTokenizer::load(&checkpoint.tokenizer_json()?, &origin)?;
        let ids = tokenizer.vocabulary();
        if ids > vocabulary {
            return Err(TaskError::Input(format!(
                "{}: the tokeniser gives ids up to {}, and the model has vectors for {vocabulary}; they do not belong \
                 together",
                path.display(),
                ids - 1
            )));
        }
        let stated = checkpoint.sentence_transformer().and_then(|about| about.max_seq_length);
        let stated = max_length.or(stated).or(checkpoint.model_max_length());
        let max_length = stated.map_or(longest, |stated| stated.min(longest));
        Ok(TextPreparation { tokenizer, max_length, vocabulary })
    }

    /// Tokens that are read of a text, or of a pair, special ones included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The ids of a text, special tokens included.
    ///
    /// # Errors
    /// [`TaskError::Tokenizer`] when the tokeniser fails; [`TaskError::Input`] for a text that is too long.
    pub fn ids(&self, text: &str, too_long: TooLong) -> Result<Vec<u32>, TaskError> {
        let ids = self.tokenizer.ids(&[text], self.asked(too_long))?;
        self.checked(ids.get(0).to_vec(), Vec::len)
    }

    /// The same of a text that comes as tokens, without special ones.
    ///
    /// # Errors
    /// As [`TextPreparation::ids`], and for a token that the model does not have.
    pub fn framed(&self, tokens: &[u32], too_long: TooLong) -> Result<Vec<u32>, TaskError> {
        if let Some(unknown) = tokens.iter().find(|token| **token as usize >= self.vocabulary) {
            let problem = format!("the token {unknown} is not one of the model's {}", self.vocabulary);
            return Err(TaskError::Input(problem));
        }
        self.checked(self.tokenizer.framed(tokens, self.asked(too_long))?, Vec::len)
    }

    /// A text, or a pair, with the places of its tokens.
    ///
    /// # Errors
    /// As [`TextPreparation::ids`].
    pub fn encode(&self, text: &str, pair: Option<&str>, too_long: TooLong) -> Result<EncodedText, TaskError> {
        self.checked(self.tokenizer.encode(text, pair, self.asked(too_long))?, |encoded| encoded.ids.len())
    }

    /// Where excess is refused one token more is asked for, which shows it.
    fn asked(&self, too_long: TooLong) -> usize {
        self.max_length + usize::from(too_long == TooLong::Refuse)
    }

    fn checked<T>(&self, encoded: T, length: fn(&T) -> usize) -> Result<T, TaskError> {
        if length(&encoded) <= self.max_length {
            return Ok(encoded);
        }
        let longest = self.max_length;
        let problem =
            format!("has more than {longest} tokens, which is all that the model takes; shorten or truncate it");
        Err(TaskError::Input(problem))
    }
}
