//! A set so small that its numbers are mostly chance.

use super::{Evidence, Finding, Kind, Severity, count, percent};

/// Half widths of the 95 % interval of the accuracy. Changes of model or recipe usually move it by
/// one to three points: with a wider interval they cannot be told from chance.
const WIDE: f64 = 0.03;
const VERY_WIDE: f64 = 0.06;

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    evaluated(evidence).or_else(|| validation(evidence))
}

fn evaluated(evidence: &Evidence) -> Option<Finding> {
    let (accuracy, n) = (evidence.accuracy(), evidence.examples());
    let half = evidence.accuracy_half_width.unwrap_or_else(|| evidence.half_width(accuracy, n));
    finding(accuracy, n, half, "evaluated example")
}

fn validation(evidence: &Evidence) -> Option<Finding> {
    let n = evidence.data.as_ref()?.validation;
    let last = evidence.history.iter().rev();
    let accuracy = last.filter_map(|point| point.validation_metrics.get("accuracy")).next()?;
    if n == 0 || n >= evidence.examples() {
        return None;
    }
    finding(*accuracy, n, evidence.half_width(*accuracy, n), "validation example")
}

fn finding(accuracy: f64, n: u64, half: f64, what: &str) -> Option<Finding> {
    if half < WIDE {
        return None;
    }
    let severity = if half >= VERY_WIDE { Severity::Warning } else { Severity::Note };
    let needed = (accuracy * (1.0 - accuracy) * (1.96_f64 / 0.02).powi(2)).ceil();
    let sentence = format!(
        "With {} the accuracy of {} is known to about ±{:.1} points: differences between models \
         smaller than that are mostly chance.",
        count(n, what),
        percent(accuracy),
        100.0 * half
    );
    let advice = format!(
        "Give this side more examples (about {needed:.0} make it ±2 points), use k-fold splits, or \
         compare several seeds before preferring one model."
    );
    let figures = [("examples", n as f64), ("accuracy", accuracy), ("half_width", half)];
    Some(Finding::new(Kind::NoisyValidation, severity, sentence, advice, &figures))
}
