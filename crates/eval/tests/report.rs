//! The report in its three forms, as a reader gets it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use tidemill_eval::{Context, Estimate, EvaluationConfig, HistoryPoint, Predictions, Report, Shown};

const NASTY: &str = "<script>alert('x')</script> & \u{1b}[31mred\u{1b}[0m\n\tquite  \"good\"";

/// 40 examples, of which every fourth is wrong and one is wrong with certainty.
fn predictions() -> Predictions {
    let labels = vec!["bad <b>".to_string(), "good".to_string()];
    let targets: Vec<usize> = (0..40).map(|at| at % 2).collect();
    let row = |at: usize| {
        let sure = if at == 8 { 1.0 } else { 0.6 + 0.009 * at as f64 };
        let right = !at.is_multiple_of(4);
        let good = if (at % 2 == 1) == right { sure } else { 1.0 - sure };
        [1.0 - good, good]
    };
    Predictions::new(labels, targets, (0..40).flat_map(row).collect()).unwrap()
}

fn context() -> Context {
    let point = |at: u32| HistoryPoint {
        step: u64::from(at) * 10,
        epoch: f64::from(at),
        learning_rate: 0.01,
        train_loss: 1.0 / f64::from(at),
        train_accuracy: Some(0.9),
        validation_loss: Some(0.8),
        validation_metrics: BTreeMap::from([("accuracy".to_string(), 0.7)]),
    };
    Context {
        name: "reviews 1".into(),
        side: "test".into(),
        history: (1..6).map(point).collect(),
        ..Context::default()
    }
}

fn shown(at: usize) -> Option<Shown> {
    Some(Shown { row: format!("reviews.csv:{}", at + 2), text: NASTY.to_string() })
}

fn report() -> Report {
    let config = EvaluationConfig { bootstrap: 100, mistakes: 3, ..EvaluationConfig::default() };
    Report::new(&predictions(), &config, context(), shown).unwrap()
}

#[test]
fn the_same_run_writes_the_same_bytes() {
    let (one, two) = (report(), report());
    assert_eq!(one.to_json().unwrap(), two.to_json().unwrap());
    assert_eq!(one.to_html().unwrap(), two.to_html().unwrap());
    assert_eq!(one.to_string(), two.to_string());
}

#[test]
fn json_comes_back_as_it_was() {
    let json = report().to_json().unwrap();
    let back: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(back.to_json().unwrap(), json);
    assert_eq!(back.value("accuracy"), Some(0.75));
    assert_eq!(back.to_html().unwrap(), report().to_html().unwrap());
}

#[test]
fn mistakes_are_the_surest_first_and_their_texts_are_tamed() {
    let report = report();
    let rows: Vec<&str> = report.mistakes.iter().map(|mistake| mistake.row.as_str()).collect();
    assert_eq!(rows, ["reviews.csv:10", "reviews.csv:38", "reviews.csv:34"]);
    let first = &report.mistakes[0];
    assert_eq!((first.confidence, first.target_probability), (1.0, 0.0));
    assert_eq!((first.target.as_str(), first.predicted.as_str()), ("bad <b>", "good"));
    assert!(!first.text.contains('\u{1b}') && !first.text.contains('\n'), "{:?}", first.text);
}

#[test]
fn long_texts_are_cut_and_no_mistakes_means_no_texts() {
    let config = EvaluationConfig { characters: 10, mistakes: 1, ..EvaluationConfig::default() };
    let report = Report::new(&predictions(), &config, context(), shown).unwrap();
    assert_eq!(report.mistakes[0].text, "<script>al…");
    let config = EvaluationConfig { mistakes: 0, ..EvaluationConfig::default() };
    let report = Report::new(&predictions(), &config, context(), shown).unwrap();
    assert!(!report.to_json().unwrap().contains("alert"));
}

#[test]
fn an_undefined_metric_says_why_in_every_form() {
    let labels = vec!["bad".to_string(), "good".to_string()];
    let one_class = Predictions::new(labels, vec![0; 5], [0.7, 0.3].repeat(5)).unwrap();
    let config = EvaluationConfig::default();
    let report = Report::new(&one_class, &config, Context::default(), |_| None).unwrap();
    let auc = report.metrics.iter().find(|metric| metric.name == "roc_auc").unwrap();
    assert!(matches!(&auc.estimate, Estimate::Undefined { .. }));
    assert_eq!(report.value("roc_auc"), None);
    assert!(report.to_json().unwrap().contains(r#""undefined": "no example is \"good\"""#));
    assert!(report.to_string().contains("undefined, because no example is \"good\""));
    assert!(report.to_html().unwrap().contains("undefined, because no example is &quot;good&quot;"));
}

#[test]
fn the_page_is_self_contained_and_escapes_what_data_holds() {
    let page = report().to_html().unwrap();
    assert!(page.contains("&lt;script&gt;alert"), "the text is shown");
    assert!(page.contains("bad &lt;b&gt;"), "the label is shown");
    for forbidden in ["<script", "bad <b>", "src=", "href=", "url(", "@import", "<link", "<iframe"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http:") && !outside.contains("https:"));
    for part in [
        "confusion matrix",
        "ROC curves",
        "precision-recall curves",
        "reliability diagram",
        "loss over the steps",
        "scores over the steps",
        "learning rate over the steps",
    ] {
        assert_eq!(page.matches(&format!("aria-label=\"{part}\"")).count(), 1, "{part}");
    }
}

#[test]
fn the_text_holds_every_part() {
    let text = report().to_string();
    for part in [
        "reviews 1 on test: 40 examples, 2 labels",
        "accuracy",
        "0.7500",
        "By class",
        "macro average",
        "Confusion matrix (rows: truth",
        "Calibration",
        "Most confident mistakes",
        "1.000  good, but it is bad <b>  (reviews.csv:10)",
        "Diagnosis",
        "noisy evaluation (warning)",
        "95 % intervals, percentile bootstrap of 100 resamples",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
    assert!(text.lines().all(|line| line == line.trim_end()), "no blanks at the ends");
}

#[test]
fn many_labels_are_listed_by_pairs() {
    let labels: Vec<String> = (0..30).map(|label| format!("label {label}")).collect();
    let targets: Vec<usize> = (0..90).map(|at| at % 30).collect();
    let row = |at: usize| (0..30).map(move |label| if label == (at + at / 60) % 30 { 1.0 } else { 0.0 });
    let predictions = Predictions::new(labels, targets, (0..90).flat_map(row).collect()).unwrap();
    let config = EvaluationConfig { bootstrap: 0, ..EvaluationConfig::default() };
    let report = Report::new(&predictions, &config, Context::default(), |_| None).unwrap();
    assert!(report.to_string().contains("1  label 0 taken for label 1"), "{report}");
    let page = report.to_html().unwrap();
    assert!(!page.contains("aria-label=\"confusion matrix\""));
    assert!(page.contains("The first 8 of 30 labels."));
    assert!(report.metrics.iter().all(|metric| metric.estimate.interval().is_none()));
}
