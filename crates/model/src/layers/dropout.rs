//! Dropout, Srivastava et al. 2014, scaled while training so that inference needs nothing.

use tch::Tensor;

use crate::error::ModelError;

/// Zeroes each number with this probability and scales the rest by `1 / (1 - probability)`, in training alone; otherwise
/// gives the tensor back untouched. Draws from libtorch's generator, which the training loop seeds by step.
///
/// # Errors
/// [`ModelError::Torch`] when the probability is not in `[0, 1]`.
pub fn dropout(input: Tensor, probability: f64, train: bool) -> Result<Tensor, ModelError> {
    if !train || probability == 0.0 {
        return Ok(input);
    }
    Ok(input.f_dropout(probability, true)?)
}
