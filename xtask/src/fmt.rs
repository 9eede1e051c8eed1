//! `cargo xtask fmt`: every file in the project's form.
use anyhow::Result;
use clap::Args;

use crate::{checkout, steps};

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
    let arguments = if options.check { "fmt --all --check" } else { "fmt --all" };
    steps::run(vec![steps::cargo("format", &root, steps::words(arguments), &[])])
}
