//! `cargo xtask fmt`: every file in the project's form.
//!
//! Not by `cargo fmt`: that follows `mod` lines and so does not reach the files that the registries declare.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::checkout;
use crate::steps::{self, Step};

/// Options of `cargo xtask fmt`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Change nothing; fail when something would be changed.
    #[arg(long)]
    check: bool,
}

/// Runs the subcommand.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = checkout::root()?;
    steps::run(vec![format(&root, options.check)])
}

/// The form of every file: brought about, or only checked.
pub(crate) fn format(root: &Path, check: bool) -> Step<'_> {
    steps::step("format", move || {
        let mut files = Vec::new();
        for folder in ["crates", "tests", "xtask"] {
            rust_files(&root.join(folder), &mut files)?;
        }
        files.sort();
        let mut rustfmt = Command::new("rustfmt");
        rustfmt.args(["--edition", "2024"]).args(check.then_some("--check")).args(files).current_dir(root);
        let status =
            rustfmt.status().context("rustfmt does not run; install it with `rustup component add rustfmt`")?;
        if !status.success() {
            bail!("rustfmt failed ({status}); `cargo xtask fmt` mends the form");
        }
        Ok(())
    })
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
