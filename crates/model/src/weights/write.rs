//! Writes safetensors: sorted by name, padded so that tensors are aligned, whole or not at all, the same bytes for the same
//! tensors.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use tch::{Device, Kind, Tensor};

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

struct Prepared {
    header: Vec<u8>,
    tensors: Vec<Tensor>,
}

impl Prepared {
    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        let mut buffer = Vec::new();
        for tensor in &self.tensors {
            let size = tensor.kind().elt_size_in_bytes();
            // In pieces, so that a large tensor is not held twice.
            let elements = tensor.numel();
            let piece = (4 << 20) / size;
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
        }
        Ok(())
    }
}

/// Sorts, builds the header, and brings every tensor to the CPU as one flat run of elements.
fn prepare(path: &Path, tensors: &[(String, Tensor)]) -> Result<Prepared, WeightsError> {
    let refuse = |tensor: &str, problem: String| WeightsError::Tensor {
        file: path.to_path_buf(),
        tensor: tensor.to_string(),
        problem,
    };
    let torch = |source| WeightsError::Torch { file: path.to_path_buf(), source };
    let sorted: BTreeMap<&str, &Tensor> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    if sorted.len() != tensors.len() {
        let twice = tensors
            .iter()
            .enumerate()
            .find(|(at, (name, _))| tensors.iter().take(*at).any(|(earlier, _)| earlier == name));
        let name = twice.map_or("", |(_, (name, _))| name.as_str());
        return Err(refuse(name, "is given twice".to_string()));
    }
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_string(), serde_json::json!({"format": "pt"}));
    let (mut flat, mut end) = (Vec::with_capacity(sorted.len()), 0_usize);
    for (name, tensor) in sorted {
        let kind = tensor.kind();
        let dtype = dtype_name(kind)
            .ok_or_else(|| refuse(name, format!("has the element type {kind:?}, which safetensors does not have")))?;
        let start = end;
        end += tensor.numel() * kind.elt_size_in_bytes();
        let entry = serde_json::json!({"dtype": dtype, "shape": tensor.size(), "data_offsets": [start, end]});
        header.insert(name.to_string(), entry);
        let on_cpu = tensor.f_detach().and_then(|t| t.f_to_device(Device::Cpu)).map_err(torch)?;
        flat.push(on_cpu.f_reshape([-1_i64]).and_then(|t| t.f_contiguous()).map_err(torch)?);
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    let padded = (8 + header.len()).next_multiple_of(ALIGNMENT) - 8;
    header.resize(padded, b' ');
    Ok(Prepared { header, tensors: flat })
}
