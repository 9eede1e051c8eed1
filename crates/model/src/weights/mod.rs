//! Tensors on disk by name ([`TensorSource`]), and one form of them: safetensors files, mapped into memory when read,
//! the same bytes every time when written (`write.rs`). Other forms are under `checkpoint/`. The header is checked here
//! before any tensor is made, so that a lying file is an error that names the tensor, never a bad read. The map belongs to
//! libtorch (a private file mapping), so it lives exactly as long as the last tensor that looks into it.
//! Format: <https://huggingface.co/docs/safetensors>.

mod quantised;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::error::WeightsError;

pub use quantised::{Bits, GROUP, Quantised};
pub use write::write;
pub(crate) use write::{write_in_place, write_one_by_one};

/// The format's own bound on a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Named tensors on disk, in whatever form: one file of safetensors, several, or another format read as if it were one.
pub trait TensorSource: Send {
    /// The file that errors about the tensor `name` should name.
    fn file_of(&self, name: &str) -> &Path;

    /// The tensors' names, sorted.
    fn names(&self) -> Vec<&str>;

    /// A tensor's shape, or nothing when there is no such tensor.
    fn shape(&self, name: &str) -> Option<&[i64]>;

    /// The element type that [`TensorSource::tensor`] gives, or nothing when there is no such tensor.
    fn kind(&self, name: &str) -> Option<Kind>;

    /// One tensor: a view of the mapped file where that can be.
    ///
    /// # Errors
    /// [`WeightsError`] when there is none of this name, or the device refuses.
    fn tensor(&self, name: &str, device: Device) -> Result<Tensor, WeightsError>;

    /// A matrix as the integers it was quantised to, or nothing when its numbers are stored as floats. Every number is
    /// the one that [`TensorSource::tensor`] gives. The rows are a linear layer's outputs: where the tensor is stored the
    /// other way round (GPT-2's `Conv1D`), this is its transpose.
    ///
    /// # Errors
    /// As [`TensorSource::tensor`].
    fn quantised(&self, name: &str) -> Result<Option<Quantised>, WeightsError> {
        let _ = name;
        Ok(None)
    }
}

/// A safetensors file whose header has been checked and whose bytes are mapped, not read.
///
/// # Example
/// ```
/// use tidemill_model::weights::{self, Weights};
/// use tch::{Device, Tensor};
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("model.safetensors");
/// let bias = Tensor::from_slice(&[1.0_f32, 2.0]);
/// weights::write(&file, &[("classifier.bias".to_string(), bias)])?;
///
/// let weights = Weights::open(&file)?;
/// assert_eq!(weights.names().collect::<Vec<_>>(), ["classifier.bias"]);
/// assert_eq!(weights.tensor("classifier.bias", Device::Cpu)?.size(), [2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Weights {
    file: PathBuf,
    entries: Arc<BTreeMap<String, Entry>>,
    metadata: Arc<BTreeMap<String, String>>,
    /// The whole file as bytes. Tensors are views of it and keep its storage, and so the map, alive.
    map: Tensor,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    shape: Vec<i64>,
    /// From the start of the file.
    start: usize,
    length: usize,
}

impl Weights {
    /// Maps a file and checks its header: its length, that names are unique, types known, shapes sane, and that the
    /// tensors' bytes lie inside the file, one after another, without overlap or gap.
    ///
    /// # Errors
    /// [`WeightsError`] that names the file, and the tensor where there is one.
    pub fn open(path: &Path) -> Result<Weights, WeightsError> {
        let io = |source| WeightsError::Io { file: path.to_path_buf(), source };
        let refuse = |problem: String| WeightsError::Header { file: path.to_path_buf(), problem };
        let mut file = File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        if !about.is_file() {
            return Err(refuse("is not a file".to_string()));
        }
        let (header, data_start) = read_header(&mut file, about.len()).map_err(|problem| match problem {
            HeaderProblem::Io(source) => io(source),
            HeaderProblem::Format(problem) => refuse(problem),
        })?;
        let Header { mut tensors, metadata } = serde_json::from_slice(&header)
            .map_err(|error| refuse(format!("its header is not the JSON of a safetensors file: {error}")))?;
        tensors.sort_by_key(|(_, entry)| entry.data_offsets);
        let entries = check_entries(path, tensors, data_start, about.len())?;
        Ok(Weights {
            map: map_file(path, about.len())?,
            file: path.to_path_buf(),
            entries: Arc::new(entries),
            metadata: Arc::new(metadata),
            bytes: about.len(),
        })
    }

