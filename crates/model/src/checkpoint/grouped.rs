//! Matrices of integers in groups inside safetensors: a form of our own, for weights that were rounded to 8 or 4 bits.
//!
//! `config.json` says `"quantization_config": {"quant_method": "tidemill", "bits": 4, "group_size": 32}`, and a matrix
//! `x.weight` `[outputs, inputs]` is there as
//! - `x.weight`: its integers, I8 `[outputs, inputs]`, or U8 `[outputs, inputs / 2]` with two neighbours a byte, the lower
//!   four bits first;
//! - `x.weight_scale`: F16 or F32 `[outputs, inputs / group]`, the group 16 or 32;
//! - `x.weight_minimum`: as the scales, or absent.
//!
//! Number `i` of row `o` is `scale[o][i / group] * integer[o][i] + minimum[o][i / group]`. Four bits without minima hold
//! the integer plus 8. Everything else is stored as floats under its own name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::error::WeightsError;
use crate::weights::{Bits, GROUP, Quantised, TensorSource, missing};

const KEY: &str = "quantization_config";
const METHOD: &str = "tidemill";

/// Marks a configuration: this is how its weights are stored; without `bits`, as floats.
pub(super) fn set(config: &mut Map<String, Value>, bits: Option<Bits>) {
    let bits = bits.map(|bits| match bits {
        Bits::Eight => 8,
        Bits::Four => 4,
    });
    match bits {
        Some(bits) => {
            config.insert(KEY.to_string(), json!({"quant_method": METHOD, "bits": bits, "group_size": GROUP}));
        }
        None if is_grouped(config) => {
            config.remove(KEY);
        }
        None => {}
    }
}

/// Whether a configuration is of this form.
pub(super) fn is_grouped(config: &Map<String, Value>) -> bool {
    config.get(KEY).and_then(|entry| entry.get("quant_method")).and_then(Value::as_str) == Some(METHOD)
}

/// The name of a matrix's scales.
pub(super) fn scale_name(matrix: &str) -> String {
    format!("{matrix}_scale")
}

/// The name of a matrix's minima.
pub(super) fn minimum_name(matrix: &str) -> String {
    format!("{matrix}_minimum")
}

/// Two integers a byte: as they are where there are minima, else plus 8.
pub(super) fn packed(quantised: &Quantised) -> Vec<u8> {
    let offset = nibble_offset(quantised.minima.is_some());
    let nibble = |value: i8| (value + offset) as u8 & 15;
    let pair = |pair: &[i8; 2]| {
        let [low, high] = *pair;
        nibble(low) | nibble(high) << 4
    };
    quantised.values.as_chunks::<2>().0.iter().map(pair).collect()
}

fn nibble_offset(has_minima: bool) -> i8 {
    if has_minima { 0 } else { 8 }
}

/// Whether the integers are among those that so many bits hold.
pub(super) fn holds(bits: Bits, quantised: &Quantised) -> bool {
    let range = match (bits, &quantised.minima) {
        (Bits::Eight, _) => return true,
        (Bits::Four, Some(_)) => 0..=15,
        (Bits::Four, None) => -8..=7,
    };
    quantised.inputs.is_multiple_of(2) && quantised.values.iter().all(|value| range.contains(value))
}

/// Tensors of a source in this form, under the names and shapes that the architecture gives them.
pub(super) struct GroupedTensors {
    inner: Box<dyn TensorSource>,
    matrices: BTreeMap<String, Grouped>,
}

struct Grouped {
    shape: [i64; 2],
    bits: Bits,
    group: i64,
    has_minima: bool,
}

impl GroupedTensors {
    /// Finds the matrices by their scales.
    ///
    /// # Errors
    /// [`WeightsError::Tensor`] for one whose parts do not go together.
    pub(super) fn new(inner: Box<dyn TensorSource>) -> Result<GroupedTensors, WeightsError> {
        let mut matrices = BTreeMap::new();
        for name in inner.names() {
            if let Some(scales) = inner.shape(&scale_name(name)) {
                let refuse = |problem: String| WeightsError::Tensor {
                    file: inner.file_of(name).to_path_buf(),
                    tensor: name.to_string(),
                    problem,
                };
                matrices.insert(name.to_string(), describe(inner.as_ref(), name, scales).map_err(refuse)?);
            }
        }
        Ok(GroupedTensors { inner, matrices })
    }

