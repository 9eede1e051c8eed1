//! The loop: batches in, steps made, history written, validations followed, checkpoints saved.
//!
//! Owns the order of these things, which is the same whether a run goes through or is resumed. Each is done elsewhere.

use crate::TrainError;
use crate::average::Average;
use crate::checkpoint::{Best, Checkpoints, Since, State};
use crate::error::Rows;
use crate::history::History;
use crate::loss::{Loss, class_weights};
use crate::observer::{Event, Observer};
use crate::optimisers::CommonConfig;
use crate::pace::Pace;
use crate::recipe::Recipe;
use crate::run::TrainOptions;
use crate::run_folder::RunFolder;
use crate::schedules::WithWarmup;
use crate::settings::SettingError;
use crate::tensorboard::EventFile;
use crate::trainer::{StepFigures, Trainer};
use crate::validation::{Kept, Validation};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemill_data::{Augmenter, Encoder, EpochBatches, Examples, Loader, LoaderConfig, Prepared, TextBatch};
use tidemill_eval::HistoryPoint;
use tidemill_model::architectures::Vocabulary;
use tidemill_model::{Parameters, architectures};
use tidemill_torch::choice;

/// A run under way.
pub(crate) struct TrainingLoop<'a> {
    recipe: &'a Recipe,
    train: Arc<Examples>,
    loader: Loader,
    trainer: Trainer,
    average: Option<Average>,
    schedule: WithWarmup,
    learning_rate: f64,
    validation: Validation,
    history: History,
    events: EventFile,
    checkpoints: Checkpoints,
    root: std::path::PathBuf,
    state: State,
    steps: u64,
    steps_per_epoch: u64,
    stop: Option<Arc<AtomicBool>>,
    pace: Pace,
}

impl<'a> TrainingLoop<'a> {
    /// Builds the model and everything around it, as they were at `state`.
    pub(crate) fn new(
        recipe: &'a Recipe,
        options: &TrainOptions,
        folder: &RunFolder,
        data: &Prepared,
        encoder: Arc<Encoder>,
        state: State,
    ) -> Result<Self, TrainError> {
        let loader = loader(recipe, data, Arc::clone(&encoder))?;
        let steps_per_epoch = loader.steps_per_epoch().div_ceil(recipe.training.accumulation) as u64;
        let steps = recipe.training.total_steps(steps_per_epoch);
        let setting = |section| move |problem| TrainError::Setting { section, problem };

        let config = architectures::complete_config(
            &recipe.model.architecture,
            &recipe.model.settings,
            Vocabulary::of(&encoder),
            &data.labels,
        )?;
        let parameters = Parameters::new(recipe.seed, options.device);
        let model = architectures::build(&parameters.root(), &config)?;
        let counts = data.train.class_counts();
        let weights = class_weights(&recipe.training, &data.labels, &counts).map_err(setting("training"))?;
        let loss = Loss::new(recipe.training.label_smoothing, weights, options.device)?;
        let pad_id = i64::from(encoder.pad_id());
        let trainer = Trainer::new(parameters, model, loss, pad_id, recipe.seed)?
            .optimise(&recipe.optimiser.name, &recipe.optimiser.settings)?
            .clip(recipe.training.clip_norm);
        let decay = recipe.training.average;
        let trainable = trainer.parameters().trainable();
        let average = decay.map(|decay| Average::new(decay, &trainable)).transpose()?;

        let schedule = &recipe.schedule;
        let mut schedule = WithWarmup::build(&schedule.name, &schedule.settings, steps, steps_per_epoch)
            .map_err(setting("schedule"))?;
        let common = CommonConfig::take(&mut recipe.optimiser.settings.clone()).map_err(setting("optimiser"))?;

        let checkpoints = folder.checkpoints();
        if state.step > 0 {
            checkpoints.restore(state.step, &trainer, average.as_ref())?;
            schedule
                .restore(&state.schedule)
                .map_err(|error| TrainError::damaged(&folder.path("checkpoints/last/state.json"), error))?;
        }
        Ok(Self {
            recipe,
            train: Arc::clone(&data.train),
            loader,
            trainer,
            average,
            schedule,
            learning_rate: common.learning_rate,
            validation: Validation::new(recipe, Arc::clone(&data.validation), encoder, config)?,
            history: History::open(&folder.path("history.jsonl"), state.history_bytes)?,
            events: EventFile::open(&folder.events(), state.event_bytes)?,
            checkpoints,
            root: folder.root().to_owned(),
            state,
            steps,
            steps_per_epoch,
            stop: options.stop.clone(),
            pace: Pace::default(),
        })
    }

