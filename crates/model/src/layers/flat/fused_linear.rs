//! A linear layer with its activation, and several that read the same rows as one product.

use tch::{Device, Kind, Tensor};
use tidemill_torch::{Activation, PackedWeight, choice};

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// Rows that a weight is packed for: a few texts at once.
const TYPICAL_ROWS: i64 = 512;

/// `activation(x · weightᵀ + bias)` over rows `[tokens, in]`. Frozen weights are packed when the layer is made.
#[derive(Debug)]
pub struct FusedLinear {
    weight: Weight,
    bias: Option<Tensor>,
    activation: Option<Activation>,
    kind: Kind,
    float_output: bool,
}

#[derive(Debug)]
enum Weight {
    Frozen(PackedWeight),
    /// One after another in the outputs; they may change under us.
    Live(Vec<Tensor>),
}

impl FusedLinear {
    /// Takes `weight` `[outputs, inputs]` and, where `bias` says so, `bias` `[outputs]`, to compute in numbers of `kind`.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, inputs: i64, outputs: i64, bias: bool, kind: Kind) -> Result<FusedLinear, ModelError> {
        FusedLinear::side_by_side(std::slice::from_ref(path), inputs, outputs, bias, kind)
    }

    /// Several such layers of `outputs` outputs each, whose results lie beside each other in every row.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn side_by_side(
        paths: &[Path],
        inputs: i64,
        outputs: i64,
        bias: bool,
        kind: Kind,
    ) -> Result<FusedLinear, ModelError> {
        let take = |name: &'static str, shape: Vec<i64>, init: Init| {
            paths.iter().map(move |path| path.get(name, &shape, init)).collect::<Result<Vec<_>, _>>()
        };
        let weights = take("weight", vec![outputs, inputs], Init::XavierUniform)?;
        let biases = if bias { take("bias", vec![outputs], Init::Zeros)? } else { Vec::new() };
        let constant = paths.iter().all(Path::is_constant);
        FusedLinear::from_tensors(weights, biases, constant, kind)
    }

    /// Over tensors that are at hand: an embedding table `[outputs, inputs]` that is also the output layer.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn tied(weight: &Tensor, bias: Option<Tensor>, constant: bool, kind: Kind) -> Result<FusedLinear, ModelError> {
        FusedLinear::from_tensors(vec![weight.shallow_clone()], bias.into_iter().collect(), constant, kind)
    }

    fn from_tensors(
        weights: Vec<Tensor>,
        biases: Vec<Tensor>,
        constant: bool,
        kind: Kind,
    ) -> Result<FusedLinear, ModelError> {
        if !constant && kind != Kind::Float {
            return Err(ModelError::Input(format!("weights that are trained compute in float32, not in {kind:?}")));
        }
        let bias = joined(&biases)?;
        let weight = match joined(&weights)? {
            Some(weight) if constant => Weight::Frozen(PackedWeight::new(&weight.f_to_kind(kind)?, TYPICAL_ROWS)?),
            _ => Weight::Live(weights),
        };
        Ok(FusedLinear { weight, bias, activation: None, kind, float_output: false })
    }

    /// The same with an activation on the result.
    #[must_use]
    pub fn activated(self, activation: Activation) -> FusedLinear {
        FusedLinear { activation: Some(activation), ..self }
    }

    /// The same with a result in float32 whatever it computes in: scores.
    #[must_use]
    pub fn with_float_output(self) -> FusedLinear {
        FusedLinear { float_output: true, ..self }
    }

    /// `[tokens, in]` → `[tokens, out]`. Rows of another kind are converted.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, rows: &Tensor) -> Result<Tensor, ModelError> {
        let converted = (rows.kind() != self.kind).then(|| rows.f_to_kind(self.kind)).transpose()?;
        let rows = converted.as_ref().unwrap_or(rows);
        match &self.weight {
            Weight::Frozen(weight) => {
                Ok(weight.activated(rows, self.bias.as_ref(), self.activation, self.float_output)?)
            }
            Weight::Live(weights) => {
                let weight = joined(weights)?.ok_or_else(|| ModelError::Input("a layer has no weight".to_string()))?;
                let output = choice::linear(rows, &weight, self.bias.as_ref())?;
                Ok(match self.activation {
                    Some(activation) => activation.of(&output)?,
                    None => output,
                })
            }
        }
    }
}

/// One tensor after another; nothing of none.
fn joined(tensors: &[Tensor]) -> Result<Option<Tensor>, ModelError> {
    Ok(match tensors {
        [] => None,
        [one] => Some(one.shallow_clone()),
        several => Some(Tensor::f_cat(several, 0)?),
    })
}

/// Whether `kind` is one that encoders compute in on `device`.
///
/// # Errors
/// [`ModelError::Input`] where it is not.
pub(crate) fn check_kind(kind: Kind, device: Device) -> Result<(), ModelError> {
    match kind {
        Kind::Float | Kind::BFloat16 => Ok(()),
        other => Err(ModelError::Input(format!(
            "encoders compute in float32 or bfloat16, not in {other:?} on {device:?}; ask for one of the two"
        ))),
    }
}
