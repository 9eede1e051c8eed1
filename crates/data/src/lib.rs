//! From files to arrays: reading, checking, cleaning, splitting, augmenting, tokenising and batching text data.
//!
//! Rows travel as Arrow record batches, are cleaned in parallel and spooled to a memory-mapped file, so that files larger
//! than memory pass through. This crate knows nothing of libtorch or models: it yields plain arrays.

mod augment;
mod clean;
pub mod duration;
mod encoder;
mod error;
mod examples;
mod intake;
mod loader;
mod prepare;
mod schema;
mod source;
mod split;
mod summary;
mod tokenize;
pub mod toml_file;

pub use augment::{AugmentConfig, Augmenter};
pub use clean::{Case, CleanConfig, Missing, Repeats, Step, TextCleaning, TooLong, Unicode, folded};
pub use encoder::{EncodedRows, Encoder, Preprocessing};
pub use error::{BadRow, DataError, Place, RowProblem, nearest};
pub use examples::{Examples, RowId};
pub use intake::Example;
pub use loader::{EpochBatches, Loader, LoaderConfig, LoaderError, TextBatch};
pub use prepare::{Prepared, prepare, read_examples};
pub use schema::{BadRows, Column, Cut, DataConfig, Files, LabelColumn, Quote};
pub use source::{Format, Places, Reader};
pub use split::{Leakage, SplitBy, SplitConfig};
pub use summary::{
    Conflicts, DataReport, Effect, FileReport, LeakageReport, Lengths, SideReport, StepExample, StepReport, Tally,
};
pub use tokenize::{
    CharNgrams, Digits, EncodedText, PretrainedTokenizer, TextToken, TokenizeError, TokenizerConfig, TokenizerKind,
    load_tokenizer,
};
