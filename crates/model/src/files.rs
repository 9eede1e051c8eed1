//! Files that are never half written: written beside, synced, renamed, and the folder synced after. Also the SHA-256
//! digests that packages carry. Knows nothing of what the bytes mean.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Writes `path` as a whole or not at all: `fill` writes to a file beside it, which is synced and then renamed.
///
/// # Errors
/// Whatever the operating system or `fill` says; the file beside is then removed and `path` is as it was.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let beside = beside(path, "partial")?;
    let written = write_and_sync(&beside, fill).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // The first error is the one to report; the leftover is only litter.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder(folder_of(path))
}

/// Writes and syncs `path` in place: for files of a folder that is renamed as a whole.
pub(crate) fn write_and_sync(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, File::create(path)?);
    fill(&mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Makes renames and new names in `folder` durable.
///
/// # Errors
/// Whatever the operating system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// `folder/name` → `folder/.name.suffix`, on the same file system, so that a rename is atomic.
pub(crate) fn beside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} has no file name", path.display())))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".");
    beside.push(suffix);
    Ok(path.with_file_name(beside))
}

/// The folder a path lies in: `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Removes a folder with all that is in it; one that is not there is no error.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames a folder, or exchanges it with the one that is there, so that there is no moment without one.
pub(crate) fn put_folder_in_place(partial: &Path, folder: &Path) -> io::Result<()> {
    if folder.exists() {
        exchange(partial, folder)?;
        sync_folder(folder_of(folder))?;
        remove_folder(partial)?;
    } else {
        fs::rename(partial, folder)?;
    }
    sync_folder(folder_of(folder))
}

#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        // Some file systems cannot exchange.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => exchange_by_two_renames(one, other),
        result => result.map_err(io::Error::from),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    exchange_by_two_renames(one, other)
}

fn exchange_by_two_renames(one: &Path, other: &Path) -> io::Result<()> {
    let previous = beside(other, "previous")?;
    remove_folder(&previous)?;
    fs::rename(other, &previous)?;
    fs::rename(one, other)?;
    fs::rename(&previous, one)
}

/// SHA-256 of some bytes, in lower-case hexadecimal.
///
/// ```
/// let digest = tidemill_model::files::sha256(b"abc");
/// assert!(digest.starts_with("ba7816bf"));
/// ```
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// SHA-256 and length of a file, read in pieces of a megabyte.
///
/// # Errors
/// Whatever the operating system says.
pub fn sha256_file(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0_u64;
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        digest.update(bytes);
        length += read as u64;
    }
    Ok((hexadecimal(&digest.finalize()), length))
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomically(&path, |out| out.write_all(b"old")).unwrap();
        let failed = write_atomically(&path, |out| {
            out.write_all(b"half of the n")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "disk full");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn digests_agree_with_the_standard_and_between_file_and_memory() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![7_u8; 3_000_000]).unwrap();
        let (digest, length) = sha256_file(file.path()).unwrap();
        assert_eq!((digest, length), (sha256(&vec![7_u8; 3_000_000]), 3_000_000));
    }
}
