//! The figures that the rules read, gathered once from a report.

use std::collections::BTreeMap;

use tidemill_data::DataReport;

use crate::metrics::calibration::Calibration;
use crate::metrics::{ConfusionMatrix, accuracy};
use crate::{HistoryPoint, Report};

/// What the rules know. What is optional may be missing; a rule without its figures says nothing.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Labels, in the order of the matrix.
    pub labels: Vec<String>,
    /// True classes against predicted ones, on the evaluated examples.
    pub matrix: ConfusionMatrix,
    /// Confidence against accuracy, on the evaluated examples.
    pub calibration: Calibration,
    /// Names of the reported metrics, the headline first.
    pub metrics: Vec<String>,
    /// Half of the width of the interval of the accuracy, where one was made.
    pub accuracy_half_width: Option<f64>,
    /// Metrics on the training side.
    pub train: BTreeMap<String, f64>,
    /// The training run.
    pub history: Vec<HistoryPoint>,
    /// Sizes of the sides and what was found on several of them.
    pub data: Option<DataFigures>,
}

/// The figures of a [`DataReport`] that the rules read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataFigures {
    /// Training examples of each label; empty when there is no training side.
    pub train: Vec<u64>,
    /// Number of validation examples.
    pub validation: u64,
    /// Examples whose text stands on a side that they are judged by, and that stayed.
    pub leaked: u64,
    /// The same, but dropped from the side that learns.
    pub leaked_and_dropped: u64,
}

impl Evidence {
    /// Gathers the figures of a report.
    pub fn of(report: &Report) -> Evidence {
        let accuracy = report.metrics.iter().find(|metric| metric.name == "accuracy");
        Evidence {
            labels: report.labels.clone(),
            matrix: report.confusion_matrix.clone(),
            calibration: report.calibration.clone(),
            metrics: report.metrics.iter().map(|metric| metric.name.clone()).collect(),
            accuracy_half_width: accuracy
                .and_then(|metric| metric.estimate.interval())
                .map(|interval| interval.half_width()),
            train: report.train.clone(),
            history: report.history.clone(),
            data: report.data.as_ref().map(|data| figures(data, &report.labels)),
        }
    }

    /// Number of evaluated examples.
    pub(super) fn examples(&self) -> u64 {
        self.matrix.total()
    }

    /// Accuracy on the evaluated examples.
    pub(super) fn accuracy(&self) -> f64 {
        accuracy::accuracy(&self.matrix).unwrap_or(0.0)
    }

    /// Accuracy on the training side: of the finished model where it was measured, else the last
    /// one seen while training (lower, because of dropout, so the rules err towards silence).
    pub(super) fn train_accuracy(&self) -> Option<f64> {
        let seen = || self.history.iter().rev().find_map(|point| point.train_accuracy);
        self.train.get("accuracy").copied().or_else(seen)
    }

    /// Examples of each label: of the training side where known, else of the evaluated one; and
    /// which it is.
    pub(super) fn class_sizes(&self) -> (Vec<u64>, &'static str) {
        match &self.data {
            Some(data) if data.train.iter().sum::<u64>() > 0 => (data.train.clone(), "training"),
            _ => ((0..self.matrix.classes()).map(|c| self.matrix.support(c)).collect(), "evaluated"),
        }
    }

    /// Share of the largest class of the evaluated examples: what always guessing it would get.
    pub(super) fn majority(&self) -> f64 {
        let largest = (0..self.matrix.classes()).map(|class| self.matrix.support(class)).max();
        largest.unwrap_or(0) as f64 / self.examples().max(1) as f64
    }

    /// Half of the width of a 95 % interval of an accuracy over `n` examples, by the normal
    /// approximation.
    pub(super) fn half_width(&self, accuracy: f64, n: u64) -> f64 {
        1.96 * (accuracy * (1.0 - accuracy) / n.max(1) as f64).sqrt()
    }

    /// Step and loss of every point at which the validation loss was measured.
    pub(super) fn validation_losses(&self) -> Vec<(u64, f64)> {
        let measured = |point: &HistoryPoint| Some((point.step, point.validation_loss?));
        self.history.iter().filter_map(measured).filter(|(_, loss)| loss.is_finite()).collect()
    }
}

fn figures(data: &DataReport, labels: &[String]) -> DataFigures {
    let side = |name: &str| data.sides.iter().find(|side| side.side == name);
    // By name: a report may order its labels otherwise than the model.
    let size = |label: &String| {
        let class = data.labels.iter().position(|other| other == label)?;
        side("train")?.classes.get(class).copied()
    };
    let leaked = |dropped: bool| -> u64 {
        data.leakage.iter().filter(|leak| leak.dropped == dropped).map(|leak| leak.rows).sum()
    };
    DataFigures {
        train: match side("train") {
            Some(_) => labels.iter().map(|label| size(label).unwrap_or(0)).collect(),
            None => Vec::new(),
        },
        validation: side("validation").map_or(0, |side| side.rows),
        leaked: leaked(false),
        leaked_and_dropped: leaked(true),
    }
}
