//! A frozen weight in one of four precisions, laid out so that it is read once a product.
//!
//! Owns the only copy of the numbers, which serves one row (decoding) as well as hundreds (prefill); knows nothing of
//! layers. Layout and kernels are in `shim/panels.hpp`, memory and threads in `shim/matrix.cpp`.
//!
//! Products are without gradients. A row's result does not depend on the rows beside it, nor on the number of threads: a
//! sequence gives the same numbers alone and in a batch, in one piece and token by token. Sums are float32. Where the
//! processor multiplies bfloat16 (AVX512-BF16), activations are rounded to bfloat16 for every precision but
//! [`Precision::Float32`]; elsewhere they stay float32. Weights are never rounded a second time.

use crate::ffi::{self, RawMatrix, pointer};
use std::ptr::null_mut;
use std::sync::Arc;
use tch::{Device, Kind, TchError, Tensor};

/// How a [`Matrix`] holds its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floating point.
    Float32,
    /// 16-bit floating point with the range of float32.
    BFloat16,
    /// 8-bit integers, a float16 scale for every 32 of a row.
    Int8,
    /// 4-bit integers, a float16 scale and minimum for every 32 of a row.
    Int4,
}

/// A quantised weight as a file holds it: number `i` of row `o` is
/// `scales[o][i / group] * values[o][i] + minima[o][i / group]`.
///
/// ```
/// use tidemill_torch::{Groups, Matrix, Precision};
/// # fn main() -> Result<(), tch::TchError> {
/// let values: Vec<i8> = (0..32).map(|i| i % 16).collect();
/// let groups = Groups { outputs: 1, inputs: 32, group: 32, values: &values, scales: &[0.5], minima: Some(&[-1.0]) };
/// let matrix = Matrix::from_groups(&groups)?;
/// assert_eq!(matrix.precision(), Precision::Int4);
/// assert_eq!(matrix.to_tensor()?.double_value(&[0, 15]), 0.5 * 15.0 - 1.0);
/// # Ok(()) }
/// ```
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
    /// `[outputs, inputs / group]`. Scales and minima are held in float16 where that loses nothing, else in float32.
    pub scales: &'a [f32],
    /// `[outputs, inputs / group]`; zeros where absent.
    pub minima: Option<&'a [f32]>,
}

/// A frozen weight `[outputs, inputs]`. Cheap to clone: the numbers are shared.
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
    numbers: Numbers,
    outputs: i64,
    inputs: i64,
    bytes: usize,
    precision: Precision,
}

#[derive(Debug)]
enum Numbers {
    Panels(Arc<Panels>),
    /// On other devices: the numbers after rounding, in float32 or bfloat16.
    Plain(Tensor),
}

/// The shim's matrix.
#[derive(Debug)]
struct Panels(RawMatrix);

// SAFETY: the shim's matrix is never changed after it is made, and owns memory that any thread may free.
unsafe impl Send for Panels {}
// SAFETY: as above; reading it from several threads at once is what it is for.
unsafe impl Sync for Panels {}

impl Drop for Panels {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the shim and is not used again.
        unsafe { ffi::tm_matrix_free(self.0) };
    }
}

impl Clone for Matrix {
    fn clone(&self) -> Self {
        let numbers = match &self.numbers {
            Numbers::Panels(panels) => Numbers::Panels(Arc::clone(panels)),
            Numbers::Plain(weight) => Numbers::Plain(weight.shallow_clone()),
        };
        Self { numbers, ..*self }
    }
}

