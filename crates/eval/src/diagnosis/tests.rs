//! Each finding on figures that should lead to it, and on figures just short of it that should not.

use super::*;
use crate::HistoryPoint;
use crate::metrics::ConfusionMatrix;
use crate::metrics::calibration::{Calibration, ReliabilityBin};

/// A good, well calibrated, balanced classifier on 4,000 examples.
fn healthy() -> Evidence {
    let mut evidence = on(&[[1800, 200], [200, 1800]]);
    evidence.train = BTreeMap::from([("accuracy".into(), 0.95)]);
    evidence.history = history(&[1.0, 0.8, 0.6, 0.5, 0.45, 0.445, 0.443, 0.442]);
    evidence.data = Some(DataFigures { train: vec![5000, 5000], validation: 4000, ..DataFigures::default() });
    evidence
}

fn on(counts: &[[u64; 2]; 2]) -> Evidence {
    let mut matrix = ConfusionMatrix::zeros(2);
    for (target, row) in counts.iter().enumerate() {
        for (predicted, &count) in row.iter().enumerate() {
            matrix.add(target, predicted, count);
        }
    }
    let accuracy = matrix.correct() as f64 / matrix.total() as f64;
    Evidence {
        labels: vec!["no".into(), "yes".into()],
        calibration: calibrated(matrix.total(), accuracy, accuracy),
        matrix,
        metrics: vec!["accuracy".into(), "f1_macro".into()],
        accuracy_half_width: None,
        train: BTreeMap::new(),
        history: Vec::new(),
        data: None,
    }
}

fn calibrated(count: u64, confidence: f64, accuracy: f64) -> Calibration {
    let error = (confidence - accuracy).abs();
    Calibration {
        bins: vec![ReliabilityBin { lower: 0.0, upper: 1.0, count, confidence, accuracy }],
        expected_error: error,
        maximum_error: error,
        overconfidence: confidence - accuracy,
    }
}

/// Validation losses, one a hundred steps, with a training loss that always falls.
fn history(validation: &[f64]) -> Vec<HistoryPoint> {
    let point = |(at, &loss): (usize, &f64)| HistoryPoint {
        step: 100 * (at as u64 + 1),
        train_loss: 1.0 / (at as f64 + 1.0),
        validation_loss: Some(loss),
        ..HistoryPoint::default()
    };
    validation.iter().enumerate().map(point).collect()
}

fn kinds(evidence: &Evidence) -> Vec<Kind> {
    diagnose(evidence).iter().map(|finding| finding.kind).collect()
}

fn only(evidence: &Evidence, kind: Kind) -> Finding {
    let found = diagnose(evidence).into_iter().filter(|finding| finding.kind == kind);
    let found: Vec<Finding> = found.collect();
    assert_eq!(found.len(), 1, "{kind:?} in {:?}", diagnose(evidence));
    found.into_iter().next().unwrap()
}

#[test]
fn a_healthy_model_is_left_in_peace() {
    assert_eq!(diagnose(&healthy()), []);
}

#[test]
fn without_figures_nothing_is_said_of_training() {
    let mut evidence = healthy();
    (evidence.train, evidence.history, evidence.data) = Default::default();
    assert_eq!(diagnose(&evidence), []);
}

#[test]
fn over_fitting_is_a_gap_to_the_training_side() {
    let mut evidence = healthy();
    evidence.train.insert("accuracy".into(), 0.99);
    assert_eq!(kinds(&evidence), []);
    let mut evidence = on(&[[1500, 500], [500, 1500]]);
    evidence.train.insert("accuracy".into(), 0.98);
    let finding = only(&evidence, Kind::OverFitting);
    assert_eq!(finding.severity, Severity::Serious);
    for figure in ["98.0 %", "75.0 %", "23.0 points"] {
        assert!(finding.sentence.contains(figure), "{}", finding.sentence);
    }
}

#[test]
fn a_gap_within_the_uncertainty_of_few_examples_is_not_over_fitting() {
    let mut evidence = on(&[[8, 2], [2, 8]]);
    evidence.train.insert("accuracy".into(), 0.92);
    assert!(!kinds(&evidence).contains(&Kind::OverFitting));
}

#[test]
fn over_fitting_is_a_validation_loss_that_turns() {
    let mut evidence = healthy();
    evidence.history = history(&[1.0, 0.5, 0.4, 0.42, 0.43]);
    assert_eq!(kinds(&evidence), []);
    evidence.history = history(&[1.0, 0.5, 0.4, 0.5, 0.6]);
    let finding = only(&evidence, Kind::OverFitting);
    assert!(finding.sentence.contains("step 300 (0.400)"), "{}", finding.sentence);
}

#[test]
fn under_fitting_is_little_skill_on_the_training_side() {
    let mut evidence = on(&[[1200, 800], [800, 1200]]);
    evidence.train.insert("accuracy".into(), 0.62);
    let finding = only(&evidence, Kind::UnderFitting);
    assert_eq!(finding.severity, Severity::Warning);
    evidence.train.insert("accuracy".into(), 0.55);
    assert_eq!(only(&evidence, Kind::UnderFitting).severity, Severity::Serious);
    evidence.train.insert("accuracy".into(), 0.8);
    assert!(!kinds(&evidence).contains(&Kind::UnderFitting));
}

