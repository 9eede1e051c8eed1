//! Too little data to learn from.

use super::{Evidence, Finding, Kind, Severity, count};

/// Examples of the smallest class. Learning curves of text classifiers trained from scratch are
/// still steep below some hundreds a class, and below some dozens the words of single examples
/// decide.
const FEW: u64 = 200;
const VERY_FEW: u64 = 50;

/// Training examples in all.
const FEW_IN_ALL: u64 = 1000;

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    let sizes = &evidence.data.as_ref()?.train;
    let total: u64 = sizes.iter().sum();
    let (class, &fewest) = sizes.iter().enumerate().min_by_key(|(_, size)| **size)?;
    if total == 0 || (fewest >= FEW && total >= FEW_IN_ALL) {
        return None;
    }
    let severity = if fewest < VERY_FEW { Severity::Serious } else { Severity::Warning };
    let sentence = format!(
        "There are {}, and {} of the rarest label {:?}; a text classifier trained from scratch \
         wants about {FEW} a label and {FEW_IN_ALL} in all before its numbers settle.",
        count(total, "training example"),
        if fewest == 0 { "none".to_string() } else { format!("only {fewest}") },
        evidence.labels.get(class).map_or("?", String::as_str),
    );
    let advice = "Label more examples, of the rare labels first; until then prefer a small model \
                  (bag of embeddings), strong regularisation and text augmentation, and k-fold \
                  splits to measure.";
    let figures = [("training_examples", total as f64), ("rarest_label", fewest as f64)];
    Some(Finding::new(Kind::TooLittleData, severity, sentence, advice, &figures))
}