    /// Makes all steps that are left.
    pub(crate) fn go(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        observer.event(&Event::Started {
            step: self.state.step,
            steps: self.steps,
            steps_per_epoch: self.steps_per_epoch,
            rows: self.train.len(),
            parameters: self.trainer.parameters().count(),
        });
        while !self.done() {
            let epoch = self.state.step / self.steps_per_epoch;
            let within = self.state.step % self.steps_per_epoch;
            let from = within as usize * self.recipe.training.accumulation;
            let mut batches = self.loader.epoch(epoch, from);
            for _ in within..self.steps_per_epoch {
                if self.done() {
                    break;
                }
                let batches = self.take(&mut batches)?;
                self.step(&batches, epoch, observer)?;
                self.follow(observer)?;
            }
        }
        Ok(())
    }

    /// The weights that are packed, and what belongs to them.
    pub(crate) fn weights_to_keep(self, best: bool) -> Result<Kept, TrainError> {
        let step = match self.state.best {
            Some(found) if best => found.step,
            _ => self.state.step,
        };
        self.checkpoints.restore_weights(step, &self.trainer)?;
        Ok(Kept::new(self.trainer, self.validation, self.history))
    }

    fn done(&self) -> bool {
        self.state.ended || self.state.step >= self.steps
    }

    /// The batches of one step.
    fn take(&self, batches: &mut EpochBatches) -> Result<Vec<TextBatch>, TrainError> {
        let taken: Vec<_> = batches.take(self.recipe.training.accumulation).collect::<Result<_, _>>()?;
        match taken.is_empty() {
            true => Err(TrainError::NoBatch { step: self.state.step + 1 }),
            false => Ok(taken),
        }
    }

    fn step(&mut self, batches: &[TextBatch], epoch: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let learning_rate = self.learning_rate_at(self.state.step);
        let figures = self
            .trainer
            .step(batches, learning_rate, self.state.step)
            .map_err(|error| self.name_rows(error, batches))?;
        if let Some(average) = &mut self.average {
            average.update(self.state.step)?;
        }
        self.state.step += 1;
        self.state.since.add(&figures);
        self.pace.tick(figures.rows);
        observer.event(&Event::Step {
            step: self.state.step,
            of: self.steps,
            epoch: epoch + 1,
            loss: figures.loss,
            accuracy: figures.correct as f64 / figures.rows.max(1) as f64,
            learning_rate,
            samples_per_second: self.pace.rows_per_second(),
            time_left: self.pace.time_for(self.steps - self.state.step),
        });
        Ok(())
    }

    /// What comes after a step: the history's line, the validation, the checkpoint, the end.
    fn follow(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let training = &self.recipe.training;
        let step = self.state.step;
        let every = training.validate_every.unwrap_or(self.steps_per_epoch);
        let validates = step.is_multiple_of(every) || step == self.steps;
        let mut best = false;
        if validates || step.is_multiple_of(training.log_every) {
            let mut point = self.point();
            if validates {
                best = self.validate(&mut point)?;
            }
            self.log(point, validates.then_some(best), observer)?;
        }
        let stopped = self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
        if best || self.done() || stopped || step.is_multiple_of(training.checkpoint_every) {
            self.save(observer)?;
        }
        if stopped && !self.done() {
            let (folder, steps) = (self.root.clone(), self.steps);
            return Err(TrainError::Stopped { step, steps, folder });
        }
        Ok(())
    }

    /// The history's point for the steps since the last one.
    fn point(&mut self) -> HistoryPoint {
        let since = std::mem::take(&mut self.state.since);
        let rows = since.rows.max(1) as f64;
        HistoryPoint {
            step: self.state.step,
            epoch: self.state.step as f64 / self.steps_per_epoch as f64,
            learning_rate: self.learning_rate_at(self.state.step - 1),
            train_loss: since.loss / rows,
            train_accuracy: Some(since.correct as f64 / rows),
            ..HistoryPoint::default()
        }
    }