    /// The file these weights were opened from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file's length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// What the writer put under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// A tensor's shape, or nothing when there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// A tensor's element type, or nothing when there is no such tensor.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.entries.get(name).map(|entry| entry.kind)
    }

    /// One tensor. On the CPU it is a view of the mapped file: nothing is copied, pages are read when they are used,
    /// and writing into it changes memory, never the file. (A tensor that the file leaves unaligned is copied.)
    ///
    /// # Errors
    /// [`WeightsError::Tensor`] when there is none of this name, [`WeightsError::Torch`] when the device refuses.
    pub fn tensor(&self, name: &str, device: Device) -> Result<Tensor, WeightsError> {
        let entry = self.entries.get(name).ok_or_else(|| missing(&self.file, name))?;
        self.view(entry, device).map_err(|source| WeightsError::Torch { file: self.file.clone(), source })
    }

    fn view(&self, entry: &Entry, device: Device) -> Result<Tensor, tch::TchError> {
        let bytes = self.map.f_narrow(0, entry.start as i64, entry.length as i64)?;
        let aligned = entry.start.is_multiple_of(entry.kind.elt_size_in_bytes());
        let bytes = if aligned { bytes } else { copy(&bytes)? };
        bytes.f_view_dtype(entry.kind)?.f_view(entry.shape.as_slice())?.f_to_device(device)
    }
}

impl TensorSource for Weights {
    fn file_of(&self, _: &str) -> &Path {
        &self.file
    }

    fn names(&self) -> Vec<&str> {
        Weights::names(self).collect()
    }

    fn shape(&self, name: &str) -> Option<&[i64]> {
        Weights::shape(self, name)
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        Weights::kind(self, name)
    }

    fn tensor(&self, name: &str, device: Device) -> Result<Tensor, WeightsError> {
        Weights::tensor(self, name, device)
    }
}

pub(crate) fn copy(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    let mut copied = tensor.f_empty_like()?;
    copied.f_copy_(tensor)?;
    Ok(copied)
}

impl Clone for Weights {
    /// The same map again: nothing is read or copied.
    fn clone(&self) -> Weights {
        Weights {
            file: self.file.clone(),
            entries: Arc::clone(&self.entries),
            metadata: Arc::clone(&self.metadata),
            map: self.map.shallow_clone(),
            bytes: self.bytes,
        }
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Weights({}, {} tensors)", self.file.display(), self.entries.len())
    }
}

enum HeaderProblem {
    Io(std::io::Error),
    Format(String),
}

/// The header's bytes, and where the tensors' bytes start.
fn read_header(file: &mut File, length: u64) -> Result<(Vec<u8>, u64), HeaderProblem> {
    let mut size = [0; 8];
    if length < 8 {
        return Err(HeaderProblem::Format(format!(
            "is not a safetensors file: it has {length} bytes, and the header's length alone takes 8"
        )));
    }
    file.read_exact(&mut size).map_err(HeaderProblem::Io)?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER_BYTES {
        return Err(HeaderProblem::Format(format!(
            "is not a safetensors file: its header claims {size} bytes, more than the format allows"
        )));
    }
    if size > length - 8 {
        return Err(HeaderProblem::Format(format!(
            "is cut short: its header claims {size} bytes and the file has {} after its first 8",
            length - 8
        )));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(HeaderProblem::Io)?;
    Ok((header, 8 + size))
}

/// The header as it stands, before anything in it is believed.
struct Header {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    /// By hand, because a name that comes twice must be an error and not the last one's win.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Entries;
        impl<'de> serde::de::Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut tensors, mut metadata) = (Vec::new(), None);
                let mut seen = std::collections::BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("\"{name}\" comes twice")));
                    }
                    if name == "__metadata__" {
                        metadata = map.next_value()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header { tensors, metadata: metadata.unwrap_or_default() })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Believes nothing: types, shapes, lengths, and that the tensors (sorted by offset) fill the rest of the file.
