//! Token ids to vectors.

use tch::Tensor;

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// A table `weight` `[vocabulary, width]`. The padding token's row starts at zero and gets no gradient.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
    padding: Option<i64>,
}

impl Embedding {
    /// Takes `weight`; `padding` is the padding token's id, if there is one.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(
        path: &Path,
        vocabulary: i64,
        width: i64,
        padding: Option<i64>,
        init: Init,
    ) -> Result<Embedding, ModelError> {
        let weight = path.get("weight", &[vocabulary, width], init)?;
        if let Some(row) = padding.filter(|_| weight.requires_grad()) {
            zero_row(&weight, row)?;
        }
        Ok(Embedding { weight, padding })
    }

    /// Ids of any shape `[…]` → `[…, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when an id lies outside the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        Ok(tidemill_torch::embedding(&self.weight, ids, self.padding)?)
    }
}

fn zero_row(weight: &Tensor, row: i64) -> Result<(), ModelError> {
    Ok(tch::no_grad(|| weight.f_narrow(0, row, 1)?.f_zero_().map(drop))?)
}
