//! Bag of embeddings: the mean of a text's token (and hashed n-gram) vectors, then a linear classifier, with a hidden
//! layer between if wished. Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", the model of fastText.
//! The order of words counts only through the n-grams that the tokeniser adds.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::Tensor;

use super::{Architecture, Check, Common, TextClassifier, defaults, read_config};
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::{BagPooling, EmbeddingBag, Linear, dropout};
use crate::parameters::Path;
use crate::text_input::TextInput;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: NAME,
    summary: "Mean of token and n-gram vectors, then a linear classifier: the model of fastText (Joulin et al. 2017).",
    defaults: defaults::<BagOfEmbeddingsConfig>,
    build: |path, config| Ok(Box::new(BagOfEmbeddings::new(path, config)?)),
    check: |config| BagOfEmbeddingsConfig::read(config).map(drop),
};

const NAME: &str = "bag_of_embeddings";

/// Keys of `bag_of_embeddings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BagOfEmbeddingsConfig {
    /// Width of the token vectors. Default 100.
    pub embedding_dim: i64,
    /// `mean` (default), or `square_root`: the sum over the square root of the number of vectors.
    pub pooling: BagPooling,
    /// Units of a hidden ReLU layer; 0, the default, for none.
    pub hidden_dim: i64,
    /// Dropout on the mean and on the hidden layer. Default 0.
    pub dropout: f64,
    /// How the table starts. Default uniform within 0.01: fastText's `1 / embedding_dim` at the default width.
    pub embedding_init: Init,
    /// How the linear layers start. Default `fan_in_uniform`.
    pub init: Init,
}

impl Default for BagOfEmbeddingsConfig {
    fn default() -> Self {
        BagOfEmbeddingsConfig {
            embedding_dim: 100,
            pooling: BagPooling::Mean,
            hidden_dim: 0,
            dropout: 0.0,
            embedding_init: Init::Uniform { low: -0.01, high: 0.01 },
            init: Init::FanInUniform,
        }
    }
}

impl BagOfEmbeddingsConfig {
    fn read(config: &Map<String, Value>) -> Result<(Common, Self), ModelError> {
        let (common, own): (Common, Self) = read_config(NAME, config)?;
        let check = Check(NAME);
        check.size("embedding_dim", own.embedding_dim)?;
        if own.hidden_dim != 0 {
            check.size("hidden_dim", own.hidden_dim)?;
        }
        check.probability("dropout", own.dropout)?;
        Ok((common, own))
    }
}

/// The model: `embedding.weight`, with a hidden layer `hidden.weight` and `hidden.bias`, `classifier.weight` and
/// `classifier.bias`.
#[derive(Debug)]
pub struct BagOfEmbeddings {
    embedding: EmbeddingBag,
    hidden: Option<Linear>,
    classifier: Linear,
    dropout: f64,
}

impl BagOfEmbeddings {
    /// Takes the parameters that the configuration asks for.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is wrong or a parameter does not fit it.
    pub fn new(path: &Path, config: &Map<String, Value>) -> Result<Self, ModelError> {
        let (common, own) = BagOfEmbeddingsConfig::read(config)?;
        let width = own.embedding_dim;
        let embedding =
            EmbeddingBag::new(&path.sub("embedding"), common.vocab_size, width, own.pooling, own.embedding_init)?;
        let (hidden, width) = if own.hidden_dim == 0 {
            (None, width)
        } else {
            let hidden = Linear::new(&path.sub("hidden"), width, own.hidden_dim, own.init)?;
            (Some(hidden), own.hidden_dim)
        };
        let classifier = Linear::new(&path.sub("classifier"), width, common.num_labels, own.init)?;
        Ok(BagOfEmbeddings { embedding, hidden, classifier, dropout: own.dropout })
    }
}

impl TextClassifier for BagOfEmbeddings {
    fn forward(&self, input: &TextInput, train: bool) -> Result<Tensor, ModelError> {
        let (ids, bounds) = input.flat()?;
        let mut features = self.embedding.forward(&ids, &bounds)?; // [batch, embedding_dim]
        features = dropout(features, self.dropout, train)?;
        if let Some(hidden) = &self.hidden {
            features = dropout(hidden.forward(&features)?.f_relu()?, self.dropout, train)?;
        }
        self.classifier.forward(&features) // [batch, labels]
    }
}
