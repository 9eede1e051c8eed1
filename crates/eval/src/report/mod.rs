//! What evaluation says, as data: every number, curve, mistake and finding, from which the text and
//! the page are made. Deterministic: no wall clock, no host name, nothing that differs between two
//! equal runs.

mod html;
mod plots;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_data::DataReport;

use crate::diagnosis::{self, Evidence, Finding};
use crate::metrics::calibration::Calibration;
use crate::metrics::precision_recall::{self, Average, PrecisionRecall, PrecisionRecallPoint};
use crate::metrics::roc::{self, RocPoint};
use crate::metrics::{self, ConfusionMatrix, Metric, MetricError};
pub(crate) use text::grouped;

use crate::{Bootstrap, ConfigError, EvaluationConfig, HistoryPoint, Interval, Predictions};

/// Version of the JSON form; a change that a reader would notice raises it.
pub const FORMAT: u32 = 1;

/// Points kept of a ROC or precision-recall curve: more than a plot can show.
const CURVE_POINTS: usize = 200;

/// What is known beside the predictions. All optional: `Context::default()` is fine.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What was evaluated, for the title: a package's name and version.
    pub name: String,
    /// Which examples: "test", "validation", a file's name.
    pub side: String,
    /// The training run, for the learning curves.
    pub history: Vec<HistoryPoint>,
    /// Metrics on the training side by name, computed by the finished model (`accuracy` is the one
    /// that the diagnosis reads; without it the training accuracy of the history serves).
    pub train: BTreeMap<String, f64>,
    /// What reading, cleaning and splitting did.
    pub data: Option<DataReport>,
}

/// An example as the report shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Where it came from: file and line.
    pub row: String,
    /// Its text, which is cut to the configured length.
    pub text: String,
}

/// A number with its interval, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Estimate {
    /// The definition gives a number.
    Defined {
        /// The number.
        value: f64,
        /// Its bootstrap interval, where one was made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interval: Option<Interval>,
    },
    /// It does not.
    Undefined {
        /// Why, as the rest of "undefined, because".
        undefined: String,
    },
}

impl Estimate {
    /// The number, where there is one.
    pub fn value(&self) -> Option<f64> {
        match self {
            Estimate::Defined { value, .. } => Some(*value),
            Estimate::Undefined { .. } => None,
        }
    }

    /// The interval, where there is one.
    pub fn interval(&self) -> Option<Interval> {
        match self {
            Estimate::Defined { interval, .. } => *interval,
            Estimate::Undefined { .. } => None,
        }
    }

    fn of(result: Result<f64, MetricError>, interval: Option<Interval>) -> Estimate {
        match result {
            Ok(value) => Estimate::Defined { value, interval },
            Err(MetricError::Undefined { because }) => Estimate::Undefined { undefined: because },
            Err(other) => Estimate::Undefined { undefined: other.to_string() },
        }
    }
}

/// One metric of the whole set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Name in [`metrics::ALL`].
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// Precision, recall and F1 of one class or of an average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    /// The label, or the name of the average.
    pub name: String,
    /// Number of examples.
    pub support: u64,
    /// Number of predictions.
    pub predicted: u64,
    /// Share of the predictions that are right.
    pub precision: Estimate,
    /// Share of the examples that are found.
    pub recall: Estimate,
    /// Harmonic mean of the two.
    pub f1: Estimate,
}

/// The two curves of one class against the rest, thinned to what a plot shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassCurves {
    /// The label.
    pub label: String,
    /// Receiver operating characteristic, empty where undefined.
    pub roc: Vec<RocPoint>,
    /// Precision-recall curve, empty where undefined.
    pub precision_recall: Vec<PrecisionRecallPoint>,
    /// Area under the first.
    pub roc_auc: Estimate,
    /// Average precision.
    pub average_precision: Estimate,
}

/// A mistake that the model was sure of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mistake {
    /// File and line.
    pub row: String,
    /// The text, cut to the configured length.
    pub text: String,
    /// The true label.
    pub target: String,
    /// What the model said.
    pub predicted: String,
    /// How sure it was, in `[0, 1]`.
    pub confidence: f64,
    /// The probability it gave to the truth, in `[0, 1]`.
    pub target_probability: f64,
}

