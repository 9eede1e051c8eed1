//! The list of every file in a laid-out libtorch, by which a broken or partial cache is noticed.
//!
//! The quick check compares sizes and times, and takes the digest of a file whose time has changed;
//! the full one takes every digest. Knows nothing of wheels or of how to repair.
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The manifest's name inside the folder it describes.
pub(crate) const FILE: &str = "manifest.json";

/// What a complete folder holds.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// What the folder is: version, platform and the way it is laid out. Another value means: lay
    /// out again.
    pub(crate) what: String,
    /// Every plain file.
    pub(crate) files: Vec<Entry>,
    /// Every symbolic link, with its target.
    pub(crate) links: Vec<(String, String)>,
}

/// One file of a manifest.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Path below the folder, with `/`.
    pub(crate) path: String,
    /// Size.
    pub(crate) bytes: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub(crate) modified: u64,
    /// SHA-256 in hexadecimal.
    pub(crate) sha256: String,
}

/// How thoroughly to check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Depth {
    /// Sizes and times; a digest only where the time has changed.
    Quick,
    /// Every digest.
    Full,
}

/// What a check found.
#[derive(Debug, PartialEq)]
pub(crate) enum Condition {
    /// Nothing is there.
    Absent,
    /// Something is wrong: what, for people.
    Broken(String),
    /// All files are as they were.
    Whole,
}

impl Manifest {
    /// Writes the manifest into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let beside = folder.join(format!("{FILE}.new"));
        fs::write(&beside, serde_json::to_vec(self)?)
            .and_then(|()| fs::rename(&beside, folder.join(FILE)))
            .with_context(|| format!("{} cannot be written.", folder.join(FILE).display()))
    }
}

/// Compares `folder` with its own manifest, which must say that it is `what`.
pub(crate) fn check(folder: &Path, what: &str, depth: Depth) -> Condition {
    if fs::symlink_metadata(folder).is_err() {
        return Condition::Absent;
    }
    match check_all(folder, what, depth) {
        Ok(()) => Condition::Whole,
        Err(error) => Condition::Broken(format!("{error:#}")),
    }
}

fn check_all(folder: &Path, what: &str, depth: Depth) -> Result<()> {
    let text = fs::read(folder.join(FILE)).with_context(|| format!("{FILE} cannot be read"))?;
    let mut manifest: Manifest =
        serde_json::from_slice(&text).with_context(|| format!("{FILE} cannot be understood"))?;
    if manifest.what != what {
        bail!("it is {}, wanted is {what}", manifest.what);
    }
    let mut touched = false;
    for entry in &mut manifest.files {
        touched |= check_file(folder, entry, depth)?;
    }
    for (path, target) in &manifest.links {
        let found = fs::read_link(folder.join(below(path)?)).with_context(|| format!("{path} is missing"))?;
        if found != Path::new(target) {
            bail!("{path} points to {}, not to {target}", found.display());
        }
    }
    if touched {
        // The contents are right, so the next check can be quick again; a cache that cannot be
        // written stays as it is.
        let _ = manifest.write(folder);
    }
    Ok(())
}

/// Checks one file; true when its time had changed and its contents had not.
fn check_file(folder: &Path, entry: &mut Entry, depth: Depth) -> Result<bool> {
    let path = folder.join(below(&entry.path)?);
    let metadata = fs::symlink_metadata(&path).with_context(|| format!("{} is missing", entry.path))?;
    if !metadata.is_file() {
        bail!("{} is not a file", entry.path);
    }
    if metadata.len() != entry.bytes {
        bail!("{} has {} bytes, it had {}", entry.path, metadata.len(), entry.bytes);
    }
    let modified = modified(&metadata);
    let touched = modified != entry.modified;
    if touched || depth == Depth::Full {
        if digest(&path)? != entry.sha256 {
            bail!("the contents of {} have changed", entry.path);
        }
        entry.modified = modified;
    }
    Ok(touched)
}

/// A path of a manifest or an archive as a relative path that stays below its folder.
pub(crate) fn below(path: &str) -> Result<PathBuf> {
    let candidate = Path::new(path);
    let plain = candidate.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || path.contains(['\\', '\0']) || !plain {
        bail!("the path {path:?} leaves its folder");
    }
    Ok(candidate.to_path_buf())
}

