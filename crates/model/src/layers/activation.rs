//! The activations that configurations name, alone and as a gate.

use tch::Tensor;
use tidemill_torch::decode;

use crate::config::Config;
use crate::error::ModelError;

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`: Elfwing et al. 2018, "swish" too.
    Silu,
    /// Hendrycks and Gimpel 2016, by the error function.
    Gelu,
    /// The same by its approximation with `tanh`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// The activation that `key` names.
    ///
    /// # Errors
    /// [`ModelError::Config`] when there is none of this name.
    pub fn read(config: Config, key: &str, default: &str) -> Result<Activation, ModelError> {
        let name = config.text_or(key, default)?;
        Activation::named(name).ok_or_else(|| {
            config.refuse(format!(
                "\"{key}\" is \"{name}\", which is none of silu, gelu, gelu_new, gelu_pytorch_tanh, relu"
            ))
        })
    }

    /// The activation that configurations call `name`.
    pub fn named(name: &str) -> Option<Activation> {
        match name {
            "silu" | "swish" => Some(Activation::Silu),
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Activation::GeluTanh),
            "relu" => Some(Activation::Relu),
            _ => None,
        }
    }

    /// Of every number.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn of(self, input: &Tensor) -> Result<Tensor, ModelError> {
        Ok(match self {
            Activation::Silu => input.f_silu()?,
            Activation::Gelu => input.f_gelu("none")?,
            Activation::GeluTanh => input.f_gelu("tanh")?,
            Activation::Relu => input.f_relu()?,
        })
    }

    /// Of the first half of each row, times the second: `[tokens, 2 · width]` → `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn gate(self, input: &Tensor) -> Result<Tensor, ModelError> {
        let fused = match self {
            Activation::Silu => decode::Activation::Silu,
            Activation::Gelu => decode::Activation::Gelu,
            Activation::GeluTanh => decode::Activation::GeluTanh,
            Activation::Relu => {
                let width = input.size().last().copied().unwrap_or_default() / 2;
                let gate = input.f_narrow(-1, 0, width)?.f_relu()?;
                return Ok(gate.f_mul(&input.f_narrow(-1, width, width)?)?);
            }
        };
        Ok(decode::gated(input, fused)?)
    }
}
