//! RoBERTa, Liu et al. 2019, <https://arxiv.org/abs/1907.11692>, and XLM-RoBERTa, Conneau et al. 2019,
//! <https://arxiv.org/abs/1911.02116>: BERT's layers with positions that start behind the padding token's, other heads and
//! other tokenisers.

use tch::Kind;
use tidemill_torch::Activation;
use tidemill_torch::encode::Pooling;

use super::bert::{BertConfig, word_scores};
use super::post_norm::{Positions, PostNormEncoder, Types};
use super::sizes::Sizes;
use super::{Architecture, Encoder, EncoderShape, Head, HeadKind, HeadParts};
use crate::config::Config;
use crate::error::ModelError;
use crate::layers::flat::{FusedLinear, RowNorm};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["roberta", "xlm-roberta", "camembert"],
    summary: "BERT trained longer, in one language (Liu et al. 2019) or a hundred (Conneau et al. 2019).",
    prefix: "roberta",
    build,
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

fn build(path: &Path, config: Config<'_>, kind: Kind) -> Result<Box<dyn Encoder>, ModelError> {
    let own = read(config)?;
    let Sizes { vocabulary, width, positions, .. } = own.sizes;
    Ok(Box::new(PostNormEncoder {
        embeddings: own.embeddings(path, kind)?,
        positions: Positions::After(own.padding),
        types: if own.types > 1 { Types::OfPair } else { Types::First },
        layers: own.layers(path, kind)?,
        shape: EncoderShape { vocabulary, width, longest: positions - own.padding - 1 },
    }))
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
        HeadKind::TokenClassification => Ok(Head::plain(parts.linear("classifier", parts.labels)?)),
        HeadKind::QuestionAnswering => Ok(Head::plain(parts.linear("qa_outputs", 2)?)),
        HeadKind::MaskedLanguageModel => {
            let path = root.sub("lm_head");
            let dense = FusedLinear::new(&path.sub("dense"), width, width, true, kind)?.activated(Activation::Gelu);
            let norm = RowNorm::new(&path.sub("layer_norm"), width, epsilon, true, kind)?;
            let output = word_scores(parts, &path, vocabulary, own.tied)?;
            Ok(Head { dense: Some(dense), norm: Some(norm), ..Head::plain(output) })
        }
    }
}
