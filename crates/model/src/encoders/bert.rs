//! BERT: Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>. Token, position and type vectors added and normalised,
//! then layers with the norm last. MiniLM, E5, BGE and GTE embedders are of this family too.

use serde_json::Value;
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
    model_types: &["bert"],
    summary: "Bidirectional transformer with learned positions (Devlin et al. 2018).",
    prefix: "bert",
    build,
    head,
};

fn read(config: Config<'_>) -> Result<BertConfig, ModelError> {
    BertConfig::read(config, 30522, 0)
}

/// What `config.json` says; RoBERTa's has the same keys.
pub(super) struct BertConfig {
    pub(super) sizes: Sizes,
    /// Kinds of tokens: the first and the second of a pair.
    pub(super) types: i64,
    pub(super) activation: Activation,
    /// `pad_token_id`.
    pub(super) padding: i64,
    /// Whether the table of words is also the layer that scores them.
    pub(super) tied: bool,
}

impl BertConfig {
    /// Reads the keys; `vocabulary` and `padding` are what the family has where they are missing.
    ///
    /// # Errors
    /// [`ModelError::Config`] that names the key.
    pub(super) fn read(config: Config<'_>, vocabulary: i64, padding: i64) -> Result<BertConfig, ModelError> {
        let keys = SizeKeys {
            vocabulary: ("vocab_size", vocabulary),
            width: ("hidden_size", 768),
            heads: ("num_attention_heads", 12),
            inner: ("intermediate_size", 3072),
            layers: ("num_hidden_layers", 12),
            positions: ("max_position_embeddings", 512),
            epsilon: ("layer_norm_eps", 1e-12),
        };
        let sizes = Sizes::read(config, &keys)?;
        let position_kind = config.text_or("position_embedding_type", "absolute")?;
        if position_kind != "absolute" {
            let problem = format!("\"position_embedding_type\" is \"{position_kind}\", and only \"absolute\" is known");
            return Err(config.refuse(problem));
        }
        if config.flag_or("is_decoder", false)? {
            return Err(config.refuse("\"is_decoder\" is true, and this is an encoder"));
        }
        let padding = config.get("pad_token_id").map_or(Some(padding), Value::as_i64);
        let padding = padding
            .filter(|padding| (0..sizes.vocabulary).contains(padding))
            .ok_or_else(|| config.refuse(format!("\"pad_token_id\" must be one of the {} tokens", sizes.vocabulary)))?;
        Ok(BertConfig {
            types: config.size_or("type_vocab_size", 2)?,
            activation: config.activation("hidden_act", "gelu")?,
            tied: config.flag_or("tie_word_embeddings", true)?,
            padding,
            sizes,
        })
    }

    /// Layers under `encoder.layer.N`, as BERT and RoBERTa name their parts.
    pub(super) fn layers(&self, path: &Path, kind: Kind) -> Result<Vec<PostNormLayer>, ModelError> {
        let Sizes { width, heads, inner, epsilon, .. } = self.sizes;
        let sizes = PostNormSizes { width, heads, inner, activation: self.activation, epsilon, kind };
        let layer = |index: i64| {
            let path = path.sub("encoder.layer").sub(index);
            let paths = PostNormPaths {
                qkv: ["query", "key", "value"].map(|part| path.sub("attention.self").sub(part)),
                attention_output: path.sub("attention.output.dense"),
                attention_norm: path.sub("attention.output.LayerNorm"),
                up: path.sub("intermediate.dense"),
                down: path.sub("output.dense"),
                output_norm: path.sub("output.LayerNorm"),
            };
            PostNormLayer::new(&paths, sizes)
        };
        (0..self.sizes.layers).map(layer).collect()
    }

    /// The tables under `embeddings`: tokens, positions, types.
    pub(super) fn embeddings(&self, path: &Path, kind: Kind) -> Result<EmbeddingSum, ModelError> {
        let path = path.sub("embeddings");
        let Sizes { vocabulary, width, positions, epsilon, .. } = self.sizes;
        let tables = [
            (path.sub("word_embeddings"), vocabulary),
            (path.sub("position_embeddings"), positions),
            (path.sub("token_type_embeddings"), self.types),
        ];
        let norm = RowNorm::new(&path.sub("LayerNorm"), width, epsilon, true, kind)?;
        EmbeddingSum::new(&tables, width, norm)
    }
}

fn build(path: &Path, config: Config<'_>, kind: Kind) -> Result<Box<dyn Encoder>, ModelError> {
    let own = read(config)?;
    let Sizes { vocabulary, width, positions, .. } = own.sizes;
    Ok(Box::new(PostNormEncoder {
        embeddings: own.embeddings(path, kind)?,
        positions: Positions::Place,
        types: Types::OfPair,
        layers: own.layers(path, kind)?,
        shape: EncoderShape { vocabulary, width, longest: positions },
    }))
}

fn head(parts: &HeadParts<'_>) -> Result<Head, ModelError> {
    let own = read(parts.config)?;
    let Sizes { vocabulary, width, epsilon, .. } = own.sizes;
    let (root, kind) = (&parts.root, parts.kind);
    match parts.head {
        HeadKind::SequenceClassification => Ok(Head {
            pooling: Some(Pooling::First),
            dense: Some(
                FusedLinear::new(&parts.base.sub("pooler.dense"), width, width, true, kind)?
                    .activated(Activation::Tanh),
            ),
            ..Head::plain(parts.linear("classifier", parts.labels)?)
        }),
        HeadKind::TokenClassification => Ok(Head::plain(parts.linear("classifier", parts.labels)?)),
        HeadKind::QuestionAnswering => Ok(Head::plain(parts.linear("qa_outputs", 2)?)),
        HeadKind::MaskedLanguageModel => {
            let path = root.sub("cls.predictions");
            let dense = FusedLinear::new(&path.sub("transform.dense"), width, width, true, kind)?;
            let norm = RowNorm::new(&path.sub("transform.LayerNorm"), width, epsilon, true, kind)?;
            let output = word_scores(parts, &path, vocabulary, own.tied)?;
            let dense = Some(dense.activated(own.activation));
            Ok(Head { dense, norm: Some(norm), ..Head::plain(output) })
        }
    }
}

/// The layer from a vector to a score for every word: `decoder.weight`, or the table of words, and `bias`, which some
/// files have under `decoder` as well.
pub(super) fn word_scores(
    parts: &HeadParts<'_>,
    path: &Path,
    vocabulary: i64,
    tied: bool,
) -> Result<FusedLinear, ModelError> {
    let decoder = path.sub("decoder");
    let bias = if path.contains("bias") { path } else { &decoder };
    let bias = bias.get("bias", &[vocabulary], Init::Zeros)?;
    match parts.encoder.tokens().filter(|_| tied) {
        Some(table) => FusedLinear::tied(table, Some(bias), path.is_constant(), parts.kind),
        None => {
            let shape = [vocabulary, parts.encoder.shape().width];
            let weight = decoder.get("weight", &shape, Init::XavierUniform)?;
            FusedLinear::tied(&weight, Some(bias), path.is_constant(), parts.kind)
        }
    }
}
