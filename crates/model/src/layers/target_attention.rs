//! Self-attention of the decoder in an encoder-decoder: a token sees those before it in its own text, whose keys and values
//! the step's targets keep.

use tch::Tensor;

use super::source_attention::self_projections;
use crate::encoder_decoders::TargetBatch;
use crate::error::ModelError;
use crate::layers::{Heads, Projection};
use crate::parameters::Path;

/// One attention layer.
#[derive(Debug)]
pub struct TargetAttention {
    qkv: Projection,
    output: Projection,
    heads: Heads,
}

impl TargetAttention {
    /// Takes queries, keys, values and output by their names, with biases where `biased`.
    ///
    /// # Errors
    /// As [`Path::matrix`].
    pub fn separate(
        path: &Path,
        names: [&str; 4],
        width: i64,
        heads: Heads,
        biased: bool,
    ) -> Result<TargetAttention, ModelError> {
        let (qkv, output) = self_projections(path, names, width, heads, biased)?;
        Ok(TargetAttention { qkv, output, heads })
    }

    /// `[tokens, width]` → `[tokens, width]`, in layer `layer` of the decoder.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor, batch: &TargetBatch, layer: usize) -> Result<Tensor, ModelError> {
        let Heads { heads, head_dim, scale, .. } = self.heads;
        let qkv = self.qkv.forward(input)?.f_view([-1, 3, heads, head_dim])?;
        self.output.forward(&batch.attend_to_themselves(layer, &qkv, scale)?)
    }
}
