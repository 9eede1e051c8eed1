//! What BERT, RoBERTa and DistilBERT are once their parameters are found: tables added and normalised, then layers with
//! the norm last.

use tch::Tensor;

use super::{Encoder, EncoderShape};
use crate::error::ModelError;
use crate::layers::flat::{EmbeddingSum, FlatBatch, PostNormLayer};

/// Where a token's position comes from.
pub(super) enum Positions {
    /// Its place in the text.
    Place,
    /// As [`FlatBatch::positions_after`] counts, behind this padding token's.
    After(i64),
}

/// What the third table is asked for.
pub(super) enum Types {
    /// There is none.
    Absent,
    /// Which text of a pair a token is of.
    OfPair,
    /// Its first row: most models of a family have one type, whatever their tokeniser says.
    First,
}

pub(super) struct PostNormEncoder {
    pub(super) embeddings: EmbeddingSum,
    pub(super) positions: Positions,
    pub(super) types: Types,
    pub(super) layers: Vec<PostNormLayer>,
    pub(super) shape: EncoderShape,
}

impl Encoder for PostNormEncoder {
    fn forward(&self, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let positions = match self.positions {
            Positions::Place => batch.positions()?,
            Positions::After(padding) => batch.positions_after(padding)?,
        };
        let types = match self.types {
            Types::Absent => None,
            Types::OfPair => Some(batch.type_ids().shallow_clone()),
            Types::First => Some(batch.type_ids().f_zeros_like()?),
        };
        let ids: Vec<&Tensor> = [batch.ids(), &positions].into_iter().chain(&types).collect();
        let mut hidden = self.embeddings.forward(&ids)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, batch)?; // [tokens, width]
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
