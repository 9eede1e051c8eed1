//! What of an object store is on this machine. Objects lie under what tells one writing of them from another, so that what
//! did not change is not copied again and a copy that broke off goes on with the next object. A version is a folder of
//! links to its objects, which gets its name when it is whole.
//!
//! ```text
//! CACHE/STORE/objects/ID
//! CACHE/STORE/models/NAME/NUMBER-ID/…
//! ```
//!
//! Several servers may share a cache: everything is written beside and renamed, and nothing is written to afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::storage::{Version, VersionFile};

/// What names of things that are being written begin with.
const BESIDE: &str = ".part-";

/// How old something must be that no version needs before it goes: another server may be at work on it.
const LEFT_OVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The copies of one store.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    objects: PathBuf,
    models: PathBuf,
}

impl Cache {
    /// The copies of the store that `identity` tells from others, in `folder` or in the user's cache.
    pub(super) fn open(folder: Option<&Path>, identity: &str) -> io::Result<Cache> {
        let root = match folder {
            Some(folder) => folder.to_owned(),
            None => default_folder().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "the user has no folder for caches; name one")
            })?,
        };
        let root = root.join(id([identity.as_bytes()]));
        let cache = Cache { objects: root.join("objects"), models: root.join("models") };
        for folder in [&cache.objects, &cache.models] {
            create(folder)?;
        }
        cache.sweep_objects();
        Ok(cache)
    }

    /// The folder of a version, if it is here.
    pub(super) fn version(&self, model: &str, number: u64, version: &Version) -> Option<PathBuf> {
        Some(self.folder(model, number, version)).filter(|folder| folder.is_dir())
    }

    /// Where the copy of an object lies when it is here.
    pub(super) fn object(&self, location: &str, file: &VersionFile) -> PathBuf {
        self.objects.join(id([location.as_bytes(), file.stamp.as_bytes(), &file.bytes.to_le_bytes()]))
    }

    /// A new file that a copy can be written to before it takes its place. Dropped, it is gone.
    pub(super) fn beside(&self, copy: &Path) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(BESIDE).tempfile_in(copy.parent().unwrap_or(&self.objects))
    }

    /// Whether so many more bytes fit the disk.
    pub(super) fn check_space(&self, bytes: u64) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.objects)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bytes <= free {
            return Ok(());
        }
        let problem =
            format!("{bytes} bytes are to be copied, and the disk of {} has {free} left", self.objects.display());
        Err(io::Error::new(io::ErrorKind::StorageFull, problem))
    }

    /// Makes the folder of a version, whose files lie in `copies` by their names.
    pub(super) async fn assemble(
        &self,
        model: &str,
        number: u64,
        version: &Version,
        copies: Vec<(PathBuf, PathBuf)>,
    ) -> io::Result<PathBuf> {
        let folder = self.folder(model, number, version);
        let whole = folder.clone();
        let made = tokio::task::spawn_blocking(move || link(&folder, &copies)).await;
        made.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        Ok(whole)
    }

    /// Removes the versions of a model that its store has no more, and then what no version needs. What cannot be removed
    /// stays.
    pub(super) async fn tidy(&self, model: &str, versions: &BTreeMap<u64, Version>) {
        let kept: BTreeSet<PathBuf> =
            versions.iter().map(|(number, version)| self.folder(model, *number, version)).collect();
        let folders = entries(&self.models.join(model))
            .into_iter()
            .filter(move |path| if is_beside(path) { is_left_over(path) } else { !kept.contains(path) });
        let cache = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for folder in folders {
                let _ = fs::remove_dir_all(folder);
            }
            cache.sweep_objects();
        });
        let _ = removed.await;
    }

    fn folder(&self, model: &str, number: u64, version: &Version) -> PathBuf {
        let parts = version.files.iter().flat_map(|file| {
            [
                file.name.as_os_str().as_bytes().to_vec(),
                file.stamp.as_bytes().to_vec(),
                file.bytes.to_le_bytes().to_vec(),
            ]
        });
        self.models.join(model).join(format!("{number}-{}", id(parts)))
    }

    // An object that is in a version has a second link.
    fn sweep_objects(&self) {
        for path in entries(&self.objects) {
            let is_alone = fs::metadata(&path).is_ok_and(|about| about.nlink() == 1);
            if is_alone && is_left_over(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

// `$XDG_CACHE_HOME/tidemill/repositories` or `~/.cache/tidemill/repositories`.
fn default_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    folder.is_absolute().then(|| folder.join("tidemill/repositories"))
}

// Only for who runs the server: it opens what lies there.
fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn link(folder: &Path, copies: &[(PathBuf, PathBuf)]) -> io::Result<()> {
    let parent = folder.parent().ok_or(io::ErrorKind::NotFound)?;
    create(parent)?;
    let beside = TempDir::with_prefix_in(BESIDE, parent)?;
    for (name, copy) in copies {
        let link = beside.path().join(name);
        if let Some(parent) = link.parent() {
            create(parent)?;
        }
        fs::hard_link(copy, link)?;
    }
    File::open(beside.path())?.sync_all()?;
    match fs::rename(beside.path(), folder) {
        // Another has been faster.
        Err(_) if folder.is_dir() => {}
        renamed => renamed?,
    }
    File::open(parent)?.sync_all()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn is_beside(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(BESIDE))
}

fn is_left_over(path: &Path) -> bool {
    let written = fs::symlink_metadata(path).and_then(|about| about.modified());
    written.is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|age| age > LEFT_OVER))
}

