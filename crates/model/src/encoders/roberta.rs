//! RoBERTa, Liu et al. 2019, <https://arxiv.org/abs/1907.11692>, and XLM-RoBERTa, Conneau et al. 2019,
//! <https://arxiv.org/abs/1911.02116>: BERT's layers with positions that start behind the padding token's, other heads and
//! other tokenisers.

use tch::{Kind, Tensor};
use tidemill_torch::Activation;
use tidemill_torch::encode::Pooling;

use super::bert::{BertConfig, word_scores};
use super::sizes::Sizes;
use super::{Architecture, Encoder, EncoderShape, Head, HeadKind, HeadParts};
use crate::config::Config;
use crate::error::ModelError;
use crate::layers::flat::{EmbeddingSum, FlatBatch, FusedLinear, PostNormLayer, RowNorm};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["roberta", "xlm-roberta", "camembert"],
    summary: "BERT trained longer, in one language (Liu et al. 2019) or a hundred (Conneau et al. 2019).",
    prefix: "roberta",
    build: |path, config, kind| Ok(Box::new(Roberta::new(path, &read(config)?, kind)?)),
    head,
};

fn read(config: Config<'_>) -> Result<BertConfig, ModelError> {
    let own = BertConfig::read(config, 50265, 1)?;
    if own.padding + 1 >= own.sizes.positions {
        let (padding, positions) = (own.padding, own.sizes.positions);
        return Err(config.refuse(format!(
            "\"pad_token_id\" is {padding}, and positions start behind it: \"max_position_embeddings\", {positions}, \
             leaves none"
        )));
    }
    Ok(own)
}

struct Roberta {
    embeddings: EmbeddingSum,
    layers: Vec<PostNormLayer>,
    padding: i64,
    /// Whether there is more than one type of tokens: most of the family have one, whatever their tokeniser says.
    types: bool,
    shape: EncoderShape,
}

impl Roberta {
    fn new(path: &Path, own: &BertConfig, kind: Kind) -> Result<Roberta, ModelError> {
        let Sizes { vocabulary, width, positions, .. } = own.sizes;
        Ok(Roberta {
            embeddings: own.embeddings(path, kind)?,
            layers: own.layers(path, kind)?,
            padding: own.padding,
            types: own.types > 1,
            shape: EncoderShape { vocabulary, width, longest: positions - own.padding - 1 },
        })
    }
}

impl Encoder for Roberta {
    fn forward(&self, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let positions = batch.positions_after(self.padding)?;
        let types = if self.types { batch.type_ids().shallow_clone() } else { batch.type_ids().f_zeros_like()? };
        let mut hidden = self.embeddings.forward(&[batch.ids(), &positions, &types])?;
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
    let own = read(parts.config)?;
    let Sizes { vocabulary, width, epsilon, .. } = own.sizes;
    let (root, kind) = (&parts.root, parts.kind);
    match parts.head {
        HeadKind::SequenceClassification => {
            let path = root.sub("classifier");
            let dense = FusedLinear::new(&path.sub("dense"), width, width, true, kind)?.activated(Activation::Tanh);
            let output = FusedLinear::new(&path.sub("out_proj"), width, parts.labels, true, kind)?;
            Ok(Head { pooling: Some(Pooling::First), dense: Some(dense), ..Head::plain(output) })
        }
        HeadKind::TokenClassification => {
            Ok(Head::plain(FusedLinear::new(&root.sub("classifier"), width, parts.labels, true, kind)?))
        }
        HeadKind::QuestionAnswering => {
            Ok(Head::plain(FusedLinear::new(&root.sub("qa_outputs"), width, 2, true, kind)?))
        }
        HeadKind::MaskedLanguageModel => {
            let path = root.sub("lm_head");
            let dense = FusedLinear::new(&path.sub("dense"), width, width, true, kind)?.activated(Activation::Gelu);
            let norm = RowNorm::new(&path.sub("layer_norm"), width, epsilon, true, kind)?;
            let output = word_scores(parts, &path, vocabulary, own.tied)?;
            Ok(Head { dense: Some(dense), norm: Some(norm), ..Head::plain(output) })
        }
    }
}
