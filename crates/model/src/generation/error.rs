//! What can go wrong between logits and tokens. No message repeats a text or a token that a user sent.

/// Why a configuration was refused, or a token could not be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A key of [`SamplingConfig`](super::SamplingConfig) is out of range, or two of them contradict each other.
    #[error("\"{key}\" {problem}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong, and what to write instead.
        problem: String,
    },

    /// The logits are not one for each token of the vocabulary.
    #[error("there are {found} logits where the vocabulary has {expected} tokens")]
    Shape {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },

    /// A logit is not a number, or is infinite.
    #[error("the model gave logits that are not finite numbers; its weights are damaged or its arithmetic overflowed")]
    NotFinite,

    /// Every token is ruled out by constraints, bans and biases together.
    #[error(
        "no token is left to choose from: \"no_repeat_ngram_size\", \"bad_words_ids\", \"suppress_tokens\", \"min_tokens\" \
         and the constraint on the output together rule out every one"
    )]
    NothingLeft,
}

impl SamplingError {
    pub(super) fn config(key: &'static str, problem: impl Into<String>) -> SamplingError {
        SamplingError::Config { key, problem: problem.into() }
    }
}
