//! The user's cache folder: where it is, how much room it has, and the lock against two set-ups at
//! once.
//!
//! Knows nothing of what is stored there.
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::{self, bytes};

/// The cache folder: the one given, else `$XDG_CACHE_HOME/tidemill`, else `~/.cache/tidemill`. Made
/// when absent.
pub(crate) fn folder(given: Option<&Path>) -> Result<PathBuf> {
    let folder = match given {
        Some(path) => path.to_path_buf(),
        None => from_environment()?,
    };
    fs::create_dir_all(&folder).with_context(|| {
        format!(
            "The cache folder {} cannot be made. Choose another with --cache-folder or \
             XDG_CACHE_HOME.",
            folder.display()
        )
    })?;
    folder.canonicalize().with_context(|| format!("{} cannot be read.", folder.display()))
}

fn from_environment() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(path) = absolute("XDG_CACHE_HOME") {
        return Ok(path.join("tidemill"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".cache/tidemill")),
        None => bail!(
            "There is no cache folder: neither XDG_CACHE_HOME nor HOME is set. Give \
             --cache-folder DIR."
        ),
    }
}

/// Fails with the figures when `folder`'s file system has less than `needed` bytes free.
pub(crate) fn require_space(folder: &Path, needed: u64, what: &str) -> Result<()> {
    let space = rustix::fs::statvfs(folder)
        .with_context(|| format!("The free space of {} cannot be read.", folder.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < needed {
        bail!(
            "{what} needs {} in {}, which has {} free. Make room, or choose another folder with \
             --cache-folder or XDG_CACHE_HOME.",
            bytes(needed),
            folder.display(),
            bytes(free)
        );
    }
    Ok(())
}

/// Held while something in the cache is being written; let go when dropped or when the process
/// ends, however it ends.
#[derive(Debug)]
// Held for what dropping it does, never read.
pub(crate) struct Lock(#[allow(dead_code)] File);

impl Lock {
    /// Takes the lock called `name`, waiting for another holder and saying so.
    pub(crate) fn take(cache: &Path, name: &str) -> Result<Lock> {
        let path = cache.join(format!("{name}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("{} cannot be written.", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress::note(&format!("Another set-up is at work on {name}: waiting for it to end."));
                file.lock().with_context(|| format!("{} cannot be locked.", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("{} cannot be locked.", path.display()));
            }
        }
        Ok(Lock(file))
    }
}

/// A folder being filled: removed when dropped, unless it was put in place.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    placed: bool,
}

impl Partial {
    /// An empty folder beside `destination`; what an earlier, killed run left there is removed.
    pub(crate) fn beside(destination: &Path) -> Result<Partial> {
        let mut name = destination.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        remove(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made.", path.display()))?;
        Ok(Partial { path, placed: false })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the folder to the disk and renames it to `destination`, replacing what was there.
    pub(crate) fn place(mut self, destination: &Path) -> Result<()> {
        let folder = File::open(&self.path)?;
        rustix::fs::syncfs(&folder).context("The new files cannot be flushed to the disk.")?;
        let mut old = destination.as_os_str().to_owned();
        old.push(".old");
        let old = PathBuf::from(old);
        remove(&old)?;
        if destination.symlink_metadata().is_ok() {
            fs::rename(destination, &old)?;
        }
        fs::rename(&self.path, destination)
            .with_context(|| format!("{} cannot be put in place.", destination.display()))?;
        self.placed = true;
        remove(&old)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.placed {
            // A folder that cannot be removed now is removed by the next run.
            let _ = remove(&self.path);
        }
    }
}

/// Removes a file or a whole folder; nothing there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.with_context(|| format!("{} cannot be removed.", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_folder_replaces_what_was_there_or_vanishes() {
        let cache = tempfile::tempdir().unwrap();
        let destination = cache.path().join("thing");
        for text in ["one", "two"] {
            let partial = Partial::beside(&destination).unwrap();
            fs::write(partial.path().join("file"), text).unwrap();
            partial.place(&destination).unwrap();
            assert_eq!(fs::read_to_string(destination.join("file")).unwrap(), text);
        }
        drop(Partial::beside(&destination).unwrap());
        let left: Vec<_> = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["thing"]);
    }

    #[test]
    fn too_little_space_names_both_figures() {
        let cache = tempfile::tempdir().unwrap();
        assert!(require_space(cache.path(), 1, "It").is_ok());
        let message = require_space(cache.path(), u64::MAX, "It").unwrap_err().to_string();
        assert!(message.starts_with("It needs ") && message.contains(" free."), "{message}");
    }
}
