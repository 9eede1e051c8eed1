//! The browser that drives the server's page: the machine's own, or Debian's package where it may be installed.
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress;

/// What it is called, by who packs it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Makes sure that one of these is on the `PATH`.
pub(super) fn ensure() -> Result<()> {
    if is_there() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() || find("apt-get").is_none() {
        bail!("There is no Chromium here. Install it (Debian: sudo apt-get install chromium).");
    }
    progress::note("Installing Chromium by apt-get.");
    apt_get(&["update", "--quiet"])?;
    apt_get(&["install", "--quiet", "--yes", "--no-install-recommends", "chromium"])?;
    if !is_there() {
        bail!("apt-get installed no Chromium. Install one: {} must be on the PATH.", NAMES.join(" or "));
    }
    Ok(())
}

fn is_there() -> bool {
    NAMES.iter().any(|name| find(name).is_some())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|place| place.is_file())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().context("apt-get does not run")?;
    if !status.success() {
        bail!(
            "`apt-get {}` failed ({status}). Install Chromium yourself, then run the same again.",
            arguments.join(" ")
        );
    }
    Ok(())
}
