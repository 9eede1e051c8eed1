//! Self-attention of an encoder, Vaswani et al. 2017: every token sees all of its own text. Texts come in one flat run without
//! padding; neighbours of equal length are one call.

use tch::Tensor;

use crate::encoder_decoders::Sources;
use crate::error::ModelError;
use crate::layers::{Heads, Projection};
use crate::parameters::Path;

/// One attention layer.
#[derive(Debug)]
pub struct SourceAttention {
    qkv: Projection,
    output: Projection,
    heads: Heads,
}

impl SourceAttention {
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
    ) -> Result<SourceAttention, ModelError> {
        let (qkv, output) = self_projections(path, names, width, heads, biased)?;
        Ok(SourceAttention { qkv, output, heads })
    }

    /// `[tokens, width]` → `[tokens, width]`; `bias` is added to the scores of a text by its corner of the text's size,
    /// `[1, heads, longest, longest]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor, sources: &Sources, bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let Heads { heads, head_dim, scale, .. } = self.heads;
        let qkv = self.qkv.forward(input)?.f_view([-1, 3, heads, head_dim])?;
        let attended = sources.by_length(&qkv, |qkv, length| {
            let part = |i: i64| qkv.f_select(2, i)?.f_transpose(1, 2); // [sources, heads, length, head_dim]
            let corner = |bias: &Tensor| bias.f_narrow(2, 0, length)?.f_narrow(3, 0, length);
            attend(&part(0)?, &part(1)?, &part(2)?, bias.map(corner).transpose()?.as_ref(), scale)
        })?;
        self.output.forward(&attended)
    }
}

/// Queries, keys and values as one product, and the output.
pub(super) fn self_projections(
    path: &Path,
    names: [&str; 4],
    width: i64,
    heads: Heads,
    biased: bool,
) -> Result<(Projection, Projection), ModelError> {
    let [query, key, value, output] = names.map(|name| path.sub(name));
    let inner = heads.heads * heads.head_dim;
    let qkv = Projection::beside(&[(query, inner), (key, inner), (value, inner)], width, biased)?;
    Ok((qkv, Projection::new(&output, inner, width, biased)?))
}

/// Attention by libtorch's fused kernel: queries `[rows, heads, queries, head_dim]`, keys and values
/// `[rows, heads, keys, head_dim]` → `[rows, queries, heads · head_dim]`. `mask` is added to the scores.
///
/// # Errors
/// [`ModelError::Torch`] when libtorch refuses.
pub(crate) fn attend(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor, ModelError> {
    let mixed = Tensor::f_scaled_dot_product_attention(queries, keys, values, mask, 0.0, false, scale, false)?;
    // The kernel writes [rows, queries, heads, head_dim], so this is a view.
    Ok(mixed.f_transpose(1, 2)?.f_flatten(2, 3)?)
}
