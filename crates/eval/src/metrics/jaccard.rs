//! Jaccard index of a class: examples that are and are called the class, of those that are or are
//! called it. Stricter than F1, with the same order (`J = F1 / (2 - F1)` a class). scikit-learn:
//! `jaccard_score`.

use super::{ConfusionMatrix, Metric, MetricError};

pub(super) const METRICS: &[Metric] = &[counted!(
    "jaccard_macro",
    "Overlap of the examples of a class with those called it, mean over the classes.",
    jaccard_macro
)];

/// Intersection over union of one class, in `[0, 1]`; 0 for a class that occurs nowhere.
pub fn of_class(matrix: &ConfusionMatrix, class: usize) -> f64 {
    let hits = matrix.hits(class);
    match matrix.support(class) + matrix.predicted(class) - hits {
        0 => 0.0,
        union => hits as f64 / union as f64,
    }
}

/// Mean over the classes that occur as a truth or as a prediction, in `[0, 1]`.
///
/// # Errors
/// Undefined when there are no examples.
pub fn jaccard_macro(matrix: &ConfusionMatrix) -> Result<f64, MetricError> {
    let values: Vec<f64> = matrix.seen().map(|class| of_class(matrix, class)).collect();
    match values.len() {
        0 => Err(MetricError::undefined("there are no examples")),
        classes => Ok(values.iter().sum::<f64>() / classes as f64),
    }
}
