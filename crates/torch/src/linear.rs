//! The linear layer `input @ weight.T + bias` with the kernel of each of its three products chosen by the caller.
//!
//! Knows nothing of how the choice is made (`choice.rs`) nor of packed weights (`packed.rs`). The autograd function is in
//! `shim/linear.cpp`.

use crate::ffi::{self, pointer};
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

/// Which implementation of the matrix product to use.
///
/// Every kernel computes in the type of its inputs: float32 stays float32 to the last product (no TF32, no bfloat16).
/// A kernel that cannot take the inputs (float64, another device, a processor without it) gives way to
/// [`Kernel::Libtorch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kernel {
    /// What `at::linear` and `at::matmul` take by themselves (MKL or OpenBLAS in float32).
    #[default]
    Libtorch = 0,
    /// oneDNN's product, reached through the dispatcher.
    Onednn = 1,
    /// The shim's own blocking around oneDNN's small-matrix kernels. Float32 only.
    Blocked = 2,
    /// oneDNN with a weight packed beforehand. For inference ([`crate::PackedWeight`]) only; elsewhere the same as
    /// [`Kernel::Libtorch`].
    Packed = 3,
    /// The shim's own kernel on a weight in panels. For inference ([`crate::PackedWeight`]) only, as above.
    Panels = 4,
}

/// The kernels of a linear layer's three products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LinearKernels {
    /// `input @ weight.T + bias`.
    pub forward: Kernel,
    /// `grad_output @ weight`.
    pub grad_input: Kernel,
    /// `grad_output.T @ input`.
    pub grad_weight: Kernel,
}

impl LinearKernels {
    /// The same kernel for all three products.
    pub fn all(kernel: Kernel) -> Self {
        Self { forward: kernel, grad_input: kernel, grad_weight: kernel }
    }
}

/// `input @ weight.T + bias`, differentiable, by the given kernels.
///
/// `input` is `[..., in]` with any strides, `weight` `[out, in]`, `bias` `[out]`; the result is `[..., out]`. The types
/// must agree. Second derivatives are supported (by libtorch's products). The result equals `at::linear`'s up to the
/// rounding of sums.
///
/// # Errors
/// [`TchError::Torch`] with a sentence where shapes, types or devices do not fit.
pub fn linear(
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    kernels: LinearKernels,
) -> Result<Tensor, TchError> {
    let (forward, grad_input, grad_weight) =
        (kernels.forward as i32, kernels.grad_input as i32, kernels.grad_weight as i32);
    // SAFETY: the pointers are live tensors or null, and outlive the call.
    ffi::result(|result| unsafe {
        let (input, weight, bias) = (input.as_ptr(), weight.as_ptr(), pointer(bias));
        ffi::tm_linear(result, input, weight, bias, forward, grad_input, grad_weight)
    })
}