#[test]
fn class_imbalance_is_read_from_the_training_side_first() {
    let mut evidence = healthy();
    evidence.data = Some(DataFigures { train: vec![9000, 300], validation: 4000, ..DataFigures::default() });
    let finding = only(&evidence, Kind::ClassImbalance);
    assert_eq!(finding.severity, Severity::Warning);
    for figure in ["9,000", "300", "30 times", "90.0 %"] {
        assert!(finding.sentence.contains(figure), "{}", finding.sentence);
    }
}

#[test]
fn too_little_data_counts_the_rarest_label() {
    let mut evidence = healthy();
    evidence.data = Some(DataFigures { train: vec![5000, 2000], validation: 4000, ..DataFigures::default() });
    assert_eq!(kinds(&evidence), []);
    evidence.data = Some(DataFigures { train: vec![120, 40], validation: 4000, ..DataFigures::default() });
    let finding = only(&evidence, Kind::TooLittleData);
    assert_eq!(finding.severity, Severity::Serious);
    assert!(finding.sentence.contains("160 training examples"), "{}", finding.sentence);
    assert!(finding.sentence.contains("only 40 of the rarest label \"yes\""), "{}", finding.sentence);
}

#[test]
fn leakage_is_counted_or_suspected() {
    let mut evidence = healthy();
    let sides = DataFigures { train: vec![5000, 5000], validation: 4000, ..DataFigures::default() };
    evidence.data = Some(DataFigures { leaked_and_dropped: 12, ..sides.clone() });
    let finding = only(&evidence, Kind::Leakage);
    assert_eq!(finding.severity, Severity::Note);
    assert!(finding.sentence.contains("12 texts stood"), "{}", finding.sentence);
    evidence.data = Some(DataFigures { leaked: 1, ..sides });
    let finding = only(&evidence, Kind::Leakage);
    assert_eq!(finding.severity, Severity::Serious);
    assert!(finding.sentence.contains("1 text stands"), "{}", finding.sentence);
    let evidence = on(&[[1999, 1], [2, 1998]]);
    let finding = only(&evidence, Kind::Leakage);
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.sentence.contains("99.9 % of 4,000 examples"), "{}", finding.sentence);
}

#[test]
fn accuracy_on_imbalanced_data_is_a_misleading_headline() {
    let mut evidence = on(&[[3800, 0], [190, 10]]);
    let finding = only(&evidence, Kind::WrongMetric);
    assert_eq!(finding.severity, Severity::Serious);
    for figure in ["95.0 %", "95.2 %", "52.5 %"] {
        assert!(finding.sentence.contains(figure), "{}", finding.sentence);
    }
    evidence.metrics.swap(0, 1);
    assert!(!kinds(&evidence).contains(&Kind::WrongMetric));
}

#[test]
fn poor_calibration_says_which_way() {
    let mut evidence = healthy();
    evidence.calibration = calibrated(4000, 0.98, 0.9);
    assert!(only(&evidence, Kind::PoorCalibration).sentence.contains("too sure of itself"));
    evidence.calibration = calibrated(4000, 0.7, 0.9);
    let finding = only(&evidence, Kind::PoorCalibration);
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.sentence.contains("too timid"), "{}", finding.sentence);
    // The same distance on few examples is chance.
    evidence.calibration = calibrated(30, 0.84, 0.9);
    assert!(!kinds(&evidence).contains(&Kind::PoorCalibration));
}

#[test]
fn still_improving_needs_a_fall_at_the_end() {
    let mut evidence = healthy();
    evidence.history = history(&[1.0, 0.9, 0.8, 0.7, 0.6, 0.5]);
    let finding = only(&evidence, Kind::StillImproving);
    assert!(finding.sentence.contains("step 600, 0.500"), "{}", finding.sentence);
    evidence.history = history(&[1.0, 0.5]);
    assert_eq!(kinds(&evidence), []);
}

#[test]
fn a_small_set_is_noisy() {
    let evidence = on(&[[80, 20], [20, 80]]);
    let finding = only(&evidence, Kind::NoisyValidation);
    assert_eq!(finding.severity, Severity::Note);
    assert!(finding.sentence.contains("200 evaluated examples"), "{}", finding.sentence);
    assert!(finding.sentence.contains("±5.5 points"), "{}", finding.sentence);
    assert_eq!(only(&on(&[[20, 5], [5, 20]]), Kind::NoisyValidation).severity, Severity::Warning);
}

#[test]
fn the_most_serious_comes_first() {
    let mut evidence = on(&[[40, 10], [10, 40]]);
    evidence.train.insert("accuracy".into(), 1.0);
    evidence.data = Some(DataFigures { train: vec![100, 100], leaked: 3, ..DataFigures::default() });
    let severities: Vec<Severity> = diagnose(&evidence).iter().map(|f| f.severity).collect();
    assert!(severities.len() >= 4 && severities.is_sorted(), "{severities:?}");
}
