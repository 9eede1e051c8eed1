//! Confidence intervals by the percentile bootstrap (Efron 1979): examples are drawn anew with
//! replacement, the statistic is computed again, and the interval spans the middle share of the
//! values. It says how far the number would move with another test set of the same size, not with
//! another training run.
//!
//! Resample `i` draws from stream `i` of one generator, so the result does not depend on the
//! threads.

use std::cell::OnceCell;
use std::sync::{Arc, OnceLock};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::metrics::{ConfusionMatrix, Metric};
use crate::predictions::{Predictions, Ranking};

/// How intervals are made.
///
/// ```
/// use tidemill_eval::{Bootstrap, Predictions, metrics};
/// let labels = vec!["no".to_string(), "yes".to_string()];
/// let probabilities = [0.8, 0.2].repeat(100);
/// let targets = (0..100).map(|i| usize::from(i % 4 == 0)).collect();
/// let predictions = Predictions::new(labels, targets, probabilities)?;
/// let interval = Bootstrap::default().interval(&predictions, metrics::find("accuracy")?);
/// let interval = interval.expect("accuracy is always defined");
/// assert!(interval.lower < 0.75 && 0.75 < interval.upper);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Number of resamples; 0 makes no intervals.
    pub resamples: usize,
    /// Share of the resampled values inside the interval, in `(0, 1)`.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Bootstrap {
        Bootstrap { resamples: 1000, confidence: 0.95, seed: 0 }
    }
}

/// A percentile interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

impl Interval {
    /// Half of the distance between the ends.
    pub fn half_width(&self) -> f64 {
        (self.upper - self.lower) / 2.0
    }
}

impl Bootstrap {
    /// The interval of one metric; none without resamples, or when fewer than half of them define
    /// it.
    pub fn interval(&self, predictions: &Predictions, metric: &Metric) -> Option<Interval> {
        self.intervals(predictions, |resample| vec![resample.compute(metric)]).pop().flatten()
    }

    /// Intervals of many statistics from the same resamples, in the order in which `statistics`
    /// gives their values (always the same number of them, `None` where undefined). Empty without
    /// resamples.
    ///
    /// A statistic that fewer than half of the resamples define has no interval; otherwise those
    /// that do not are left out.
    pub fn intervals<F>(&self, predictions: &Predictions, statistics: F) -> Vec<Option<Interval>>
    where
        F: Fn(&Resample<'_>) -> Vec<Option<f64>> + Sync,
    {
        let cells = cells(predictions);
        let ranking = OnceLock::new();
        let values: Vec<Vec<Option<f64>>> = (0..self.resamples)
            .into_par_iter()
            .map(|index| statistics(&self.resample(predictions, &cells, &ranking, index)))
            .collect();
        let statistics = values.iter().map(Vec::len).min().unwrap_or(0);
        (0..statistics)
            .map(|statistic| {
                let defined = values.iter().filter_map(|values| values.get(statistic).copied().flatten());
                self.percentile_interval(defined.collect())
            })
            .collect()
    }

    fn resample<'a>(
        &self,
        predictions: &'a Predictions,
        cells: &[usize],
        ranking: &'a OnceLock<Arc<Ranking>>,
        index: usize,
    ) -> Resample<'a> {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(index as u64);
        let mut times = vec![0_u32; cells.len()];
        for _ in 0..cells.len() {
            times[generator.random_range(0..cells.len() as u64) as usize] += 1;
        }
        let classes = predictions.classes();
        let mut counts = vec![0_u64; classes * classes];
        for (&cell, &times) in cells.iter().zip(&times) {
            counts[cell] += u64::from(times);
        }
        let mut matrix = ConfusionMatrix::zeros(classes);
        for (cell, count) in counts.into_iter().enumerate() {
            matrix.add(cell / classes, cell % classes, count);
        }
        Resample { predictions, matrix, times, ranking, selected: OnceCell::new() }
    }

    fn percentile_interval(&self, mut values: Vec<f64>) -> Option<Interval> {
        if values.is_empty() || values.len() * 2 < self.resamples {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        Some(Interval { lower: quantile(&values, tail), upper: quantile(&values, 1.0 - tail) })
    }
}

/// As many examples as there are, drawn with replacement.
pub struct Resample<'a> {
    predictions: &'a Predictions,
    matrix: ConfusionMatrix,
    times: Vec<u32>,
    ranking: &'a OnceLock<Arc<Ranking>>,
    selected: OnceCell<Predictions>,
}

