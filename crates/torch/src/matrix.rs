//! A frozen weight in one of four precisions, laid out so that it is read once a product.
//!
//! Owns the only copy of the numbers, for one row (decoding) as for hundreds (prefill); knows nothing of layers. The
//! kernels are in `shim/matrix*.cpp`.

use tch::{Device, Kind, TchError, Tensor};

/// How a [`Matrix`] holds its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floating point.
    Float32,
    /// 16-bit floating point with the range of float32.
    BFloat16,
    /// 8-bit integers, a scale for every 32 of a row.
    Int8,
    /// 4-bit integers, a scale and a minimum for every 32 of a row.
    Int4,
}

/// A quantised weight as a file holds it: number `i` of row `o` is
/// `scales[o][i / group] * values[o][i] + minima[o][i / group]`.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// Rows of the weight.
    pub outputs: usize,
    /// Numbers in a row; a multiple of `group`.
    pub inputs: usize,
    /// How many numbers of a row share a scale: 16 or 32.
    pub group: usize,
    /// `[outputs, inputs]`, one byte a number. Where all lie in `-8..=7` or all in `0..=15` they are held in 4 bits.
    pub values: &'a [i8],
    /// `[outputs, inputs / group]`.
    pub scales: &'a [f32],
    /// `[outputs, inputs / group]`; zeros where absent.
    pub minima: Option<&'a [f32]>,
}

/// A frozen weight `[outputs, inputs]`. Cheap to clone: the numbers are shared. No gradients.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use tidemill_torch::{Matrix, Precision};
/// # fn main() -> Result<(), tch::TchError> {
/// let weight = Tensor::f_ones([8, 4], (Kind::Float, Device::Cpu))?;
/// let matrix = Matrix::from_tensor(&weight, Precision::BFloat16)?;
/// let output = matrix.linear(&Tensor::f_ones([2, 4], (Kind::Float, Device::Cpu))?, None)?;
/// assert_eq!(output.size(), [2, 8]);
/// assert_eq!(output.double_value(&[1, 7]), 4.0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Matrix {
    weight: Tensor,
    precision: Precision,
}

impl Clone for Matrix {
    fn clone(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), precision: self.precision }
    }
}

impl Matrix {
    /// Takes the numbers of `weight` (`[outputs, inputs]`, any floating-point kind) over, rounded to `precision`.
    ///
    /// # Errors
    /// [`TchError::Torch`] where `weight` is not a matrix of floating-point numbers.
    pub fn from_tensor(weight: &Tensor, precision: Precision) -> Result<Self, TchError> {
        let (outputs, inputs) = weight.size2()?;
        if !matches!(weight.kind(), Kind::Float | Kind::BFloat16 | Kind::Half | Kind::Double) {
            return Err(TchError::Torch(format!("matrix: a weight of {:?} numbers cannot be held", weight.kind())));
        }
        let weight = weight.f_detach()?.f_to_kind(Kind::Float)?;
        let weight = match precision {
            Precision::Float32 => weight,
            Precision::BFloat16 => weight.f_to_kind(Kind::BFloat16)?,
            Precision::Int8 | Precision::Int4 => {
                let padded = weight.f_constant_pad_nd([0, (32 - inputs % 32) % 32])?.f_view([outputs, -1, 32])?;
                let (low, scale) = if precision == Precision::Int8 {
                    (None, padded.f_abs()?.f_amax([-1i64].as_slice(), true)?.f_div_scalar(127.0)?)
                } else {
                    let low = padded.f_amin([-1i64].as_slice(), true)?;
                    let high = padded.f_amax([-1i64].as_slice(), true)?;
                    let scale = high.f_sub(&low)?.f_div_scalar(15.0)?;
                    (Some(low.f_to_kind(Kind::Half)?.f_to_kind(Kind::Float)?), scale)
                };
                let scale = scale.f_to_kind(Kind::Half)?.f_to_kind(Kind::Float)?.f_clamp_min(1e-7)?;
                let shifted = low.as_ref().map_or_else(|| Ok(padded.shallow_clone()), |low| padded.f_sub(low))?;
                let (least, most) = if low.is_some() { (0.0, 15.0) } else { (-127.0, 127.0) };
                let values = shifted.f_div(&scale)?.f_round()?.f_clamp(least, most)?.f_mul(&scale)?;
                let values = low.map_or_else(|| Ok(values.shallow_clone()), |low| values.f_add(&low))?;
                values.f_view([outputs, -1])?.f_narrow(1, 0, inputs)?.f_contiguous()?
            }
        };
        Ok(Self { weight, precision })
    }

