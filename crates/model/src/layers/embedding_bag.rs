//! The mean of a text's token vectors in one pass, without padding and without the vectors in between.

use tch::Tensor;

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// A table `weight` `[vocabulary, width]` whose rows are averaged by bag.
#[derive(Debug)]
pub struct EmbeddingBag {
    weight: Tensor,
}

/// libtorch's number for the mean, after 0 for the sum.
const MEAN: i64 = 1;

impl EmbeddingBag {
    /// Takes `weight`.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, vocabulary: i64, width: i64, init: Init) -> Result<EmbeddingBag, ModelError> {
        Ok(EmbeddingBag { weight: path.get("weight", &[vocabulary, width], init)? })
    }

    /// Ids `[tokens]` and bounds `[batch + 1]` → means `[batch, width]`; the mean of an empty bag is zero.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when an id lies outside the table.
    pub fn forward(&self, ids: &Tensor, bounds: &Tensor) -> Result<Tensor, ModelError> {
        let (means, ..) =
            Tensor::f_embedding_bag(&self.weight, ids, bounds, false, MEAN, false, None::<&Tensor>, true)?;
        Ok(means)
    }
}
