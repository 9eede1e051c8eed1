//! Dropout (Srivastava et al. 2014) in one pass over memory with what stands beside it in a transformer: each number is
//! zeroed with the given probability and the rest scaled by `1 / (1 - probability)`.
//!
//! The arithmetic is in `shim/dropout.cpp`; here is its safe face. A call draws one key from libtorch's generator, so
//! `tch::manual_seed` fixes it; which elements fall follows from the key and the element's place alone
//! (Philox, Salmon et al. 2011), whatever the number of threads. What the shim does not take (another type or device)
//! libtorch's own operators do. Differentiable once.

use crate::ffi;
use tch::{TchError, Tensor};

/// Dropout of the exact GELU (Hendrycks and Gimpel 2016).
///
/// # Errors
/// [`TchError::Torch`] where the probability is not in `[0, 1]`.
pub fn gelu_dropout(input: &Tensor, probability: f64) -> Result<Tensor, TchError> {
    // SAFETY: a live tensor that outlives the call.
    ffi::result(|result| unsafe { ffi::tm_gelu_dropout(result, input.as_ptr(), probability) })
}

/// `sum = residual + dropout(x)` and the layer norm (Ba et al. 2016) of `sum`, in this order.
///
/// `x` and `residual` are `[..., width]`, `weight` and `bias` `[width]`; both results are shaped like `x`.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// # fn main() -> Result<(), tch::TchError> {
/// let cpu = (Kind::Float, Device::Cpu);
/// let (x, residual) = (Tensor::f_randn([3, 8], cpu)?, Tensor::f_randn([3, 8], cpu)?);
/// let (weight, bias) = (Tensor::f_ones([8], cpu)?, Tensor::f_zeros([8], cpu)?);
/// let (sum, normed) = tidemill_torch::dropout_add_layer_norm(&x, &residual, 0.0, (&weight, &bias), 1e-5)?;
/// assert!(sum.f_allclose(&(&x + &residual), 1e-6, 1e-6, false)?);
/// assert!(normed.f_mean(Kind::Float)?.double_value(&[]).abs() < 1e-6);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`TchError::Torch`] where shapes do not fit or the probability is not in `[0, 1]`.
pub fn dropout_add_layer_norm(
    x: &Tensor,
    residual: &Tensor,
    probability: f64,
    (weight, bias): (&Tensor, &Tensor),
    epsilon: f64,
) -> Result<(Tensor, Tensor), TchError> {
    let mut normed = std::ptr::null_mut();
    // SAFETY: live tensors that outlive the call, and two places for results.
    let sum = ffi::result(|sum| unsafe {
        let (x, residual) = (x.as_ptr(), residual.as_ptr());
        let (weight, bias) = (weight.as_ptr(), bias.as_ptr());
        ffi::tm_dropout_add_layer_norm(sum, &mut normed, x, residual, probability, weight, bias, epsilon)
    })?;
    // SAFETY: the shim stores both tensors or neither; this one is now ours.
    Ok((sum, unsafe { Tensor::from_ptr(normed) }))
}
