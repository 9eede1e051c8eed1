//! `cargo xtask setup`: a libtorch that `cargo build` finds.
//!
//! Owns the order of the checks and whose libtorch it is; the laying out itself is in
//! `libtorch.rs`.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::manifest::Depth;
use crate::{cache, checkout, libtorch, pip, progress};

/// Options of `cargo xtask setup`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Take the digest of every file instead of comparing sizes and times (about a second).
    #[arg(long)]
    verify: bool,
}

/// Whose libtorch the build uses.
#[derive(Debug)]
pub(crate) enum Libtorch {
    /// The one in the cache, linked at `.libtorch`.
    Cached(PathBuf),
    /// The user's, by `LIBTORCH`.
    Folder(PathBuf),
    /// The user's Python package, by `LIBTORCH_USE_PYTORCH`.
    Python,
}

/// Runs the subcommand.
pub(crate) fn run(options: &Options, cache_folder: Option<&Path>) -> Result<()> {
    let depth = if options.verify { Depth::Full } else { Depth::Quick };
    let what = match ensure(cache_folder, depth)? {
        Libtorch::Cached(folder) => format!("libtorch {} is ready in {}", libtorch::VERSION, folder.display()),
        Libtorch::Folder(folder) => format!("LIBTORCH is set: the build uses {}", folder.display()),
        Libtorch::Python => "LIBTORCH_USE_PYTORCH is set: the build uses Python's own torch".to_owned(),
    };
    progress::done(&format!("{what}. Next: cargo xtask demo, or cargo build, cargo test."));
    Ok(())
}

/// Finds or lays out libtorch and links it. Quick when all is there.
pub(crate) fn ensure(cache_folder: Option<&Path>, depth: Depth) -> Result<Libtorch> {
    require_compiler()?;
    let root = checkout::root()?;
    if std::env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        require_python_torch()?;
        return Ok(Libtorch::Python);
    }
    // `.cargo/config.toml` sets LIBTORCH for this process, to the link, when the user has not.
    if let Some(folder) = std::env::var_os("LIBTORCH").map(PathBuf::from)
        && !checkout::is_link(&root, &folder)
    {
        require_libtorch(&folder)?;
        return Ok(Libtorch::Folder(folder));
    }
    libtorch::require_platform()?;
    let folder = libtorch::in_cache(&cache::folder(cache_folder)?, depth)?;
    if libtorch::link(&root, &folder)? {
        progress::done(&format!("Linked {} to {}", checkout::LIBTORCH_LINK, folder.display()));
    }
    Ok(Libtorch::Cached(folder))
}

/// The C++ compiler that `cc` will call: `$CXX`, else `c++`.
fn require_compiler() -> Result<()> {
    let chosen = std::env::var("CXX").ok().filter(|name| !name.trim().is_empty());
    let compiler = chosen.as_deref().unwrap_or("c++");
    // CXX may hold a wrapper before the compiler, as in `ccache g++`.
    let mut words = compiler.split_whitespace();
    let works = Command::new(words.next().unwrap_or("c++"))
        .args(words)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    match (works, chosen) {
        (true, _) => Ok(()),
        (false, Some(name)) => {
            bail!("CXX is set to {name}, which does not run. Unset it, or name a C++ compiler.")
        }
        (false, None) => bail!(
            "There is no C++ compiler, and the binding to libtorch needs one. Install it (Debian, \
             Ubuntu: sudo apt-get install g++; Fedora: sudo dnf install gcc-c++), then run the \
             same command again."
        ),
    }
}

/// Refuses a `LIBTORCH` that the build could not use, with the reason.
fn require_libtorch(folder: &Path) -> Result<()> {
    let shown = folder.display();
    if !folder.is_absolute() {
        bail!(
            "LIBTORCH is {shown}, a relative path, which means something else in each folder. \
             Make it absolute."
        );
    }
    let library = ["libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"];
    if !library.iter().any(|name| folder.join("lib").join(name).exists()) {
        bail!(
            "LIBTORCH is {shown}, which holds no lib/libtorch_cpu.so. Name the folder that has \
             include/ and lib/, or unset LIBTORCH and let set-up fetch it."
        );
    }
    match std::fs::read_to_string(folder.join("build-version")) {
        Ok(version) => require_version(&version, &format!("LIBTORCH ({shown})")),
        // The Python package's torch folder has no such file; the build checks no version then
        // either.
        Err(_) => Ok(()),
    }
}

fn require_python_torch() -> Result<()> {
    let python = pip::python("")?;
    let output = Command::new(&python)
        .args(["-c", "import torch; print(torch.__version__)"])
        .output()
        .with_context(|| format!("{} does not run.", python.display()))?;
    if !output.status.success() {
        bail!(
            "LIBTORCH_USE_PYTORCH is set, but {} cannot import torch. Install torch=={}, or unset \
             it and let set-up fetch libtorch.",
            python.display(),
            libtorch::VERSION
        );
    }
    require_version(&String::from_utf8_lossy(&output.stdout), "Python's torch")
}

fn require_version(version: &str, whose: &str) -> Result<()> {
    let version = version.trim();
    let plain = version.split('+').next().unwrap_or(version);
    if plain != libtorch::VERSION && std::env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_none() {
        bail!(
            "{whose} is version {version}; wanted is {}. Unset it and let set-up fetch the right \
             one, or set LIBTORCH_BYPASS_VERSION_CHECK=1 to try all the same.",
            libtorch::VERSION
        );
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_libtorch_of_the_users_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |folder: &Path| require_libtorch(folder).unwrap_err().to_string();
        assert!(refused(Path::new("libtorch")).contains("relative"));
        assert!(refused(folder.path()).contains("holds no lib/libtorch_cpu.so"));
        std::fs::create_dir(folder.path().join("lib")).unwrap();
        std::fs::write(folder.path().join("lib/libtorch_cpu.so"), "").unwrap();
        assert!(require_libtorch(folder.path()).is_ok());
        std::fs::write(folder.path().join("build-version"), "2.13.0+cu130\n").unwrap();
        assert!(require_libtorch(folder.path()).is_ok());
        std::fs::write(folder.path().join("build-version"), "2.4.0\n").unwrap();
        assert!(refused(folder.path()).contains("is version 2.4.0; wanted is 2.13.0"));
    }
}
