//! The transformer layer of BERT and its kin: Vaswani et al. 2017 with the norm after each sublayer. The names of its
//! parts differ from one family to the next; the arithmetic does not.

use tch::{Kind, Tensor};
use tidemill_torch::Activation;

use super::{FlatAttention, FlatBatch, FusedLinear, RowNorm};
use crate::error::ModelError;
use crate::parameters::Path;

/// `h = norm(x + attention(x))`, then `norm(h + down(activation(up(h))))`.
#[derive(Debug)]
pub struct PostNormLayer {
    attention: FlatAttention,
    attention_norm: RowNorm,
    up: FusedLinear,
    down: FusedLinear,
    output_norm: RowNorm,
}

/// Where a layer's parameters are.
#[derive(Clone, Debug)]
pub struct PostNormPaths<'a> {
    /// Queries, keys, values.
    pub qkv: [Path<'a>; 3],
    /// The product behind attention.
    pub attention_output: Path<'a>,
    /// The norm behind attention.
    pub attention_norm: Path<'a>,
    /// The feed-forward block's first product.
    pub up: Path<'a>,
    /// Its second.
    pub down: Path<'a>,
    /// The norm behind it.
    pub output_norm: Path<'a>,
}

/// A layer's sizes.
#[derive(Clone, Copy, Debug)]
pub struct PostNormSizes {
    /// Numbers a token; a multiple of `heads`.
    pub width: i64,
    /// Attention heads.
    pub heads: i64,
    /// Width inside the feed-forward block.
    pub inner: i64,
    /// Between the feed-forward block's products.
    pub activation: Activation,
    /// The norms' epsilon.
    pub epsilon: f64,
    /// What the products are computed in.
    pub kind: Kind,
}

impl PostNormLayer {
    /// Takes the parameters.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(paths: &PostNormPaths<'_>, sizes: PostNormSizes) -> Result<PostNormLayer, ModelError> {
        let PostNormSizes { width, heads, inner, activation, epsilon, kind } = sizes;
        let qkv = FusedLinear::side_by_side(&paths.qkv, width, width, true, kind)?;
        let output = FusedLinear::new(&paths.attention_output, width, width, true, kind)?;
        Ok(PostNormLayer {
            attention: FlatAttention::new(qkv, output, heads, width / heads.max(1)),
            attention_norm: RowNorm::new(&paths.attention_norm, width, epsilon, true, kind)?,
            up: FusedLinear::new(&paths.up, width, inner, true, kind)?.activated(activation),
            down: FusedLinear::new(&paths.down, inner, width, true, kind)?,
            output_norm: RowNorm::new(&paths.output_norm, width, epsilon, true, kind)?,
        })
    }

    /// `[tokens, width]` → the same shape.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, rows: &Tensor, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let attended = self.attention.forward(rows, batch, None)?;
        let rows = self.attention_norm.add(&attended, rows)?;
        let inner = self.up.forward(&rows)?; // [tokens, inner]
        self.output_norm.add(&self.down.forward(&inner)?, &rows)
    }
}
