//! Python's pip, used as a downloader.
//!
//! Owns finding Python, running `pip download` with progress, and turning pip's failures into
//! sentences.
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::progress::Progress;

const POLL: Duration = Duration::from_millis(100);

/// One file to download.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    /// What to ask for: `name==version`.
    pub(crate) requirement: &'a str,
    /// What to ask pip for beside the name (platform, wheel or source).
    pub(crate) options: &'a [&'a str],
    /// About how large it is, for the progress bar.
    pub(crate) bytes: u64,
}

/// A Python that has pip.
#[derive(Debug)]
pub(crate) struct Pip {
    python: PathBuf,
}

impl Pip {
    /// Finds `python3` (or `python`) with pip. `instead` ends the sentence when there is none: what
    /// else one can do.
    pub(crate) fn find(instead: &str) -> Result<Pip> {
        let python = python(instead)?;
        let output = Command::new(&python).args(["-m", "pip", "--version"]).output()?;
        if !output.status.success() {
            bail!(
                "{} has no pip. Install it (Debian, Ubuntu: sudo apt-get install \
                 python3-pip){instead}.",
                python.display()
            );
        }
        Ok(Pip { python })
    }

    /// Downloads one file into `folder`, which need not exist, and returns its path.
    pub(crate) fn download(&self, file: &Download<'_>, folder: &Path) -> Result<PathBuf> {
        let scratch = folder.join("scratch");
        let arrived = folder.join("arrived");
        for place in [&scratch, &arrived] {
            cache::remove(place)?;
            fs::create_dir_all(place).with_context(|| format!("{} cannot be made.", place.display()))?;
        }
        let mut child = Command::new(&self.python)
            .args(["-m", "pip", "download", "--no-deps", "--no-input", "--no-cache-dir"])
            .args(["--disable-pip-version-check", "--progress-bar", "off", "--retries", "2", "--dest"])
            .arg(&arrived)
            .args(file.options)
            .arg(file.requirement)
            // pip's temporary files lie in the cache, not in a small /tmp, and their size is the
            // progress.
            .env("TMPDIR", &scratch)
            .env_remove("PIP_REQUIRE_VIRTUALENV")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = [listen(child.stdout.take()), listen(child.stderr.take())];
        let mut progress =
            Progress::begin(("Downloading", "Downloaded"), &file.requirement.replace("==", " "), file.bytes);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            progress.set(size(&scratch).max(size(&arrived)));
            std::thread::sleep(POLL);
        };
        let said: String = said.into_iter().filter_map(|thread| thread.join().ok()).collect();
        if !status.success() {
            drop(progress);
            bail!(explain(file.requirement, &said, folder));
        }
        progress.set(size(&arrived));
        progress.done();
        cache::remove(&scratch)?;
        let first = fs::read_dir(&arrived)?.next();
        Ok(first.context("pip said that it had downloaded the file, but there is none")??.path())
    }
}

/// The Python to use, without a look at its modules.
pub(crate) fn python(instead: &str) -> Result<PathBuf> {
    for name in ["python3", "python"] {
        let version = Command::new(name)
            .args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if version.is_ok_and(|status| status.success()) {
            return Ok(PathBuf::from(name));
        }
    }
    bail!(
        "There is no Python 3.9 or later here, and its pip is what downloads files. Install it \
         (Debian, Ubuntu: sudo apt-get install python3 python3-pip){instead}."
    );
}

fn listen<R: Read + Send + 'static>(stream: Option<R>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The bytes of all files below a folder; a file that vanishes meanwhile counts nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// What went wrong, from what pip said.
pub(crate) fn explain(requirement: &str, said: &str, folder: &Path) -> String {
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let cause = if any(&["No space left on device", "Errno 28", "Disk quota exceeded"]) {
        format!(
            "the disk of {} is full. Make room, or choose another folder with --cache-folder or \
             XDG_CACHE_HOME",
            folder.display()
        )
    } else if any(&[
        "Retrying (Retry",
        "Failed to establish a new connection",
        "Temporary failure in name resolution",
        "Max retries exceeded",
        "timed out",
        "IncompleteRead",
        "Connection reset",
    ]) {
        "the package index cannot be reached. Check the network (and PIP_INDEX_URL and \
         HTTPS_PROXY, when they are needed), then run the same command again"
            .to_owned()
    } else if any(&["No matching distribution", "Could not find a version"]) {
        "the package index does not have it. Check which index pip uses: python3 -m pip config list".to_owned()
    } else {
        "pip failed".to_owned()
    };
    let mut text = format!("{requirement} was not downloaded: {cause}.");
    let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    for line in lines.iter().skip(lines.len().saturating_sub(3)) {
        text.push_str("\n    pip: ");
        text.extend(line.chars().take(160));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_read_from_what_pip_said() {
        let folder = Path::new("/cache");
        let refused = "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError'\n\
                       ERROR: Could not find a version that satisfies the requirement torch==2.13.0";
        assert!(explain("torch==2.13.0", refused, folder).contains("cannot be reached"));
        let absent = "ERROR: No matching distribution found for torch==2.13.0";
        assert!(explain("torch==2.13.0", absent, folder).contains("does not have it"));
        let full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device";
        assert!(explain("torch==2.13.0", full, folder).contains("/cache is full"));
        assert!(explain("torch==2.13.0", "odd", folder).ends_with("pip: odd"));
    }
}