/// Time of the last change, nanoseconds since 1970.
pub(crate) fn modified(metadata: &fs::Metadata) -> u64 {
    metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// SHA-256 of a file in hexadecimal.
pub(crate) fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("{} cannot be read", path.display()))?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
            break;
        };
        hasher.update(read);
    }
    Ok(hex(&hasher.finalize()))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn laid_out() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        fs::write(folder.path().join("lib/a.so"), "library").unwrap();
        std::os::unix::fs::symlink("a.so", folder.path().join("lib/b.so")).unwrap();
        let path = folder.path().join("lib/a.so");
        let entry = Entry {
            path: "lib/a.so".into(),
            bytes: 7,
            modified: modified(&fs::metadata(&path).unwrap()),
            sha256: digest(&path).unwrap(),
        };
        let links = vec![("lib/b.so".into(), "a.so".into())];
        Manifest { what: "x 1".into(), files: vec![entry], links }.write(folder.path()).unwrap();
        folder
    }

    fn broken(folder: &Path, depth: Depth) -> String {
        match check(folder, "x 1", depth) {
            Condition::Broken(why) => why,
            other => format!("{other:?}"),
        }
    }

    fn set_time(path: &Path, time: SystemTime) {
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_whole_folder_passes_and_an_absent_one_is_absent() {
        let folder = laid_out();
        assert_eq!(check(folder.path(), "x 1", Depth::Quick), Condition::Whole);
        assert_eq!(check(folder.path(), "x 1", Depth::Full), Condition::Whole);
        assert_eq!(check(&folder.path().join("none"), "x 1", Depth::Quick), Condition::Absent);
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let folder = laid_out();
        let library = folder.path().join("lib/a.so");
        fs::write(&library, "lib").unwrap();
        assert_eq!(broken(folder.path(), Depth::Quick), "lib/a.so has 3 bytes, it had 7");
        fs::write(&library, "LIBRARY").unwrap();
        assert_eq!(broken(folder.path(), Depth::Quick), "the contents of lib/a.so have changed");
        fs::remove_file(&library).unwrap();
        assert!(broken(folder.path(), Depth::Quick).starts_with("lib/a.so is missing"));
        fs::write(folder.path().join(FILE), "{\"wh").unwrap();
        assert!(broken(folder.path(), Depth::Quick).starts_with("manifest.json cannot be understood"));

        let folder = laid_out();
        fs::remove_file(folder.path().join("lib/b.so")).unwrap();
        assert!(broken(folder.path(), Depth::Quick).starts_with("lib/b.so is missing"));
        assert!(matches!(check(folder.path(), "x 2", Depth::Quick), Condition::Broken(_)));
    }

    #[test]
    fn a_changed_byte_under_the_old_time_is_found_by_the_full_check_alone() {
        let folder = laid_out();
        let library = folder.path().join("lib/a.so");
        let time = fs::metadata(&library).unwrap().modified().unwrap();
        fs::write(&library, "LIBRARY").unwrap();
        set_time(&library, time);
        assert_eq!(check(folder.path(), "x 1", Depth::Quick), Condition::Whole);
        assert_eq!(broken(folder.path(), Depth::Full), "the contents of lib/a.so have changed");
    }

    #[test]
    fn a_touched_file_with_the_right_contents_is_accepted_and_noted() {
        let folder = laid_out();
        let library = folder.path().join("lib/a.so");
        let before = fs::read(folder.path().join(FILE)).unwrap();
        set_time(&library, SystemTime::now() - Duration::from_secs(1000));
        assert_eq!(check(folder.path(), "x 1", Depth::Quick), Condition::Whole);
        assert_ne!(fs::read(folder.path().join(FILE)).unwrap(), before);
    }

    #[test]
    fn paths_that_leave_their_folder_are_refused() {
        for path in ["", "/etc/passwd", "../up", "a/../../b", "a\\b", "./a/.."] {
            assert!(below(path).is_err(), "{path}");
        }
        assert!(below("include/torch/all.h").is_ok());
    }
}
