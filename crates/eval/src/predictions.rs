//! What a classifier said about a set of labelled examples: the one input of every metric.
//!
//! Plain arrays, checked once when they come in, so that no metric has to check again. Knows
//! nothing of models, files or texts.

use std::sync::Arc;

use crate::metrics::ConfusionMatrix;

/// How far the probabilities of one example may be from summing to one. Half precision models stay
/// well inside.
const SUM_TOLERANCE: f64 = 1e-2;

/// How far above one a probability may be: the rounding of a softmax in single precision. It is then
/// taken for one.
const ROUNDING: f64 = 1e-6;

/// Targets and predicted probabilities of `n` examples over `k` labels, `n ≥ 1`, `k ≥ 1`.
///
/// ```
/// use tidemill_eval::Predictions;
/// let labels = vec!["negative".to_string(), "positive".to_string()];
/// let predictions = Predictions::new(labels, vec![0, 1], vec![0.9, 0.1, 0.4, 0.6])?;
/// assert_eq!(predictions.predicted(), [0, 1]);
/// # Ok::<(), tidemill_eval::PredictionsError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    labels: Vec<String>,
    targets: Vec<usize>,
    probabilities: Vec<f64>,
    predicted: Vec<usize>,
    drawn: Option<Drawn>,
}

/// Why arrays are not [`Predictions`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PredictionsError {
    /// No examples, so there is nothing to measure.
    #[error("there are no examples to evaluate: give a data set with at least one labelled row")]
    NoExamples,
    /// No labels.
    #[error("there are no labels: a classifier needs at least one")]
    NoLabels,
    /// The probabilities are not one row of `labels` numbers an example.
    #[error(
        "{found} probabilities do not fit {examples} examples of {labels} labels: {} were expected",
        examples.saturating_mul(*labels)
    )]
    Shape {
        /// Number of probabilities given.
        found: usize,
        /// Number of examples, from the targets.
        examples: usize,
        /// Number of labels.
        labels: usize,
    },
    /// A target is not the position of a label.
    #[error("the target of example {example} is {target}, but there are only {labels} labels")]
    Target {
        /// Position of the example, from 0.
        example: usize,
        /// What it holds.
        target: usize,
        /// Number of labels.
        labels: usize,
    },
    /// A probability is not a number in `[0, 1]`.
    #[error(
        "example {example} has the probability {value} for {label:?}, which is not between 0 and \
         1: the model may have diverged, or these are logits and want a softmax"
    )]
    Probability {
        /// Position of the example, from 0.
        example: usize,
        /// The label it is for.
        label: String,
        /// The number found.
        value: f64,
    },
    /// The probabilities of one example do not sum to one.
    #[error("the probabilities of example {example} sum to {sum}, not to 1: apply a softmax first")]
    Sum {
        /// Position of the example, from 0.
        example: usize,
        /// Their sum.
        sum: f64,
    },
}

impl Predictions {
    /// Checks and takes the arrays.
    ///
    /// `targets[i]` is the position of example `i`'s true label in `labels`. `probabilities` is
    /// row-major `[targets.len(), labels.len()]`, each in `[0, 1]`, each row summing to one.
    ///
    /// # Errors
    /// [`PredictionsError`] says which array is wrong, and where.
    pub fn new(
        labels: Vec<String>,
        targets: Vec<usize>,
        mut probabilities: Vec<f64>,
    ) -> Result<Predictions, PredictionsError> {
        if labels.is_empty() {
            return Err(PredictionsError::NoLabels);
        }
        if targets.is_empty() {
            return Err(PredictionsError::NoExamples);
        }
        let (examples, classes) = (targets.len(), labels.len());
        if examples.checked_mul(classes) != Some(probabilities.len()) {
            let found = probabilities.len();
            return Err(PredictionsError::Shape { found, examples, labels: classes });
        }
        for (example, &target) in targets.iter().enumerate() {
            if target >= classes {
                return Err(PredictionsError::Target { example, target, labels: classes });
            }
        }
        for (example, row) in probabilities.chunks_exact(classes).enumerate() {
            check_row(example, row, &labels)?;
        }
        probabilities.iter_mut().for_each(|p| *p = p.min(1.0));
        let predicted = probabilities.chunks_exact(classes).map(argmax).collect();
        Ok(Predictions { labels, targets, probabilities, predicted, drawn: None })
    }