// What stands for a list of texts.
fn id<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(name: &str, stamp: &str) -> VersionFile {
        VersionFile { name: name.into(), bytes: 1, stamp: stamp.to_owned() }
    }

    async fn put(cache: &Cache, number: u64, version: &Version) -> PathBuf {
        let mut copies = Vec::new();
        for file in &version.files {
            let copy = cache.object(&format!("a/{}", file.name.display()), file);
            fs::write(&copy, "x").unwrap();
            copies.push((file.name.clone(), copy));
        }
        cache.assemble("a", number, version, copies).await.unwrap()
    }

    #[tokio::test]
    async fn a_version_is_here_when_it_is_whole_and_goes_when_the_store_has_it_no_more() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(root.path()), "s3://bucket").unwrap();
        let version = Version::new(vec![file("config.json", "1"), file("deeper/weights", "1")]);
        let changed = Version::new(vec![file("config.json", "2"), file("deeper/weights", "1")]);
        assert_eq!(cache.version("a", 1, &version), None);
        let folder = put(&cache, 1, &version).await;
        assert_eq!(cache.version("a", 1, &version), Some(folder.clone()));
        assert_eq!(fs::read(folder.join("deeper/weights")).unwrap(), b"x");
        assert_eq!(cache.version("a", 1, &changed), None);
        assert_eq!(cache.version("a", 2, &version), None);

        put(&cache, 1, &changed).await;
        cache.tidy("a", &BTreeMap::from([(1, changed.clone())])).await;
        assert_eq!(cache.version("a", 1, &version), None);
        assert!(cache.version("a", 1, &changed).is_some());
        // Another store's copies are no one else's.
        let other = Cache::open(Some(root.path()), "s3://other").unwrap();
        assert_eq!(other.version("a", 1, &changed), None);
    }

    #[tokio::test]
    async fn a_version_of_which_an_object_is_missing_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(root.path()), "s3://bucket").unwrap();
        let version = Version::new(vec![file("config.json", "1"), file("weights", "1")]);
        let copy = cache.object("a/config.json", &version.files[0]);
        fs::write(&copy, "x").unwrap();
        let copies = vec![("config.json".into(), copy), ("weights".into(), root.path().join("nowhere"))];
        cache.assemble("a", 1, &version, copies).await.unwrap_err();
        assert_eq!(entries(&cache.models.join("a")), Vec::<PathBuf>::new());
        assert!(cache.check_space(u64::MAX).unwrap_err().kind() == io::ErrorKind::StorageFull);
    }
}
