//! A repository in a folder of this machine. Names that come from outside are looked for among what is there; none becomes
//! a path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt as _};

use super::storage::{MAX_FILES, Storage, Version, VersionFile, number};

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Folder {
        Folder { root }
    }
}

impl Storage for Folder {
    fn models(&self) -> BoxFuture<'_, io::Result<BTreeSet<String>>> {
        let root = self.root.clone();
        blocking(move || models(&root)).boxed()
    }

    fn versions<'a>(&'a self, model: &'a str) -> BoxFuture<'a, io::Result<BTreeMap<u64, Version>>> {
        let (root, model) = (self.root.clone(), model.to_owned());
        blocking(move || versions(&root, &model)).boxed()
    }

    fn bring<'a>(&'a self, model: &'a str, number: u64, version: &'a Version) -> BoxFuture<'a, io::Result<PathBuf>> {
        let folder = self.root.join(model).join(number.to_string());
        async move { Ok(version.model_in(folder)) }.boxed()
    }
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn models(root: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| !name.starts_with('.'))
            && entry.path().is_dir()
        {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

fn versions(root: &Path, name: &str) -> io::Result<BTreeMap<u64, Version>> {
    let mut versions = BTreeMap::new();
    for entry in fs::read_dir(root.join(name))? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(number)
            && entry.path().is_dir()
        {
            versions.insert(number, version(&entry.path())?);
        }
    }
    Ok(versions)
}

fn version(root: &Path) -> io::Result<Version> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let about = fs::metadata(&path)?;
            if about.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap_or(&path).to_owned();
                files.push(VersionFile { name, bytes: about.len(), stamp: stamp(&about) });
            }
            if files.len() + folders.len() > MAX_FILES {
                return Err(io::Error::other(format!("{} holds more than {MAX_FILES} files", root.display())));
            }
        }
    }
    Ok(Version::new(files))
}

fn stamp(about: &Metadata) -> String {
    format!("{}.{:09} {}", about.mtime(), about.mtime_nsec(), about.ino())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn folders_with_numbers_are_versions_and_a_file_that_is_written_shows() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("a/1/tidemill.toml", "x");
        put("a/10/tidemill.toml", "x");
        put("a/10/deeper/weights", "xyz");
        put("a/new/tidemill.toml", "x");
        put("a/02/tidemill.toml", "x");
        put("a/+3/tidemill.toml", "x");
        put("b/1/model.Q4_1.gguf", "x");
        put(".git/1/x", "x");
        put("README.md", "x");
        let folder = Folder::new(root.path().to_owned());
        assert_eq!(folder.models().await.unwrap(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        let before = folder.versions("a").await.unwrap();
        assert_eq!(before.keys().copied().collect::<Vec<_>>(), [1, 10]);
        assert_eq!(before[&10].bytes, 4);
        assert_eq!(folder.bring("a", 1, &before[&1]).await.unwrap(), root.path().join("a/1"));
        let gguf = &folder.versions("b").await.unwrap()[&1];
        assert_eq!(folder.bring("b", 1, gguf).await.unwrap(), root.path().join("b/1/model.Q4_1.gguf"));
        assert_eq!(folder.versions("a").await.unwrap(), before);
        put("a/1/tidemill.toml", "xy");
        let after = folder.versions("a").await.unwrap();
        assert!(after[&1] != before[&1] && after[&10] == before[&10]);
    }
}
