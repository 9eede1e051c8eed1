//! Bidirectional recurrent classifier: token vectors, LSTM layers both ways, pooling over time, a linear classifier.
//! Hochreiter and Schmidhuber 1997; Schuster and Paliwal 1997; attention pooling after Zhou et al. 2016. The GRU is the
//! same model with another cell, in `bigru.rs`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::Tensor;

use super::{Architecture, Check, Common, TextClassifier, defaults, read_config};
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::{AttentionPooling, Cell, Embedding, Linear, Recurrent, dropout, max_over_time, mean_over_time};
use crate::parameters::Path;
use crate::text_input::{Layout, TextInput};

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: NAME,
    summary: "Bidirectional LSTM with attention pooling (Hochreiter and Schmidhuber 1997, Zhou et al. 2016).",
    defaults: defaults::<RecurrentConfig>,
    build: |path, config| Ok(Box::new(RecurrentClassifier::new(path, NAME, Cell::Lstm, config)?)),
    check: |config| RecurrentConfig::read(NAME, config).map(drop),
};

const NAME: &str = "bilstm";

/// Keys of `bilstm` and `bigru`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecurrentConfig {
    /// Width of the token vectors. Default 128.
    pub embedding_dim: i64,
    /// Units each way. Default 128.
    pub hidden_dim: i64,
    /// Layers, one on the other. Default 1.
    pub layers: i64,
    /// From a vector a token to one a text: `attention` (default), `mean` or `max`.
    pub pooling: RecurrentPooling,
    /// Dropout on the token vectors. Default 0.
    pub embedding_dropout: f64,
    /// Dropout between layers and before the classifier. Default 0.5.
    pub dropout: f64,
    /// How the table starts. Default uniform within 0.25.
    pub embedding_init: Init,
    /// How pooling and classifier start; recurrent weights are uniform within `1 / √hidden_dim`. Default
    /// `fan_in_uniform`.
    pub init: Init,
}

/// How a recurrent model pools over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecurrentPooling {
    /// A mean with learned shares.
    Attention,
    /// The plain mean.
    Mean,
    /// The maximum.
    Max,
}

impl Default for RecurrentConfig {
    fn default() -> Self {
        RecurrentConfig {
            embedding_dim: 128,
            hidden_dim: 128,
            layers: 1,
            pooling: RecurrentPooling::Attention,
            embedding_dropout: 0.0,
            dropout: 0.5,
            embedding_init: Init::Uniform { low: -0.25, high: 0.25 },
            init: Init::FanInUniform,
        }
    }
}

impl RecurrentConfig {
    pub(super) fn read(name: &'static str, config: &Map<String, Value>) -> Result<(Common, Self), ModelError> {
        let (common, own): (Common, Self) = read_config(name, config)?;
        let check = Check(name);
        check.size("embedding_dim", own.embedding_dim)?;
        check.size("hidden_dim", own.hidden_dim)?;
        check.that((1..=64).contains(&own.layers), || {
            format!("\"layers\" must be at least 1 and at most 64, not {}", own.layers)
        })?;
        check.probability("embedding_dropout", own.embedding_dropout)?;
        check.probability("dropout", own.dropout)?;
        Ok((common, own))
    }
}

/// The model: `embedding.weight`, `lstm.weight_ih_l0` … (`gru.…`), `attention.weight` when it pools by attention,
/// `classifier.weight` and `classifier.bias`.
#[derive(Debug)]
pub struct RecurrentClassifier {
    embedding: Embedding,
    num_tokens: i64,
    recurrent: Recurrent,
    pooling: Pooling,
    classifier: Linear,
    embedding_dropout: f64,
    dropout: f64,
}

#[derive(Debug)]
enum Pooling {
    Attention(AttentionPooling),
    Mean,
    Max,
}

impl RecurrentClassifier {
    /// Takes the parameters that the configuration asks for; `name` is the architecture's, for messages.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is wrong or a parameter does not fit it.
    pub fn new(path: &Path, name: &'static str, cell: Cell, config: &Map<String, Value>) -> Result<Self, ModelError> {
        let (common, own) = RecurrentConfig::read(name, config)?;
        let padding = Some(common.pad_token_id);
        let (vocabulary, dim) = (common.vocab_size, own.embedding_dim);
        let embedding = Embedding::new(&path.sub("embedding"), vocabulary, dim, padding, own.embedding_init)?;
        let place = path.sub(match cell {
            Cell::Lstm => "lstm",
            Cell::Gru => "gru",
        });
        let recurrent = Recurrent::new(&place, cell, dim, own.hidden_dim, own.layers, own.dropout)?;
        let features = 2 * own.hidden_dim;
        let pooling = match own.pooling {
            RecurrentPooling::Attention => {
                Pooling::Attention(AttentionPooling::new(&path.sub("attention"), features, own.init)?)
            }
            RecurrentPooling::Mean => Pooling::Mean,
            RecurrentPooling::Max => Pooling::Max,
        };
        Ok(RecurrentClassifier {
            embedding,
            num_tokens: common.num_tokens,
            recurrent,
            pooling,
            classifier: Linear::new(&path.sub("classifier"), features, common.num_labels, own.init)?,
            embedding_dropout: own.embedding_dropout,
            dropout: own.dropout,
        })
    }
}

impl TextClassifier for RecurrentClassifier {
    fn forward(&self, input: &TextInput, train: bool) -> Result<Tensor, ModelError> {
        let input = input.tokens(self.num_tokens);
        let lengths = input.lengths_if_padded()?;
        let mask = input.mask()?; // [batch, time]
        let vectors = self.embedding.positions(&input, Layout::TimeFirst)?; // [time, batch, embedding_dim]
        let vectors = dropout(vectors, self.embedding_dropout, train)?;
        let hidden = self.recurrent.forward(vectors, lengths.as_ref(), train)?; // [time, batch, 2 · hidden_dim]
        let pooled = match &self.pooling {
            Pooling::Attention(attention) => attention.forward(&hidden, mask.as_ref())?,
            Pooling::Mean => mean_over_time(&hidden.f_transpose(0, 1)?, mask.as_ref())?,
            Pooling::Max => max_over_time(&hidden.f_transpose(0, 1)?, mask.as_ref())?,
        }; // [batch, 2 · hidden_dim]
        self.classifier.forward(&dropout(pooled, self.dropout, train)?) // [batch, labels]
    }
}
