//! Weights packed once for inference.
//!
//! Owns the packed copies beside the plain weight; which of them a call takes is measured per row count (`choice.rs`).

use crate::choice::{self, Key, Packs, Pass};
use crate::ffi;
use crate::{Activation, Kernel, LinearKernels};
use tch::{Device, Kind, TchError, Tensor};

/// A linear layer's weight, packed once in the layouts that oneDNN and the shim's own kernel want. For inference: no
/// gradients.
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
    onednn: Option<Tensor>,
    panels: Option<Tensor>,
}

impl PackedWeight {
    /// Packs `weight` (`[out, in]`) for inputs of about `rows` rows; any other number of rows works too.
    ///
    /// Measures for one row and for `rows` rows, and keeps what is the fastest there; other row counts are measured when
    /// they first come. Where packing is not possible (float64, another device) or never the faster, the plain weight is
    /// used. Later changes of `weight` are not seen.
    ///
    /// # Errors
    /// [`TchError::Torch`] where `weight` is not a matrix.
    pub fn new(weight: &Tensor, rows: i64) -> Result<Self, TchError> {
        let plain = weight.f_detach()?;
        let (outputs, inputs) = plain.size2()?;
        let rows = rows.max(1);
        let (mut onednn, mut panels) = (None, None);
        if plain.device() == Device::Cpu && choice::key(Pass::Inference, rows, inputs, outputs, plain.kind()).is_some()
        {
            // SAFETY: `plain` is a live tensor that outlives the call.
            onednn = ffi::optional_result(|result| unsafe { ffi::tm_pack(result, plain.as_ptr(), rows) })?;
            // SAFETY: as above.
            panels = ffi::optional_result(|result| unsafe { ffi::tm_panel_pack(result, plain.as_ptr()) })?;
        }
        let weight = Self { plain, onednn, panels };
        let kernels = [1, rows].map(|rows| weight.kernel(rows));
        let keep = |kernel: Kernel, pack: Option<Tensor>| pack.filter(|_| kernels.contains(&kernel));
        Ok(Self {
            onednn: keep(Kernel::Packed, weight.onednn),
            panels: keep(Kernel::Panels, weight.panels),
            plain: weight.plain,
        })
    }

    /// `input @ weight.T + bias`: `input` is `[..., in]`, the result `[..., out]`, without gradient.
    ///
    /// # Errors
    /// [`TchError::Torch`] where shapes, types or devices do not fit.
    pub fn linear(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
        self.activated(input, bias, None, false)
    }

    /// As [`PackedWeight::linear`], with an activation on the result, which is float32 where `float_output` says so and
    /// otherwise of the weight's type. The bias may be float32 beside a bfloat16 weight.
    ///
    /// # Errors
    /// [`TchError::Torch`] where shapes, types or devices do not fit.
    pub fn activated(
        &self,
        input: &Tensor,
        bias: Option<&Tensor>,
        activation: Option<Activation>,
        float_output: bool,
    ) -> Result<Tensor, TchError> {
        let size = input.size();
        let rows = size.iter().rev().skip(1).product();
        let fits = size.last() == self.plain.size().last() && input.kind() == self.plain.kind();
        let kernel = if fits { self.kernel(rows) } else { Kernel::Libtorch };
        tch::no_grad(|| {
            if let (Some(panels), Kernel::Panels) = (&self.panels, kernel) {
                let outputs = self.plain.size().first().copied().unwrap_or_default();
                let activation = activation.map_or(0, |activation| activation as i32);
                return choice::panel_product(input, panels, outputs, bias, activation, float_output);
            }
            let converted = bias.filter(|bias| bias.kind() != self.plain.kind());
            let converted = converted.map(|bias| bias.f_to_kind(self.plain.kind())).transpose()?;
            let bias = converted.as_ref().or(bias);
            let output = match (&self.onednn, kernel) {
                (Some(packed), Kernel::Packed) => choice::packed_product(input, packed, bias)?,
                _ => crate::linear(input, &self.plain, bias, LinearKernels::all(kernel))?,
            };
            let output = if float_output { output.f_to_kind(Kind::Float)? } else { output };
            activation.map_or(Ok(output.shallow_clone()), |activation| activation.of(&output))
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
        let packs = Packs { onednn: self.onednn.as_ref(), panels: self.panels.as_ref() };
        // Without a packed weight the choice is among the others: it is the one of the forward pass.
        if packs.onednn.is_none() && packs.panels.is_none() {
            let key = Key { pass: Pass::Forward, ..key };
            return choice::choose(key, || choice::fastest(key, packs));
        }
        match choice::choose(key, || choice::fastest(key, packs)) {
            // Chosen with a pack that was not worth keeping here.
            Kernel::Packed if packs.onednn.is_none() => Kernel::Panels,
            Kernel::Panels if packs.panels.is_none() => Kernel::Packed,
            kernel => kernel,
        }
    }
}
