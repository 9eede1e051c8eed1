//! `cargo xtask lint`: everything that is checked without running the code.
use std::path::Path;

use anyhow::Result;

use crate::steps::{self, Step};
use crate::{checkout, fmt, progress};

/// Runs the subcommand.
pub(crate) fn run(cache_folder: Option<&Path>) -> Result<()> {
    let root = checkout::root()?;
    let mut list = vec![fmt::format(&root, true), steps::set_up(cache_folder), clippy(&root), documentation(&root)];
    let deny = steps::has_cargo_command(&root, "deny");
    if deny {
        list.push(steps::cargo("licences and advisories", &root, steps::words("deny check"), &[]));
    }
    steps::run(list)?;
    if !deny {
        progress::note(
            "Licences and advisories were not checked: cargo-deny is not installed (cargo install \
             cargo-deny).",
        );
    }
    Ok(())
}

/// Clippy on every target, a warning being an error.
pub(crate) fn clippy(root: &Path) -> Step<'_> {
    steps::cargo("clippy", root, steps::words("clippy --workspace --all-targets -- -D warnings"), &[])
}

/// The documentation of every crate, a warning being an error.
pub(crate) fn documentation(root: &Path) -> Step<'_> {
    steps::cargo("documentation", root, steps::words("doc --workspace --no-deps"), &[("RUSTDOCFLAGS", "-D warnings")])
}
