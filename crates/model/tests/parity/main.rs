//! Checkpoints against `transformers`: logits without and with a cache, greedy search, beam search and tokeniser ids of
//! folders that `xtask/peers/parity.py` made. Those in `fixtures/checkpoints` always; those of the folder that
//! `TIDEMILL_PARITY` names, as `cargo xtask parity` sets it, a JSON object a line. `subject.rs` is all that knows how
//! Tidemill runs a model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod case;
mod compare;
mod subject;

use std::path::{Path, PathBuf};

use case::Case;
use compare::Report;

fn reports(folder: &Path, tell: fn(&Report)) -> Vec<Report> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("expected.json").is_file());
    folders.sort();
    assert!(!folders.is_empty(), "{} has no cases: make them with xtask/peers/parity.py", folder.display());
    let report = |folder: &PathBuf| {
        let report = Report::of(&Case::read(folder));
        tell(&report);
        report
    };
    folders.iter().map(report).collect()
}

/// Fails with everything that differs, is missing, or is there against expectation.
fn assert_agreement(reports: &[Report]) {
    let mut problems = Vec::new();
    for report in reports {
        problems.extend(report.problem.iter().map(|problem| format!("{}: {problem}", report.case)));
        if !report.built {
            problems.push(format!("{}: {} is not built", report.case, report.architecture));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn stored_checkpoints_give_the_results_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints");
    assert_agreement(&reports(&folder, |report| eprintln!("{report}")));
}

#[test]
fn made_checkpoints_give_the_results_of_transformers() {
    let Some(folder) = std::env::var_os("TIDEMILL_PARITY") else { return };
    // A line of its own each, which libtest's `test … ` would otherwise begin.
    println!();
    assert_agreement(&reports(Path::new(&folder), |report| println!("{}", report.as_json())));
}
