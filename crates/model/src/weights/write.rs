//! Writes safetensors: sorted by name, padded so that tensors are aligned, whole or not at all, the same bytes for the same
//! tensors.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use tch::{Device, Kind, TchError, Tensor};

use super::dtype_name;
use crate::error::{WeightsError, first_line};
use crate::files;

/// Tensors start at a multiple of this, so that the first one is aligned for vector loads.
const ALIGNMENT: usize = 64;

/// Writes tensors as a safetensors file, sorted by name, with the metadata `{"format":"pt"}` that `transformers` asks
/// for. The same tensors give the same bytes, and the file is never half written.
///
/// # Errors
/// [`WeightsError::Tensor`] for a name that comes twice or an element type the format lacks, [`WeightsError::Io`] for
/// what the operating system says.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), WeightsError> {
    let prepared = prepare(path, tensors)?;
    files::write_atomically(path, |out| prepared.write(out))
        .map_err(|source| WeightsError::Io { file: path.to_path_buf(), source })
}

/// As [`write`], for a folder that is synced and renamed as a whole.
pub(crate) fn write_in_place(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), WeightsError> {
    let prepared = prepare(path, tensors)?;
    files::write_and_sync(path, |out| prepared.write(out))
        .map_err(|source| WeightsError::Io { file: path.to_path_buf(), source })
}

/// As [`write_in_place`], for tensors that are not all in memory: `tensor` is asked for each in turn, in the order of
/// their names, and must give the kind and shape that were announced.
pub(crate) fn write_one_by_one(
    path: &Path,
    announced: &BTreeMap<&str, (Kind, Vec<i64>)>,
    mut tensor: impl FnMut(&str) -> Result<Tensor, WeightsError>,
) -> Result<(), WeightsError> {
    let header = header(path, announced.iter().map(|(name, (kind, shape))| (*name, *kind, shape.as_slice())))?;
    // What went wrong with a tensor says more than what the operating system can.
    let mut failed = None;
    let written = files::write_and_sync(path, |out| {
        out.write_all(&header)?;
        for (name, (kind, shape)) in announced {
            let flat = tensor(name).and_then(|tensor| match (tensor.kind(), tensor.size()) {
                found if found == (*kind, shape.clone()) => {
                    on_cpu(&tensor).map_err(|source| WeightsError::Torch { file: path.to_path_buf(), source })
                }
                found => Err(WeightsError::Tensor {
                    file: path.to_path_buf(),
                    tensor: (*name).to_string(),
                    problem: format!("became {found:?} while it was written"),
                }),
            });
            match flat {
                Ok(flat) => write_tensor(out, &flat)?,
                Err(error) => {
                    failed = Some(error);
                    return Err(std::io::Error::other("a tensor could not be read"));
                }
            }
        }
        Ok(())
    });
    match (written, failed) {
        (_, Some(error)) => Err(error),
        (written, None) => written.map_err(|source| WeightsError::Io { file: path.to_path_buf(), source }),
    }
}

struct Prepared {
    header: Vec<u8>,
    tensors: Vec<Tensor>,
}

impl Prepared {
    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&self.header)?;
        self.tensors.iter().try_for_each(|tensor| write_tensor(out, tensor))
    }
}

/// A flat tensor's bytes, in pieces, so that a large one is not held twice.
fn write_tensor(out: &mut dyn Write, tensor: &Tensor) -> std::io::Result<()> {
    let size = tensor.kind().elt_size_in_bytes();
    let elements = tensor.numel();
    let piece = (4 << 20) / size;
    let mut buffer = Vec::new();
    for start in (0..elements).step_by(piece.max(1)) {
        let count = piece.min(elements - start);
        let bytes = count * size;
        buffer.resize(bytes, 0);
        tensor
            .f_narrow(0, start as i64, count as i64)
            .and_then(|part| part.f_view_dtype(Kind::Uint8))
            .and_then(|part| part.f_copy_data_u8(&mut buffer, bytes))
            .map_err(|error| std::io::Error::other(first_line(&error)))?;
        out.write_all(&buffer)?;
    }
    Ok(())
}

/// One flat run of elements on the CPU.
fn on_cpu(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_to_device(Device::Cpu)?.f_reshape([-1_i64])?.f_contiguous()
}

/// Sorts, builds the header, and brings every tensor to the CPU.
fn prepare(path: &Path, tensors: &[(String, Tensor)]) -> Result<Prepared, WeightsError> {
    let sorted: BTreeMap<&str, &Tensor> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    if sorted.len() != tensors.len() {
        let twice = tensors
            .iter()
            .enumerate()
            .find(|(at, (name, _))| tensors.iter().take(*at).any(|(earlier, _)| earlier == name));
        let tensor = twice.map_or_else(String::new, |(_, (name, _))| name.clone());
        return Err(WeightsError::Tensor { file: path.to_path_buf(), tensor, problem: "is given twice".to_string() });
    }
    let sizes: Vec<Vec<i64>> = sorted.values().map(|tensor| tensor.size()).collect();
    let entries = sorted.iter().zip(&sizes).map(|((name, tensor), size)| (*name, tensor.kind(), size.as_slice()));
    let header = header(path, entries)?;
    let flat: Result<Vec<Tensor>, TchError> = sorted.values().map(|tensor| on_cpu(tensor)).collect();
    let tensors = flat.map_err(|source| WeightsError::Torch { file: path.to_path_buf(), source })?;
    Ok(Prepared { header, tensors })
}

/// The header with its length before it, padded so that the first tensor is aligned.
fn header<'a>(path: &Path, tensors: impl Iterator<Item = (&'a str, Kind, &'a [i64])>) -> Result<Vec<u8>, WeightsError> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_string(), serde_json::json!({"format": "pt"}));
    let mut end = 0_usize;
    for (name, kind, shape) in tensors {
        let dtype = dtype_name(kind).ok_or_else(|| WeightsError::Tensor {
            file: path.to_path_buf(),
            tensor: name.to_string(),
            problem: format!("has the element type {kind:?}, which safetensors does not have"),
        })?;
        let start = end;
        end += shape.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert(name.to_string(), entry);
    }
    let text = serde_json::Value::Object(header).to_string().into_bytes();
    let padded = (8 + text.len()).next_multiple_of(ALIGNMENT) - 8;
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes.resize(8 + padded, b' ');
    Ok(bytes)
}
