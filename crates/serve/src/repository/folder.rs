//! What lies in a repository's folder. Names that come from outside are looked for among what is there; none becomes a
//! path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Endings of models that are one file.
const FILES: [&str; 3] = ["gguf", "pt", "pt2"];

/// Files of a version that are looked at, to tell whether it changed.
const MAX_FILES: usize = 10_000;

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// The folder, or the one file in it that is a model.
    pub(super) path: PathBuf,
    /// Bytes of all its files.
    pub(super) bytes: u64,
    // Of each file what changes when it is written.
    files: Vec<(PathBuf, u64, i64, i64, u64)>,
}

/// The names of the models, in order.
pub(super) fn models(root: &Path) -> io::Result<BTreeSet<String>> {
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

/// The versions of a model, by number; other folders and files beside them are passed over.
pub(super) fn versions(root: &Path, name: &str) -> io::Result<BTreeMap<u64, Version>> {
    let mut versions = BTreeMap::new();
    for entry in fs::read_dir(root.join(name))? {
        let entry = entry?;
        let file_name = entry.file_name();
        let number = file_name.to_str().filter(|name| !name.starts_with('0')).and_then(|name| name.parse().ok());
        if let Some(number) = number
            && entry.path().is_dir()
        {
            versions.insert(number, version(&entry.path())?);
        }
    }
    Ok(versions)
}

fn version(folder: &Path) -> io::Result<Version> {
    let mut found = Version { path: folder.to_owned(), bytes: 0, files: Vec::new() };
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let about = fs::metadata(&path)?;
            if about.is_dir() {
                folders.push(path);
            } else {
                found.note(path, &about);
            }
            if found.files.len() + folders.len() > MAX_FILES {
                return Err(io::Error::other(format!("{} holds more than {MAX_FILES} files", found.path.display())));
            }
        }
    }
    found.files.sort();
    let mut alone = found
        .files
        .iter()
        .filter(|(path, ..)| path.extension().is_some_and(|ending| FILES.iter().any(|file| ending == *file)));
    if let (Some((file, ..)), None) = (alone.next(), alone.next())
        && !folder.join("config.json").exists()
    {
        found.path = file.clone();
    }
    Ok(found)
}

impl Version {
    fn note(&mut self, path: PathBuf, about: &Metadata) {
        self.bytes = self.bytes.saturating_add(about.len());
        self.files.push((path, about.len(), about.mtime(), about.mtime_nsec(), about.ino()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn folders_with_numbers_are_versions_and_a_file_that_is_written_shows() {
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
        put("b/1/model.Q4_1.gguf", "x");
        put(".git/1/x", "x");
        put("README.md", "x");
        assert_eq!(models(root.path()).unwrap(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        let before = versions(root.path(), "a").unwrap();
        assert_eq!(before.keys().copied().collect::<Vec<_>>(), [1, 10]);
        assert_eq!((before[&10].bytes, &before[&1].path), (4, &root.path().join("a/1")));
        let gguf = &versions(root.path(), "b").unwrap()[&1];
        assert_eq!(gguf.path, root.path().join("b/1/model.Q4_1.gguf"));
        assert_eq!(versions(root.path(), "a").unwrap(), before);
        put("a/1/tidemill.toml", "xy");
        let after = versions(root.path(), "a").unwrap();
        assert!(after[&1] != before[&1] && after[&10] == before[&10]);
    }
}
