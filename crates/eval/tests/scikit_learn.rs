//! Every metric against scikit-learn's on stored predictions; made by
//! `fixtures/make_classification.py`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use serde::Deserialize;
use tidemill_eval::Predictions;
use tidemill_eval::metrics::calibration::Calibration;
use tidemill_eval::metrics::{self, MetricError, precision_recall, roc};

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Document {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    classes: usize,
    targets: Vec<usize>,
    probabilities: Vec<f64>,
    metrics: BTreeMap<String, Option<f64>>,
    confusion_matrix: Vec<Vec<u64>>,
    per_class: BTreeMap<String, PerClass>,
    curves: Vec<Curves>,
    reliability: Vec<Bin>,
}

#[derive(Deserialize)]
struct PerClass {
    precision: Vec<f64>,
    recall: Vec<f64>,
    f: Vec<f64>,
    support: Vec<u64>,
}

#[derive(Deserialize)]
struct Curves {
    roc: Option<Roc>,
    precision_recall: Option<PrecisionRecall>,
}

#[derive(Deserialize)]
struct Roc {
    false_positive_rate: Vec<f64>,
    true_positive_rate: Vec<f64>,
    threshold: Vec<Option<f64>>,
}

#[derive(Deserialize)]
struct PrecisionRecall {
    precision: Vec<f64>,
    recall: Vec<f64>,
    threshold: Vec<f64>,
}

#[derive(Deserialize)]
struct Bin {
    count: u64,
    confidence: f64,
    accuracy: f64,
}

fn cases() -> Vec<(Case, Predictions)> {
    let document: Document = serde_json::from_str(include_str!("fixtures/classification.json")).unwrap();
    let with_predictions = |case: Case| {
        let labels = (0..case.classes).map(|class| format!("label {class}")).collect();
        let predictions = Predictions::new(labels, case.targets.clone(), case.probabilities.clone()).unwrap();
        (case, predictions)
    };
    document.cases.into_iter().map(with_predictions).collect()
}

fn near(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= TOLERANCE
}

fn all_near(ours: &[f64], theirs: &[f64], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}: {ours:?} {theirs:?}");
    for (ours_one, theirs_one) in ours.iter().zip(theirs) {
        assert!(near(*ours_one, *theirs_one), "{what}: ours {ours:?}, scikit-learn's {theirs:?}");
    }
}

#[test]
fn every_metric_has_a_fixture_and_agrees_with_it() {
    let cases = cases();
    assert!(cases.len() >= 8);
    for (case, predictions) in &cases {
        for metric in metrics::ALL {
            let what = format!("{} of {:?}", metric.name, case.name);
            let theirs = case.metrics.get(metric.name).expect("no line in make_classification.py");
            let ours = (metric.compute)(predictions);
            match (&ours, theirs) {
                (Ok(ours), Some(theirs)) => {
                    assert!(near(*ours, *theirs), "{what}: {ours} {theirs}")
                }
                (Err(MetricError::Undefined { because }), None) => assert!(!because.is_empty()),
                _ => panic!("{what}: ours {ours:?}, scikit-learn's {theirs:?}"),
            }
            if let Some(from_matrix) = metric.from_matrix {
                assert_eq!(from_matrix(&predictions.confusion_matrix()), ours, "{what}");
            }
        }
        assert_eq!(case.metrics.len(), metrics::ALL.len(), "a fixture without its metric");
    }
}

#[test]
fn confusion_matrices_agree() {
    for (case, predictions) in cases() {
        let ours: Vec<Vec<u64>> = predictions.confusion_matrix().into();
        assert_eq!(ours, case.confusion_matrix, "{}", case.name);
    }
}

#[test]
fn precision_recall_and_f_beta_of_each_class_agree() {
    for (case, predictions) in cases() {
        let matrix = predictions.confusion_matrix();
        for (beta, theirs) in &case.per_class {
            let ours: Vec<_> = (0..case.classes)
                .map(|class| precision_recall::of_class(&matrix, class, beta.parse().unwrap()))
                .collect();
            let column =
                |f: fn(&precision_recall::PrecisionRecall) -> f64| -> Vec<f64> { ours.iter().map(f).collect() };
            all_near(&column(|one| one.precision), &theirs.precision, &case.name);
            all_near(&column(|one| one.recall), &theirs.recall, &case.name);
            all_near(&column(|one| one.f), &theirs.f, &case.name);
            let support: Vec<u64> = (0..case.classes).map(|class| matrix.support(class)).collect();
            assert_eq!(support, theirs.support, "{}", case.name);
        }
    }
}

#[test]
fn roc_curves_agree_point_by_point() {
    for (case, predictions) in cases() {
        for (class, theirs) in case.curves.iter().enumerate() {
            let what = format!("class {class} of {:?}", case.name);
            match (roc::curve(&predictions, class), &theirs.roc) {
                (Ok(ours), Some(theirs)) => {
                    let x: Vec<f64> = ours.iter().map(|point| point.false_positive_rate).collect();
                    let y: Vec<f64> = ours.iter().map(|point| point.true_positive_rate).collect();
                    let thresholds: Vec<Option<f64>> = ours.iter().map(|point| point.threshold).collect();
                    all_near(&x, &theirs.false_positive_rate, &what);
                    all_near(&y, &theirs.true_positive_rate, &what);
                    assert_eq!(thresholds, theirs.threshold, "{what}");
                }
                (Err(MetricError::Undefined { .. }), None) => {}
                (ours, theirs) => panic!("{what}: {ours:?}, theirs defined: {}", theirs.is_some()),
            }
        }
    }
}

#[test]
fn precision_recall_curves_agree_point_by_point() {
    for (case, predictions) in cases() {
        for (class, theirs) in case.curves.iter().enumerate() {
            let what = format!("class {class} of {:?}", case.name);
            match (precision_recall::curve(&predictions, class), &theirs.precision_recall) {
                (Ok(ours), Some(theirs)) => {
                    let precision: Vec<f64> = ours.iter().map(|point| point.precision).collect();
                    let recall: Vec<f64> = ours.iter().map(|point| point.recall).collect();
                    let thresholds: Vec<f64> = ours.iter().map(|point| point.threshold).collect();
                    all_near(&precision, &theirs.precision, &what);
                    all_near(&recall, &theirs.recall, &what);
                    assert_eq!(thresholds, theirs.threshold, "{what}");
                }
                (Err(MetricError::Undefined { .. }), None) => {}
                (ours, theirs) => panic!("{what}: {ours:?}, theirs defined: {}", theirs.is_some()),
            }
        }
    }
}

#[test]
fn reliability_bins_agree_with_the_definition() {
    for (case, predictions) in cases() {
        let ours = Calibration::new(&predictions, 10).bins;
        let counts: Vec<u64> = ours.iter().map(|bin| bin.count).collect();
        let theirs: Vec<u64> = case.reliability.iter().map(|bin| bin.count).collect();
        assert_eq!(counts, theirs, "{}", case.name);
        for (ours, theirs) in ours.iter().zip(&case.reliability) {
            assert!(near(ours.confidence, theirs.confidence), "{}", case.name);
            assert!(near(ours.accuracy, theirs.accuracy), "{}", case.name);
        }
    }
}
