//! Poor calibration: the model is surer, or less sure, than it is right.

use super::{Evidence, Finding, Kind, Severity, percent};
use crate::metrics::calibration::Calibration;

/// Guo et al. 2017 find uncalibrated networks at 0.04 to 0.15, and calibrated ones at 0.01 to 0.02.
const POOR: f64 = 0.05;
const VERY_POOR: f64 = 0.15;

/// A perfectly calibrated model has an error above zero too, for bins hold few examples. The
/// measured one must exceed what that alone would give by half.
const ABOVE_CHANCE: f64 = 1.5;

pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    let calibration = &evidence.calibration;
    let (error, chance) = (calibration.expected_error, by_chance(calibration));
    if error < POOR || error < ABOVE_CHANCE * chance {
        return None;
    }
    let severity = if error >= VERY_POOR { Severity::Warning } else { Severity::Note };
    let accuracy = evidence.accuracy();
    let confidence = accuracy + calibration.overconfidence;
    let sentence = format!(
        "The model is {} sure on average and right in {}: it is too {}. Its probabilities are off \
         by {:.1} points on average (expected calibration error {error:.3}; chance alone would \
         give {chance:.3} here).",
        percent(confidence),
        percent(accuracy),
        if calibration.overconfidence >= 0.0 { "sure of itself" } else { "timid" },
        100.0 * error,
    );
    let advice = "Do not read its probabilities as chances, or set thresholds on data of your own. \
                  Label smoothing, stopping earlier and weight decay help against too much \
                  confidence.";
    let figures = [
        ("expected_calibration_error", error),
        ("by_chance", chance),
        ("mean_confidence", confidence),
        ("accuracy", accuracy),
    ];
    Some(Finding::new(Kind::PoorCalibration, severity, sentence, advice, &figures))
}

/// The error that a perfectly calibrated model with these confidences has on average: the mean
/// distance of a binomial share from its expectation, `sqrt(2 p (1 - p) / (π n))` a bin, weighted
/// by the bins' sizes.
fn by_chance(calibration: &Calibration) -> f64 {
    let total: u64 = calibration.bins.iter().map(|bin| bin.count).sum();
    let filled = calibration.bins.iter().filter(|bin| bin.count > 0);
    filled
        .map(|bin| {
            let (p, n) = (bin.confidence, bin.count as f64);
            n / total as f64 * (2.0 * p * (1.0 - p) / (std::f64::consts::PI * n)).sqrt()
        })
        .sum()
}
