//! Log loss, or cross-entropy: how surprised the model is by the truth. scikit-learn: `log_loss`.

use super::{Metric, MetricError};
use crate::Predictions;

pub(super) const METRICS: &[Metric] = &[Metric {
    name: "log_loss",
    summary: "Mean of minus the natural logarithm of the probability given to the true class.",
    higher_is_better: false,
    compute: |predictions| Ok::<f64, MetricError>(log_loss(predictions)),
    from_matrix: None,
}];

/// Mean negative log likelihood in nats, from 0 on. Probabilities are kept `f64::EPSILON` away from
/// 0 and 1, so that one certain mistake costs 36 nats and not infinity.
pub fn log_loss(predictions: &Predictions) -> f64 {
    let surprise = |(row, &target): (&[f64], &usize)| -row[target].clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln();
    let sum: f64 = predictions.rows().zip(predictions.targets()).map(surprise).sum();
    sum / predictions.len() as f64
}
