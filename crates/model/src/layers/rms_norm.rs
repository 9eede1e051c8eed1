//! Root-mean-square normalisation, Zhang and Sennrich 2019, and the stream of residuals that decoders keep.

use tch::Tensor;
use tidemill_torch::decode;

use crate::error::ModelError;
use crate::init::Init;
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

/// What runs through a decoder beside its layers: the sum of all their updates, `[tokens, width]`. An update is added when
/// the next norm reads the sum, in one pass over memory.
#[derive(Debug)]
pub struct ResidualStream {
    sum: Tensor,
    update: Option<Tensor>,
}

impl ResidualStream {
    /// Starts with the tokens' vectors.
    pub fn new(embedded: Tensor) -> ResidualStream {
        ResidualStream { sum: embedded, update: None }
    }

    /// The sum so far, normalised.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn normed(&mut self, norm: &RmsNorm) -> Result<Tensor, ModelError> {
        match self.update.take() {
            Some(update) => Ok(decode::add_rms_norm(&mut self.sum, &update, &norm.weight, norm.epsilon, norm.offset)?),
            None => norm.forward(&self.sum),
        }
    }

    /// Adds a layer's output, `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn add(&mut self, update: Tensor) -> Result<(), ModelError> {
        if let Some(before) = self.update.replace(update) {
            self.sum = self.sum.f_add(&before)?;
        }
        Ok(())
    }
}
