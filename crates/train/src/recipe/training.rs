//! `[training]`: every key with its default and its check.

use super::check_metric;
use crate::settings::{SettingError, require};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `[training]`: batches, length, regularisation, validation, checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// `batch_size`: rows in one forward pass, at least 1. Default 32.
    pub batch_size: usize,
    /// `accumulation`: batches whose gradients make one optimiser step, at least 1. Default 1.
    pub accumulation: usize,
    /// `epochs`: passes over the training side. Default 10 where `steps` is not given.
    pub epochs: Option<u64>,
    /// `steps`: optimiser steps, instead of `epochs`.
    pub steps: Option<u64>,
    /// `clip_norm`: the gradients' global norm is cut to this. Default none.
    pub clip_norm: Option<f64>,
    /// `label_smoothing`: from 0 to below 1. Default 0.
    pub label_smoothing: f64,
    /// `class_weights`: `"none"` (default), `"balanced"` (rows over labels times rows of the label, as in scikit-learn), a
    /// list in the order of the labels, or a table `{ label = weight }`.
    pub class_weights: ClassWeights,
    /// `average`: decay of an exponential moving average of the weights, which is then what is validated and packed; from 0
    /// to below 1. Default none.
    pub average: Option<f64>,
    /// `group_by_length`: rows of like length share batches. Default true.
    pub group_by_length: bool,
    /// `drop_last`: leave out the last, smaller batch of an epoch. Default false.
    pub drop_last: bool,
    /// `prefetch`: batches made ahead of their use. Default 4.
    pub prefetch: usize,
    /// `loader_threads`: threads that make batches. Default 1.
    pub loader_threads: usize,
    /// `validate_every`: optimiser steps between validations. Default: once an epoch.
    pub validate_every: Option<u64>,
    /// `select`: the metric by which the best checkpoint is chosen, or `loss`; among equals the lower loss is the better.
    /// Default `accuracy`.
    pub select: String,
    /// `keep`: whether the `best` (default) or the `last` weights are packed.
    pub keep: Keep,
    /// `[training.early_stopping]`. Default none.
    pub early_stopping: Option<EarlyStopping>,
    /// `checkpoint_every`: optimiser steps between checkpoints, beside one at each improvement. Default 500.
    pub checkpoint_every: u64,
    /// `log_every`: optimiser steps between lines of the history. Default 10.
    pub log_every: u64,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            batch_size: 32,
            accumulation: 1,
            epochs: None,
            steps: None,
            clip_norm: None,
            label_smoothing: 0.0,
            class_weights: ClassWeights::Named(NamedWeights::None),
            average: None,
            group_by_length: true,
            drop_last: false,
            prefetch: 4,
            loader_threads: 1,
            validate_every: None,
            select: "accuracy".to_owned(),
            keep: Keep::Best,
            early_stopping: None,
            checkpoint_every: 500,
            log_every: 10,
        }
    }
}

/// Which weights are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those of the validation with the best `select`.
    #[default]
    Best,
    /// Those of the last step.
    Last,
}

/// How much a row of each label weighs in the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassWeights {
    /// `"none"` or `"balanced"`.
    Named(NamedWeights),
    /// One weight a label.
    Given(ListOrTable),
}

/// Class weights by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedWeights {
    /// Every row weighs the same.
    #[default]
    None,
    /// Every label weighs the same in all.
    Balanced,
}

/// Class weights one by one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ListOrTable {
    /// In the order of the labels.
    List(Vec<f64>),
    /// By label; those not named weigh 1.
    Table(BTreeMap<String, f64>),
}

/// `[training.early_stopping]`: ends a run whose validations no longer improve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    /// `metric`: which figure is watched, or `loss`. Default: `[training] select`.
    pub metric: Option<String>,
    /// `patience`: validations without improvement that are let pass. Default 3.
    pub patience: u64,
    /// `min_delta`: what counts as an improvement, 0 or more. Default 0.
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self { metric: None, patience: 3, min_delta: 0.0 }
    }
}

impl TrainingConfig {
    /// Optimiser steps of the run, given those of one epoch.
    pub fn total_steps(&self, steps_per_epoch: u64) -> u64 {
        match (self.steps, self.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => epochs.unwrap_or(10).saturating_mul(steps_per_epoch),
        }
    }

    pub(super) fn check(&self) -> Result<(), SettingError> {
        require(self.batch_size > 0, "batch_size", "must be at least 1")?;
        require(self.accumulation > 0, "accumulation", "must be at least 1")?;
        require(self.epochs.is_none() || self.steps.is_none(), "steps", "stands beside `epochs`: give one of the two")?;
        require(self.epochs != Some(0), "epochs", "must be at least 1")?;
        require(self.steps != Some(0), "steps", "must be at least 1")?;
        let positive = |value: f64| value.is_finite() && value > 0.0;
        require(
            self.clip_norm.is_none_or(positive),
            "clip_norm",
            "must be a number above 0; leave it out for no clipping",
        )?;
        let below_one = 0.0..1.0;
        require(below_one.contains(&self.label_smoothing), "label_smoothing", "must be from 0 to below 1")?;
        require(self.average.is_none_or(|decay| below_one.contains(&decay)), "average", "must be from 0 to below 1")?;
        self.check_class_weights()?;
        require(self.prefetch > 0, "prefetch", "must be at least 1")?;
        require(self.loader_threads > 0, "loader_threads", "must be at least 1")?;
        require(self.validate_every != Some(0), "validate_every", "must be at least 1")?;
        require(self.checkpoint_every > 0, "checkpoint_every", "must be at least 1")?;
        require(self.log_every > 0, "log_every", "must be at least 1")?;
        check_figure("select", &self.select)?;
        self.early_stopping.as_ref().map_or(Ok(()), EarlyStopping::check)
    }

    fn check_class_weights(&self) -> Result<(), SettingError> {
        let weights: Vec<f64> = match &self.class_weights {
            ClassWeights::Named(_) => return Ok(()),
            ClassWeights::Given(ListOrTable::List(list)) => list.clone(),
            ClassWeights::Given(ListOrTable::Table(table)) => table.values().copied().collect(),
        };
        require(
            weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0)
                && weights.iter().any(|weight| *weight > 0.0),
            "class_weights",
            "must be numbers of 0 or more, not all 0",
        )
    }
}

impl EarlyStopping {
    fn check(&self) -> Result<(), SettingError> {
        require(self.min_delta.is_finite() && self.min_delta >= 0.0, "min_delta", "must be 0 or more")?;
        self.metric.as_deref().map_or(Ok(()), |metric| check_figure("metric", metric))
    }
}

/// A figure of a validation: a metric, or the loss.
fn check_figure(key: &str, name: &str) -> Result<(), SettingError> {
    if name == "loss" { Ok(()) } else { check_metric(key, name) }
}
