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
}
