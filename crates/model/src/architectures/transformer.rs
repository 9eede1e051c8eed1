//! A small transformer encoder: token vectors plus positions, pre-norm layers of self-attention and a feed-forward
//! block, a last norm, pooling, a linear classifier. Vaswani et al. 2017; the norm goes first as in Xiong et al. 2020,
//! so that training needs no long warm-up. Tensor names are those of `torch.nn.TransformerEncoder`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::Tensor;
use tidemill_torch::gelu_dropout;

use super::{Architecture, Check, Common, TextClassifier, defaults, read_config};
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::{Embedding, LayerNorm, Linear, SelfAttention, dropout, key_bias, mean_over_time};
use crate::parameters::Path;
use crate::text_input::{Layout, TextInput};

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: NAME,
    summary: "Pre-norm transformer encoder (Vaswani et al. 2017, Xiong et al. 2020).",
    defaults: defaults::<TransformerConfig>,
    build: |path, config| Ok(Box::new(TransformerClassifier::new(path, config)?)),
    check: |config| TransformerConfig::read(config).map(drop),
};

const NAME: &str = "transformer";

/// Keys of `transformer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransformerConfig {
    /// Width of token vectors and layers. Default 256.
    pub hidden_dim: i64,
    /// Layers. Default 4.
    pub layers: i64,
    /// Attention heads; they divide `hidden_dim`. Default 4.
    pub heads: i64,
    /// Width inside the feed-forward block. Default 1024.
    pub feed_forward_dim: i64,
    /// Between the feed-forward block's two products: `gelu` (default, exact) or `relu`.
    pub activation: Activation,
    /// `learned` (default) or `sinusoidal`.
    pub positions: Positions,
    /// The longest text in tokens, for learned positions; longer texts are cut. Default 512.
    pub max_positions: i64,
    /// From a vector a token to one a text: `mean` (default), or `cls`, the first token's.
    pub pooling: TransformerPooling,
    /// Dropout on embeddings, inside each feed-forward block and on each block's output. Default 0.1.
    pub dropout: f64,
    /// Dropout on attention weights. Default 0: libtorch's fused attention on the CPU has none, so more than 0 costs time.
    pub attention_dropout: f64,
    /// Dropout before the classifier. Default 0.1.
    pub classifier_dropout: f64,
    /// The norms' epsilon. Default 1e-5.
    pub layer_norm_eps: f64,
    /// How token and position tables start. Default normal with deviation 0.02.
    pub embedding_init: Init,
    /// How the linear layers start. Default `xavier_uniform`.
    pub init: Init,
}

/// What stands between the two products of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Hendrycks and Gimpel 2016, exact.
    Gelu,
    /// The positive part.
    Relu,
}

/// How a token's place is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// A table of vectors.
    Learned,
    /// Sines and cosines of Vaswani et al. 2017, not stored.
    Sinusoidal,
}

/// How a transformer pools over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformerPooling {
    /// The mean over the text's own tokens.
    Mean,
    /// The first token's vector.
    Cls,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        TransformerConfig {
            hidden_dim: 256,
            layers: 4,
            heads: 4,
            feed_forward_dim: 1024,
            activation: Activation::Gelu,
            positions: Positions::Learned,
            max_positions: 512,
            pooling: TransformerPooling::Mean,
            dropout: 0.1,
            attention_dropout: 0.0,
            classifier_dropout: 0.1,
            layer_norm_eps: 1e-5,
            embedding_init: Init::Normal { mean: 0.0, std: 0.02 },
            init: Init::XavierUniform,
        }
    }
}