impl Matrix {
    /// Takes over the numbers of `weight` (`[outputs, inputs]`, any floating-point kind), rounded to `precision`.
    ///
    /// Later changes of `weight` are not seen. [`Precision::Int8`] takes the largest of 32 numbers as 127 steps;
    /// [`Precision::Int4`] searches the scale and minimum with the smallest squared error.
    ///
    /// # Errors
    /// [`TchError::Torch`] where `weight` is not a matrix of floating-point numbers, is empty, or holds numbers that
    /// scaled integers cannot (not finite, beyond 60,000).
    pub fn from_tensor(weight: &Tensor, precision: Precision) -> Result<Self, TchError> {
        if !matches!(weight.kind(), Kind::Float | Kind::BFloat16 | Kind::Half | Kind::Double) {
            return Err(refused(format!("a weight of {:?} numbers cannot be held", weight.kind())));
        }
        let device = weight.device();
        let here = if device == Device::Cpu { weight.shallow_clone() } else { weight.f_to_device(Device::Cpu)? };
        let format = match precision {
            Precision::Float32 => 0,
            Precision::BFloat16 => 1,
            Precision::Int8 => 2,
            Precision::Int4 => 3,
        };
        // SAFETY: `here` is a live tensor that outlives the call.
        let matrix = Self::made(|result| unsafe { ffi::tm_matrix_from_tensor(result, here.as_ptr(), format) })?;
        if device == Device::Cpu {
            return Ok(matrix);
        }
        let kind = if precision == Precision::BFloat16 { Kind::BFloat16 } else { Kind::Float };
        let plain = matrix.to_tensor()?.f_to_kind(kind)?.f_to_device(device)?;
        let bytes = plain.numel() * kind.elt_size_in_bytes();
        Ok(Self { numbers: Numbers::Plain(plain), bytes, ..matrix })
    }

    /// Takes over quantised numbers without loss.
    ///
    /// # Errors
    /// [`TchError::Torch`] where the lengths do not fit one another, the weight is empty, or `group` is neither 16 nor 32.
    pub fn from_groups(groups: &Groups<'_>) -> Result<Self, TchError> {
        let &Groups { outputs, inputs, group, values, scales, minima } = groups;
        let fits = (group == 16 || group == 32)
            && inputs % group == 0
            && !values.is_empty()
            && outputs.checked_mul(inputs) == Some(values.len())
            && scales.len() == values.len() / group
            && minima.is_none_or(|minima| minima.len() == scales.len());
        if !fits {
            let (values, scales) = (values.len(), scales.len());
            return Err(refused(format!(
                "{values} quantised values and {scales} scales are not {outputs} x {inputs} in groups of {group}"
            )));
        }
        let minima = minima.map_or(std::ptr::null(), <[f32]>::as_ptr);
        // SAFETY: the lengths were checked above to be what the shim reads; the slices outlive the call.
        Self::made(|result| unsafe {
            let (values, scales) = (values.as_ptr(), scales.as_ptr());
            ffi::tm_matrix_from_groups(result, outputs as i64, inputs as i64, group as i64, values, scales, minima)
        })
    }

    /// The outputs of all `parts`, one after another, as one matrix: their products in one call. The numbers are shared,
    /// not copied, and the parts may differ in precision.
    ///
    /// # Errors
    /// [`TchError::Torch`] where there is no part, or the parts differ in inputs or device.
    pub fn concatenated(parts: &[Self]) -> Result<Self, TchError> {
        let mut panels = Vec::with_capacity(parts.len());
        let mut plain = Vec::with_capacity(parts.len());
        for part in parts {
            match &part.numbers {
                Numbers::Panels(numbers) => panels.push(numbers.0),
                Numbers::Plain(weight) => plain.push(weight),
            }
        }
        let Some(first) = parts.first() else {
            return Err(refused("there is nothing to concatenate".to_owned()));
        };
        if plain.is_empty() {
            // SAFETY: a list of matrices that `parts` keeps alive over the call.
            return Self::made(|result| unsafe {
                ffi::tm_matrix_concatenated(result, panels.as_ptr(), panels.len() as i64)
            });
        }
        if !panels.is_empty() {
            return Err(refused("parts in main memory and on another device cannot be joined".to_owned()));
        }
        let kind =
            if plain.iter().all(|weight| weight.kind() == Kind::BFloat16) { Kind::BFloat16 } else { Kind::Float };
        let weights = plain.iter().map(|weight| weight.f_to_kind(kind)).collect::<Result<Vec<_>, _>>()?;
        let outputs = parts.iter().map(|part| part.outputs).sum();
        let weight = Tensor::f_cat(&weights, 0)?;
        let bytes = weight.numel() * kind.elt_size_in_bytes();
        Ok(Self { numbers: Numbers::Plain(weight), outputs, bytes, ..*first })
    }

