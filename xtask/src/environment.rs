//! The Python environment in which a peer of a bench or of `parity` runs: made in the cache, from
//! pinned requirements.
//!
//! Keyed by the requirements and the Python, so that a change of either makes a new one; one that
//! does not import what it should is made again.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cache::{self, Lock};
use crate::{manifest, pip, progress};

/// Names a Python to be used instead of an environment of our own.
const OWN_PYTHON: &str = "TIDEMILL_PEER_PYTHON";

/// What a peer needs.
pub(crate) struct Peer {
    /// Its requirements are `xtask/peers/NAME.txt`.
    pub(crate) name: &'static str,
    /// What its Python must be able to import.
    pub(crate) imports: &'static str,
}

impl Peer {
    /// The environment's Python, after making the environment if need be. A Python that `TIDEMILL_PEER_PYTHON` names is
    /// taken instead, if it imports what it should; its versions are the user's affair.
    pub(crate) fn ready(&self, root: &Path, cache: &Path) -> Result<PathBuf> {
        if let Some(named) = std::env::var_os(OWN_PYTHON).filter(|named| !named.is_empty()).map(PathBuf::from) {
            if !self.imported_by(&named) {
                bail!("{OWN_PYTHON} names {}, which cannot import {}.", named.display(), self.imports);
            }
            return Ok(named);
        }
        let requirements = root.join("xtask/peers").join(format!("{}.txt", self.name));
        let text = fs::read(&requirements).with_context(|| format!("{} cannot be read.", requirements.display()))?;
        let python = pip::python("")?;
        let version = Command::new(&python).args(["-c", "import sys; print(sys.version, sys.prefix)"]).output()?;
        let folder = cache.join("python").join(key(self.name, &text, &version.stdout));
        let inner = folder.join("bin/python");
        if self.works(&folder) {
            return Ok(inner);
        }
        let _lock = Lock::take(cache, "python")?;
        if self.works(&folder) {
            return Ok(inner);
        }
        progress::note(&format!("Making the peer's Python environment in {}.", folder.display()));
        self.make(&python, &requirements, &folder)?;
        if !self.works(&folder) {
            bail!("The peer's environment {} cannot import {}.", folder.display(), self.imports);
        }
        Ok(inner)
    }

    fn works(&self, folder: &Path) -> bool {
        folder.join("complete").exists() && self.imported_by(&folder.join("bin/python"))
    }

    fn imported_by(&self, python: &Path) -> bool {
        Command::new(python)
            .args(["-c", &format!("import {}", self.imports)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// An environment cannot be moved, so it is made in place, and `complete` is written last.
    fn make(&self, python: &Path, requirements: &Path, folder: &Path) -> Result<()> {
        cache::remove(folder)?;
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made.", folder.display()))?;
        let made = Command::new(python).args(["-m", "venv"]).arg(folder).output()?;
        if !made.status.success() {
            bail!(
                "Python's venv module does not work. Install it (Debian, Ubuntu: sudo apt-get \
                 install python3-venv).\n{}",
                String::from_utf8_lossy(&made.stdout).trim()
            );
        }
        let installed = Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--requirement"])
            .arg(requirements)
            .stdin(Stdio::null())
            // Its progress is worth seeing, and standard output is for the figures.
            .stdout(std::io::stderr())
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()?;
        if !installed.status.success() {
            let said = String::from_utf8_lossy(&installed.stderr).into_owned();
            bail!(pip::explain(&format!("What {} asks for", requirements.display()), &said, folder));
        }
        fs::write(folder.join("complete"), "")?;
        Ok(())
    }
}

/// The environment's folder name.
fn key(name: &str, requirements: &[u8], python: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(requirements);
    hasher.update([0]);
    hasher.update(python);
    let digest = manifest::hex(&hasher.finalize());
    format!("{name}-{}", digest.get(..16).unwrap_or(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_the_requirements_and_the_python() {
        let one = key("load", b"polars==1", b"3.11");
        assert!(one.starts_with("load-") && one.len() == 21);
        assert_ne!(one, key("load", b"polars==2", b"3.11"));
        assert_ne!(one, key("load", b"polars==1", b"3.12"));
    }
}
