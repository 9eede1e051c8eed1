//! Learning-rate schedules: a registry by name, and the warm-up that goes before each of them.
//!
//! Owns the shape of the learning rate over a run, as a factor on the recipe's `[optimiser] learning_rate`. Knows nothing
//! of optimisers or tensors. Every schedule is one file in `schedules/`, checked there against its source and in
//! `tests/schedules.rs` against `torch.optim.lr_scheduler` and `transformers`.
//!
//! To add one: a file in `schedules/` with an `ENTRY`, its name in the list below, a case in
//! `tests/fixtures/make_schedules.py`, and a row in `docs/`.

use crate::settings::{self, SettingError, Settings};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Declares the files of `schedules/` and lists their entries.
macro_rules! registry {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every schedule, by the name that `[schedule] name` takes.
        pub static ALL: &[Entry] = &[$($file::ENTRY),*];
    };
}

registry! {
    constant,
    step,
    exponential,
    cosine,
    cosine_with_restarts,
    linear,
    polynomial,
    one_cycle,
    inverse_square_root,
    reduce_on_plateau,
    warmup_stable_decay,
}

/// How the learning rate goes over a run.
pub trait Schedule: Send {
    /// The factor on the base learning rate at `step`, counted from 0 at the end of the warm-up. Finite, never negative.
    fn factor(&self, step: u64) -> f64;

    /// Takes note of a validation's figure. Only schedules that follow it do anything.
    fn observe(&mut self, figure: f64, higher_is_better: bool) {
        let _ = (figure, higher_is_better);
    }

    /// What [`Schedule::restore`] needs to go on exactly; `null` where the step alone decides.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes back what [`Schedule::state`] gave.
    fn restore(&mut self, state: &Value) -> Result<(), serde_json::Error> {
        let _ = state;
        Ok(())
    }
}

/// What a schedule may know of the run when it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Optimiser steps after the warm-up, at least 1.
    pub steps: u64,
    /// Optimiser steps in one pass over the training side, at least 1.
    pub steps_per_epoch: u64,
    /// Optimiser steps of warm-up before step 0.
    pub warmup: u64,
}

/// In what a schedule counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Optimiser steps.
    Step,
    /// Passes over the training side; the factor changes at their ends.
    #[default]
    Epoch,
}

impl Unit {
    /// `step` counted in this unit, rounded down.
    fn count(self, step: u64, horizon: &Horizon) -> u64 {
        match self {
            Self::Step => step,
            Self::Epoch => step / horizon.steps_per_epoch.max(1),
        }
    }
}

/// From a schedule's keys and the run's length to the schedule.
pub type Build = fn(&Settings, Horizon) -> Result<Box<dyn Schedule>, SettingError>;

/// One schedule in the registry.
pub struct Entry {
    /// The name in recipes.
    pub name: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// Its keys with their defaults.
    pub defaults: fn() -> Settings,
    /// Builds it from its keys.
    pub build: Build,
}

/// The entry called `name`; an unknown name gives the nearest.
///
/// ```
/// assert_eq!(tidemill_train::schedules::find("cosine").unwrap().name, "cosine");
/// let error = tidemill_train::schedules::find("cosin").err().unwrap();
/// assert!(error.to_string().contains("`cosine`"));
/// ```
pub fn find(name: &str) -> Result<&'static Entry, SettingError> {
    ALL.iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| settings::unknown_name("schedule", name, ALL.iter().map(|entry| entry.name)))
}

/// The keys that every `[schedule]` takes beside those of the schedule itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupConfig {
    /// `warmup`: optimiser steps (a whole number) or a fraction of the run (below 1) in which the learning rate rises
    /// linearly to its base. Default 0.
    pub warmup: f64,
    /// `warmup_start`: the factor at the first step of the warm-up, from 0 to 1. Default 0.
    pub warmup_start: f64,
}

impl WarmupConfig {
    /// Takes the two keys out of `settings`.
    fn take(settings: &mut Settings) -> Result<Self, SettingError> {
        let own: Settings = ["warmup", "warmup_start"]
            .iter()
            .filter_map(|key| settings.shift_remove(*key).map(|value| ((*key).to_owned(), value)))
            .collect();
        let config: Self = settings::parse(&own)?;
        let whole_or_fraction = config.warmup < 1.0 || config.warmup.fract() == 0.0;
        settings::require(
            config.warmup >= 0.0 && config.warmup.is_finite() && whole_or_fraction,
            "warmup",
            "must be a whole number of steps, or a fraction of the run from 0 to below 1",
        )?;
        settings::require((0.0..=1.0).contains(&config.warmup_start), "warmup_start", "must be from 0 to 1")?;
        Ok(config)
    }