impl Resample<'_> {
    /// The confusion matrix of the drawn examples; ready without copying any.
    pub fn matrix(&self) -> &ConfusionMatrix {
        &self.matrix
    }

    /// The drawn examples, copied at the first call.
    pub fn predictions(&self) -> &Predictions {
        self.selected.get_or_init(|| {
            let ranking = self.ranking.get_or_init(|| Arc::new(Ranking::new(self.predictions)));
            self.predictions.resampled(ranking, self.times.clone())
        })
    }

    /// A metric of the drawn examples, by the cheaper way; none where it is undefined.
    pub fn compute(&self, metric: &Metric) -> Option<f64> {
        match metric.from_matrix {
            Some(from_matrix) => from_matrix(&self.matrix).ok(),
            None => (metric.compute)(self.predictions()).ok(),
        }
    }
}

/// The cell of the confusion matrix that each example falls in.
fn cells(predictions: &Predictions) -> Vec<usize> {
    let pairs = predictions.targets().iter().zip(predictions.predicted());
    pairs.map(|(target, predicted)| target * predictions.classes() + predicted).collect()
}

/// Quantile of sorted values with linear interpolation, as `numpy.quantile` has it. `values` not
/// empty.
fn quantile(values: &[f64], share: f64) -> f64 {
    let at = share.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    values[below] + (values[above] - values[below]) * (at - below as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::metrics;

    fn coin(n: usize, right: usize) -> Predictions {
        let labels = vec!["no".into(), "yes".into()];
        let targets = (0..n).map(|i| usize::from(i >= right)).collect();
        let rows = (0..n).flat_map(|i| {
            let no = 0.5 + 0.5 * (i + 1) as f64 / (n + 1) as f64;
            [no, 1.0 - no]
        });
        Predictions::new(labels, targets, rows.collect()).unwrap()
    }

    #[test]
    fn the_interval_of_accuracy_is_near_the_binomial_one() {
        let interval = Bootstrap::default().interval(&coin(400, 320), metrics::find("accuracy").unwrap()).unwrap();
        let half = 1.96 * (0.8_f64 * 0.2 / 400.0).sqrt();
        assert!((interval.lower - (0.8 - half)).abs() < 0.01, "{interval:?}");
        assert!((interval.upper - (0.8 + half)).abs() < 0.01, "{interval:?}");
    }

    #[test]
    fn threads_do_not_change_the_intervals_and_the_seed_does() {
        let predictions = coin(150, 100);
        let all = |seed, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let bootstrap = Bootstrap { resamples: 64, confidence: 0.9, seed };
            let statistics = |resample: &Resample<'_>| metrics::ALL.iter().map(|m| resample.compute(m)).collect();
            pool.install(|| bootstrap.intervals(&predictions, statistics))
        };
        assert_eq!(all(1, 1), all(1, 3));
        assert_ne!(all(1, 1), all(2, 1));
    }

    #[test]
    fn both_ways_of_a_resample_agree() {
        let predictions = coin(60, 40);
        let bootstrap = Bootstrap::default();
        let (cells, ranking) = (cells(&predictions), OnceLock::new());
        for index in 0..5 {
            let resample = bootstrap.resample(&predictions, &cells, &ranking, index);
            assert_eq!(&resample.predictions().confusion_matrix(), resample.matrix());
            assert_eq!(resample.predictions().len(), 60);
            let drawn = resample.predictions();
            let (labels, targets) = (drawn.labels().to_vec(), drawn.targets().to_vec());
            let again = Predictions::new(labels, targets, drawn.probabilities().to_vec()).unwrap();
            for metric in metrics::ALL {
                assert_eq!((metric.compute)(drawn), (metric.compute)(&again), "{}", metric.name);
            }
        }
    }

    #[test]
    fn quantiles_are_numpys() {
        let values = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&values, 0.5), 3.0);
        assert!((quantile(&values, 0.1) - 1.3).abs() < 1e-12);
        assert_eq!(quantile(&values, 1.0), 8.0);
    }

    #[test]
    fn a_statistic_that_is_rarely_defined_has_no_interval() {
        let predictions = coin(40, 40);
        assert_eq!(Bootstrap::default().interval(&predictions, metrics::find("roc_auc").unwrap()), None);
    }
}
