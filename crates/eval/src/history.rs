//! What training wrote down at each point: one line of `history.jsonl`, and the source of the
//! learning curves. No wall clock in it, so that the same run writes the same bytes again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One point of a training run.
///
/// ```
/// use tidemill_eval::HistoryPoint;
/// let line = r#"{"step":10,"epoch":0.5,"learning_rate":0.001,"train_loss":0.62}"#;
/// let point: HistoryPoint = serde_json::from_str(line)?;
/// assert_eq!(point.validation_loss, None);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryPoint {
    /// Optimiser steps done.
    pub step: u64,
    /// Passes over the training side done, with its fraction.
    pub epoch: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Mean training loss since the last point (natural logarithm, as it was minimised).
    pub train_loss: f64,
    /// Share of training examples right since the last point, in `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f64>,
    /// Mean loss on the validation side, where it was measured at this point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Metrics on the validation side by name, where they were measured at this point.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub validation_metrics: BTreeMap<String, f64>,
}