/// What evaluation says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form, [`FORMAT`].
    pub format: u32,
    /// What was evaluated.
    pub name: String,
    /// Which examples.
    pub side: String,
    /// Number of examples.
    pub examples: usize,
    /// The labels, in the order of the model.
    pub labels: Vec<String>,
    /// How the intervals were made: percentile bootstrap over the examples.
    pub bootstrap: Bootstrap,
    /// The metrics asked for, the headline first.
    pub metrics: Vec<Measured>,
    /// Precision, recall and F1 of each class.
    pub classes: Vec<ClassRow>,
    /// The same averaged: macro, weighted, micro.
    pub averages: Vec<ClassRow>,
    /// True classes (rows) against predicted ones (columns).
    pub confusion_matrix: ConfusionMatrix,
    /// Confidence against accuracy.
    pub calibration: Calibration,
    /// Curves a class; with two classes those of the second alone.
    pub curves: Vec<ClassCurves>,
    /// The mistakes the model was surest of.
    pub mistakes: Vec<Mistake>,
    /// What the figures point to, the most serious first.
    pub diagnosis: Vec<Finding>,
    /// Metrics on the training side, where they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub train: BTreeMap<String, f64>,
    /// The training run, where it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryPoint>,
    /// What happened to the data, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataReport>,
}

impl Report {
    /// Computes everything from the predictions.
    ///
    /// `shown` describes an example by its position, for the list of mistakes; one that gives
    /// `None` leaves it out.
    ///
    /// # Errors
    /// [`ConfigError`] when `config` is wrong.
    pub fn new(
        predictions: &Predictions,
        config: &EvaluationConfig,
        context: Context,
        shown: impl Fn(usize) -> Option<Shown>,
    ) -> Result<Report, ConfigError> {
        config.check()?;
        let chosen = config.chosen()?;
        let matrix = predictions.confusion_matrix();
        let mut intervals = intervals(predictions, &chosen, config.resampling()).into_iter();
        let mut next = || intervals.next().flatten();
        let metrics = chosen.iter().map(|metric| Measured {
            name: metric.name.to_string(),
            estimate: Estimate::of((metric.compute)(predictions), next()),
        });
        let metrics: Vec<Measured> = metrics.collect();
        let mut rows = rows(&matrix, predictions.labels(), next);
        let averages = rows.split_off(predictions.classes());
        let mut report = Report {
            format: FORMAT,
            name: context.name,
            side: context.side,
            examples: predictions.len(),
            labels: predictions.labels().to_vec(),
            bootstrap: config.resampling(),
            metrics,
            classes: rows,
            averages,
            confusion_matrix: matrix,
            calibration: Calibration::new(predictions, config.bins),
            curves: curves(predictions),
            mistakes: mistakes(predictions, config, shown),
            diagnosis: Vec::new(),
            train: context.train,
            history: context.history,
            data: context.data,
        };
        report.diagnosis = diagnosis::diagnose(&Evidence::of(&report));
        Ok(report)
    }

