//! A repository in an object store. A version is copied to this machine when it is to be loaded, and opened from the copy;
//! the store is not asked for what is here already (`cache.rs`). What a store lists is checked before anything of it
//! becomes a path.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::PathPart;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use url::Url;

use super::cache::Cache;
use super::storage::{MAX_FILES, Storage, Version, VersionFile, number};
use super::store::{self, Store, StoreOptions, explain};

/// Most objects that are copied at once.
const MAX_DOWNLOADS: usize = 8;
/// Most names of models, and most objects of one model, that are looked at.
const MAX_LISTED: usize = 100_000;
/// Longest time for one listing, tries again included.
const LISTING_TIME: Duration = Duration::from_secs(120);
/// Most folders within one another below a version.
const MAX_DEPTH: usize = 16;
/// Most bytes of a name between two slashes, as file systems have it.
const MAX_NAME: usize = 255;

/// The store and what of it is on this machine.
pub(super) struct Remote {
    store: Store,
    cache: Cache,
    downloads: Semaphore,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("prefix", &self.store.prefix).finish_non_exhaustive()
    }
}

/// Why a store cannot be used.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Its settings are wrong.
    Options(String),
    /// The folder for copies cannot be used.
    Cache(io::Error),
}

impl Remote {
    /// The repository at `url`, with copies in `cache`, by default in the user's own cache. Nothing is asked of the store yet.
    pub(super) fn open(url: &Url, options: &StoreOptions, cache: Option<&Path>) -> Result<Remote, OpenError> {
        let store = store::open(url, options).map_err(OpenError::Options)?;
        let cache = Cache::open(cache, &store.identity).map_err(OpenError::Cache)?;
        Ok(Remote { store, cache, downloads: Semaphore::new(MAX_DOWNLOADS) })
    }

    fn place(&self, model: &str) -> io::Result<object_store::path::Path> {
        let model = PathPart::parse(model).map_err(io::Error::other)?;
        Ok(self.store.prefix.clone().join(model))
    }

    async fn names(&self) -> io::Result<BTreeSet<String>> {
        let prefix = &self.store.prefix;
        let listed = in_time(
            self.store.objects.list_with_delimiter(Some(prefix)).map(|listed| listed.map_err(|error| explain(&error))),
        )
        .await?;
        if listed.common_prefixes.len() > MAX_LISTED {
            return Err(io::Error::other(format!("the store has more than {MAX_LISTED} models")));
        }
        let names = listed.common_prefixes.iter().filter_map(|folder| folder.filename());
        names.filter(|name| !name.starts_with('.')).map(|name| Ok(checked(name, 1)?.to_owned())).collect()
    }

    async fn list(&self, model: &str) -> io::Result<BTreeMap<u64, Version>> {
        let place = self.place(model)?;
        let mut listed = self.store.objects.list(Some(&place));
        let mut files: BTreeMap<u64, Vec<VersionFile>> = BTreeMap::new();
        let mut count = 0;
        while let Some(object) = listed.try_next().await.map_err(|error| explain(&error))? {
            count += 1;
            if count > MAX_LISTED {
                return Err(io::Error::other(format!("the model {model:?} has more than {MAX_LISTED} objects")));
            }
            let below = object.location.as_ref().strip_prefix(place.as_ref()).and_then(|name| name.strip_prefix('/'));
            let Some((folder, name)) = below.and_then(|name| name.split_once('/')) else { continue };
            let Some(number) = number(folder) else { continue };
            let name = PathBuf::from(checked(name, MAX_DEPTH)?);
            let files = files.entry(number).or_default();
            files.push(VersionFile { name, bytes: object.size, stamp: stamp(&object) });
            if files.len() > MAX_FILES {
                return Err(io::Error::other(format!("version {number} has more than {MAX_FILES} objects")));
            }
        }
        Ok(files.into_iter().map(|(number, files)| (number, Version::new(without_folders(files)))).collect())
    }

    async fn copy(&self, model: &str, number: u64, version: &Version) -> io::Result<PathBuf> {
        if let Some(folder) = self.cache.version(model, number, version) {
            return Ok(version.model_in(folder));
        }
        let place = self.place(model)?.join(PathPart::from(number.to_string()));
        let wanted = version.files.iter().map(|file| {
            let object = object_store::path::Path::parse(format!("{place}/{}", file.name.display()));
            let object = object.map_err(io::Error::other)?;
            let copy = self.cache.object(object.as_ref(), file);
            Ok((object, file, copy))
        });
        let wanted: Vec<_> = wanted.collect::<io::Result<_>>()?;
        let missing: Vec<_> = wanted.iter().filter(|(.., copy)| !copy.is_file()).collect();
        let bytes: u64 = missing.iter().map(|(_, file, _)| file.bytes).fold(0, u64::saturating_add);
        self.cache.check_space(bytes)?;

        let started = Instant::now();
        tracing::info!(model, version = number, objects = missing.len(), bytes, "copying from the store");
        let downloads: Vec<_> =
            missing.into_iter().map(|(object, file, copy)| self.download(object, file, copy)).collect();
        stream::iter(downloads).buffer_unordered(MAX_DOWNLOADS).try_collect::<()>().await?;
        let took_ms = started.elapsed().as_millis();
        tracing::info!(model, version = number, bytes, took_ms, "copied from the store");

        let copies = wanted.into_iter().map(|(_, file, copy)| (file.name.clone(), copy)).collect();
        let folder = self.cache.assemble(model, number, version, copies).await?;
        Ok(version.model_in(folder))
    }

