//! Tensors on disk by name ([`TensorSource`]), and one form of them: safetensors files, read tensor by tensor
//! (`stored.rs`), the same bytes every time when written (`write.rs`). Other forms are under `checkpoint/`. The header is
//! checked here before any tensor is made, so that a lying file is an error that names the tensor, never a bad read. A
//! tensor is a copy: what becomes of the file later is nothing to it.
//! Format: <https://huggingface.co/docs/safetensors>.

mod quantised;
mod stored;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::error::WeightsError;

pub use quantised::{Bits, GROUP, Quantised};
pub(crate) use stored::{ReadError, StoredBytes};
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

    /// One tensor, read now: it no longer depends on the file.
    ///
    /// # Errors
    /// [`WeightsError`] when there is none of this name, the file has become shorter, or the device refuses.
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

/// A safetensors file whose header has been checked and whose tensors are read when they are asked for.
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
#[derive(Clone)]
pub struct Weights {
    file: PathBuf,
    entries: Arc<BTreeMap<String, Entry>>,
    metadata: Arc<BTreeMap<String, String>>,
    stored: Arc<StoredBytes>,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    shape: Vec<i64>,
    /// From the start of the file.
    start: usize,
}

impl Weights {
    /// Opens a file and checks its header: its length, that names are unique, types known, shapes sane, and that the
    /// tensors' bytes lie inside the file, one after another, without overlap or gap.
    ///
    /// # Errors
    /// [`WeightsError`] that names the file, and the tensor where there is one.
    pub fn open(path: &Path) -> Result<Weights, WeightsError> {
        let refuse = |problem: String| WeightsError::Header { file: path.to_path_buf(), problem };
        let stored = StoredBytes::open(path).map_err(|source| failed(path, source))?;
        let (header, data_start) = read_header(path, &stored)?;
        let Header { mut tensors, metadata } = serde_json::from_slice(&header)
            .map_err(|error| refuse(format!("its header is not the JSON of a safetensors file: {error}")))?;
        tensors.sort_by_key(|(_, entry)| entry.data_offsets);
        let entries = check_entries(path, tensors, data_start, stored.length())?;
        Ok(Weights {
            file: path.to_path_buf(),
            entries: Arc::new(entries),
            metadata: Arc::new(metadata),
            stored: Arc::new(stored),
        })
    }

    /// The file these weights were opened from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file's length in bytes.
    pub fn bytes(&self) -> u64 {
        self.stored.length()
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

    /// One tensor, read now.
    ///
    /// # Errors
    /// [`WeightsError::Tensor`] when there is none of this name, [`WeightsError::Io`] when it cannot be read any more,
    /// [`WeightsError::Torch`] when the device refuses.
    pub fn tensor(&self, name: &str, device: Device) -> Result<Tensor, WeightsError> {
        let entry = self.entries.get(name).ok_or_else(|| missing(&self.file, name))?;
        let torch = |source| WeightsError::Torch { file: self.file.clone(), source };
        let tensor = self.stored.tensor(entry.start, entry.kind, &entry.shape).map_err(|error| match error {
            ReadError::Io(source) => failed(&self.file, source),
            ReadError::Torch(source) => torch(source),
        })?;
        tensor.f_to_device(device).map_err(torch)
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

impl fmt::Debug for Weights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Weights({}, {} tensors)", self.file.display(), self.entries.len())
    }
}

fn failed(file: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { file: file.to_path_buf(), source }
}

/// The header's bytes, and where the tensors' bytes start.
fn read_header(path: &Path, stored: &StoredBytes) -> Result<(Vec<u8>, u64), WeightsError> {
    let refuse = |problem: String| Err(WeightsError::Header { file: path.to_path_buf(), problem });
    let length = stored.length();
    if length < 8 {
        return refuse(format!(
            "is not a safetensors file: it has {length} bytes, and the header's length alone takes 8"
        ));
    }
    let read = |range| stored.read(range).map_err(|source| failed(path, source));
    let size = u64::from_le_bytes(read(0..8)?.try_into().unwrap_or_default());
    if size > MAX_HEADER_BYTES {
        return refuse(format!(
            "is not a safetensors file: its header claims {size} bytes, more than the format allows"
        ));
    }
    if size > length - 8 {
        return refuse(format!(
            "is cut short: its header claims {size} bytes and the file has {} after its first 8",
            length - 8
        ));
    }
    Ok((read(8..8 + size as usize)?, 8 + size))
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
