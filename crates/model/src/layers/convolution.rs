//! Convolution over a text with maximum over time, Kim 2014.

use tch::Tensor;

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// `filters` windows of one width: parameters `weight` `[filters, inputs, width]`, as in `torch.nn.Conv1d`, and `bias`
/// `[filters]`.
#[derive(Debug)]
pub struct TextConvolution {
    weight: Tensor,
    bias: Tensor,
}

impl TextConvolution {
    /// Takes `weight`, started by `init`, and `bias`, started at zero.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, inputs: i64, filters: i64, width: i64, init: Init) -> Result<TextConvolution, ModelError> {
        Ok(TextConvolution {
            weight: path.get("weight", &[filters, inputs, width], init)?,
            bias: path.get("bias", &[filters], Init::Zeros)?,
        })
    }

    /// Vectors `[batch, time, inputs]` → the largest answer of each filter over the text, after ReLU, `[batch, filters]`.
    /// `time` must be at least the width. With `lengths` `[batch]`, windows that reach beyond `max(length, width)` do not
    /// count, so that an answer never depends on how far its batch was padded.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the text is shorter than the window.
    pub fn forward(&self, vectors: &Tensor, lengths: Option<&Tensor>) -> Result<Tensor, ModelError> {
        Ok(tidemill_torch::text_conv_max(vectors, &self.weight, &self.bias, lengths)?)
    }
}
