//! Self-attention over a flat batch: queries, keys and values in one product, each text seen alone, one product behind.

use tch::Tensor;
use tidemill_torch::encode;

use super::{FlatBatch, FusedLinear, RotaryTable};
use crate::error::ModelError;

/// Multi-head self-attention, Vaswani et al. 2017.
#[derive(Debug)]
pub struct FlatAttention {
    qkv: FusedLinear,
    output: FusedLinear,
    heads: i64,
    head_dim: i64,
    window: Option<i64>,
}

impl FlatAttention {
    /// Over a layer `[in, 3 · heads · head_dim]` that gives queries, keys and values, and one `[heads · head_dim, out]`.
    pub fn new(qkv: FusedLinear, output: FusedLinear, heads: i64, head_dim: i64) -> FlatAttention {
        FlatAttention { qkv, output, heads, head_dim, window: None }
    }

    /// The same where a token sees that many tokens to either side alone.
    #[must_use]
    pub fn within(self, window: Option<i64>) -> FlatAttention {
        FlatAttention { window, ..self }
    }

    /// `[tokens, in]` → `[tokens, out]`. With `rotary`, queries and keys are turned by the places of their tokens,
    /// `[tokens]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(
        &self,
        rows: &Tensor,
        batch: &FlatBatch,
        rotary: Option<(&RotaryTable, &Tensor)>,
    ) -> Result<Tensor, ModelError> {
        let mut qkv = self.qkv.forward(rows)?; // [tokens, 3 · heads · head_dim]
        if let Some((table, positions)) = rotary {
            qkv = table.turn(qkv, self.heads, positions)?;
        }
        let scale = (self.head_dim as f64).sqrt().recip();
        let attended = encode::attention(&qkv, batch.bounds(), self.heads, scale, self.window)?;
        self.output.forward(&attended)
    }
}
