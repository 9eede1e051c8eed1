//! What can be wrong with a tokenizer: its settings, the texts it learns from, a file of it.

use std::path::PathBuf;

/// Why a tokenizer could not be trained, read or put together again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// A setting that makes no sense.
    #[error("[tokenizer] {key}: {reason}")]
    Setting {
        /// The recipe's key.
        key: &'static str,
        /// What is wrong with its value and what to write instead.
        reason: String,
    },
    /// Nothing to learn from.
    #[error(
        "no token occurs at least {min_count} time(s) in {texts} text(s): \
         lower `min_count` in [tokenizer] or give more text"
    )]
    NoTokens {
        /// How many texts were read.
        texts: usize,
        /// The threshold that no token reached.
        min_count: u64,
    },
    /// The file named by `path` cannot be read.
    #[error("{}: cannot be read: {source}; [tokenizer] path must name a tokenizer.json", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are no tokenizer that can be used.
    #[error("{origin}: not a usable tokenizer: {reason}")]
    Unusable {
        /// The file, or "tokenizer.json of the package".
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A question that fills the windows of its document.
    #[error(
        "a question of {tokens} tokens leaves no room for windows that overlap by {stride} among {max_length} tokens; ask a \
         shorter one"
    )]
    LongQuestion {
        /// The question's tokens.
        tokens: usize,
        /// Tokens that windows share.
        stride: usize,
        /// Tokens of a window in all.
        max_length: usize,
    },
    /// The `tokenizers` library gave up while training.
    #[error("training the {kind} tokenizer failed: {reason}")]
    Training {
        /// bpe, wordpiece or unigram.
        kind: &'static str,
        /// What went wrong and what to try.
        reason: String,
    },
}

impl TokenizeError {
    pub(crate) fn setting(key: &'static str, reason: impl Into<String>) -> TokenizeError {
        TokenizeError::Setting { key, reason: reason.into() }
    }

    pub(crate) fn unusable(origin: &str, reason: impl Into<String>) -> TokenizeError {
        TokenizeError::Unusable { origin: origin.to_owned(), reason: reason.into() }
    }
}
