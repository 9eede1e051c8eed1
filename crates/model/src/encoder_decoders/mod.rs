//! The registry of encoder-decoders: models that read a text as a whole and write another. One more is one new file and one
//! line in the list below. Owns what a step is: the next tokens of many targets, each with the memory of its own source and
//! its own cache. Knows nothing of requests, of how tokens are chosen, or of text.

mod sources;
mod target_batch;
mod targets;
mod transformer;

use serde_json::{Map, Value};
use tch::Tensor;

use crate::config::Config;
use crate::error::ModelError;
use crate::parameters::Path;

pub use sources::{Memory, Sources};
pub use target_batch::{TargetBatch, TargetStep};
pub use targets::Targets;
pub use transformer::{Transformer, TransformerConfig};

/// What sources and targets of a model may be, and what its caches hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncoderDecoderShape {
    /// Layers of the decoder, each with a cache of its own.
    pub layers: i64,
    /// Heads of a decoder layer.
    pub heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Tokens that a source can hold.
    pub source_vocabulary: i64,
    /// Tokens that can be scored.
    pub vocabulary: i64,
    /// The longest source.
    pub source_positions: i64,
    /// The longest target, what it starts with included.
    pub target_positions: i64,
}

impl EncoderDecoderShape {
    /// Whether a source can be encoded.
    ///
    /// # Errors
    /// [`ModelError::Input`] when it is empty, too long, or holds a token that the model does not have.
    pub fn check_source(&self, source: &[u32]) -> Result<(), ModelError> {
        let longest = self.source_positions;
        match source.len() {
            0 => Err(ModelError::Input("the source is empty".to_string())),
            length if length as i64 > longest => Err(ModelError::Input(format!(
                "the source has {length} tokens and the model reads at most {longest}: shorten it or split it"
            ))),
            _ => check(source, self.source_vocabulary),
        }
    }

    fn check_ids(&self, target: &[u32]) -> Result<(), ModelError> {
        check(target, self.vocabulary)
    }
}

fn check(ids: &[u32], vocabulary: i64) -> Result<(), ModelError> {
    match ids.iter().find(|&&id| i64::from(id) >= vocabulary) {
        Some(id) => Err(ModelError::Input(format!(
            "token {id} is not one of the model's {vocabulary}: the tokenizer belongs to another model"
        ))),
        None => Ok(()),
    }
}

/// A model that reads sources and scores the next token of every target.
pub trait EncoderDecoder: Send {
    /// What sources and targets may be.
    fn shape(&self) -> EncoderDecoderShape;

    /// Reads sources together. They need not be equally long, but the less they differ, the less is computed for nothing
    /// when targets read them.
    ///
    /// # Errors
    /// [`ModelError::Input`] that names the first source that [`EncoderDecoderShape::check_source`] refuses.
    fn encode(&self, sources: &[&[u32]]) -> Result<Memory, ModelError>;

    /// Runs the next tokens of all targets in one step, and gives what the last layer says of each,
    /// `[tokens, width]`. When it fails, no target has changed.
    ///
    /// # Errors
    /// [`ModelError::Input`] when there are no tokens, targets would grow too long, or a token does not exist.
    fn decode(&self, steps: &mut [TargetStep<'_>]) -> Result<Tensor, ModelError>;

    /// Scores before the softmax, `[n, vocabulary]`, of rows of what [`EncoderDecoder::decode`] gave.
    ///
    /// # Errors
    /// [`ModelError`] when libtorch refuses.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError>;
}

/// Builds an encoder-decoder: parameters below the path, sizes by `config.json`, for texts of at most this many tokens.
pub type Build = fn(&Path, Config, i64) -> Result<Box<dyn EncoderDecoder>, ModelError>;

/// One family of encoder-decoders.
pub struct Architecture {
    /// The `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// One sentence: what it is, its source.
    pub summary: &'static str,
    /// Builds it.
    pub build: Build,
}

/// Declares the files of this folder and lists what they register.
macro_rules! registry {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every encoder-decoder.
        pub static ALL: &[Architecture] = &[$($file::ARCHITECTURE),*];
    };
}

registry! {
    bart,
    m2m100,
    marian,
    mbart,
    pegasus,
    t5,
}

/// Whether there is an encoder-decoder for this `model_type`.
pub fn is_encoder_decoder(model_type: &str) -> bool {
    ALL.iter().any(|architecture| architecture.model_types.contains(&model_type))
}

/// Builds the encoder-decoder that `config["model_type"]` names, for sources and targets of at most `longest` tokens.
///
/// # Errors
/// [`ModelError`] when there is none of this name, the configuration is wrong, or a parameter is missing or of another
/// shape.
pub fn build(path: &Path, config: &Map<String, Value>, longest: i64) -> Result<Box<dyn EncoderDecoder>, ModelError> {
    let reader = Config::new(config);
    let architecture = reader.architecture("encoder-decoders", ALL, |architecture| architecture.model_types)?;
    (architecture.build)(path, reader, longest)
}
