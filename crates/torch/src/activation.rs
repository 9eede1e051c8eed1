//! The functions that stand between two products of a model, alone and as a gate.

use crate::ffi;
use tch::{TchError, Tensor};

/// What stands between two products. On a processor, in float32 and bfloat16, it is one pass over memory in the shim;
/// elsewhere, and where a gradient is wanted, libtorch's own operators.
///
/// ```
/// # fn main() -> Result<(), tch::TchError> {
/// use tidemill_torch::Activation;
/// let x = tch::Tensor::f_from_slice(&[-2.0_f32, 3.0, 5.0, 7.0])?.f_view([1, 4])?;
/// assert_eq!(Vec::<f32>::try_from(Activation::Relu.of(&x)?.f_view(-1)?)?, [0.0, 3.0, 5.0, 7.0]);
/// assert_eq!(Vec::<f32>::try_from(Activation::Relu.gate(&x)?.f_view(-1)?)?, [0.0, 21.0]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Activation {
    /// The Gaussian error linear unit by the error function: Hendrycks and Gimpel 2016.
    Gelu = 1,
    /// The same by its `tanh` approximation.
    GeluTanh = 2,
    /// The positive part.
    Relu = 3,
    /// `x * sigmoid(x)`: Elfwing et al. 2018, "swish" too.
    Silu = 4,
    /// The hyperbolic tangent.
    Tanh = 5,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu = 6,
}

impl Activation {
    /// Of every number, for a tensor of any shape.
    ///
    /// # Errors
    /// [`TchError::Torch`] where the type does not fit.
    pub fn of(self, x: &Tensor) -> Result<Tensor, TchError> {
        // SAFETY: `x` is a live tensor that outlives the call.
        ffi::result(|result| unsafe { ffi::tm_activated(result, x.as_ptr(), self as i32) })
    }

    /// Of the first half of each row, times the second: `[..., 2n]` to `[..., n]`. Shazeer 2020, "GLU Variants Improve
    /// Transformer".
    ///
    /// # Errors
    /// [`TchError::Torch`] where the last dimension is odd.
    pub fn gate(self, x: &Tensor) -> Result<Tensor, TchError> {
        // SAFETY: `x` is a live tensor that outlives the call.
        ffi::result(|result| unsafe { ffi::tm_gated(result, x.as_ptr(), self as i32) })
    }
}
