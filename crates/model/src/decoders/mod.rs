//! The registry of decoders: models that score the next token. One more is one new file and one line in the list below.
//! Owns what a step is: tokens of many sequences in one flat run, their places in the paged cache. Knows nothing of
//! requests, sampling or text; the [`engine`](crate::engine) makes steps.

mod rotary_decoder;
mod step;

use serde_json::{Map, Value};
use tch::Tensor;

use crate::config::Config;
use crate::error::ModelError;
use crate::parameters::Path;

pub use rotary_decoder::{Block, Norms, RotaryDecoder, RotaryDecoderConfig};
pub use step::{SequenceStep, Step};
pub use tidemill_torch::decode::PagedCache as LayerCache;

/// What the cache of a decoder must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderShape {
    /// Layers, each with a cache of its own.
    pub layers: i64,
    /// Key and value heads of a layer.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Tokens that can be scored.
    pub vocabulary: i64,
    /// The longest context, prompt and answer together.
    pub positions: i64,
}

/// A model that scores the next token of every sequence.
pub trait Decoder: Send {
    /// What its cache must hold.
    fn shape(&self) -> DecoderShape;

    /// The longest context that is read as a short one: of a longer one all keys are others (LongRoPE), those of its
    /// beginning included. None, as for most, where a longer context changes nothing of what the cache holds.
    fn short_contexts(&self) -> Option<usize> {
        None
    }

    /// Runs the tokens of a step, writes their keys and values into `caches` (one a layer) and gives what the last layer
    /// says of each, `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError`] when libtorch refuses.
    fn forward(&self, step: &Step, caches: &[LayerCache]) -> Result<Tensor, ModelError>;

    /// Scores before the softmax, `[n, vocabulary]`, of rows of what [`Decoder::forward`] gave.
    ///
    /// # Errors
    /// [`ModelError`] when libtorch refuses.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError>;
}

/// Builds a decoder: parameters below the path, sizes by `config.json`, for contexts of at most this many positions.
pub type Build = fn(&Path, Config, i64) -> Result<Box<dyn Decoder>, ModelError>;

/// One family of decoders.
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
        /// Every decoder.
        pub static ALL: &[Architecture] = &[$($file::ARCHITECTURE),*];
    };
}

registry! {
    gemma2,
    gpt2,
    gpt_neox,
    llama,
    mistral,
    mixtral,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
}

/// Whether there is a decoder for this `model_type`.
pub fn is_decoder(model_type: &str) -> bool {
    ALL.iter().any(|architecture| architecture.model_types.contains(&model_type))
}

/// Builds the decoder that `config["model_type"]` names, for contexts of at most `longest` positions.
///
/// # Errors
/// [`ModelError`] when there is none of this name, the configuration is wrong, or a parameter is missing or of another
/// shape.
pub fn build(path: &Path, config: &Map<String, Value>, longest: i64) -> Result<Box<dyn Decoder>, ModelError> {
    let reader = Config::new(config);
    let architecture = reader.architecture("decoders", ALL, |architecture| architecture.model_types)?;
    (architecture.build)(path, reader, longest)
}
