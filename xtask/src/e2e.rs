//! `cargo xtask e2e`: the tests that drive the built program and its server as a user would.
use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::{checkout, steps};

/// Options of `cargo xtask e2e`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Run only the tests whose names contain this; after `--`, options of the test runner.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME")]
    filter: Vec<String>,
}

/// Runs the subcommand.
pub(crate) fn run(options: &Options, cache_folder: Option<&Path>) -> Result<()> {
    let root = checkout::root()?;
    let mut arguments = steps::words("test --package tidemill-tests --");
    arguments.extend(options.filter.iter().filter(|word| *word != "--").cloned());
    steps::run(vec![
        steps::set_up(cache_folder),
        steps::cargo("program", &root, steps::words("build --workspace --bin tidemill"), &[]),
        steps::cargo("end-to-end tests", &root, arguments, &[]),
    ])
}
