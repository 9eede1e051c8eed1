//! The feed-forward layer of the first transformers: one product up, an activation, one product back. Vaswani et al. 2017.

use tch::Tensor;
use tidemill_torch::Activation;

use crate::error::ModelError;
use crate::layers::Projection;

/// `down(activation(up(x)))`.
#[derive(Debug)]
pub struct PlainMlp {
    up: Projection,
    down: Projection,
    activation: Activation,
}

impl PlainMlp {
    /// From its two products.
    pub fn new(up: Projection, down: Projection, activation: Activation) -> PlainMlp {
        PlainMlp { up, down, activation }
    }

    /// `[tokens, width]` → `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        self.down.forward(&self.activation.of(&self.up.forward(input)?)?)
    }
}
