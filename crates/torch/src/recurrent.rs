//! Fused LSTM and GRU layers, one or two directions, differentiable.
//!
//! The arithmetic is in `shim/recurrent.cpp`; here is its safe face. In float32 on a CPU with AVX-512 the fused code runs,
//! elsewhere libtorch's own layer with packed sequences: the results agree to rounding.

use crate::choice;
use crate::ffi::{self, Input, pointer};
use tch::{TchError, Tensor};

/// The weights of one direction of a recurrent layer, in the layout of `torch.nn.LSTM` and `torch.nn.GRU`.
#[derive(Clone, Copy, Debug)]
pub struct RecurrentWeights<'a> {
    /// `weight_ih_l0`: `[gates * hidden, in]`.
    pub input: &'a Tensor,
    /// `weight_hh_l0`: `[gates * hidden, hidden]`.
    pub hidden: &'a Tensor,
    /// `bias_ih_l0`: `[gates * hidden]`.
    pub input_bias: &'a Tensor,
    /// `bias_hh_l0`: `[gates * hidden]`.
    pub hidden_bias: &'a Tensor,
}

/// One LSTM layer (Hochreiter and Schmidhuber 1997) over `input` `[time, batch, in]`, gates in the order i, f, g, o.
///
/// Gives the hidden states `[time, batch, directions * hidden]`, the forward direction first. `lengths` (`[batch]`, int64,
/// cut to `0..=time`; all steps where absent): row `b` counts up to `lengths[b]` steps, later outputs are zero, and the
/// reverse direction starts at the row's own last step, as with packed sequences in PyTorch. The state starts at zero.
/// Rows need not be sorted by length. Differentiable once.
///
/// ```
/// use tidemill_torch::{RecurrentWeights, lstm};
/// # fn main() -> Result<(), tch::TchError> {
/// let cpu = (tch::Kind::Float, tch::Device::Cpu);
/// let (input, hidden) = (tch::Tensor::f_zeros([16, 3], cpu)?, tch::Tensor::f_zeros([16, 4], cpu)?);
/// let bias = tch::Tensor::f_zeros([16], cpu)?;
/// let weights =
///     RecurrentWeights { input: &input, hidden: &hidden, input_bias: &bias, hidden_bias: &bias };
/// let states = lstm(&tch::Tensor::f_ones([5, 2, 3], cpu)?, None, weights, Some(weights))?;
/// assert_eq!(states.size(), [5, 2, 8]);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`TchError::Torch`] where shapes, types or devices do not fit.
pub fn lstm(
    input: &Tensor,
    lengths: Option<&Tensor>,
    forward: RecurrentWeights<'_>,
    reverse: Option<RecurrentWeights<'_>>,
) -> Result<Tensor, TchError> {
    recurrent(false, input, lengths, forward, reverse)
}

/// One GRU layer (Cho et al. 2014, in the form of `torch.nn.GRU`), gates in the order r, z, n. Otherwise as [`lstm`].
///
/// # Errors
/// [`TchError::Torch`] where shapes, types or devices do not fit.
pub fn gru(
    input: &Tensor,
    lengths: Option<&Tensor>,
    forward: RecurrentWeights<'_>,
    reverse: Option<RecurrentWeights<'_>>,
) -> Result<Tensor, TchError> {
    recurrent(true, input, lengths, forward, reverse)
}

fn recurrent(
    gru: bool,
    input: &Tensor,
    lengths: Option<&Tensor>,
    forward: RecurrentWeights<'_>,
    reverse: Option<RecurrentWeights<'_>>,
) -> Result<Tensor, TchError> {
    let directions = if reverse.is_some() { 2 } else { 1 };
    let weights: Vec<Input> = std::iter::once(forward)
        .chain(reverse)
        .flat_map(|w| [w.input, w.hidden, w.input_bias, w.hidden_bias])
        .map(Tensor::as_ptr)
        .collect();
    // The projection of all steps and directions is one product.
    let size = input.size();
    let (rows, inputs) = match size.as_slice() {
        &[time, batch, inputs] => (time.saturating_mul(batch), inputs),
        _ => (0, 0),
    };
    let outputs = forward.input.size().first().map_or(0, |gates| gates * directions);
    let backward = forward.input.requires_grad() || input.requires_grad();
    let kernels = choice::kernels_for(rows, inputs, outputs, input.kind(), backward);
    // SAFETY: the pointers are live tensors or null, `weights` holds four a direction, and all outlive the call.
    ffi::result(|result| unsafe {
        ffi::tm_recurrent(
            result,
            gru,
            input.as_ptr(),
            pointer(lengths),
            weights.as_ptr(),
            directions as i32,
            kernels.forward as i32,
            kernels.grad_input as i32,
            kernels.grad_weight as i32,
        )
    })
}
