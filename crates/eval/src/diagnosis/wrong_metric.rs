//! A headline metric that hides how the small classes fare.

use super::{Evidence, Finding, Kind, Severity, percent};
use crate::metrics::accuracy::balanced_accuracy;
use crate::metrics::matthews::matthews;

/// Accuracy this much above its balanced form comes from the large classes alone.
const DISTANCE: f64 = 0.10;

/// The largest class must hold this share before always guessing it looks like an achievement.
const DOMINANT: f64 = 0.6;

/// Metrics that count every example the same.
const BY_EXAMPLE: [&str; 6] =
    ["accuracy", "precision_micro", "recall_micro", "f1_micro", "f1_weighted", "recall_weighted"];

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    let headline = evidence.metrics.first().filter(|name| BY_EXAMPLE.contains(&name.as_str()))?;
    let (accuracy, majority) = (evidence.accuracy(), evidence.majority());
    let balanced = balanced_accuracy(&evidence.matrix).ok()?;
    let correlation = matthews(&evidence.matrix).ok()?;
    if !(DOMINANT..1.0).contains(&majority) || accuracy - balanced < DISTANCE {
        return None;
    }
    let floor = accuracy <= majority + evidence.half_width(accuracy, evidence.examples());
    let severity = if floor { Severity::Serious } else { Severity::Warning };
    let mut sentence = format!(
        "{headline} is the headline, but {} of the examples are of one class: accuracy is {}, \
         while averaged over the classes only {} are right and the correlation with the truth is \
         {correlation:.2}.",
        percent(majority),
        percent(accuracy),
        percent(balanced)
    );
    if floor {
        sentence += " Always guessing the largest class would look as good.";
    }
    let advice = "Choose models by f1_macro, balanced_accuracy, matthews or average_precision: put \
                  it first in evaluation.metrics.";
    let figures = [
        ("accuracy", accuracy),
        ("balanced_accuracy", balanced),
        ("majority_share", majority),
        ("matthews", correlation),
    ];
    Some(Finding::new(Kind::WrongMetric, severity, sentence, advice, &figures))
}
