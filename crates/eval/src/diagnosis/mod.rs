//! What the figures of a report point to, in words. One file a finding: a rule from figures to a
//! sentence that names them and says what to do, with its thresholds and their reasons. Knows
//! nothing of models or pages.
//!
//! To add a finding: one new file, one line in `rules!`, one variant of [`Kind`].

mod evidence;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use evidence::{DataFigures, Evidence};

/// Declares the rules of this folder; each is a file with `fn find(&Evidence) -> Option<Finding>`.
macro_rules! rules {
    ($($rule:ident,)*) => {
        $(mod $rule;)*
        const RULES: &[fn(&Evidence) -> Option<Finding>] = &[$($rule::find),*];
    };
}

// `cargo fmt` does not look into macros: `rustfmt crates/eval/src/diagnosis/*.rs` formats these
// files.
rules! {
    over_fitting,
    under_fitting,
    class_imbalance,
    too_little_data,
    leakage,
    wrong_metric,
    poor_calibration,
    still_improving,
    noisy_validation,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Much better on what it was trained on than on what is new.
    OverFitting,
    /// Not even good on what it was trained on.
    UnderFitting,
    /// Some classes are much smaller than others.
    ClassImbalance,
    /// Too few training examples.
    TooLittleData,
    /// The same examples on two sides of the split, or signs of it.
    Leakage,
    /// The headline metric hides how the small classes fare.
    WrongMetric,
    /// Confidence and accuracy disagree.
    PoorCalibration,
    /// Training stopped while it was still getting better.
    StillImproving,
    /// The set that decides is small, so its numbers are mostly chance.
    NoisyValidation,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::OverFitting => "over-fitting",
            Kind::UnderFitting => "under-fitting",
            Kind::ClassImbalance => "class imbalance",
            Kind::TooLittleData => "too little data",
            Kind::Leakage => "leakage",
            Kind::WrongMetric => "misleading metric",
            Kind::PoorCalibration => "poor calibration",
            Kind::StillImproving => "still improving",
            Kind::NoisyValidation => "noisy evaluation",
        })
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The numbers of this report cannot be relied upon, or the model should not be used, before it
    /// is mended.
    Serious,
    /// The model would most likely be better for it.
    Warning,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Serious => "serious",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

/// One thing that the figures point to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen, with the figures.
    pub sentence: String,
    /// What to do about it.
    pub advice: String,
    /// The figures that led to it, by name.
    pub figures: BTreeMap<String, f64>,
}

impl Finding {
    fn new(
        kind: Kind,
        severity: Severity,
        sentence: String,
        advice: impl Into<String>,
        figures: &[(&str, f64)],
    ) -> Finding {
        let figures = figures.iter().map(|&(name, value)| (name.to_string(), value)).collect();
        Finding { kind, severity, sentence, advice: advice.into(), figures }
    }
}

/// Every finding that the evidence supports, the most serious first.
pub fn diagnose(evidence: &Evidence) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RULES.iter().filter_map(|rule| rule(evidence)).collect();
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// A share as people read it: `81.4 %`.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A number of things, with its plural: `1 example`, `1,200 examples`.
fn count(number: u64, one: &str) -> String {
    format!("{} {one}{}", crate::report::grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
