//! The confusion matrix: how often each true class was taken for each class. All metrics of
//! decisions (as opposed to those of probabilities) are computed from it. scikit-learn:
//! `confusion_matrix`.

use serde::{Deserialize, Serialize};

use super::Metric;

/// The matrix itself is not one number, so it has no entry.
pub(super) const METRICS: &[Metric] = &[];

/// Counts of examples, `[classes, classes]`: row is the true class, column the predicted one.
///
/// ```
/// use tidemill_eval::metrics::ConfusionMatrix;
/// let mut matrix = ConfusionMatrix::zeros(2);
/// matrix.add(1, 0, 3);
/// assert_eq!((matrix.count(1, 0), matrix.support(1), matrix.predicted(0)), (3, 3, 3));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<u64>>", into = "Vec<Vec<u64>>")]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// A matrix of `classes` by `classes` zeros.
    pub fn zeros(classes: usize) -> ConfusionMatrix {
        ConfusionMatrix { classes, counts: vec![0; classes * classes] }
    }

    /// Counts `count` more examples of the true class `target` taken for `predicted`.
    ///
    /// # Panics
    /// When a class is out of range, as indexing a slice does.
    pub fn add(&mut self, target: usize, predicted: usize, count: u64) {
        self.counts[target * self.classes + predicted] += count;
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of examples of the true class `target` taken for `predicted`.
    pub fn count(&self, target: usize, predicted: usize) -> u64 {
        self.counts[target * self.classes + predicted]
    }

    /// One row a true class.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, u64> {
        self.counts.chunks_exact(self.classes.max(1))
    }

    /// Number of examples whose true class is `class`.
    pub fn support(&self, class: usize) -> u64 {
        (0..self.classes).map(|predicted| self.count(class, predicted)).sum()
    }

    /// Number of examples taken for `class`.
    pub fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|target| self.count(target, class)).sum()
    }

    /// Number of examples of `class` that were taken for it.
    pub fn hits(&self, class: usize) -> u64 {
        self.count(class, class)
    }

    /// Number of examples that were taken for what they are.
    pub fn correct(&self) -> u64 {
        (0..self.classes).map(|class| self.hits(class)).sum()
    }

    /// Number of examples.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Classes that are the truth of an example or were predicted for one: what scikit-learn
    /// averages over when it is not told the labels.
    pub fn seen(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.classes).filter(|&class| self.support(class) + self.predicted(class) > 0)
    }
}

impl From<ConfusionMatrix> for Vec<Vec<u64>> {
    fn from(matrix: ConfusionMatrix) -> Vec<Vec<u64>> {
        matrix.rows().map(<[u64]>::to_vec).collect()
    }
}

impl TryFrom<Vec<Vec<u64>>> for ConfusionMatrix {
    type Error = String;

    fn try_from(rows: Vec<Vec<u64>>) -> Result<ConfusionMatrix, String> {
        let classes = rows.len();
        match rows.iter().position(|row| row.len() != classes) {
            Some(row) => {
                Err(format!("a confusion matrix is square: row {row} has {} numbers, not {classes}", rows[row].len()))
            }
            None => Ok(ConfusionMatrix { classes, counts: rows.into_iter().flatten().collect() }),
        }
    }
}
