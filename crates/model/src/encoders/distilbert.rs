//! DistilBERT: Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>. BERT with half of its layers, without token types and
//! without a pooler, under names of its own.

use serde::Deserialize;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};
use tidemill_torch::encode::{Activation, Pooling};

use super::config::{Sizes, activation, read};
use super::{Architecture, Encoder, EncoderShape, Head, HeadKind, HeadParts};
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::flat::{EmbeddingSum, FlatBatch, FusedLinear, PostNormLayer, PostNormPaths, PostNormSizes, RowNorm};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &[NAME],
    summary: "BERT distilled into half of its layers (Sanh et al. 2019).",
    prefix: "distilbert",
    build: |path, config, kind| Ok(Box::new(DistilBert::new(path, &DistilBertConfig::read(config)?, kind)?)),
    head,
};

const NAME: &str = "distilbert";
/// Not a key: every norm of the family has it.
const EPSILON: f64 = 1e-12;

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct DistilBertConfig {
    vocab_size: i64,
    dim: i64,
    n_layers: i64,
    n_heads: i64,
    hidden_dim: i64,
    activation: String,
    max_position_embeddings: i64,
    tie_word_embeddings: bool,
}

impl Default for DistilBertConfig {
    fn default() -> DistilBertConfig {
        DistilBertConfig {
            vocab_size: 30522,
            dim: 768,
            n_layers: 6,
            n_heads: 12,
            hidden_dim: 3072,
            activation: "gelu".to_string(),
            max_position_embeddings: 512,
            tie_word_embeddings: true,
        }
    }
}

impl DistilBertConfig {
    fn read(config: &Map<String, Value>) -> Result<DistilBertConfig, ModelError> {
        let own: DistilBertConfig = read(NAME, config)?;
        let sizes = Sizes {
            vocabulary: own.vocab_size,
            width: own.dim,
            heads: own.n_heads,
            inner: own.hidden_dim,
            layers: own.n_layers,
            positions: own.max_position_embeddings,
            epsilon: EPSILON,
        };
        sizes.check(
            NAME,
            ["vocab_size", "dim", "n_heads", "hidden_dim", "n_layers", "max_position_embeddings", "layer_norm_eps"],
        )?;
        Ok(own)
    }

    fn activation(&self) -> Result<Activation, ModelError> {
        activation(NAME, "activation", &self.activation)
    }
}

struct DistilBert {
    embeddings: EmbeddingSum,
    layers: Vec<PostNormLayer>,
    shape: EncoderShape,
}

impl DistilBert {
    fn new(path: &Path, own: &DistilBertConfig, kind: Kind) -> Result<DistilBert, ModelError> {
        let embeddings = path.sub("embeddings");
        let tables = [
            (embeddings.sub("word_embeddings"), own.vocab_size),
            (embeddings.sub("position_embeddings"), own.max_position_embeddings),
        ];
        let norm = RowNorm::new(&embeddings.sub("LayerNorm"), own.dim, EPSILON, true, kind)?;
        let sizes = PostNormSizes {
            width: own.dim,
            heads: own.n_heads,
            inner: own.hidden_dim,
            activation: own.activation()?,
            epsilon: EPSILON,
            kind,
        };
        let layer = |index: i64| {
            let path = path.sub("transformer.layer").sub(index);
            let paths = PostNormPaths {
                qkv: ["q_lin", "k_lin", "v_lin"].map(|part| path.sub("attention").sub(part)),
                attention_output: path.sub("attention.out_lin"),
                attention_norm: path.sub("sa_layer_norm"),
                up: path.sub("ffn.lin1"),
                down: path.sub("ffn.lin2"),
                output_norm: path.sub("output_layer_norm"),
            };
            PostNormLayer::new(&paths, sizes)
        };
        Ok(DistilBert {
            embeddings: EmbeddingSum::new(&tables, own.dim, norm)?,
            layers: (0..own.n_layers).map(layer).collect::<Result<_, _>>()?,
            shape: EncoderShape { vocabulary: own.vocab_size, width: own.dim, longest: own.max_position_embeddings },
        })
    }
}

impl Encoder for DistilBert {
    fn forward(&self, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let mut hidden = self.embeddings.forward(&[batch.ids(), &batch.positions()?])?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, batch)?; // [tokens, dim]
        }
        Ok(hidden)
    }

    fn shape(&self) -> EncoderShape {
        self.shape
    }

    fn tokens(&self) -> Option<&Tensor> {
        self.embeddings.tokens()
    }
}

fn head(parts: &HeadParts<'_>) -> Result<Head, ModelError> {
    let own = DistilBertConfig::read(parts.config)?;
    let (root, width, kind) = (&parts.root, own.dim, parts.kind);
    match parts.head {
        HeadKind::SequenceClassification => {
            let dense = FusedLinear::new(&root.sub("pre_classifier"), width, width, true, kind)?;
            let output = FusedLinear::new(&root.sub("classifier"), width, parts.labels, true, kind)?;
            let dense = Some(dense.activated(Activation::Relu));
            Ok(Head { pooling: Some(Pooling::First), dense, ..Head::plain(output) })
        }
        HeadKind::TokenClassification => {
            Ok(Head::plain(FusedLinear::new(&root.sub("classifier"), width, parts.labels, true, kind)?))
        }
        HeadKind::QuestionAnswering => {
            Ok(Head::plain(FusedLinear::new(&root.sub("qa_outputs"), width, 2, true, kind)?))
        }
        HeadKind::MaskedLanguageModel => {
            let dense = FusedLinear::new(&root.sub("vocab_transform"), width, width, true, kind)?;
            let norm = RowNorm::new(&root.sub("vocab_layer_norm"), width, EPSILON, true, kind)?;
            let path = root.sub("vocab_projector");
            let output = match parts.encoder.tokens().filter(|_| own.tie_word_embeddings) {
                Some(table) => {
                    let bias = path.get("bias", &[own.vocab_size], Init::Zeros)?;
                    FusedLinear::tied(table, Some(bias), path.is_constant(), kind)?
                }
                None => FusedLinear::new(&path, width, own.vocab_size, true, kind)?,
            };
            let dense = Some(dense.activated(own.activation()?));
            Ok(Head { dense, norm: Some(norm), ..Head::plain(output) })
        }
    }
}
