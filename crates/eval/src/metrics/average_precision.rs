//! Average precision: the area under the precision-recall curve as a sum of steps, without
//! interpolation. scikit-learn: `average_precision_score`.
//!
//! One difference: for a class without examples scikit-learn warns and answers 0; here it is
//! undefined.

use super::{Metric, MetricError, roc};
use crate::Predictions;

pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "average_precision",
        summary: "Area under the precision-recall curve of the positive class; with more than two \
                  classes the mean of each against the rest.",
        higher_is_better: true,
        compute: |predictions| average_precision(predictions),
        from_matrix: None,
    },
    Metric {
        name: "average_precision_weighted",
        summary: "As average_precision, each class against the rest, mean weighted by class size.",
        higher_is_better: true,
        compute: |predictions| average_precision_weighted(predictions),
        from_matrix: None,
    },
];

/// Average precision of one class against the rest, in `[0, 1]`; chance is the share of the class.
///
/// # Errors
/// Undefined when no example is of this class.
pub fn of_class(predictions: &Predictions, class: usize) -> Result<f64, MetricError> {
    let steps = roc::steps(predictions, class);
    let positives = steps.last().map_or(0, |step| step.true_positives);
    if positives == 0 {
        return Err(no_positives(predictions, class));
    }
    let (mut sum, mut before) = (0.0, 0);
    for step in &steps {
        let found = (step.true_positives - before) as f64;
        let taken = (step.true_positives + step.false_positives) as f64;
        sum += found / positives as f64 * (step.true_positives as f64 / taken);
        before = step.true_positives;
    }
    Ok(sum)
}

/// That of the second class with two classes, else the mean of every class against the rest.
///
/// # Errors
/// Undefined when a class has no example.
pub fn average_precision(predictions: &Predictions) -> Result<f64, MetricError> {
    if predictions.classes() == 2 {
        return of_class(predictions, 1);
    }
    let mut sum = 0.0;
    for class in 0..predictions.classes() {
        sum += of_class(predictions, class)?;
    }
    Ok(sum / predictions.classes() as f64)
}

/// The mean of every class against the rest, weighted by the size of the class, also with two
/// classes.
///
/// # Errors
/// Undefined when a class has no example.
pub fn average_precision_weighted(predictions: &Predictions) -> Result<f64, MetricError> {
    let matrix = predictions.confusion_matrix();
    let mut sum = 0.0;
    for class in 0..predictions.classes() {
        sum += matrix.support(class) as f64 * of_class(predictions, class)?;
    }
    Ok(sum / predictions.len() as f64)
}

pub(super) fn no_positives(predictions: &Predictions, class: usize) -> MetricError {
    let label = predictions.labels().get(class).map_or("?", String::as_str);
    MetricError::undefined(format!("no example is {label:?}"))
}
