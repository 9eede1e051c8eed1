//! The registry of encoders: models that give every token of a text a vector. One more is one new file, one line in the
//! list below, and one fixture. Owns what all of them share: the batch without padding, heads, and finding a model's
//! parameters whether or not a head has put a prefix before their names. Knows nothing of texts; the tasks under
//! [`tasks`](crate::tasks) do.

mod head;
mod names;
mod post_norm;
mod sizes;

use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::error::ModelError;
use crate::layers::flat::{FlatBatch, FusedLinear, check_kind};
use crate::parameters::{Parameters, Path};
use crate::weights::TensorSource;

pub use head::{Head, HeadKind};
pub use sizes::labels;

use names::modern_names;

/// A model that gives every token a vector.
pub trait Encoder: Send {
    /// `[tokens, width]` for a batch's tokens.
    ///
    /// # Errors
    /// [`ModelError`] when the batch does not fit the model or libtorch refuses; the model stays as it was.
    fn forward(&self, batch: &FlatBatch) -> Result<Tensor, ModelError>;

    /// Sizes.
    fn shape(&self) -> EncoderShape;

    /// The table of token vectors, `[vocabulary, width]`, for an output layer that shares it.
    fn tokens(&self) -> Option<&Tensor>;
}

/// The sizes of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderShape {
    /// Rows of the table of tokens.
    pub vocabulary: i64,
    /// Numbers in a token's vector.
    pub width: i64,
    /// The longest text in tokens, special ones included.
    pub longest: i64,
}

/// Builds an encoder: parameters below the path, sizes by `config.json`, products in numbers of the kind.
pub type Build = fn(&Path, Config<'_>, Kind) -> Result<Box<dyn Encoder>, ModelError>;

/// One family of encoders.
pub struct Architecture {
    /// The `model_type`s in `config.json`.
    pub model_types: &'static [&'static str],
    /// One sentence: what it is, its source.
    pub summary: &'static str,
    /// What a checkpoint with a head puts before the encoder's names.
    pub prefix: &'static str,
    /// Builds it.
    pub build: Build,
    /// Builds a head on it.
    pub head: fn(&HeadParts<'_>) -> Result<Head, ModelError>,
}

/// What a head is built of.
pub struct HeadParts<'a> {
    /// Which.
    pub head: HeadKind,
    /// Where a head's own parameters are.
    pub root: Path<'a>,
    /// Where the encoder's are.
    pub base: Path<'a>,
    /// `config.json`.
    pub config: Config<'a>,
    /// How many labels there are.
    pub labels: i64,
    /// What products are computed in.
    pub kind: Kind,
    /// The encoder.
    pub encoder: &'a dyn Encoder,
}

impl HeadParts<'_> {
    /// A layer from token vectors to `outputs` scores, with the head's own parameters.
    fn linear(&self, name: &str, outputs: i64) -> Result<FusedLinear, ModelError> {
        FusedLinear::new(&self.root.sub(name), self.encoder.shape().width, outputs, true, self.kind)
    }
}

/// Declares the files of this folder and lists what they register.
macro_rules! registry {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every encoder.
        pub static ALL: &[Architecture] = &[$($file::ARCHITECTURE),*];
    };
}

registry! {
    bert,
    distilbert,
    modernbert,
    roberta,
}

/// Whether there is an encoder for this `model_type`.
///
/// ```
/// assert!(tidemill_model::encoders::is_encoder("xlm-roberta"));
/// ```
pub fn is_encoder(model_type: &str) -> bool {
    ALL.iter().any(|architecture| architecture.model_types.contains(&model_type))
}

/// The architecture that `config["model_type"]` names.
///
/// # Errors
/// [`ModelError`] when there is no such key, or no encoder of this name: with the nearest and all names.
pub fn find(config: &Map<String, Value>) -> Result<&'static Architecture, ModelError> {
    Config::new(config).architecture("encoders", ALL, |architecture| architecture.model_types)
}

/// An encoder with its weights, and a head where one was asked for.
pub struct EncoderModel {
    encoder: Box<dyn Encoder>,
    head: Option<Head>,
    device: Device,
}

impl EncoderModel {
    /// Builds the encoder that `config["model_type"]` names, with a head if one is asked for. Its products are computed in
    /// `kind`, float32 or bfloat16, whatever the weights are stored in.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is wrong, there is no such encoder, or a parameter is missing or of another
    /// shape.
    pub fn open(
        source: Box<dyn TensorSource>,
        config: &Map<String, Value>,
        head: Option<HeadKind>,
        device: Device,
        kind: Kind,
    ) -> Result<EncoderModel, ModelError> {
        let architecture = find(config)?;
        check_kind(kind, device)?;
        let source = modern_names(source);
        let prefix = format!("{}.", architecture.prefix);
        let prefixed = source.names().iter().any(|name| name.starts_with(&prefix));
        let parameters = Parameters::stored(source, device);
        let root = parameters.root();
        let base = if prefixed { root.sub(architecture.prefix) } else { root.clone() };
        tch::no_grad(|| {
            let labels = labels(config).len() as i64;
            let config = Config::new(config);
            let encoder = (architecture.build)(&base, config, kind)?;
            let head = head.map(|head| {
                let parts = HeadParts { head, root, base, config, labels, kind, encoder: encoder.as_ref() };
                (architecture.head)(&parts)
            });
            Ok(EncoderModel { head: head.transpose()?, encoder, device })
        })
    }

    /// Sizes.
    pub fn shape(&self) -> EncoderShape {
        self.encoder.shape()
    }

    /// Where the model is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// A vector for every token, `[tokens, width]`, without gradient.
    ///
    /// # Errors
    /// [`ModelError::Input`] when a text is longer than the model's positions or a token outside its vocabulary,
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let longest = self.shape().longest;
        if batch.longest() > longest {
            let problem = format!("a text has {} tokens, and the model takes {longest}", batch.longest());
            return Err(ModelError::Input(problem));
        }
        tch::no_grad(|| self.encoder.forward(batch))
    }

    /// The head's scores for rows of what [`EncoderModel::forward`] gave, or for one row a text of a head on whole texts:
    /// float32 `[rows, labels]`.
    ///
    /// # Errors
    /// [`ModelError::Input`] when the model was opened without a head, [`ModelError::Torch`] when libtorch refuses.
    pub fn scores(&self, hidden: &Tensor, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let head = self.head.as_ref();
        let head = head.ok_or_else(|| ModelError::Input("the model was opened without a head".to_string()))?;
        tch::no_grad(|| head.forward(hidden, batch))
    }
}

impl std::fmt::Debug for EncoderModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("EncoderModel").field("shape", &self.shape()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_encoder_is_named_with_its_neighbours() {
        let config = serde_json::from_str(r#"{"model_type": "distillbert"}"#).unwrap();
        let error = find(&config).err().unwrap().to_string();
        assert!(
            error.contains("did you mean \"distilbert\"? The encoders are bert, distilbert, modernbert"),
            "{error}"
        );
        assert!(find(&Map::new()).err().unwrap().to_string().contains("\"model_type\" is missing"));
    }
}