    /// Steps of warm-up in a run of `total`.
    fn steps(&self, total: u64) -> u64 {
        let steps = if self.warmup < 1.0 { self.warmup * total as f64 } else { self.warmup };
        (steps.round() as u64).min(total)
    }
}

/// A schedule with its warm-up: the factor for every step of a run.
///
/// During the warm-up the factor rises linearly, `start + (1 - start) · step / warmup`, as in `transformers`; the schedule
/// itself starts counting when the warm-up ends and has the rest of the run as its length.
///
/// ```
/// use serde_json::json;
/// use tidemill_train::schedules::WithWarmup;
///
/// let settings = json!({"warmup": 10, "final_factor": 0.0});
/// let schedule = WithWarmup::build("linear", settings.as_object().unwrap(), 110, 50).unwrap();
/// assert_eq!(schedule.factor(5), 0.5);
/// assert_eq!(schedule.factor(10), 1.0);
/// assert_eq!(schedule.factor(60), 0.5);
/// ```
pub struct WithWarmup {
    schedule: Box<dyn Schedule>,
    warmup: u64,
    start: f64,
}

impl WithWarmup {
    /// The schedule `name` with `settings` (its own keys and the warm-up's) for a run of `steps` optimiser steps.
    pub fn build(name: &str, settings: &Settings, steps: u64, steps_per_epoch: u64) -> Result<Self, SettingError> {
        let entry = find(name)?;
        let mut own = settings.clone();
        let config = WarmupConfig::take(&mut own)?;
        let warmup = config.steps(steps);
        let horizon = Horizon { steps: (steps - warmup).max(1), steps_per_epoch: steps_per_epoch.max(1), warmup };
        let schedule = (entry.build)(&own, horizon)?;
        Ok(Self { schedule, warmup, start: config.warmup_start })
    }

    /// The factor on the base learning rate at `step` of the run, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        match step.checked_sub(self.warmup) {
            Some(after) => self.schedule.factor(after),
            None => self.start + (1.0 - self.start) * step as f64 / self.warmup as f64,
        }
    }

    /// See [`Schedule::observe`].
    pub fn observe(&mut self, figure: f64, higher_is_better: bool) {
        self.schedule.observe(figure, higher_is_better);
    }

    /// See [`Schedule::state`].
    pub fn state(&self) -> Value {
        self.schedule.state()
    }

    /// See [`Schedule::restore`].
    pub fn restore(&mut self, state: &Value) -> Result<(), serde_json::Error> {
        self.schedule.restore(state)
    }
}

/// `step / of`, from 0 to 1.
fn fraction(step: u64, of: u64) -> f64 {
    (step as f64 / of.max(1) as f64).min(1.0)
}

/// A final factor: from 0 to 1.
fn require_factor(value: f64, key: &str) -> Result<(), SettingError> {
    settings::require((0.0..=1.0).contains(&value), key, "must be from 0 to 1")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use serde_json::json;

    fn build(name: &str, settings: Value) -> Result<WithWarmup, SettingError> {
        WithWarmup::build(name, settings.as_object().unwrap(), 100, 10)
    }

    #[test]
    fn every_schedule_is_finite_and_not_negative_over_a_run_and_beyond() {
        for entry in ALL {
            let schedule = build(entry.name, json!({"warmup": 0.1})).unwrap();
            for step in 0..250 {
                let factor = schedule.factor(step);
                assert!(factor.is_finite() && factor >= 0.0, "{} at {step}: {factor}", entry.name);
            }
        }
    }

    #[test]
    fn a_warmup_by_fraction_and_by_steps_are_the_same() {
        let fraction = build("cosine", json!({"warmup": 0.25})).unwrap();
        let steps = build("cosine", json!({"warmup": 25})).unwrap();
        for step in 0..100 {
            assert_eq!(fraction.factor(step), steps.factor(step));
        }
    }

    #[test]
    fn a_warmup_as_long_as_the_run_still_builds() {
        let schedule = build("cosine", json!({"warmup": 500})).unwrap();
        assert_eq!(schedule.factor(50), 0.5);
    }

    #[test]
    fn wrong_keys_are_named() {
        let error = build("cosine", json!({"final_facto": 0.5})).err().unwrap();
        assert!(error.to_string().contains("did you mean `final_factor`?"), "{error}");
        assert_eq!(build("cosine", json!({"warmup": -1})).err().unwrap().key, "warmup");
        assert_eq!(build("cosine", json!({"warmup": 1.5})).err().unwrap().key, "warmup");
        assert_eq!(build("cosine", json!({"warmup_start": 2})).err().unwrap().key, "warmup_start");
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
