//! BERT: Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>. Token, position and type vectors added and normalised,
//! then layers with the norm last. MiniLM, E5, BGE and GTE embedders are of this family too.

use serde::Deserialize;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};
use tidemill_torch::encode::{Activation, Pooling};

use super::config::{Sizes, activation, read, refuse};
use super::{Architecture, Encoder, EncoderShape, Head, HeadKind, HeadParts};
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::flat::{EmbeddingSum, FlatBatch, FusedLinear, PostNormLayer, PostNormPaths, PostNormSizes, RowNorm};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &[NAME],
    summary: "Bidirectional transformer with learned positions (Devlin et al. 2018).",
    prefix: "bert",
    build: |path, config, kind| Ok(Box::new(Bert::new(path, &BertConfig::read(NAME, config)?, kind)?)),
    head,
};

const NAME: &str = "bert";

/// Keys of `config.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct BertConfig {
    pub(super) vocab_size: i64,
    pub(super) hidden_size: i64,
    pub(super) num_hidden_layers: i64,
    pub(super) num_attention_heads: i64,
    pub(super) intermediate_size: i64,
    pub(super) hidden_act: String,
    pub(super) max_position_embeddings: i64,
    pub(super) type_vocab_size: i64,
    pub(super) layer_norm_eps: f64,
    pub(super) pad_token_id: i64,
    pub(super) position_embedding_type: String,
    pub(super) is_decoder: bool,
    pub(super) tie_word_embeddings: bool,
}

impl Default for BertConfig {
    fn default() -> BertConfig {
        BertConfig {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_string(),
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
            position_embedding_type: "absolute".to_string(),
            is_decoder: false,
            tie_word_embeddings: true,
        }
    }
}

impl BertConfig {
    /// Also RoBERTa's, whose keys are the same.
    pub(super) fn read(name: &'static str, config: &Map<String, Value>) -> Result<BertConfig, ModelError> {
        let own: BertConfig = read(name, config)?;
        let sizes = Sizes {
            vocabulary: own.vocab_size,
            width: own.hidden_size,
            heads: own.num_attention_heads,
            inner: own.intermediate_size,
            layers: own.num_hidden_layers,
            positions: own.max_position_embeddings,
            epsilon: own.layer_norm_eps,
        };
        sizes.check(
            name,
            [
                "vocab_size",
                "hidden_size",
                "num_attention_heads",
                "intermediate_size",
                "num_hidden_layers",
                "max_position_embeddings",
                "layer_norm_eps",
            ],
        )?;
        if !(1..=1 << 20).contains(&own.type_vocab_size) {
            return Err(refuse(name, format!("\"type_vocab_size\" must be at least 1, not {}", own.type_vocab_size)));
        }
        if own.position_embedding_type != "absolute" {
            let kind = &own.position_embedding_type;
            let problem = format!("\"position_embedding_type\" is \"{kind}\", and only \"absolute\" is known");
            return Err(refuse(name, problem));
        }
        if own.is_decoder {
            return Err(refuse(name, "\"is_decoder\" is true, and this is an encoder".to_string()));
        }
        Ok(own)
    }

    pub(super) fn activation(&self, name: &str) -> Result<Activation, ModelError> {
        activation(name, "hidden_act", &self.hidden_act)
    }

    /// Layers under `encoder.layer.N`, as BERT and RoBERTa name their parts.
    pub(super) fn layers(&self, name: &str, path: &Path, kind: Kind) -> Result<Vec<PostNormLayer>, ModelError> {
        let sizes = PostNormSizes {
            width: self.hidden_size,
            heads: self.num_attention_heads,
            inner: self.intermediate_size,
            activation: self.activation(name)?,
            epsilon: self.layer_norm_eps,
            kind,
        };
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
        (0..self.num_hidden_layers).map(layer).collect()
    }

    /// The tables under `embeddings`: tokens, positions, types.
    pub(super) fn embeddings(&self, path: &Path, kind: Kind) -> Result<EmbeddingSum, ModelError> {
        let path = path.sub("embeddings");
        let tables = [
            (path.sub("word_embeddings"), self.vocab_size),
            (path.sub("position_embeddings"), self.max_position_embeddings),
            (path.sub("token_type_embeddings"), self.type_vocab_size),
        ];
        let norm = RowNorm::new(&path.sub("LayerNorm"), self.hidden_size, self.layer_norm_eps, true, kind)?;
        EmbeddingSum::new(&tables, self.hidden_size, norm)
    }
}

struct Bert {
    embeddings: EmbeddingSum,
    layers: Vec<PostNormLayer>,
    shape: EncoderShape,
}

impl Bert {
    fn new(path: &Path, own: &BertConfig, kind: Kind) -> Result<Bert, ModelError> {
        Ok(Bert {
            embeddings: own.embeddings(path, kind)?,
            layers: own.layers(NAME, path, kind)?,
            shape: EncoderShape {
                vocabulary: own.vocab_size,
                width: own.hidden_size,
                longest: own.max_position_embeddings,
            },
        })
    }
}

impl Encoder for Bert {
    fn forward(&self, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let mut hidden = self.embeddings.forward(&[batch.ids(), &batch.positions()?, batch.type_ids()])?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, batch)?; // [tokens, hidden_size]
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
    let own = BertConfig::read(NAME, parts.config)?;
    let (root, width, kind) = (&parts.root, own.hidden_size, parts.kind);
    match parts.head {
        HeadKind::SequenceClassification => Ok(Head {
            pooling: Some(Pooling::First),
            dense: Some(
                FusedLinear::new(&parts.base.sub("pooler.dense"), width, width, true, kind)?
                    .activated(Activation::Tanh),
            ),
            ..Head::plain(FusedLinear::new(&root.sub("classifier"), width, parts.labels, true, kind)?)
        }),
        HeadKind::TokenClassification => {
            Ok(Head::plain(FusedLinear::new(&root.sub("classifier"), width, parts.labels, true, kind)?))
        }
        HeadKind::QuestionAnswering => {
            Ok(Head::plain(FusedLinear::new(&root.sub("qa_outputs"), width, 2, true, kind)?))
        }
        HeadKind::MaskedLanguageModel => {
            let path = root.sub("cls.predictions");
            let dense = FusedLinear::new(&path.sub("transform.dense"), width, width, true, kind)?;
            let norm = RowNorm::new(&path.sub("transform.LayerNorm"), width, own.layer_norm_eps, true, kind)?;
            let output = word_scores(parts, &path, own.vocab_size, own.tie_word_embeddings)?;
            let dense = Some(dense.activated(own.activation(NAME)?));
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
