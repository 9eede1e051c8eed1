//! `cargo xtask test`: every check that a change must pass, in the order that finds a fault
//! soonest.
use std::path::Path;

use anyhow::Result;

use crate::{checkout, conformance, fmt, lint, steps};

/// Runs the subcommand.
pub(crate) fn run(cache_folder: Option<&Path>) -> Result<()> {
    let root = checkout::root()?;
    steps::run(vec![
        fmt::format(&root, true),
        steps::set_up(cache_folder),
        lint::clippy(&root),
        steps::cargo("program", &root, steps::words("build --workspace --bin tidemill"), &[]),
        steps::cargo("tests", &root, steps::words("test --workspace --no-fail-fast"), &[]),
        conformance::step(&root, cache_folder),
        lint::documentation(&root),
    ])
}
