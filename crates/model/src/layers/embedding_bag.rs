//! The mean, or the scaled sum, of a text's token vectors in one pass, without padding and without the vectors in between.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// A table `weight` `[vocabulary, width]` whose rows are pooled by bag.
#[derive(Debug)]
pub struct EmbeddingBag {
    weight: Tensor,
    pooling: BagPooling,
}

/// How the vectors of a bag become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BagPooling {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum over the square root of their number: long texts, which say more, speak louder.
    SquareRoot,
}

/// libtorch's numbers for the sum and the mean.
const SUM: i64 = 0;
const MEAN: i64 = 1;

impl EmbeddingBag {
    /// Takes `weight`.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(
        path: &Path,
        vocabulary: i64,
        width: i64,
        pooling: BagPooling,
        init: Init,
    ) -> Result<EmbeddingBag, ModelError> {
        Ok(EmbeddingBag { weight: path.get("weight", &[vocabulary, width], init)?, pooling })
    }

    /// Ids `[tokens]` and bounds `[batch + 1]` → `[batch, width]`; an empty bag is zero.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when an id lies outside the table.
    pub fn forward(&self, ids: &Tensor, bounds: &Tensor) -> Result<Tensor, ModelError> {
        let mode = match self.pooling {
            BagPooling::Mean => MEAN,
            BagPooling::SquareRoot => SUM,
        };
        let (pooled, ..) =
            Tensor::f_embedding_bag(&self.weight, ids, bounds, false, mode, false, None::<&Tensor>, true)?;
        if self.pooling == BagPooling::Mean {
            return Ok(pooled);
        }
        let sizes = bounds.f_diff(1, 0, None::<&Tensor>, None::<&Tensor>)?.f_clamp_min(1)?; // [batch]
        Ok(pooled.f_mul(&sizes.f_to_kind(Kind::Float)?.f_rsqrt()?.f_unsqueeze(1)?)?)
    }
}
