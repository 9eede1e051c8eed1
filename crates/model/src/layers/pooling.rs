//! From one vector a token to one vector a text.

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// The mean over a text's own tokens: `[batch, time, width]` and a mask `[batch, time]` → `[batch, width]`.
///
/// # Errors
/// [`ModelError::Torch`] when libtorch refuses.
pub fn mean_over_time(vectors: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
    let Some(mask) = mask else {
        return Ok(vectors.f_mean_dim(1, false, None)?);
    };
    let mask = mask.f_to_kind(vectors.f_kind()?)?;
    let shares = mask.f_div(&mask.f_sum_dim_intlist(1, true, None)?)?; // [batch, time]
    weighted_sum(&shares, vectors)
}

/// The maximum over a text's own tokens: `[batch, time, width]` and a mask `[batch, time]` → `[batch, width]`.
///
/// # Errors
/// [`ModelError::Torch`] when libtorch refuses.
pub fn max_over_time(vectors: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
    let (largest, _) = match mask {
        None => vectors.f_max_dim(1, false)?,
        Some(mask) => {
            let padding = mask.f_logical_not()?.f_unsqueeze(-1)?;
            vectors.f_masked_fill(&padding, f64::NEG_INFINITY)?.f_max_dim(1, false)?
        }
    };
    Ok(largest)
}

/// A mean whose shares the model learns: `softmax(vectors · weight)` over a text's own tokens. Parameter `weight`
/// `[1, width]`; a bias would cancel in the softmax.
#[derive(Debug)]
pub struct AttentionPooling {
    weight: Tensor,
}

impl AttentionPooling {
    /// Takes `weight`, started by `init`.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, width: i64, init: Init) -> Result<AttentionPooling, ModelError> {
        Ok(AttentionPooling { weight: path.get("weight", &[1, width], init)? })
    }

    /// Vectors with time first, `[time, batch, width]`, and a mask `[batch, time]` → `[batch, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, vectors: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let scores = vectors.f_matmul(&self.weight.f_squeeze_dim(0)?)?; // [time, batch]
        let mut scores = scores.f_transpose(0, 1)?;
        if let Some(mask) = mask {
            scores = scores.f_masked_fill(&mask.f_logical_not()?, f64::NEG_INFINITY)?;
        }
        weighted_sum(&scores.f_softmax(-1, None::<Kind>)?, &vectors.f_transpose(0, 1)?)
    }
}

/// Shares `[batch, time]` of vectors `[batch, time, width]` → `[batch, width]`, as one product.
fn weighted_sum(shares: &Tensor, vectors: &Tensor) -> Result<Tensor, ModelError> {
    Ok(shares.f_unsqueeze(1)?.f_bmm(vectors)?.f_squeeze_dim(1)?)
}
