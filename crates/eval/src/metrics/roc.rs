//! The receiver operating characteristic of a class against the rest, and the area under it.
//! scikit-learn: `roc_curve(drop_intermediate=False)`, `roc_auc_score(multi_class="ovr")`.

use serde::{Deserialize, Serialize};

use super::{Metric, MetricError};
use crate::Predictions;

pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "roc_auc",
        summary: "Probability that a positive example scores above a negative one; with more than \
                  two classes the mean of each against the rest.",
        higher_is_better: true,
        compute: |predictions| auc(predictions),
        from_matrix: None,
    },
    Metric {
        name: "roc_auc_weighted",
        summary: "As roc_auc, each class against the rest, mean weighted by class size.",
        higher_is_better: true,
        compute: |predictions| auc_weighted(predictions),
        from_matrix: None,
    },
];

/// One point of the curve: what taking every example with a score of at least `threshold` for
/// positive would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RocPoint {
    /// Share of the negatives among them.
    pub false_positive_rate: f64,
    /// Share of the positives among them.
    pub true_positive_rate: f64,
    /// The score from which on examples count as positive; none for the first point, which takes
    /// none.
    pub threshold: Option<f64>,
}

/// The curve of one class against the rest, from `(0, 0)` to `(1, 1)`, one point a distinct score.
///
/// # Errors
/// Undefined when all examples are of this class, or none.
pub fn curve(predictions: &Predictions, class: usize) -> Result<Vec<RocPoint>, MetricError> {
    let steps = steps(predictions, class);
    let (positives, negatives) = both_sides(&steps, predictions, class)?;
    let first = RocPoint { false_positive_rate: 0.0, true_positive_rate: 0.0, threshold: None };
    let rest = steps.iter().map(|step| RocPoint {
        false_positive_rate: step.false_positives as f64 / negatives,
        true_positive_rate: step.true_positives as f64 / positives,
        threshold: Some(step.threshold),
    });
    Ok(std::iter::once(first).chain(rest).collect())
}

/// Area under the curve of one class against the rest, in `[0, 1]`; 0.5 is chance.
///
/// # Errors
/// Undefined when all examples are of this class, or none.
pub fn class_auc(predictions: &Predictions, class: usize) -> Result<f64, MetricError> {
    let steps = steps(predictions, class);
    let (positives, negatives) = both_sides(&steps, predictions, class)?;
    // Twice the area in counts is a whole number, so ties and order leave no rounding.
    let (mut doubled, mut before) = (0_u128, (0_u64, 0_u64));
    for step in &steps {
        let width = u128::from(step.false_positives - before.0);
        doubled += width * u128::from(step.true_positives + before.1);
        before = (step.false_positives, step.true_positives);
    }
    Ok(doubled as f64 / 2.0 / positives / negatives)
}

/// The area of the second class with two classes, else the mean of every class against the rest.
///
/// # Errors
/// Undefined when a class has no example, or all of them.
pub fn auc(predictions: &Predictions) -> Result<f64, MetricError> {
    if predictions.classes() == 2 {
        return class_auc(predictions, 1);
    }
    let mut sum = 0.0;
    for class in 0..predictions.classes() {
        sum += class_auc(predictions, class)?;
    }
    Ok(sum / predictions.classes() as f64)
}

/// The mean of every class against the rest, weighted by the size of the class; with two classes
/// the same as [`auc`].
///
/// # Errors
/// Undefined when a class has no example, or all of them.
pub fn auc_weighted(predictions: &Predictions) -> Result<f64, MetricError> {
    if predictions.classes() == 2 {
        return class_auc(predictions, 1);
    }
    let matrix = predictions.confusion_matrix();
    let mut sum = 0.0;
    for class in 0..predictions.classes() {
        sum += matrix.support(class) as f64 * class_auc(predictions, class)?;
    }
    Ok(sum / predictions.len() as f64)
}

/// Counts of the examples with a score of at least `threshold`.
pub(super) struct Step {
    pub(super) threshold: f64,
    pub(super) true_positives: u64,
    pub(super) false_positives: u64,
}

/// One step a distinct score, from the highest down.
pub(super) fn steps(predictions: &Predictions, class: usize) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut true_positives, mut false_positives) = (0, 0);
    for (threshold, times, positive) in predictions.ranked(class) {
        if positive {
            true_positives += times;
        } else {
            false_positives += times;
        }
        match steps.last_mut() {
            Some(last) if last.threshold == threshold => {
                (last.true_positives, last.false_positives) = (true_positives, false_positives);
            }
            _ => steps.push(Step { threshold, true_positives, false_positives }),
        }
    }
    steps
}

fn both_sides(steps: &[Step], predictions: &Predictions, class: usize) -> Result<(f64, f64), MetricError> {
    let (positives, negatives) = steps.last().map_or((0, 0), |step| (step.true_positives, step.false_positives));
    let label = predictions.labels().get(class).map_or("?", String::as_str);
    match (positives, negatives) {
        (0, _) => Err(MetricError::undefined(format!("no example is {label:?}"))),
        (_, 0) => Err(MetricError::undefined(format!("every example is {label:?}"))),
        (positives, negatives) => Ok((positives as f64, negatives as f64)),
    }
}
