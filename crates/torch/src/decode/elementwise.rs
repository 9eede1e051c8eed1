//! Norms and rotary positions, each one pass over its rows.

use crate::ffi;
use tch::{Kind, TchError, Tensor};

/// `x / sqrt(mean(x²) + eps) * (offset + weight)` over the last dimension: Zhang and Sennrich 2019.
///
/// `x` is `[..., n]` and `weight` `[n]`, float32; `offset` is 0, or 1 where weights are stored as the difference from
/// one (Gemma).
///
/// # Errors
/// [`TchError::Torch`] where shapes or devices do not fit.
///
/// ```
/// # fn main() -> Result<(), tch::TchError> {
/// let x = tch::Tensor::from_slice(&[3.0f32, 4.0]).f_view([1, 2])?;
/// let norm = tidemill_torch::decode::rms_norm(&x, &tch::Tensor::from_slice(&[1.0f32, 1.0]), 0.0, 0.0)?;
/// assert!((norm.double_value(&[0, 0]) - 3.0 / 12.5f64.sqrt()).abs() < 1e-6);
/// # Ok(()) }
/// ```
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, offset: f64) -> Result<Tensor, TchError> {
    let residual = std::ptr::null_mut();
    // SAFETY: live tensors that outlive the call; null stands for no residual.
    let norm = ffi::optional_result(|result| unsafe {
        ffi::tm_rms_norm(result, residual, x.as_ptr(), weight.as_ptr(), eps, offset)
    })?;
    norm.map_or_else(|| norm_by_libtorch(x, weight, eps, offset), Ok)
}

fn norm_by_libtorch(x: &Tensor, weight: &Tensor, eps: f64, offset: f64) -> Result<Tensor, TchError> {
    tch::no_grad(|| {
        let mean = x.f_square()?.f_mean_dim([-1i64].as_slice(), true, x.kind())?;
        x.f_mul(&mean.f_add_scalar(eps)?.f_rsqrt()?)?.f_mul(&weight.f_add_scalar(offset)?)
    })
}

/// `residual += x` in place, then [`rms_norm`] of the sum.
///
/// # Errors
/// [`TchError::Torch`] where shapes or devices do not fit; `residual` is unchanged then.
pub fn add_rms_norm(
    residual: &mut Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    offset: f64,
) -> Result<Tensor, TchError> {
    let sum = residual.as_mut_ptr();
    // SAFETY: live tensors that outlive the call; only `residual`, which is borrowed for it, is changed.
    let norm = ffi::optional_result(|result| unsafe {
        ffi::tm_rms_norm(result, sum, x.as_ptr(), weight.as_ptr(), eps, offset)
    })?;
    if let Some(norm) = norm {
        return Ok(norm);
    }
    tch::no_grad(|| {
        let _ = residual.f_add_(x)?;
        norm_by_libtorch(residual, weight, eps, offset)
    })
}

/// Rotates pairs of `x` by the angles of their positions, in place: Su et al. 2021.
///
/// `x` is `[tokens, heads, head_dim]`, float32, and may be a view; `cos` and `sin` are `[positions, rotary_dim / 2]`,
/// float32; `positions` is `[tokens]`, int64. The first `rotary_dim` numbers of a head are rotated: number `i` with
/// number `i + rotary_dim / 2` (as in Llama and GPT-NeoX), or neighbours where `interleaved` (as in GPT-J).
///
/// # Errors
/// [`TchError::Torch`] where shapes or types do not fit or a position is outside the tables; `x` is unchanged then.
pub fn rotate(
    x: &mut Tensor,
    cos: &Tensor,
    sin: &Tensor,
    positions: &Tensor,
    interleaved: bool,
) -> Result<(), TchError> {
    let target = x.as_mut_ptr();
    // SAFETY: live tensors that outlive the call; only `x`, which is borrowed for it, is changed.
    let done = ffi::done(|done| unsafe {
        ffi::tm_rotate(done, target, cos.as_ptr(), sin.as_ptr(), positions.as_ptr(), interleaved)
    })?;
    if done {
        return Ok(());
    }
    let half = cos.size().last().copied().unwrap_or_default();
    tch::no_grad(|| {
        let cos = cos.f_index_select(0, positions)?.f_unsqueeze(1)?;
        let sin = sin.f_index_select(0, positions)?.f_unsqueeze(1)?;
        let (mut first, mut second) = if interleaved {
            let x = x.f_narrow(-1, 0, 2 * half)?;
            (x.f_slice(-1, 0, None, 2)?, x.f_slice(-1, 1, None, 2)?)
        } else {
            (x.f_narrow(-1, 0, half)?, x.f_narrow(-1, half, half)?)
        };
        let new_first = first.f_mul(&cos)?.f_sub(&second.f_mul(&sin)?)?;
        let new_second = second.f_mul(&cos)?.f_add(&first.f_mul(&sin)?)?;
        first.f_copy_(&new_first.f_to_kind(Kind::Float)?)?;
        second.f_copy_(&new_second.f_to_kind(Kind::Float)?)
    })
}
