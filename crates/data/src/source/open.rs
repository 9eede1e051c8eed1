//! Opening a file: what is not a readable file gets its own error, and gzip is told by its first bytes, not by its name.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::error::DataError;

/// A file opened for reading from its start, decompressed on the way when it is gzip.
pub(crate) struct Opened {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) gzip: bool,
}

pub(crate) fn open(path: &Path) -> Result<Opened, DataError> {
    let mut file = open_file(path)?;
    let magic = first_bytes(&mut file, path)?;
    let gzip = is_gzip(&magic);
    let whole = Cursor::new(magic).chain(file);
    let reader: Box<dyn Read + Send> = match gzip {
        true => Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, whole))),
        false => Box::new(whole),
    };
    Ok(Opened { reader, gzip })
}

pub(crate) fn open_file(path: &Path) -> Result<File, DataError> {
    let error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => DataError::NoSuchFile { path: path.to_path_buf() },
        _ => DataError::io(path, "open", source),
    };
    let metadata = std::fs::metadata(path).map_err(error)?;
    if metadata.is_dir() {
        return Err(DataError::IsAFolder { path: path.to_path_buf() });
    }
    File::open(path).map_err(error)
}

pub(crate) fn is_gzip(magic: &[u8]) -> bool {
    magic.starts_with(&[0x1F, 0x8B])
}

/// Up to four bytes from the start.
pub(crate) fn first_bytes(file: &mut File, path: &Path) -> Result<Vec<u8>, DataError> {
    let mut magic = Vec::with_capacity(4);
    file.take(4).read_to_end(&mut magic).map_err(|source| DataError::io(path, "read", source))?;
    Ok(magic)
}
