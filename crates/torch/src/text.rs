//! Two primitives of text models: the embedding look-up with a cheap gradient, and convolution with maximum over time.
//!
//! The arithmetic is in `shim/text.cpp`; here is its safe face.

use crate::ffi::{self, pointer};
use tch::{TchError, Tensor};

/// Rows of `weight` (`[vocabulary, dim]`) by `ids` (int64, any shape): `[..., dim]`.
///
/// Row `padding` gets no gradient, as in `torch.nn.Embedding(padding_idx=…)`. The gradient is dense and equals
/// libtorch's, at a fraction of its cost.
///
/// # Errors
/// [`TchError::Torch`] where an id is outside the vocabulary or shapes or types do not fit.
pub fn embedding(weight: &Tensor, ids: &Tensor, padding: Option<i64>) -> Result<Tensor, TchError> {
    // SAFETY: both are live tensors that outlive the call.
    ffi::result(|result| unsafe { ffi::tm_embedding(result, weight.as_ptr(), ids.as_ptr(), padding.unwrap_or(-1)) })
}

/// Convolution over time, maximum over all positions and ReLU: one filter width of Kim's TextCNN (2014).
///
/// `embedded` is `[batch, time, dim]`; `weight` `[filters, dim, width]` as in `torch.nn.Conv1d`, or the same flattened as
/// `[filters, width * dim]`; `bias` `[filters]`; `lengths` `[batch]` (int64; all of `time` where absent). Gives
/// `[batch, filters]`, which equals `relu(conv1d(…)).max(time)`.
///
/// The rule for padding: positions from `max(length, width)` on are ignored, so that a text's result does not depend on
/// the batch it is in, and a text shorter than the filter still has one window (padding included). Where `time` itself is
/// less than `width`, zeros are appended.
///
/// The gradient only touches the winning windows. Differentiable once.
///
/// # Errors
/// [`TchError::Torch`] where shapes or types do not fit.
pub fn text_conv_max(
    embedded: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    lengths: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    // SAFETY: the pointers are live tensors or null, and outlive the call.
    ffi::result(|result| unsafe {
        let (embedded, weight) = (embedded.as_ptr(), weight.as_ptr());
        ffi::tm_text_conv_max(result, embedded, weight, bias.as_ptr(), pointer(lengths))
    })
}
