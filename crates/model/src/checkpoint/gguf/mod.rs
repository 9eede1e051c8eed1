//! GGUF: llama.cpp's one file with weights in blocks, configuration and tokeniser. `reader.rs` reads the container,
//! `blocks.rs` the blocks, `names/` says what things are called in Hugging Face, `source.rs` gives the tensors under those
//! names, `tokenizer.rs` rebuilds the tokeniser. The other way: `export.rs` with `encode.rs`, `writer.rs` and
//! `tokenizer_keys.rs`.

mod blocks;
mod encode;
mod export;
mod metadata;
mod names;
mod pre_tokenizers;
mod problem;
mod reader;
mod source;
mod special_tokens;
mod tokenizer;
mod tokenizer_keys;
mod writer;

pub use encode::GgufType;
pub use export::{GgufOptions, export};
pub use reader::{Array, Gguf, Value};
pub use source::GgufTensors;

pub(crate) use special_tokens::{generation_config, special_tokens};

use serde_json::{Map, Value as Json};

use crate::error::WeightsError;
use metadata::Metadata;

impl Gguf {
    /// The configuration as `config.json` of the model's Hugging Face folder has it.
    ///
    /// # Errors
    /// [`WeightsError::Header`] that names the key that is missing or impossible, or the architecture when it is not
    /// supported.
    pub fn config(&self) -> Result<Map<String, Json>, WeightsError> {
        let config = Metadata::new(self).and_then(|metadata| names::config(&metadata));
        config.map_err(|problem| problem.in_file(self.file()))
    }

    /// The tokeniser as `tokenizer.json` of the model's Hugging Face folder has it.
    ///
    /// # Errors
    /// [`WeightsError::Header`] that names the key that is missing or impossible.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, WeightsError> {
        tokenizer::json(self).map_err(|problem| problem.in_file(self.file()))
    }

    /// The chat templates by name; the usual one is "default".
    ///
    /// # Errors
    /// [`WeightsError::Header`] that names a key that is not a string.
    pub fn chat_templates(&self) -> Result<std::collections::BTreeMap<String, String>, WeightsError> {
        tokenizer::chat_templates(self).map_err(|problem| problem.in_file(self.file()))
    }

    /// How many files the model was split into; 1 where it was not.
    ///
    /// # Errors
    /// [`WeightsError::Header`] when the key is not a count.
    pub fn parts(&self) -> Result<u64, WeightsError> {
        let count = metadata::count(self, "split.count").map_err(|problem| problem.in_file(self.file()))?;
        Ok(count.unwrap_or(1).max(1))
    }
}
