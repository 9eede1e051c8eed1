//! Figures on the validation side during a run, and the finished weights: both through the pipeline that serves.
//!
//! Figures are computed over the whole side at once, never averaged over batches.

use crate::TrainError;
use crate::history::History;
use crate::recipe::Recipe;
use crate::run_folder::Identity;
use crate::settings::Settings;
use crate::trainer::Trainer;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tidemill_data::{Encoder, Examples};
use tidemill_eval::{HistoryPoint, Metric, Predictions, metrics, predict};
use tidemill_model::manifest::Source;
use tidemill_model::{Package, PackageParts, Parameters, Pipeline};

/// The validation side, and what is measured on it.
pub(crate) struct Validation {
    name: String,
    examples: Arc<Examples>,
    encoder: Arc<Encoder>,
    config: Settings,
    select: String,
    watched: Option<String>,
    metrics: BTreeSet<String>,
}

/// What one validation gave.
pub(crate) struct Measured {
    /// Mean cross entropy.
    pub(crate) loss: f64,
    /// Metrics by name.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// The figure that chooses the best weights.
    pub(crate) select: Figure,
    /// The figure that early stopping watches.
    pub(crate) watched: Option<Figure>,
}

/// A number, and which way is up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) higher_is_better: bool,
}

impl Figure {
    /// Whether it is better than `best` by more than `by`.
    pub(crate) fn improves(self, best: f64, by: f64) -> bool {
        match self.higher_is_better {
            true => self.value > best + by,
            false => self.value < best - by,
        }
    }
}

impl Validation {
    pub(crate) fn new(
        recipe: &Recipe,
        examples: Arc<Examples>,
        encoder: Arc<Encoder>,
        config: Settings,
    ) -> Result<Self, TrainError> {
        let select = recipe.training.select.clone();
        let stopping = recipe.training.early_stopping.as_ref();
        let watched = stopping.map(|s| s.metric.clone().unwrap_or_else(|| select.clone()));
        let mut metrics = BTreeSet::from(["accuracy".to_owned(), "f1_macro".to_owned()]);
        metrics.extend([Some(&select), watched.as_ref()].into_iter().flatten().cloned());
        metrics.remove(LOSS);
        let name = recipe.name.clone();
        Ok(Self { name, examples, encoder, config, select, watched, metrics })
    }

    /// Classifies the side with `parameters` as they are.
    pub(crate) fn measure(&self, parameters: &Parameters) -> Result<Measured, TrainError> {
        let predictions = predict(&self.pipeline(parameters)?, &self.examples)?;
        let loss = figure(LOSS, &predictions)?;
        let mut metrics = BTreeMap::new();
        for name in &self.metrics {
            metrics.insert(name.clone(), figure(name, &predictions)?.value);
        }
        let watched = self.watched.as_ref().map(|name| figure(name, &predictions)).transpose()?;
        let select = figure(&self.select, &predictions)?;
        Ok(Measured { loss: loss.value, metrics, select, watched })
    }

    fn pipeline(&self, parameters: &Parameters) -> Result<Pipeline, TrainError> {
        let (labels, encoder) = (self.examples.labels(), Arc::clone(&self.encoder));
        Ok(Pipeline::from_parts(&self.name, labels, &self.config, parameters, encoder)?)
    }
}

const LOSS: &str = "loss";

fn figure(name: &str, predictions: &Predictions) -> Result<Figure, TrainError> {
    let metric = metric(name)?;
    let value = (metric.compute)(predictions)?;
    Ok(Figure { value, higher_is_better: metric.higher_is_better })
}

/// The metric called `name`; the loss is the log loss.
fn metric(name: &str) -> Result<&'static Metric, TrainError> {
    Ok(metrics::find(if name == LOSS { "log_loss" } else { name })?)
}

/// Accuracy and log loss of `pipeline` on `examples`.
pub(crate) fn figures_on(pipeline: &Pipeline, examples: &Examples) -> Result<BTreeMap<String, f64>, TrainError> {
    let predictions = predict(pipeline, examples)?;
    let names = ["accuracy", "log_loss", "f1_macro"];
    let of = |name: &str| Ok((name.to_owned(), figure(name, &predictions)?.value));
    names.iter().map(|name| of(name)).collect()
}

/// The weights that are packed, and what belongs to them.
pub(crate) struct Kept {
    trainer: Trainer,
    validation: Validation,
    history: History,
}

impl Kept {
    pub(crate) fn new(trainer: Trainer, validation: Validation, history: History) -> Self {
        Self { trainer, validation, history }
    }

    pub(crate) fn pipeline(&self) -> Result<Pipeline, TrainError> {
        self.validation.pipeline(self.trainer.parameters())
    }

    pub(crate) fn history(&self) -> &[HistoryPoint] {
        self.history.points()
    }

    /// Writes the package into `folder`.
    pub(crate) fn pack(
        &self,
        recipe: &Recipe,
        identity: &Identity,
        folder: &Path,
        report: &str,
    ) -> Result<(), TrainError> {
        let source = Source {
            recipe_sha256: Some(identity.recipe.clone()),
            seed: Some(recipe.seed),
            data: identity.data.clone(),
            ..Source::default()
        };
        let parts = PackageParts {
            name: &recipe.name,
            version: &recipe.version,
            labels: self.validation.examples.labels(),
            config: &self.validation.config,
            parameters: self.trainer.parameters(),
            encoder: &self.validation.encoder,
            scheduling: recipe.scheduling.clone(),
            source,
            report_json: Some(report),
        };
        Package::write(folder, &parts).map_err(TrainError::write_package)
    }
}