    fn read(&self, name: &str, matrix: &Grouped) -> Result<Quantised, WeightsError> {
        let torch = |source| WeightsError::Torch { file: self.inner.file_of(name).to_path_buf(), source };
        let flat = |name: &str, kind: Kind| {
            let tensor = self.inner.tensor(name, Device::Cpu)?;
            tensor.f_to_kind(kind).and_then(|tensor| tensor.f_view([-1])).map_err(torch)
        };
        let floats = |name: &str| Vec::<f32>::try_from(flat(name, Kind::Float)?).map_err(torch);
        let values = match matrix.bits {
            Bits::Eight => Vec::<i8>::try_from(flat(name, Kind::Int8)?).map_err(torch)?,
            Bits::Four => {
                let offset = nibble_offset(matrix.has_minima);
                let bytes = Vec::<u8>::try_from(flat(name, Kind::Uint8)?).map_err(torch)?;
                let nibbles = |byte: u8| [(byte & 15) as i8 - offset, (byte >> 4) as i8 - offset];
                bytes.into_iter().flat_map(nibbles).collect()
            }
        };
        let [outputs, inputs] = matrix.shape.map(|size| usize::try_from(size).unwrap_or_default());
        let minima = matrix.has_minima.then(|| floats(&minimum_name(name))).transpose()?;
        let group = usize::try_from(matrix.group).unwrap_or_default();
        Ok(Quantised { outputs, inputs, group, values, scales: floats(&scale_name(name))?, minima })
    }
}

fn describe(source: &dyn TensorSource, name: &str, scales: &[i64]) -> Result<Grouped, String> {
    let (bits, shape) = match (source.kind(name), source.shape(name)) {
        (Some(Kind::Int8), Some(&[outputs, inputs])) => (Bits::Eight, [outputs, inputs]),
        (Some(Kind::Uint8), Some(&[outputs, bytes])) => (Bits::Four, [outputs, 2 * bytes]),
        (kind, shape) => {
            return Err(format!("has scales, and is {kind:?} {shape:?} and no matrix of 8 or 4 bits"));
        }
    };
    let [outputs, inputs] = shape;
    let group = scales.last().filter(|groups| **groups > 0).map_or(0, |groups| inputs / groups);
    if (group != 16 && group != 32) || scales != [outputs, inputs / group] || inputs % group != 0 {
        return Err(format!("is {outputs} x {inputs} and has scales {scales:?}, not one for every 16 or 32 of a row"));
    }
    let minimum = minimum_name(name);
    let minima = source.shape(&minimum);
    let is_float = |name: &str| matches!(source.kind(name), Some(Kind::Half | Kind::Float));
    let fits = minima.is_none_or(|minima| minima == scales && is_float(&minimum));
    if !fits || !is_float(&scale_name(name)) {
        return Err("has scales or minima of another shape or type than F16 or F32 a group".to_string());
    }
    Ok(Grouped { shape, bits, group, has_minima: minima.is_some() })
}

impl TensorSource for GroupedTensors {
    fn file_of(&self, name: &str) -> &Path {
        self.inner.file_of(name)
    }

    fn names(&self) -> Vec<&str> {
        let part_of_matrix = |name: &str| {
            let matrix = name.strip_suffix("_scale").or(name.strip_suffix("_minimum"));
            matrix.is_some_and(|matrix| self.matrices.contains_key(matrix))
        };
        self.inner.names().into_iter().filter(|name| !part_of_matrix(name)).collect()
    }

    fn shape(&self, name: &str) -> Option<&[i64]> {
        self.matrices.get(name).map_or_else(|| self.inner.shape(name), |matrix| Some(matrix.shape.as_slice()))
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        if self.matrices.contains_key(name) { Some(Kind::Float) } else { self.inner.kind(name) }
    }

    fn tensor(&self, name: &str, device: Device) -> Result<Tensor, WeightsError> {
        let Some(matrix) = self.matrices.get(name) else {
            return self.inner.tensor(name, device);
        };
        let floats = self.read(name, matrix)?.to_floats();
        let tensor = Tensor::f_from_slice(&floats)
            .and_then(|tensor| tensor.f_view(matrix.shape))
            .and_then(|tensor| tensor.f_to_device(device));
        tensor.map_err(|source| WeightsError::Torch { file: self.inner.file_of(name).to_path_buf(), source })
    }

    fn quantised(&self, name: &str) -> Result<Option<Quantised>, WeightsError> {
        match self.matrices.get(name) {
            Some(matrix) => self.read(name, matrix).map(Some),
            None if self.inner.shape(name).is_none() => Err(missing(self.inner.file_of(name), name)),
            None => self.inner.quantised(name),
        }
    }
}
