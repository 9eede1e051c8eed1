//! Precision, recall and their weighted harmonic mean F-beta, per class and averaged, and the
//! precision-recall curve. scikit-learn: `precision_recall_fscore_support`,
//! `precision_recall_curve`.
//!
//! Division by zero follows scikit-learn's `zero_division=0`: the precision of a class never
//! predicted, the recall of a class without examples, and the F of a class with neither, are 0.
//! Averages run over the classes that occur as a truth or as a prediction.

use serde::{Deserialize, Serialize};

use super::{ConfusionMatrix, Metric, MetricError};
use crate::Predictions;

pub(super) const METRICS: &[Metric] = &[
    counted!(
        "precision_macro",
        "Share of the predictions of a class that are right, mean over the classes.",
        |matrix| Ok(average(matrix, Average::Macro, 1.0).precision)
    ),
    counted!(
        "precision_weighted",
        "Share of the predictions of a class that are right, mean weighted by class size.",
        |matrix| Ok(average(matrix, Average::Weighted, 1.0).precision)
    ),
    counted!(
        "precision_micro",
        "Share of all predictions that are right; with one label an example it is the accuracy.",
        |matrix| Ok(average(matrix, Average::Micro, 1.0).precision)
    ),
    counted!("recall_macro", "Share of the examples of a class that are found, mean over the classes.", |matrix| Ok(
        average(matrix, Average::Macro, 1.0).recall
    )),
    counted!(
        "recall_weighted",
        "Share of the examples of a class that are found, mean weighted by class size.",
        |matrix| Ok(average(matrix, Average::Weighted, 1.0).recall)
    ),
    counted!(
        "recall_micro",
        "Share of all examples that are found; with one label an example it is the accuracy.",
        |matrix| Ok(average(matrix, Average::Micro, 1.0).recall)
    ),
    counted!("f1_macro", "Harmonic mean of precision and recall of a class, mean over the classes.", |matrix| Ok(
        average(matrix, Average::Macro, 1.0).f
    )),
    counted!(
        "f1_weighted",
        "Harmonic mean of precision and recall of a class, mean weighted by class size.",
        |matrix| Ok(average(matrix, Average::Weighted, 1.0).f)
    ),
    counted!("f1_micro", "Harmonic mean of precision and recall over all examples: the accuracy.", |matrix| Ok(
        average(matrix, Average::Micro, 1.0).f
    )),
    counted!("f05_macro", "F-beta with beta 0.5 (precision counts more), mean over the classes.", |matrix| Ok(
        average(matrix, Average::Macro, 0.5).f
    )),
    counted!("f2_macro", "F-beta with beta 2 (recall counts more), mean over the classes.", |matrix| Ok(average(
        matrix,
        Average::Macro,
        2.0
    )
    .f)),
];

/// How the numbers of several classes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// Mean over the classes, each counting the same.
    Macro,
    /// Mean over the classes, weighted by their number of examples.
    Weighted,
    /// From the counts of all classes added up.
    Micro,
}

/// Precision, recall and F-beta, each in `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// Share of the predictions of the class that are right.
    pub precision: f64,
    /// Share of the examples of the class that are found.
    pub recall: f64,
    /// Harmonic mean of the two, recall weighing `beta` times as much as precision.
    pub f: f64,
}

/// The numbers of one class.
///
/// ```
/// use tidemill_eval::metrics::{ConfusionMatrix, precision_recall::of_class};
/// let mut matrix = ConfusionMatrix::zeros(2);
/// matrix.add(0, 0, 8);
/// matrix.add(0, 1, 2);
/// assert_eq!(of_class(&matrix, 0, 1.0).recall, 0.8);
/// assert_eq!(of_class(&matrix, 1, 1.0).precision, 0.0);
/// ```
pub fn of_class(matrix: &ConfusionMatrix, class: usize, beta: f64) -> PrecisionRecall {
    of_counts(matrix.hits(class), matrix.predicted(class), matrix.support(class), beta)
}

/// The numbers of all classes as one.
pub fn average(matrix: &ConfusionMatrix, average: Average, beta: f64) -> PrecisionRecall {
    if average == Average::Micro {
        return of_counts(matrix.correct(), matrix.total(), matrix.total(), beta);
    }
    let mut sum = PrecisionRecall { precision: 0.0, recall: 0.0, f: 0.0 };
    let mut weights = 0.0;
    for class in matrix.seen() {
        let weight = match average {
            Average::Weighted => matrix.support(class) as f64,
            Average::Macro | Average::Micro => 1.0,
        };
        let one = of_class(matrix, class, beta);
        sum.precision += weight * one.precision;
        sum.recall += weight * one.recall;
        sum.f += weight * one.f;
        weights += weight;
    }
    let mean = |sum: f64| if weights > 0.0 { sum / weights } else { 0.0 };
    PrecisionRecall { precision: mean(sum.precision), recall: mean(sum.recall), f: mean(sum.f) }
}

fn of_counts(hits: u64, predicted: u64, support: u64, beta: f64) -> PrecisionRecall {
    let beta2 = beta * beta;
    let share = |part: f64, whole: f64| if whole == 0.0 { 0.0 } else { part / whole };
    PrecisionRecall {
        precision: share(hits as f64, predicted as f64),
        recall: share(hits as f64, support as f64),
        f: share((1.0 + beta2) * hits as f64, beta2 * support as f64 + predicted as f64),
    }
}

/// One point of a precision-recall curve: what taking every example with a score of at least
/// `threshold` for positive would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrecisionRecallPoint {
    /// The score from which on examples count as positive.
    pub threshold: f64,
    /// Share of those that are positive.
    pub precision: f64,
    /// Share of the positives among them.
    pub recall: f64,
}

/// The precision-recall curve of one class against the rest, from the highest threshold to the
/// lowest, one point a distinct score. (scikit-learn's is the reverse, and ends in an extra point
/// `(1, 0)`.)
///
/// # Errors
/// Undefined when no example is of this class.
pub fn curve(predictions: &Predictions, class: usize) -> Result<Vec<PrecisionRecallPoint>, MetricError> {
    let steps = super::roc::steps(predictions, class);
    let positives = steps.last().map_or(0, |step| step.true_positives);
    if positives == 0 {
        return Err(super::average_precision::no_positives(predictions, class));
    }
    let point = |step: &super::roc::Step| PrecisionRecallPoint {
        threshold: step.threshold,
        precision: step.true_positives as f64 / (step.true_positives + step.false_positives) as f64,
        recall: step.true_positives as f64 / positives as f64,
    };
    Ok(steps.iter().map(point).collect())
}
