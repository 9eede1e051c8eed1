//! A matrix of float32 in a file of its own, written row by row: as NumPy's `.npy`, or as safetensors. Written beside,
//! synced and renamed; how many rows there are is written into the head at the end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tidemill_model::files::sync_folder;

/// The head's length, whatever it says: both forms let it be padded with spaces.
const HEAD: usize = 256;

pub(super) struct ArrayFile {
    path: PathBuf,
    partial: PathBuf,
    out: Option<BufWriter<File>>,
    head: fn(u64, usize) -> Vec<u8>,
    rows: u64,
    width: usize,
}

impl ArrayFile {
    /// NumPy's format, version 1.0: `numpy.lib.format`.
    pub(super) fn npy(path: &Path, width: usize) -> io::Result<ArrayFile> {
        ArrayFile::create(path, width, |rows, width| {
            let about = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
            let length = HEAD - 10;
            let mut head = b"\x93NUMPY\x01\x00".to_vec();
            head.extend((length as u16).to_le_bytes());
            head.extend(format!("{about:<pad$}\n", pad = length - 1).bytes());
            head
        })
    }

    /// One tensor, `embeddings`.
    pub(super) fn safetensors(path: &Path, width: usize) -> io::Result<ArrayFile> {
        ArrayFile::create(path, width, |rows, width| {
            let bytes = rows * width as u64 * 4;
            let about = serde_json::json!({
                "embeddings": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, bytes]}
            });
            let length = HEAD - 8;
            let mut head = (length as u64).to_le_bytes().to_vec();
            head.extend(format!("{:<length$}", about.to_string()).bytes());
            head
        })
    }

    fn create(path: &Path, width: usize, head: fn(u64, usize) -> Vec<u8>) -> io::Result<ArrayFile> {
        let name = path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
        let partial = path.with_file_name(format!(".{}.partial", name.to_string_lossy()));
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
        out.write_all(&head(0, width))?;
        Ok(ArrayFile { path: path.to_path_buf(), partial, out: Some(out), head, rows: 0, width })
    }

    /// One more row.
    pub(super) fn push(&mut self, row: &[f32]) -> io::Result<()> {
        if row.len() != self.width {
            let problem = format!("a vector has {} numbers, and those before it {}", row.len(), self.width);
            return Err(io::Error::other(problem));
        }
        let out = self.out.as_mut().ok_or_else(|| io::Error::other("it is finished"))?;
        self.rows += 1;
        row.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
    }

    /// Writes the head and gives the file its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let out = self.out.take().ok_or_else(|| io::Error::other("it is finished"))?;
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&(self.head)(self.rows, self.width))?;
        file.sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync_folder(folder.unwrap_or(Path::new(".")))
    }
}

impl Drop for ArrayFile {
    fn drop(&mut self) {
        // After `finish` it has another name. An error before is the one to report; the leftover is only litter.
        let _ = fs::remove_file(&self.partial);
    }
}
