//! DistilBERT: Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>. BERT with half of its layers, without token types and
//! without a pooler, under names of its own.

use tch::Kind;
use tidemill_torch::Activation;
use tidemill_torch::encode::Pooling;

use super::post_norm::{Positions, PostNormEncoder, Types};
use super::sizes::{SizeKeys, Sizes};
use super::{Architecture, Encoder, EncoderShape, Head, HeadKind, HeadParts};
use crate::config::Config;
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::flat::{EmbeddingSum, FusedLinear, PostNormLayer, PostNormPaths, PostNormSizes, RowNorm};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["distilbert"],
    summary: "BERT distilled into half of its layers (Sanh et al. 2019).",
    prefix: "distilbert",
    build,
    head,
};

struct DistilBertConfig {
    sizes: Sizes,
    activation: Activation,
    /// Whether the table of words is also the layer that scores them.
    tied: bool,
}

impl DistilBertConfig {
    fn read(config: Config<'_>) -> Result<DistilBertConfig, ModelError> {
        let keys = SizeKeys {
            vocabulary: ("vocab_size", 30522),
            width: ("dim", 768),
            heads: ("n_heads", 12),
            inner: ("hidden_dim", 3072),
            layers: ("n_layers", 6),
            positions: ("max_position_embeddings", 512),
            // Not a key of the family: every norm has it.
            epsilon: ("layer_norm_eps", 1e-12),
        };
        Ok(DistilBertConfig {
            sizes: Sizes::read(config, &keys)?,
            activation: config.activation("activation", "gelu")?,
            tied: config.flag_or("tie_word_embeddings", true)?,
        })
    }
}

fn build(path: &Path, config: Config<'_>, kind: Kind) -> Result<Box<dyn Encoder>, ModelError> {
    let own = DistilBertConfig::read(config)?;
    let Sizes { vocabulary, width, heads, inner, positions, epsilon, .. } = own.sizes;
    let embeddings = path.sub("embeddings");
    let tables = [(embeddings.sub("word_embeddings"), vocabulary), (embeddings.sub("position_embeddings"), positions)];
    let norm = RowNorm::new(&embeddings.sub("LayerNorm"), width, epsilon, true, kind)?;
    let sizes = PostNormSizes { width, heads, inner, activation: own.activation, epsilon, kind };
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
    Ok(Box::new(PostNormEncoder {
        embeddings: EmbeddingSum::new(&tables, width, norm)?,
        positions: Positions::Place,
        types: Types::Absent,
        layers: (0..own.sizes.layers).map(layer).collect::<Result<_, _>>()?,
        shape: EncoderShape { vocabulary, width, longest: positions },
    }))
}

fn head(parts: &HeadParts<'_>) -> Result<Head, ModelError> {
    let own = DistilBertConfig::read(parts.config)?;
    let Sizes { vocabulary, width, epsilon, .. } = own.sizes;
    let (root, kind) = (&parts.root, parts.kind);
    match parts.head {
        HeadKind::SequenceClassification => {
            let dense = FusedLinear::new(&root.sub("pre_classifier"), width, width, true, kind)?;
            let output = parts.linear("classifier", parts.labels)?;
            let dense = Some(dense.activated(Activation::Relu));
            Ok(Head { pooling: Some(Pooling::First), dense, ..Head::plain(output) })
        }
        HeadKind::TokenClassification => Ok(Head::plain(parts.linear("classifier", parts.labels)?)),
        HeadKind::QuestionAnswering => Ok(Head::plain(parts.linear("qa_outputs", 2)?)),
        HeadKind::MaskedLanguageModel => {
            let dense = FusedLinear::new(&root.sub("vocab_transform"), width, width, true, kind)?;
            let norm = RowNorm::new(&root.sub("vocab_layer_norm"), width, epsilon, true, kind)?;
            let path = root.sub("vocab_projector");
            let output = match parts.encoder.tokens().filter(|_| own.tied) {
                Some(table) => {
                    let bias = path.get("bias", &[vocabulary], Init::Zeros)?;
                    FusedLinear::tied(table, Some(bias), path.is_constant(), kind)?
                }
                None => FusedLinear::new(&path, width, vocabulary, true, kind)?,
            };
            let dense = Some(dense.activated(own.activation));
            Ok(Head { dense, norm: Some(norm), ..Head::plain(output) })
        }
    }
}
