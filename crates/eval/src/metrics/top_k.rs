//! Top-k accuracy: is the truth among the k most probable classes? scikit-learn:
//! `top_k_accuracy_score`.

use super::{Metric, MetricError};
use crate::Predictions;

pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "top_2_accuracy",
        summary: "Share of examples whose true class is among the 2 most probable.",
        higher_is_better: true,
        compute: |predictions| top_k_accuracy(predictions, 2),
        from_matrix: None,
    },
    Metric {
        name: "top_3_accuracy",
        summary: "Share of examples whose true class is among the 3 most probable.",
        higher_is_better: true,
        compute: |predictions| top_k_accuracy(predictions, 3),
        from_matrix: None,
    },
    Metric {
        name: "top_5_accuracy",
        summary: "Share of examples whose true class is among the 5 most probable.",
        higher_is_better: true,
        compute: |predictions| top_k_accuracy(predictions, 5),
        from_matrix: None,
    },
];

/// Share of examples whose true class is among the `k` most probable, in `[0, 1]`. Of equally
/// probable classes the later ranks first, as in scikit-learn.
///
/// # Errors
/// Undefined when `k` is 0 or not below the number of classes: every example would then count.
pub fn top_k_accuracy(predictions: &Predictions, k: usize) -> Result<f64, MetricError> {
    let classes = predictions.classes();
    if k == 0 || k >= classes {
        return Err(MetricError::undefined(format!("the {k} most probable of {classes} classes are no choice")));
    }
    let among = |&(row, &target): &(&[f64], &usize)| {
        let ahead = |&(class, &p): &(usize, &f64)| p > row[target] || (p == row[target] && class > target);
        row.iter().enumerate().filter(ahead).count() < k
    };
    let hits = predictions.rows().zip(predictions.targets()).filter(among).count();
    Ok(hits as f64 / predictions.len() as f64)
}
