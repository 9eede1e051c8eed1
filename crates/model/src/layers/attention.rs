//! Multi-head self-attention, Vaswani et al. 2017, with the tensor names of `torch.nn.MultiheadAttention`: queries, keys
//! and values in one product, libtorch's fused attention in the middle.

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::init::Init;
use crate::layers::Linear;
use crate::parameters::Path;

/// What is added to the attention scores: 0 where the mask `[batch, time]` holds a token and -∞ elsewhere,
/// `[batch, 1, 1, time]`. Made once for all layers; a mask of truth values would be turned into this by each.
///
/// # Errors
/// [`ModelError::Torch`] when libtorch refuses.
pub fn key_bias(mask: &Tensor) -> Result<Tensor, ModelError> {
    let bias = Tensor::f_zeros(mask.size(), (Kind::Float, mask.device()))?;
    let bias = bias.f_masked_fill(&mask.f_logical_not()?, f64::NEG_INFINITY)?;
    Ok(bias.f_unsqueeze(1)?.f_unsqueeze(1)?)
}

/// Parameters `in_proj_weight` `[3 · width, width]`, `in_proj_bias`, `out_proj.weight` `[width, width]`,
/// `out_proj.bias`.
#[derive(Debug)]
pub struct SelfAttention {
    in_proj: Linear,
    out_proj: Linear,
    heads: i64,
    head_dim: i64,
    dropout: f64,
}

impl SelfAttention {
    /// Takes the parameters; `width` must be a multiple of `heads`. Dropout acts on the attention weights.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, width: i64, heads: i64, dropout: f64, init: Init) -> Result<SelfAttention, ModelError> {
        Ok(SelfAttention {
            in_proj: Linear::named(path, "in_proj_weight", "in_proj_bias", width, 3 * width, init)?,
            out_proj: Linear::new(&path.sub("out_proj"), width, width, init)?,
            heads,
            head_dim: width / heads.max(1),
            dropout,
        })
    }

    /// `[batch, time, width]` → the same shape. `keys` is what [`key_bias`] makes of the batch's mask, `[batch, 1, 1, time]`;
    /// nothing when every position holds a token.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor, keys: Option<&Tensor>, train: bool) -> Result<Tensor, ModelError> {
        let qkv = self.in_proj.forward(input)?; // [batch, time, 3 · width]
        let qkv = qkv.f_unflatten(-1, [3, self.heads, self.head_dim])?.f_unbind(2)?;
        let heads = |part: &Tensor| part.f_transpose(1, 2); // [batch, heads, time, head_dim]
        let [query, key, value] = qkv.as_slice() else {
            return Err(ModelError::Input("queries, keys and values did not come apart".to_string()));
        };
        let dropout = if train { self.dropout } else { 0.0 };
        let attended = Tensor::f_scaled_dot_product_attention(
            &heads(query)?,
            &heads(key)?,
            &heads(value)?,
            keys,
            dropout,
            false,
            None,
            false,
        )?;
        // The fused kernel writes [batch, time, heads, head_dim], so this is a view.
        self.out_proj.forward(&attended.f_transpose(1, 2)?.f_flatten(2, 3)?)
    }
}