    /// `x @ weight.T + bias`: `x` is `[..., inputs]` and `bias` `[outputs]`, both float32; the result is
    /// `[..., outputs]`, float32.
    ///
    /// Inputs of another kind work too, slowly: the result has their kind.
    ///
    /// # Errors
    /// [`TchError::Torch`] where shapes or devices do not fit.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
        match &self.numbers {
            Numbers::Panels(panels) if x.kind() == Kind::Float && x.device() == Device::Cpu => {
                // SAFETY: the matrix and the tensors are live and outlive the call; null stands for no bias.
                ffi::result(|result| unsafe { ffi::tm_matrix_linear(result, panels.0, x.as_ptr(), pointer(bias)) })
            }
            Numbers::Panels(_) => tch::no_grad(|| x.f_linear(&self.to_tensor()?.f_to_kind(x.kind())?, bias)),
            Numbers::Plain(weight) => tch::no_grad(|| x.f_linear(&weight.f_to_kind(x.kind())?, bias)),
        }
    }

    /// Rows of the weight by `ids` (`[n]`, int64) as `[n, inputs]` float32: the look-up in an embedding table.
    ///
    /// # Errors
    /// [`TchError::Torch`] where an id is not in `0..outputs`.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        match &self.numbers {
            Numbers::Panels(panels) => {
                // SAFETY: the matrix and the tensor are live and outlive the call.
                ffi::result(|result| unsafe { ffi::tm_matrix_rows(result, panels.0, ids.as_ptr()) })
            }
            Numbers::Plain(weight) => weight.f_index_select(0, ids)?.f_to_kind(Kind::Float),
        }
    }

    /// All numbers, `[outputs, inputs]` float32.
    ///
    /// # Errors
    /// [`TchError::Torch`] where there is no memory for it.
    pub fn to_tensor(&self) -> Result<Tensor, TchError> {
        match &self.numbers {
            Numbers::Panels(_) => self.rows(&Tensor::f_arange(self.outputs, (Kind::Int64, Device::Cpu))?),
            Numbers::Plain(weight) => weight.f_to_kind(Kind::Float),
        }
    }

    /// Rows of the weight.
    pub fn outputs(&self) -> i64 {
        self.outputs
    }

    /// Numbers in a row.
    pub fn inputs(&self) -> i64 {
        self.inputs
    }

    /// The memory that the numbers take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How the numbers are held; that of the first part where [`Matrix::concatenated`] joined several.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Where the numbers lie.
    pub fn device(&self) -> Device {
        match &self.numbers {
            Numbers::Panels(_) => Device::Cpu,
            Numbers::Plain(weight) => weight.device(),
        }
    }

    /// Runs a shim function that makes a matrix.
    fn made(call: impl FnOnce(*mut RawMatrix) -> ffi::Message) -> Result<Self, TchError> {
        let mut raw = null_mut();
        ffi::check(call(&mut raw))?;
        if raw.is_null() {
            return Err(refused("the shim gave none".to_owned()));
        }
        let panels = Panels(raw);
        let mut numbers = [0; 4];
        // SAFETY: the matrix is live and the shim writes four numbers.
        unsafe { ffi::tm_matrix_describe(panels.0, numbers.as_mut_ptr()) };
        let [outputs, inputs, bytes, format] = numbers;
        let precision = match format {
            0 => Precision::Float32,
            1 => Precision::BFloat16,
            2 => Precision::Int8,
            _ => Precision::Int4,
        };
        let bytes = usize::try_from(bytes).unwrap_or_default();
        Ok(Self { numbers: Numbers::Panels(Arc::new(panels)), outputs, inputs, bytes, precision })
    }
}

fn refused(what: String) -> TchError {
    TchError::Torch(format!("matrix: {what}"))
}