    /// The value of a metric in this report; none when it is not in it, or undefined.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|metric| metric.name == name)?.estimate.value()
    }

    /// The JSON form, indented, ending in a newline. The same report gives the same bytes.
    ///
    /// # Errors
    /// When a number cannot be written, which a report made by [`Report::new`] never holds.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// One HTML page that needs nothing beside itself: no scripts, no requests, plots as inline
    /// SVG.
    ///
    /// # Errors
    /// [`HtmlError`] when a plot cannot be drawn.
    pub fn to_html(&self) -> Result<String, HtmlError> {
        html::page(self)
    }
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum HtmlError {
    /// A plot could not be drawn.
    #[error("cannot draw the plot of the {plot}: {why}")]
    Plot {
        /// Which one.
        plot: &'static str,
        /// What the plotter said.
        why: String,
    },
    /// The page could not be filled in.
    #[error("cannot fill in the page: {0}")]
    Page(#[from] minijinja::Error),
}

/// Intervals of the chosen metrics, then of precision, recall and F1 of each class and average.
fn intervals(predictions: &Predictions, chosen: &[&Metric], bootstrap: Bootstrap) -> Vec<Option<Interval>> {
    bootstrap.intervals(predictions, |resample| {
        let mut values: Vec<Option<f64>> = chosen.iter().map(|metric| resample.compute(metric)).collect();
        for one in precisions_and_recalls(resample.matrix()) {
            values.extend([Some(one.precision), Some(one.recall), Some(one.f)]);
        }
        values
    })
}

const AVERAGES: [(&str, Average); 3] =
    [("macro average", Average::Macro), ("weighted average", Average::Weighted), ("micro average", Average::Micro)];

fn precisions_and_recalls(matrix: &ConfusionMatrix) -> Vec<PrecisionRecall> {
    let classes = (0..matrix.classes()).map(|class| precision_recall::of_class(matrix, class, 1.0));
    let averages = AVERAGES.map(|(_, average)| precision_recall::average(matrix, average, 1.0));
    classes.chain(averages).collect()
}

/// One row a class, then one an average.
fn rows(matrix: &ConfusionMatrix, labels: &[String], mut next: impl FnMut() -> Option<Interval>) -> Vec<ClassRow> {
    let names = labels.iter().map(String::as_str).chain(AVERAGES.map(|(name, _)| name));
    names
        .zip(precisions_and_recalls(matrix))
        .enumerate()
        .map(|(at, (name, one))| {
            let whole = (matrix.total(), matrix.total());
            let (support, predicted) = match at < labels.len() {
                true => (matrix.support(at), matrix.predicted(at)),
                false => whole,
            };
            ClassRow {
                name: name.to_string(),
                support,
                predicted,
                precision: Estimate::of(Ok(one.precision), next()),
                recall: Estimate::of(Ok(one.recall), next()),
                f1: Estimate::of(Ok(one.f), next()),
            }
        })
        .collect()
}

fn curves(predictions: &Predictions) -> Vec<ClassCurves> {
    let first = usize::from(predictions.classes() == 2);
    (first..predictions.classes())
        .map(|class| ClassCurves {
            label: predictions.labels()[class].clone(),
            roc: thin(roc::curve(predictions, class).unwrap_or_default()),
            precision_recall: thin(precision_recall::curve(predictions, class).unwrap_or_default()),
            roc_auc: Estimate::of(roc::class_auc(predictions, class), None),
            average_precision: Estimate::of(metrics::average_precision::of_class(predictions, class), None),
        })
        .collect()
}

/// Evenly chosen points, the first and the last among them.
fn thin<T: Copy>(points: Vec<T>) -> Vec<T> {
    if points.len() <= CURVE_POINTS {
        return points;
    }
    let last = points.len() - 1;
    (0..CURVE_POINTS).map(|at| points[at * last / (CURVE_POINTS - 1)]).collect()
}

fn mistakes(
    predictions: &Predictions,
    config: &EvaluationConfig,
    shown: impl Fn(usize) -> Option<Shown>,
) -> Vec<Mistake> {
    let (targets, predicted) = (predictions.targets(), predictions.predicted());
    let mut wrong: Vec<(usize, f64)> =
        predictions.confidences().enumerate().filter(|&(example, _)| targets[example] != predicted[example]).collect();
    wrong.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mistake = |(example, confidence): (usize, f64)| {
        let Shown { row, text } = shown(example)?;
        Some(Mistake {
            row,
            text: cut(&text, config.characters),
            target: predictions.labels()[targets[example]].clone(),
            predicted: predictions.labels()[predicted[example]].clone(),
            confidence,
            target_probability: predictions.row(example)[targets[example]],
        })
    };
    wrong.into_iter().take(config.mistakes).filter_map(mistake).collect()
}

/// The first characters of a text on one line without control characters, with an ellipsis where it
/// was cut.
fn cut(text: &str, characters: usize) -> String {
    let visible = |c: char| {
        if c.is_control() && !c.is_whitespace() { '\u{fffd}' } else { c }
    };
    let line: String = text.chars().map(visible).collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}
