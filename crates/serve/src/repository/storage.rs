//! What a repository asks of the place where its models lie. There are two: a folder of this machine (`folder.rs`) and an
//! object store that models are copied from (`remote.rs`). Knows nothing of how models are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt as _};

/// Most files of a version.
pub(super) const MAX_FILES: usize = 10_000;

/// Endings of models that are one file.
const MODEL_FILES: [&str; 3] = ["gguf", "pt", "pt2"];

/// A place where models lie as `NAME/VERSION/`.
pub(super) trait Storage: fmt::Debug + Send + Sync {
    /// The names of the models, in order.
    fn models(&self) -> BoxFuture<'_, io::Result<BTreeSet<String>>>;

    /// The versions of a model, by number; what lies beside them is passed over.
    fn versions<'a>(&'a self, model: &'a str) -> BoxFuture<'a, io::Result<BTreeMap<u64, Version>>>;

    /// The path on this machine of a version that was found, all of its files there.
    fn bring<'a>(&'a self, model: &'a str, number: u64, version: &'a Version) -> BoxFuture<'a, io::Result<PathBuf>>;

    /// Says which versions of a model there are; what is kept here of others may go.
    fn tidy<'a>(&'a self, _model: &'a str, _versions: &'a BTreeMap<u64, Version>) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }
}

/// One version of a model, as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// Its files, by name.
    pub(super) files: Vec<VersionFile>,
    /// Bytes of all its files.
    pub(super) bytes: u64,
}

/// One file of a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VersionFile {
    /// Its path below the version's folder.
    pub(super) name: PathBuf,
    /// Its bytes.
    pub(super) bytes: u64,
    /// What changes whenever it is written.
    pub(super) stamp: String,
}

impl Version {
    pub(super) fn new(mut files: Vec<VersionFile>) -> Version {
        files.sort();
        let bytes = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
        Version { files, bytes }
    }

    /// What is opened of the folder that holds the files: the folder itself, or the one file in it that is a model.
    pub(super) fn model_in(&self, folder: PathBuf) -> PathBuf {
        let is_model = |file: &&VersionFile| {
            file.name.extension().is_some_and(|ending| MODEL_FILES.iter().any(|model| ending == *model))
        };
        let mut alone = self.files.iter().filter(is_model);
        let is_checkpoint = self.files.iter().any(|file| file.name == Path::new("config.json"));
        match (alone.next(), alone.next()) {
            (Some(file), None) if !is_checkpoint => folder.join(&file.name),
            _ => folder,
        }
    }
}

/// The number of a version whose folder has this name.
pub(super) fn number(folder: &str) -> Option<u64> {
    // `parse` takes a sign.
    Some(folder).filter(|name| name.starts_with(|c: char| matches!(c, '1'..='9'))).and_then(|name| name.parse().ok())
}
