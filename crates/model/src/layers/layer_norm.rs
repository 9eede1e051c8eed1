//! Layer normalisation, Ba et al. 2016.

use tch::Tensor;

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// Normalises the last dimension; parameters `weight` and `bias` `[width]`.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    width: i64,
    epsilon: f64,
}

impl LayerNorm {
    /// Takes `weight`, started at one, and `bias`, started at zero.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, width: i64, epsilon: f64) -> Result<LayerNorm, ModelError> {
        Ok(LayerNorm {
            weight: path.get("weight", &[width], Init::Ones)?,
            bias: path.get("bias", &[width], Init::Zeros)?,
            width,
            epsilon,
        })
    }

    /// `[…, width]` → the same shape.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        Ok(input.f_layer_norm(self.width, Some(&self.weight), Some(&self.bias), self.epsilon, false)?)
    }

    /// `residual + dropout(branch)` and its norm, in this order, in one pass over memory; all are `[…, width]`. Drops only
    /// while training.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn add(
        &self,
        branch: &Tensor,
        residual: &Tensor,
        dropout: f64,
        train: bool,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let dropout = if train { dropout } else { 0.0 };
        let own = (&self.weight, &self.bias);
        Ok(tidemill_torch::dropout_add_layer_norm(branch, residual, dropout, own, self.epsilon)?)
    }
}
