//! Attention from a text that is being written to the one that was read, Vaswani et al. 2017. The keys and values of what was
//! read are computed once, before the first token is written.

use tch::Tensor;

use crate::encoder_decoders::TargetBatch;
use crate::error::ModelError;
use crate::layers::{Heads, Projection};
use crate::parameters::Path;

/// One attention layer.
#[derive(Debug)]
pub struct CrossAttention {
    query: Projection,
    keys_values: Projection,
    output: Projection,
    heads: Heads,
}

impl CrossAttention {
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
    ) -> Result<CrossAttention, ModelError> {
        let [query, key, value, output] = names.map(|name| path.sub(name));
        let inner = heads.heads * heads.head_dim;
        Ok(CrossAttention {
            query: Projection::new(&query, width, inner, biased)?,
            keys_values: Projection::beside(&[(key, inner), (value, inner)], width, biased)?,
            output: Projection::new(&output, inner, width, biased)?,
            heads,
        })
    }

    /// What this layer reads of the encoder's output `[tokens, width]`: keys and values, `[tokens, 2, heads, head_dim]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn keys_values(&self, encoded: &Tensor) -> Result<Tensor, ModelError> {
        let Heads { heads, head_dim, .. } = self.heads;
        Ok(self.keys_values.forward(encoded)?.f_view([-1, 2, heads, head_dim])?)
    }

    /// `[tokens, width]` → `[tokens, width]`, in layer `layer` of the decoder.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor, batch: &TargetBatch, layer: usize) -> Result<Tensor, ModelError> {
        let Heads { heads, head_dim, scale, .. } = self.heads;
        let query = self.query.forward(input)?.f_view([-1, heads, head_dim])?;
        self.output.forward(&batch.attend_to_sources(layer, &query, scale)?)
    }
}