fn check_entries(
    path: &Path,
    tensors: Vec<(String, RawEntry)>,
    data_start: u64,
    file_length: u64,
) -> Result<BTreeMap<String, Entry>, WeightsError> {
    let mut entries = BTreeMap::new();
    let mut expected = 0;
    let available = file_length - data_start;
    for (name, raw) in tensors {
        let refuse = |problem: String| WeightsError::Tensor { file: path.to_path_buf(), tensor: name.clone(), problem };
        let (start, end) = raw.data_offsets;
        let kind = kind_of(&raw.dtype)
            .ok_or_else(|| refuse(format!("has the element type {:?}, which is not supported", raw.dtype)))?;
        let size = kind.elt_size_in_bytes() as u64;
        let length = raw
            .shape
            .iter()
            .try_fold(size, |bytes, &dimension| bytes.checked_mul(dimension))
            .filter(|&bytes| i64::try_from(bytes).is_ok() && raw.shape.iter().all(|&d| i64::try_from(d).is_ok()))
            .ok_or_else(|| refuse(format!("has an absurd shape, {:?}", raw.shape)))?;
        if start > end || end > available {
            return Err(refuse(format!(
                "claims the bytes {start} to {end}, but the file holds {available} bytes of tensors: it is cut short \
                 or its header is wrong"
            )));
        }
        if end - start != length {
            return Err(refuse(format!(
                "claims {} bytes, but its shape {:?} of {} takes {length}",
                end - start,
                raw.shape,
                raw.dtype
            )));
        }
        if start != expected {
            let how = if start < expected { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(refuse(format!("{how}: it starts at byte {start} and not at {expected}")));
        }
        expected = end;
        let entry = Entry {
            kind,
            shape: raw.shape.iter().map(|&dimension| dimension as i64).collect(),
            start: (data_start + start) as usize,
            length: length as usize,
        };
        entries.insert(name, entry);
    }
    if expected != available {
        return Err(WeightsError::Header {
            file: path.to_path_buf(),
            problem: format!("has {} bytes after its last tensor", available - expected),
        });
    }
    Ok(entries)
}

/// A tensor that is not there, as an error.
pub(crate) fn missing(file: &Path, name: &str) -> WeightsError {
    WeightsError::Tensor { file: file.to_path_buf(), tensor: name.to_string(), problem: "is missing".to_string() }
}

/// libtorch's own private mapping: read-only on the disk, copied on write in memory, unmapped with its last tensor.
pub(crate) fn map_file(path: &Path, length: u64) -> Result<Tensor, WeightsError> {
    let refuse = |problem: String| WeightsError::Header { file: path.to_path_buf(), problem };
    let name = path.to_str().ok_or_else(|| refuse("its path is not UTF-8, which libtorch needs".to_string()))?;
    let length = i64::try_from(length).map_err(|_| refuse("is too large".to_string()))?;
    Tensor::f_from_file(name, false, length, (Kind::Uint8, Device::Cpu))
        .map_err(|source| WeightsError::Torch { file: path.to_path_buf(), source })
}

const KINDS: &[(&str, Kind)] = &[
    ("F64", Kind::Double),
    ("F32", Kind::Float),
    ("F16", Kind::Half),
    ("BF16", Kind::BFloat16),
    ("I64", Kind::Int64),
    ("I32", Kind::Int),
    ("I16", Kind::Int16),
    ("I8", Kind::Int8),
    ("U8", Kind::Uint8),
    ("BOOL", Kind::Bool),
];

fn kind_of(dtype: &str) -> Option<Kind> {
    KINDS.iter().find(|(name, _)| *name == dtype).map(|(_, kind)| *kind)
}

fn dtype_name(kind: Kind) -> Option<&'static str> {
    KINDS.iter().find(|(_, known)| *known == kind).map(|(name, _)| *name)
}
