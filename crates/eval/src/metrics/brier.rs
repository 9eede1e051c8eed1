//! Brier score: mean squared distance of the probabilities from the truth (Brier 1950,
//! "Verification of forecasts expressed in terms of probability"). scikit-learn ≥ 1.7:
//! `brier_score_loss`.

use super::{Metric, MetricError};
use crate::Predictions;

pub(super) const METRICS: &[Metric] = &[Metric {
    name: "brier",
    summary: "Mean squared distance of the probabilities from the truth.",
    higher_is_better: false,
    compute: |predictions| Ok::<f64, MetricError>(brier(predictions)),
    from_matrix: None,
}];

/// With two classes the mean of `(p - y)²` of the positive class, in `[0, 1]`; with more the mean
/// of the sum of it over all classes, in `[0, 2]`, as scikit-learn's `scale_by_half="auto"`.
pub fn brier(predictions: &Predictions) -> f64 {
    let scale = if predictions.classes() == 2 { 0.5 } else { 1.0 };
    let distance = |(row, &target): (&[f64], &usize)| -> f64 {
        let truth = |class| if class == target { 1.0 } else { 0.0 };
        row.iter().enumerate().map(|(class, p)| (p - truth(class)).powi(2)).sum()
    };
    let sum: f64 = predictions.rows().zip(predictions.targets()).map(distance).sum();
    scale * sum / predictions.len() as f64
}
