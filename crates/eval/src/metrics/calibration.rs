//! Calibration: of the examples the model is 80 % sure of, are 80 % right? Naeini et al. 2015,
//! "Obtaining well calibrated probabilities using Bayesian binning", and Guo et al. 2017, "On
//! calibration of modern neural networks", whose definition for many classes (the confidence in the
//! predicted class) this is. scikit-learn has no such number; the fixture holds an independent
//! numpy one.

use serde::{Deserialize, Serialize};

use super::Metric;
use crate::Predictions;

/// Number of bins of the registered metric.
pub const DEFAULT_BINS: usize = 10;

pub(super) const METRICS: &[Metric] = &[Metric {
    name: "expected_calibration_error",
    summary: "Mean distance of confidence from accuracy over 10 bins of equal width.",
    higher_is_better: false,
    compute: |predictions| Ok(Calibration::new(predictions, DEFAULT_BINS).expected_error),
    from_matrix: None,
}];

/// The examples whose confidence lies in `(lower, upper]` (the first bin holds 0 too).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Lower end, in `[0, 1]`.
    pub lower: f64,
    /// Upper end, in `[0, 1]`.
    pub upper: f64,
    /// Number of examples.
    pub count: u64,
    /// Their mean confidence, 0 without examples.
    pub confidence: f64,
    /// The share of them that is right, 0 without examples.
    pub accuracy: f64,
}

/// A reliability diagram in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Bins of equal width over `[0, 1]`.
    pub bins: Vec<ReliabilityBin>,
    /// Expected calibration error: mean over the examples of their bin's `|accuracy - confidence|`,
    /// in `[0, 1]`.
    pub expected_error: f64,
    /// Maximum calibration error: the largest of those, in `[0, 1]`.
    pub maximum_error: f64,
    /// Mean confidence minus accuracy: above 0 the model is too sure of itself.
    pub overconfidence: f64,
}

impl Calibration {
    /// Puts the examples of some predictions in `bins` bins (at least one is made).
    pub fn new(predictions: &Predictions, bins: usize) -> Calibration {
        let width = bins.max(1);
        let mut sums = vec![(0_u64, 0.0, 0_u64); width];
        let truth = predictions.predicted().iter().zip(predictions.targets());
        for (confidence, (predicted, target)) in predictions.confidences().zip(truth) {
            let bin = &mut sums[bin_of(confidence, width)];
            bin.0 += 1;
            bin.1 += confidence;
            bin.2 += u64::from(predicted == target);
        }
        let bins: Vec<ReliabilityBin> = sums
            .iter()
            .enumerate()
            .map(|(at, &(count, confidence, correct))| ReliabilityBin {
                lower: at as f64 / width as f64,
                upper: (at + 1) as f64 / width as f64,
                count,
                confidence: if count == 0 { 0.0 } else { confidence / count as f64 },
                accuracy: if count == 0 { 0.0 } else { correct as f64 / count as f64 },
            })
            .collect();
        let n = predictions.len() as f64;
        let gap = |bin: &ReliabilityBin| (bin.accuracy - bin.confidence).abs();
        Calibration {
            expected_error: bins.iter().map(|bin| bin.count as f64 / n * gap(bin)).sum(),
            maximum_error: bins.iter().map(gap).fold(0.0, f64::max),
            overconfidence: sums.iter().map(|sum| sum.1 - sum.2 as f64).sum::<f64>() / n,
            bins,
        }
    }
}

/// The bin `(at / bins, (at + 1) / bins]` that holds `confidence`.
fn bin_of(confidence: f64, bins: usize) -> usize {
    let mut at = ((confidence * bins as f64) as usize).min(bins - 1);
    // The product rounds; the ends themselves decide.
    while at > 0 && confidence <= at as f64 / bins as f64 {
        at -= 1;
    }
    while at + 1 < bins && confidence > (at + 1) as f64 / bins as f64 {
        at += 1;
    }
    at
}
