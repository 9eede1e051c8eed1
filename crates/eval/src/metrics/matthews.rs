//! Matthews correlation coefficient, in its form for any number of classes (Gorodkin 2004,
//! "Comparing two K-category assignments by a K-category correlation coefficient"). scikit-learn:
//! `matthews_corrcoef`.

use super::{ConfusionMatrix, Metric, MetricError};

pub(super) const METRICS: &[Metric] =
    &[counted!("matthews", "Correlation of prediction and truth: 1 is perfect, 0 is chance.", matthews)];

/// Correlation of prediction and truth, in `[-1, 1]`; 0 when all examples, or all predictions, are
/// of one class, by convention.
///
/// # Errors
/// Undefined when there are no examples.
pub fn matthews(matrix: &ConfusionMatrix) -> Result<f64, MetricError> {
    if matrix.total() == 0 {
        return Err(MetricError::undefined("there are no examples"));
    }
    let total = matrix.total() as f64;
    let (mut both, mut truth, mut guess) = (0.0, 0.0, 0.0);
    for class in 0..matrix.classes() {
        let (support, predicted) = (matrix.support(class) as f64, matrix.predicted(class) as f64);
        both += support * predicted;
        truth += support * support;
        guess += predicted * predicted;
    }
    let spread = (total * total - truth) * (total * total - guess);
    if spread <= 0.0 {
        return Ok(0.0);
    }
    Ok((total * matrix.correct() as f64 - both) / spread.sqrt())
}
