//! The stream of residuals that runs through a transformer beside its layers: He et al. 2016, with the norm before each layer
//! as in Xiong et al. 2020, or after it as in Vaswani et al. 2017.

use tch::Tensor;
use tidemill_torch::encode;

use crate::error::ModelError;

/// A norm that can read a stream, adding an update to it in the same pass over memory.
pub trait StreamNorm {
    /// `norm(sum)`
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    fn norm(&self, sum: &Tensor) -> Result<Tensor, ModelError>;

    /// `sum += update`, and its norm.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    fn add_and_norm(&self, update: &Tensor, sum: &mut Tensor) -> Result<Tensor, ModelError>;
}

/// The sum of all layers' updates, `[tokens, width]`. An update is added when the next norm reads the sum.
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
    pub fn normed(&mut self, norm: &impl StreamNorm) -> Result<Tensor, ModelError> {
        match self.update.take() {
            Some(update) => norm.add_and_norm(&update, &mut self.sum),
            None => norm.norm(&self.sum),
        }
    }

    /// Adds a layer's output, `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn add(&mut self, update: Tensor) -> Result<(), ModelError> {
        if let Some(before) = self.update.replace(update) {
            encode::accumulate(&before, &mut self.sum)?;
        }
        Ok(())
    }

    /// The sum of everything so far.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn sum(&mut self) -> Result<&Tensor, ModelError> {
        if let Some(update) = self.update.take() {
            encode::accumulate(&update, &mut self.sum)?;
        }
        Ok(&self.sum)
    }
}
