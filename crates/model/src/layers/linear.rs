//! The linear layer. Training goes through the measured choice of `tidemill-torch`; constant weights are packed once.

use std::cell::OnceCell;

use tch::{TchError, Tensor};
use tidemill_torch::{PackedWeight, choice};

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// `x · weightᵀ + bias`, with the parameters `weight` `[out, in]` and `bias` `[out]`.
///
/// # Example
/// ```
/// use tch::{Device, Kind, Tensor};
/// use tidemill_model::{Init, Parameters, layers::Linear};
///
/// let parameters = Parameters::new(1, Device::Cpu);
/// let linear = Linear::new(&parameters.root().sub("classifier"), 8, 2, Init::FanInUniform)?;
/// let logits = linear.forward(&Tensor::zeros([3, 8], (Kind::Float, Device::Cpu)))?;
/// assert_eq!(logits.size(), [3, 2]);
/// # Ok::<(), tidemill_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
    constant: bool,
    packed: OnceCell<PackedWeight>,
}

impl Linear {
    /// Takes `weight`, started by `init`, and `bias`, started at zero.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, inputs: i64, outputs: i64, init: Init) -> Result<Linear, ModelError> {
        Linear::named(path, "weight", "bias", inputs, outputs, init)
    }

    /// As [`Linear::new`], for parameters with other names (`in_proj_weight`).
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn named(
        path: &Path,
        weight: &str,
        bias: &str,
        inputs: i64,
        outputs: i64,
        init: Init,
    ) -> Result<Linear, ModelError> {
        Ok(Linear {
            weight: path.get(weight, &[outputs, inputs], init)?,
            bias: path.get(bias, &[outputs], Init::Zeros)?,
            constant: path.is_constant(),
            packed: OnceCell::new(),
        })
    }

    /// `[…, in]` → `[…, out]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        if !self.constant {
            return Ok(choice::linear(input, &self.weight, Some(&self.bias))?);
        }
        Ok(self.packed(input)?.linear(input, Some(&self.bias))?)
    }

    /// Packed for the rows of the first input: later ones of a served model are alike.
    fn packed(&self, input: &Tensor) -> Result<&PackedWeight, TchError> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed);
        }
        let width = self.weight.size().get(1).copied().unwrap_or(1).max(1);
        let packed = PackedWeight::new(&self.weight, (input.numel() as i64 / width).max(1))?;
        Ok(self.packed.get_or_init(|| packed))
    }
}
