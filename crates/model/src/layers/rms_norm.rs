//! Root-mean-square normalisation, Zhang and Sennrich 2019.

use tch::Tensor;
use tidemill_torch::decode;

use crate::error::ModelError;
use crate::init::Init;
use crate::layers::StreamNorm;
use crate::parameters::Path;

/// Divides by the root of the mean square and multiplies by `weight` `[width]`, or by one plus it as Gemma has it.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
    offset: f64,
}

impl RmsNorm {
    /// Takes `weight`. `offset` is added to it: 0 for most families, 1 for Gemma.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, width: i64, epsilon: f64, offset: f64) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm { weight: path.get("weight", &[width], Init::Ones)?, epsilon, offset })
    }

    /// `[…, width]` → the same shape.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        Ok(decode::rms_norm(input, &self.weight, self.epsilon, self.offset)?)
    }
}

impl StreamNorm for RmsNorm {
    fn norm(&self, sum: &Tensor) -> Result<Tensor, ModelError> {
        self.forward(sum)
    }

    fn add_and_norm(&self, update: &Tensor, sum: &mut Tensor) -> Result<Tensor, ModelError> {
        Ok(decode::add_rms_norm(sum, update, &self.weight, self.epsilon, self.offset)?)
    }
}