impl TransformerConfig {
    fn read(config: &Map<String, Value>) -> Result<(Common, Self), ModelError> {
        let (common, own): (Common, Self) = read_config(NAME, config)?;
        let check = Check(NAME);
        for (key, value) in [
            ("hidden_dim", own.hidden_dim),
            ("heads", own.heads),
            ("feed_forward_dim", own.feed_forward_dim),
            ("max_positions", own.max_positions),
        ] {
            check.size(key, value)?;
        }
        check.that((1..=256).contains(&own.layers), || {
            format!("\"layers\" must be at least 1 and at most 256, not {}", own.layers)
        })?;
        check.that(own.hidden_dim % own.heads == 0, || {
            format!("\"hidden_dim\", {}, must be a multiple of \"heads\", {}", own.hidden_dim, own.heads)
        })?;
        check.that(own.positions == Positions::Learned || own.hidden_dim % 2 == 0, || {
            format!("\"hidden_dim\" must be even for sinusoidal positions, not {}", own.hidden_dim)
        })?;
        check.probability("dropout", own.dropout)?;
        check.probability("attention_dropout", own.attention_dropout)?;
        check.probability("classifier_dropout", own.classifier_dropout)?;
        check.that(own.layer_norm_eps > 0.0 && own.layer_norm_eps < 1.0, || {
            format!("\"layer_norm_eps\" must lie between 0 and 1, not {}", own.layer_norm_eps)
        })?;
        Ok((common, own))
    }
}

/// One layer: `x + attention(norm1(x))`, then `x + linear2(activation(linear1(norm2(x))))`.
#[derive(Debug)]
struct EncoderLayer {
    norm1: LayerNorm,
    self_attn: SelfAttention,
    norm2: LayerNorm,
    linear1: Linear,
    linear2: Linear,
    activation: Activation,
    dropout: f64,
}

impl EncoderLayer {
    fn new(path: &Path, own: &TransformerConfig) -> Result<Self, ModelError> {
        let (width, inner) = (own.hidden_dim, own.feed_forward_dim);
        let self_attn = SelfAttention::new(&path.sub("self_attn"), width, own.heads, own.attention_dropout, own.init)?;
        Ok(EncoderLayer {
            self_attn,
            linear1: Linear::new(&path.sub("linear1"), width, inner, own.init)?,
            linear2: Linear::new(&path.sub("linear2"), inner, width, own.init)?,
            norm1: LayerNorm::new(&path.sub("norm1"), width, own.layer_norm_eps)?,
            norm2: LayerNorm::new(&path.sub("norm2"), width, own.layer_norm_eps)?,
            activation: own.activation,
            dropout: own.dropout,
        })
    }

    /// Takes the stream `[batch, time, hidden_dim]` and its first norm; gives the stream and its norm by `next`.
    fn forward(
        &self,
        stream: Stream,
        next: &LayerNorm,
        keys: Option<&Tensor>,
        train: bool,
    ) -> Result<Stream, ModelError> {
        let attended = self.self_attn.forward(&stream.normed, keys, train)?;
        let stream = stream.add(&attended, &self.norm2, self.dropout, train)?;
        let inner = self.linear1.forward(&stream.normed)?; // [batch, time, feed_forward_dim]
        let inner = match self.activation {
            Activation::Gelu => gelu_dropout(&inner, if train { self.dropout } else { 0.0 })?,
            Activation::Relu => dropout(inner.f_relu()?, self.dropout, train)?,
        };
        stream.add(&self.linear2.forward(&inner)?, next, self.dropout, train)
    }
}

/// What runs from layer to layer, and its norm for the next block: one pass over memory makes both.
struct Stream {
    hidden: Tensor,
    normed: Tensor,
}

impl Stream {
    fn add(&self, branch: &Tensor, norm: &LayerNorm, dropout: f64, train: bool) -> Result<Stream, ModelError> {
        let (hidden, normed) = norm.add(branch, &self.hidden, dropout, train)?;
        Ok(Stream { hidden, normed })
    }
}