    /// Classifies the validation side, fills in `point`, and says whether these are the best weights so far.
    fn validate(&mut self, point: &mut HistoryPoint) -> Result<bool, TrainError> {
        if let Some(average) = &mut self.average {
            average.swap()?;
        }
        let measured = self.validation.measure(self.trainer.parameters());
        if let Some(average) = &mut self.average {
            average.swap()?;
        }
        let measured = measured?;
        point.validation_loss = Some(measured.loss);
        point.validation_metrics = measured.metrics;
        let select = measured.select;
        let loss = measured.loss;
        let best = self
            .state
            .best
            .is_none_or(|best| select.improves(best.figure, 0.0) || (select.value == best.figure && loss < best.loss));
        if best {
            self.state.best = Some(Best { step: self.state.step, figure: select.value, loss });
        }
        self.schedule.observe(select.value, select.higher_is_better);
        if let (Some(stopping), Some(watched)) = (&self.recipe.training.early_stopping, measured.watched) {
            let before = self.state.watched;
            if before.is_none_or(|before| watched.improves(before, stopping.min_delta)) {
                self.state.watched = Some(watched.value);
                self.state.without_improvement = 0;
            } else {
                self.state.without_improvement += 1;
            }
            self.state.ended = self.state.without_improvement > stopping.patience;
        }
        Ok(best)
    }

    fn log(&mut self, point: HistoryPoint, best: Option<bool>, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = point.step;
        let mut scalars = vec![
            ("train/loss".to_owned(), Some(point.train_loss)),
            ("train/accuracy".to_owned(), point.train_accuracy),
            ("train/learning_rate".to_owned(), Some(point.learning_rate)),
            ("validation/loss".to_owned(), point.validation_loss),
        ];
        let metrics = point.validation_metrics.iter();
        scalars.extend(metrics.map(|(name, value)| (format!("validation/{name}"), Some(*value))));
        for (tag, value) in scalars {
            if let Some(value) = value {
                self.events.scalar(&tag, value, step)?;
            }
        }
        observer.event(&Event::Logged { point: &point });
        if let Some(best) = best {
            observer.event(&Event::Validated { step, point: &point, best });
        }
        self.history.append(point)
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.state.history_bytes = self.history.sync()?;
        self.state.event_bytes = self.events.sync()?;
        self.state.schedule = self.schedule.state();
        self.state.kernels = choice::table();
        let folder = self.checkpoints.save(&self.state, &self.trainer, self.average.as_ref())?;
        observer.event(&Event::Saved { step: self.state.step, folder });
        Ok(())
    }

    fn learning_rate_at(&self, step: u64) -> f64 {
        self.learning_rate * self.schedule.factor(step)
    }

    /// Puts files and lines in the place of numbers.
    fn name_rows(&self, error: TrainError, batches: &[TextBatch]) -> TrainError {
        match error {
            TrainError::NonFinite { what, step, learning_rate, .. } => {
                let rows = batches.iter().flat_map(|batch| &batch.rows);
                let rows = Rows(rows.map(|row| self.train.describe_row(*row)).collect());
                TrainError::NonFinite { what, step, learning_rate, rows }
            }
            other => other,
        }
    }
}

impl Since {
    fn add(&mut self, figures: &StepFigures) {
        self.loss += figures.loss * figures.rows as f64;
        self.correct += figures.correct;
        self.rows += figures.rows;
    }
}

fn loader(recipe: &Recipe, data: &Prepared, encoder: Arc<Encoder>) -> Result<Loader, TrainError> {
    let training = &recipe.training;
    let augmenter = match recipe.augment.is_active() {
        true => Some(Arc::new(Augmenter::new(&recipe.augment)?)),
        false => None,
    };
    let config = LoaderConfig {
        batch_size: training.batch_size,
        seed: recipe.seed,
        shuffle: true,
        group_by_length: training.group_by_length,
        prefetch: training.prefetch,
        threads: training.loader_threads,
        drop_last: training.drop_last,
    };
    let loader = Loader::new(Arc::clone(&data.train), encoder, augmenter, config);
    match loader.steps_per_epoch() {
        0 => Err(TrainError::Setting {
            section: "training",
            problem: SettingError::new(
                "batch_size",
                format!(
                    "is {}, but the training side has {} rows and `drop_last` leaves out what fills no batch",
                    training.batch_size,
                    data.train.len()
                ),
            ),
        }),
        _ => Ok(loader),
    }
}