    // Copies one object, which is at its place when it is whole.
    async fn download(&self, object: &object_store::path::Path, file: &VersionFile, copy: &Path) -> io::Result<()> {
        let _place = self.downloads.acquire().await.map_err(io::Error::other)?;
        let changed = || io::Error::other(format!("{} changed in the store while it was copied", file.name.display()));
        let found = self.store.objects.get(object).await.map_err(|error| explain(&error))?;
        if found.meta.size != file.bytes || !is_as_listed(&found.meta, &file.stamp) {
            return Err(changed());
        }
        let beside = self.cache.beside(copy)?;
        let mut written = tokio::fs::File::from_std(beside.reopen()?);
        let mut left = file.bytes;
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.try_next().await.map_err(|error| explain(&error))? {
            left = left.checked_sub(piece.len() as u64).ok_or_else(changed)?;
            written.write_all(&piece).await?;
        }
        if left > 0 {
            return Err(io::Error::other(format!("{} broke off {left} bytes before its end", file.name.display())));
        }
        written.sync_all().await?;
        beside.persist(copy).map_err(|error| error.error)?;
        Ok(())
    }
}

impl Storage for Remote {
    fn models(&self) -> BoxFuture<'_, io::Result<BTreeSet<String>>> {
        self.names().boxed()
    }

    fn versions<'a>(&'a self, model: &'a str) -> BoxFuture<'a, io::Result<BTreeMap<u64, Version>>> {
        in_time(self.list(model)).boxed()
    }

    fn bring<'a>(&'a self, model: &'a str, number: u64, version: &'a Version) -> BoxFuture<'a, io::Result<PathBuf>> {
        self.copy(model, number, version).boxed()
    }

    fn tidy<'a>(&'a self, model: &'a str, versions: &'a BTreeMap<u64, Version>) -> BoxFuture<'a, ()> {
        self.cache.tidy(model, versions).boxed()
    }
}

async fn in_time<T>(listing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no listing within {} s", LISTING_TIME.as_secs()));
    tokio::time::timeout(LISTING_TIME, listing).await.map_err(late)?
}

// A name that a store lists, as a path below a folder: none leaves it.
fn checked(name: &str, max_depth: usize) -> io::Result<&str> {
    let is_plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.len() <= MAX_NAME
            && !part.contains(|c: char| c.is_control() || c == '\\')
    };
    if name.split('/').all(is_plain) && name.split('/').count() <= max_depth {
        return Ok(name);
    }
    let shown: String = name.chars().take(80).collect();
    Err(io::Error::other(format!("the store lists {shown:?}, which is no name for a file below a version's folder")))
}

// Some tools put an empty object where a folder would be.
fn without_folders(mut files: Vec<VersionFile>) -> Vec<VersionFile> {
    let folders: HashSet<PathBuf> =
        files.iter().flat_map(|file| file.name.ancestors().skip(1)).map(Path::to_owned).collect();
    files.retain(|file| file.bytes > 0 || !folders.contains(&file.name));
    files
}

// An object's tag, or where a store lists none, the time when it was written.
fn stamp(object: &ObjectMeta) -> String {
    match &object.e_tag {
        Some(tag) => format!("tag {}", bare(tag)),
        None => format!("modified {}", object.last_modified.timestamp_micros()),
    }
}

// The answer to a request may give the time in whole seconds; a tag says it all.
fn is_as_listed(object: &ObjectMeta, stamp: &str) -> bool {
    match (stamp.strip_prefix("tag "), &object.e_tag) {
        (Some(listed), Some(tag)) => bare(tag) == listed,
        _ => true,
    }
}

// Not all stores quote it in both answers.
fn bare(tag: &str) -> &str {
    tag.trim_start_matches("W/").trim_matches('"')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for name in ["model.safetensors", "a/b/c.json", "ünïcode", "..a", "a b"] {
            assert_eq!(checked(name, MAX_DEPTH).unwrap(), name);
        }
        let long = "x".repeat(MAX_NAME + 1);
        let deep = ["a"; MAX_DEPTH + 1].join("/");
        for name in
            ["", "..", "../a", "a/../b", "a/./b", "/etc/passwd", "a//b", "a/", "a\0b", "a\nb", "a\\b", &long, &deep]
        {
            let refused = checked(name, MAX_DEPTH).unwrap_err().to_string();
            assert!(!refused.contains(|c: char| c.is_control()), "{refused:?}");
        }
    }

    #[test]
    fn empty_objects_where_a_folder_would_be_are_no_files() {
        let file = |name: &str, bytes| VersionFile { name: name.into(), bytes, stamp: String::new() };
        let files = without_folders(vec![file("a", 0), file("a/b", 3), file("empty", 0)]);
        assert_eq!(files, [file("a/b", 3), file("empty", 0)]);
    }
}