/// The model: `embedding.weight`, `positions.weight` when they are learned, `encoder.layers.N.…`, `encoder.norm.…`,
/// `classifier.weight` and `classifier.bias`.
#[derive(Debug)]
pub struct TransformerClassifier {
    embedding: Embedding,
    num_tokens: i64,
    /// `[max_positions, hidden_dim]`
    positions: Tensor,
    layers: Vec<EncoderLayer>,
    norm: LayerNorm,
    classifier: Linear,
    pooling: TransformerPooling,
    dropout: f64,
    classifier_dropout: f64,
    max_positions: i64,
}

impl TransformerClassifier {
    /// Takes the parameters that the configuration asks for.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is wrong or a parameter does not fit it.
    pub fn new(path: &Path, config: &Map<String, Value>) -> Result<Self, ModelError> {
        let (common, own) = TransformerConfig::read(config)?;
        let padding = Some(common.pad_token_id);
        let (vocabulary, width) = (common.vocab_size, own.hidden_dim);
        let embedding = Embedding::new(&path.sub("embedding"), vocabulary, width, padding, own.embedding_init)?;
        let positions = match own.positions {
            Positions::Learned => {
                let shape = [own.max_positions, width];
                path.sub("positions").get("weight", &shape, own.embedding_init)?
            }
            Positions::Sinusoidal => sinusoidal(own.max_positions, width)?.f_to_device(path.device())?,
        };
        let encoder = path.sub("encoder");
        let layers = encoder.sub("layers");
        let layers = (0..own.layers).map(|index| EncoderLayer::new(&layers.sub(index), &own));
        Ok(TransformerClassifier {
            embedding,
            num_tokens: common.num_tokens,
            positions,
            layers: layers.collect::<Result<Vec<_>, _>>()?,
            norm: LayerNorm::new(&encoder.sub("norm"), width, own.layer_norm_eps)?,
            classifier: Linear::new(&path.sub("classifier"), width, common.num_labels, own.init)?,
            pooling: own.pooling,
            dropout: own.dropout,
            classifier_dropout: own.classifier_dropout,
            max_positions: own.max_positions,
        })
    }
}

impl TextClassifier for TransformerClassifier {
    fn forward(&self, input: &TextInput, train: bool) -> Result<Tensor, ModelError> {
        let input = input.tokens(self.num_tokens);
        let input = input.cut(self.max_positions);
        let mask = input.mask()?; // [batch, time]
        let keys = mask.as_ref().map(key_bias).transpose()?; // [batch, 1, 1, time]
        let positions = self.positions.f_narrow(0, 0, input.time())?;
        let hidden = self.embedding.positions(&input, Layout::BatchFirst(0))?.f_add(&positions)?;
        let hidden = dropout(hidden, self.dropout, train)?; // [batch, time, hidden_dim]
        let norm_of = |layer: usize| self.layers.get(layer).map_or(&self.norm, |layer| &layer.norm1);
        let mut stream = Stream { normed: norm_of(0).forward(&hidden)?, hidden };
        for (index, layer) in self.layers.iter().enumerate() {
            stream = layer.forward(stream, norm_of(index + 1), keys.as_ref(), train)?;
        }
        let pooled = match self.pooling {
            TransformerPooling::Mean => mean_over_time(&stream.normed, mask.as_ref())?,
            TransformerPooling::Cls => stream.normed.f_select(1, 0)?,
        }; // [batch, hidden_dim]
        self.classifier.forward(&dropout(pooled, self.classifier_dropout, train)?) // [batch, labels]
    }
}

/// `sin(place / 10000^(2i / width))` at even columns and the cosine at odd ones, `[count, width]`.
fn sinusoidal(count: i64, width: i64) -> Result<Tensor, ModelError> {
    let values: Vec<f32> = (0..count)
        .flat_map(|place| (0..width).map(move |column| (place, column)))
        .map(|(place, column)| {
            let exponent = (column - column % 2) as f64 / width as f64;
            let angle = place as f64 / 10_000_f64.powf(exponent);
            (if column % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
        })
        .collect();
    Ok(Tensor::f_from_slice(&values)?.f_view([count, width])?)
}
