//! Cohen's kappa: agreement beyond what the class sizes alone would give (Cohen 1960, "A
//! coefficient of agreement for nominal scales"). scikit-learn: `cohen_kappa_score`.

use super::{ConfusionMatrix, Metric, MetricError};

pub(super) const METRICS: &[Metric] = &[counted!(
    "cohen_kappa",
    "Agreement of prediction and truth beyond chance: 1 is perfect, 0 is chance.",
    cohen_kappa
)];

/// `(observed - expected) / (1 - expected)` agreement, at most 1.
///
/// # Errors
/// Undefined when every example is of one class and every prediction is that class.
pub fn cohen_kappa(matrix: &ConfusionMatrix) -> Result<f64, MetricError> {
    let total = matrix.total() as f64;
    let chance = |class| matrix.support(class) as f64 * matrix.predicted(class) as f64;
    let expected: f64 = (0..matrix.classes()).map(chance).sum::<f64>() / total;
    if total == 0.0 || total - expected <= 0.0 {
        return Err(MetricError::undefined("truth and prediction are one class throughout"));
    }
    Ok((matrix.correct() as f64 - expected) / (total - expected))
}
