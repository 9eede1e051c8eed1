//! Share of examples that are right: over all of them, and class by class. scikit-learn:
//! `accuracy_score`, `balanced_accuracy_score`.

use super::{ConfusionMatrix, Metric, MetricError};

pub(super) const METRICS: &[Metric] = &[
    counted!("accuracy", "Share of examples whose most probable class is the true one.", accuracy),
    counted!(
        "balanced_accuracy",
        "Mean over the classes of the share of their examples that are right.",
        balanced_accuracy
    ),
];

/// Share of examples on the diagonal, in `[0, 1]`.
///
/// # Errors
/// Undefined when there are no examples.
pub fn accuracy(matrix: &ConfusionMatrix) -> Result<f64, MetricError> {
    match matrix.total() {
        0 => Err(MetricError::undefined("there are no examples")),
        total => Ok(matrix.correct() as f64 / total as f64),
    }
}

/// Mean recall of the classes that have examples, in `[0, 1]`; what always guessing one of `k`
/// classes gets is `1 / k` whatever their sizes.
///
/// # Errors
/// Undefined when there are no examples.
pub fn balanced_accuracy(matrix: &ConfusionMatrix) -> Result<f64, MetricError> {
    let (mut sum, mut classes) = (0.0, 0);
    for class in 0..matrix.classes() {
        let support = matrix.support(class);
        if support > 0 {
            sum += matrix.hits(class) as f64 / support as f64;
            classes += 1;
        }
    }
    match classes {
        0 => Err(MetricError::undefined("there are no examples")),
        classes => Ok(sum / f64::from(classes)),
    }
}