    /// Names of the classes, in the order of the columns of the probabilities.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.labels.len()
    }

    /// Number of examples, at least one.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// The true class of each example.
    pub fn targets(&self) -> &[usize] {
        &self.targets
    }

    /// The most probable class of each example; the first of them when several are equally
    /// probable, as `numpy.argmax` has it.
    pub fn predicted(&self) -> &[usize] {
        &self.predicted
    }

    /// All probabilities, row-major `[examples, classes]`.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// One row of probabilities an example.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.probabilities.chunks_exact(self.labels.len())
    }

    /// The probabilities of one example, `[classes]`.
    ///
    /// # Panics
    /// When `example` is not below [`len`](Self::len), as indexing a slice does.
    pub fn row(&self, example: usize) -> &[f64] {
        let classes = self.labels.len();
        &self.probabilities[example * classes..(example + 1) * classes]
    }

    /// The probability given to one class, for every example.
    pub fn scores(&self, class: usize) -> impl Iterator<Item = f64> + '_ {
        self.probabilities.iter().skip(class).step_by(self.labels.len()).copied()
    }

    /// The probability of the predicted class of each example.
    pub fn confidences(&self) -> impl Iterator<Item = f64> + '_ {
        self.rows().zip(&self.predicted).map(|(row, &class)| row[class])
    }

    /// True classes against predicted ones.
    pub fn confusion_matrix(&self) -> ConfusionMatrix {
        let mut matrix = ConfusionMatrix::zeros(self.labels.len());
        for (&target, &predicted) in self.targets.iter().zip(&self.predicted) {
            matrix.add(target, predicted, 1);
        }
        matrix
    }

    /// Every example in the order of its score for `class`, from the highest down, with how often it
    /// counts and whether it is of that class.
    pub(crate) fn ranked(&self, class: usize) -> Vec<(f64, u64, bool)> {
        match &self.drawn {
            Some(Drawn { ranking, times }) => {
                let counted =
                    |&(score, example, positive): &(f64, usize, bool)| (score, u64::from(times[example]), positive);
                let drawn = ranking.classes[class].iter().map(counted);
                drawn.filter(|&(_, times, _)| times > 0).collect()
            }
            None => {
                let all = sorted(self, class).into_iter();
                all.map(|(score, _, positive)| (score, 1, positive)).collect()
            }
        }
    }

    /// These examples, each as often as `times` says, which adds up to at least one. `ranking` is theirs.
    pub(crate) fn resampled(&self, ranking: &Arc<Ranking>, times: Vec<u32>) -> Predictions {
        let repeat = |(example, &times): (usize, &u32)| std::iter::repeat_n(example, times as usize);
        let drawn: Vec<usize> = times.iter().enumerate().flat_map(repeat).collect();
        let mut probabilities = Vec::with_capacity(drawn.len() * self.classes());
        drawn.iter().for_each(|&example| probabilities.extend_from_slice(self.row(example)));
        Predictions {
            labels: self.labels.clone(),
            targets: drawn.iter().map(|&example| self.targets[example]).collect(),
            predicted: drawn.iter().map(|&example| self.predicted[example]).collect(),
            probabilities,
            drawn: Some(Drawn { ranking: Arc::clone(ranking), times }),
        }
    }
}

/// The examples sorted by their score for each class: sorted once, so that no resample has to.
#[derive(Debug, PartialEq)]
pub(crate) struct Ranking {
    /// A class: score, position of the example, whether it is of the class.
    classes: Vec<Vec<(f64, usize, bool)>>,
}

impl Ranking {
    pub(crate) fn new(predictions: &Predictions) -> Ranking {
        let classes = 0..predictions.classes();
        Ranking { classes: classes.map(|class| sorted(predictions, class)).collect() }
    }
}

/// Where resampled predictions come from.
#[derive(Clone, Debug, PartialEq)]
struct Drawn {
    ranking: Arc<Ranking>,
    times: Vec<u32>,
}

fn sorted(predictions: &Predictions, class: usize) -> Vec<(f64, usize, bool)> {
    let scored = predictions.scores(class).zip(predictions.targets()).enumerate();
    let mut scored: Vec<(f64, usize, bool)> =
        scored.map(|(example, (score, &target))| (score, example, target == class)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
}

fn check_row(example: usize, row: &[f64], labels: &[String]) -> Result<(), PredictionsError> {
    for (&value, label) in row.iter().zip(labels) {
        if !(0.0..=1.0 + ROUNDING).contains(&value) {
            let label = label.clone();
            return Err(PredictionsError::Probability { example, label, value });
        }
    }
    let sum: f64 = row.iter().sum();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        return Err(PredictionsError::Sum { example, sum });
    }
    Ok(())
}

fn argmax(row: &[f64]) -> usize {
    let mut best = 0;
    for (class, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = class;
        }
    }
    best
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn labels() -> Vec<String> {
        vec!["no".into(), "yes".into()]
    }

    #[test]
    fn every_wrong_array_is_named() {
        let new = |targets, probabilities| Predictions::new(labels(), targets, probabilities);
        assert_eq!(new(vec![], vec![]).unwrap_err(), PredictionsError::NoExamples);
        let shape = new(vec![0, 1], vec![0.5, 0.5]).unwrap_err().to_string();
        assert!(shape.contains("2 probabilities") && shape.contains("4 were expected"), "{shape}");
        let target = new(vec![2], vec![0.5, 0.5]).unwrap_err().to_string();
        assert!(target.contains("example 0 is 2"), "{target}");
        let nan = new(vec![0, 0], vec![0.5, 0.5, f64::NAN, 0.5]).unwrap_err().to_string();
        assert!(nan.contains("example 1") && nan.contains("NaN") && nan.contains("no"), "{nan}");
        let sum = new(vec![0], vec![0.9, 0.9]).unwrap_err().to_string();
        assert!(sum.contains("1.8"), "{sum}");
    }

    #[test]
    fn the_first_of_equal_probabilities_is_predicted() {
        let predictions = Predictions::new(labels(), vec![1], vec![0.5, 0.5]).unwrap();
        assert_eq!(predictions.predicted(), [0]);
        assert_eq!(predictions.confidences().collect::<Vec<_>>(), [0.5]);
    }
}
