//! Class imbalance: some classes are much smaller than others.

use super::{Evidence, Finding, Kind, Severity, percent};
use crate::metrics::precision_recall::of_class;
use crate::report::grouped;

/// Ratios of the largest class to the smallest. With two classes they are minorities of 20 %, 5 %
/// and 1 %: the lines that are usually drawn between mild, moderate and extreme imbalance.
const MILD: f64 = 4.0;
const MODERATE: f64 = 19.0;
const EXTREME: f64 = 99.0;

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    let (sizes, side) = evidence.class_sizes();
    let (small, &fewest) = sizes.iter().enumerate().min_by_key(|(_, size)| **size)?;
    let (large, &most) = sizes.iter().enumerate().max_by_key(|(_, size)| **size)?;
    let ratio = most as f64 / fewest.max(1) as f64;
    if ratio < MILD || small == large {
        return None;
    }
    let severity = match ratio {
        ratio if ratio >= EXTREME => Severity::Serious,
        ratio if ratio >= MODERATE => Severity::Warning,
        _ => Severity::Note,
    };
    let label = |class: usize| evidence.labels.get(class).map_or("?", String::as_str);
    let mut sentence = format!(
        "Of the {side} examples {} are {:?} and only {} {:?}, {ratio:.0} times fewer.",
        grouped(most),
        label(large),
        grouped(fewest),
        label(small),
    );
    let mut figures = vec![("largest", most as f64), ("smallest", fewest as f64), ("ratio", ratio)];
    if evidence.matrix.support(small) > 0 {
        let recall = of_class(&evidence.matrix, small, 1.0).recall;
        sentence += &format!(" The model finds {} of the {:?} examples.", percent(recall), label(small));
        figures.push(("recall_of_smallest", recall));
    }
    let advice = "Weigh the classes in the loss (training.class_weights), collect more of the \
                  small classes, and judge by f1_macro, balanced_accuracy or average_precision \
                  rather than by accuracy.";
    Some(Finding::new(Kind::ClassImbalance, severity, sentence, advice, &figures))
}
