//! The bytes of a file of weights, read where they are asked for. Never mapped: a map follows its file, so that one that is
//! written over would change a model that is being served, and one that is cut off kill the process (SIGBUS).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, TchError, Tensor};

/// An open file and how long it was then.
#[derive(Debug)]
pub(crate) struct StoredBytes {
    file: Mutex<File>,
    length: u64,
}

/// Why bytes of a file did not become a tensor.
pub(crate) enum ReadError {
    /// The file cannot be read, or is shorter than it was.
    Io(io::Error),
    /// libtorch has no room for the tensor.
    Torch(TchError),
}

impl StoredBytes {
    /// Opens a file; nothing of it is read. A folder is an error.
    pub(crate) fn open(path: &Path) -> io::Result<StoredBytes> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a file"));
        }
        Ok(StoredBytes { file: Mutex::new(file), length: about.len() })
    }

    /// The file's length when it was opened.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// A range of the file.
    pub(crate) fn read(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; range.len()];
        self.read_into(range.start, &mut bytes)?;
        Ok(bytes)
    }

    /// Numbers that stand one after another from `start` on, as a tensor of its own memory.
    pub(crate) fn tensor(&self, start: usize, kind: Kind, shape: &[i64]) -> Result<Tensor, ReadError> {
        let tensor = Tensor::f_zeros(shape, (kind, Device::Cpu)).map_err(ReadError::Torch)?;
        let length = tensor.numel() * kind.elt_size_in_bytes();
        if length > 0 {
            // SAFETY: `tensor` is contiguous, on the CPU, of exactly so many bytes, not empty, just made and ours alone.
            let bytes = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), length) };
            self.read_into(start, bytes).map_err(ReadError::Io)?;
        }
        Ok(tensor)
    }

    fn read_into(&self, start: usize, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start as u64))?;
        file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it was cut off while it was read"),
            _ => error,
        })
    }
}