    /// Takes quantised numbers over without loss.
    ///
    /// # Errors
    /// [`TchError::Torch`] where the lengths do not fit one another, or `group` is neither 16 nor 32.
    pub fn from_groups(groups: &Groups<'_>) -> Result<Self, TchError> {
        let &Groups { outputs, inputs, group, values, scales, minima } = groups;
        let fits = (group == 16 || group == 32)
            && inputs % group == 0
            && outputs.checked_mul(inputs) == Some(values.len())
            && scales.len() == values.len() / group
            && minima.is_none_or(|minima| minima.len() == scales.len());
        if !fits {
            return Err(TchError::Torch(format!(
                "matrix: {} quantised values and {} scales are not {outputs} x {inputs} in groups of {group}",
                values.len(),
                scales.len()
            )));
        }
        let size = [outputs as i64, -1, group as i64];
        let scales = Tensor::f_from_slice(scales)?.f_view([outputs as i64, -1, 1])?;
        let mut weight = Tensor::f_from_slice(values)?.f_view(size)?.f_to_kind(Kind::Float)?.f_mul(&scales)?;
        if let Some(minima) = minima {
            weight = weight.f_add(&Tensor::f_from_slice(minima)?.f_view([outputs as i64, -1, 1])?)?;
        }
        let int4 = values.iter().all(|v| (-8..8).contains(v)) || values.iter().all(|v| (0..16).contains(v));
        let precision = if int4 { Precision::Int4 } else { Precision::Int8 };
        Ok(Self { weight: weight.f_view([outputs as i64, inputs as i64])?, precision })
    }

    /// The outputs of all `parts`, one after another, as one matrix: their products in one call. The numbers are shared,
    /// not copied, and the parts may differ in precision.
    ///
    /// # Errors
    /// [`TchError::Torch`] where there is no part, or the parts differ in inputs or device.
    pub fn concatenated(parts: &[Self]) -> Result<Self, TchError> {
        let Some(first) = parts.first() else {
            return Err(TchError::Torch("matrix: nothing to concatenate".to_owned()));
        };
        let same = parts.iter().all(|part| part.precision == first.precision);
        let kind = if same { first.weight.kind() } else { Kind::Float };
        let weights = parts.iter().map(|part| part.weight.f_to_kind(kind)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { weight: Tensor::f_cat(&weights, 0)?, precision: first.precision })
    }

    /// `x @ weight.T + bias`: `x` is `[..., inputs]` and `bias` `[outputs]`, both float32; the result is
    /// `[..., outputs]`, float32.
    ///
    /// # Errors
    /// [`TchError::Torch`] where shapes or devices do not fit.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
        tch::no_grad(|| x.f_linear(&self.weight.f_to_kind(x.kind())?, bias))
    }

    /// Rows of the weight by `ids` (`[n]`, int64) as `[n, inputs]` float32: the look-up in an embedding table.
    ///
    /// # Errors
    /// [`TchError::Torch`] where an id is not in `0..outputs`.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        self.weight.f_index_select(0, ids)?.f_to_kind(Kind::Float)
    }

    /// All numbers, `[outputs, inputs]` float32.
    ///
    /// # Errors
    /// [`TchError::Torch`] where there is no memory for it.
    pub fn to_tensor(&self) -> Result<Tensor, TchError> {
        self.weight.f_to_kind(Kind::Float)
    }

    /// Rows of the weight.
    pub fn outputs(&self) -> i64 {
        self.weight.size().first().copied().unwrap_or_default()
    }

    /// Numbers in a row.
    pub fn inputs(&self) -> i64 {
        self.weight.size().last().copied().unwrap_or_default()
    }

    /// The memory that the numbers take.
    pub fn bytes(&self) -> usize {
        self.weight.numel() * self.weight.kind().elt_size_in_bytes()
    }

    /// How the numbers are held; that of the first part where [`Matrix::concatenated`] joined several.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Where the numbers lie.
    pub fn device(&self) -> Device {
        self.weight.device()
    }
}
