//! From text to token ids. Owns cutting text into tokens and the vocabularies behind it.
//! `words` is built here; byte-pair encoding, WordPiece and Unigram run on the `tokenizers`
//! library and are Hugging Face `tokenizer.json` files. Knows nothing of rows, labels or batches.

mod config;
mod error;
pub(crate) mod interner;
mod library;
mod pretrained;
mod segment;
pub(crate) mod subword;
mod train;
pub(crate) mod words;

pub use config::{CharNgrams, Digits, TokenizerConfig, TokenizerKind};
pub(crate) use config::{MAX_BUCKETS, MAX_VOCABULARY, check_lengths};
pub use error::TokenizeError;
pub use library::load_tokenizer;
pub use pretrained::{EncodedText, PretrainedTokenizer, TextToken};
pub(crate) use train::train;
