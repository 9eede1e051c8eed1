//! Weights packed once for inference.
//!
//! Owns the packed copy beside the plain weight; which of the two a call takes is measured per row count (`choice.rs`).

use crate::choice::{self, Key, Pass};
use crate::ffi;
use crate::{Kernel, LinearKernels};
use tch::{Device, TchError, Tensor};

/// A linear layer's weight, packed once in the layout that oneDNN wants. For inference: no gradients.
///
/// ```
/// # fn main() -> Result<(), tch::TchError> {
/// let cpu = (tch::Kind::Float, tch::Device::Cpu);
/// let weight = tidemill_torch::PackedWeight::new(&tch::Tensor::f_ones([8, 4], cpu)?, 16)?;
/// let output = weight.linear(&tch::Tensor::f_ones([2, 4], cpu)?, None)?;
/// assert_eq!(output.double_value(&[1, 7]), 4.0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PackedWeight {
    plain: Tensor,
    packed: Option<Tensor>,
}

impl PackedWeight {
    /// Packs `weight` (`[out, in]`) for inputs of about `rows` rows; any other number of rows works too.
    ///
    /// Measures for one row and for `rows` rows; other row counts are measured when they first come. Where packing is not
    /// possible (float64, another device, no oneDNN) or never the faster, the plain weight is used. Later changes of
    /// `weight` are not seen.
    ///
    /// # Errors
    /// [`TchError::Torch`] where `weight` is not a matrix.
    pub fn new(weight: &Tensor, rows: i64) -> Result<Self, TchError> {
        let plain = weight.f_detach()?;
        let (outputs, inputs) = plain.size2()?;
        let rows = rows.max(1);
        let mut packed = None;
        if plain.device() == Device::Cpu && choice::key(Pass::Inference, rows, inputs, outputs, plain.kind()).is_some()
        {
            // SAFETY: `plain` is a live tensor that outlives the call.
            packed = ffi::optional_result(|result| unsafe { ffi::tm_pack(result, plain.as_ptr(), rows) })?;
        }
        let weight = Self { plain, packed };
        let kernels = [1, rows].map(|rows| weight.kernel(rows));
        let keeps = kernels.contains(&Kernel::Packed);
        Ok(if keeps { weight } else { Self { packed: None, ..weight } })
    }

    /// `input @ weight.T + bias`: `input` is `[..., in]`, the result `[..., out]`, without gradient.
    ///
    /// # Errors
    /// [`TchError::Torch`] where shapes, types or devices do not fit.
    pub fn linear(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
        let size = input.size();
        let rows = size.iter().rev().skip(1).product();
        let fits = size.last() == self.plain.size().last() && input.kind() == self.plain.kind();
        let kernel = if fits { self.kernel(rows) } else { Kernel::Libtorch };
        tch::no_grad(|| match (&self.packed, kernel) {
            (Some(packed), Kernel::Packed) => choice::packed_product(input, packed, bias),
            _ => crate::linear(input, &self.plain, bias, LinearKernels::all(kernel)),
        })
    }

    /// The weight as it was given, `[out, in]`.
    pub fn plain(&self) -> &Tensor {
        &self.plain
    }

    fn kernel(&self, rows: i64) -> Kernel {
        let Ok((outputs, inputs)) = self.plain.size2() else {
            return Kernel::Libtorch;
        };
        let key = choice::key(Pass::Inference, rows, inputs, outputs, self.plain.kind());
        let Some(key) = key.filter(|_| self.plain.device() == Device::Cpu) else {
            return Kernel::Libtorch;
        };
        // Without a packed weight the choice is among the others: it is the one of the forward pass.
        let Some(packed) = &self.packed else {
            let key = Key { pass: Pass::Forward, ..key };
            return choice::choose(key, || choice::fastest(key, None));
        };
        choice::choose(key, || choice::fastest(key, Some(packed)))
    }
}
