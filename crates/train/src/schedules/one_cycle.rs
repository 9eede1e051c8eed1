//! Up to the base learning rate and down far below where it began, within one run.
//!
//! Smith and Topin 2019, "Super-Convergence", <https://arxiv.org/abs/1708.07120>, as `torch.optim.lr_scheduler.OneCycleLR`
//! has it in two phases. `[optimiser] learning_rate` is the peak. The momentum stays as it is (`cycle_momentum=False`).

use super::{Entry, Horizon, Schedule};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

pub(super) const ENTRY: Entry = Entry {
    name: "one_cycle",
    summary: "up to the base learning rate, then down far below the start",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require((0.0..1.0).contains(&config.rise), "rise", "must be a fraction of the run from 0 to below 1")?;
        require(
            config.start_divisor.is_finite() && config.start_divisor >= 1.0,
            "start_divisor",
            "must be at least 1",
        )?;
        require(
            config.final_divisor.is_finite() && config.final_divisor >= 1.0,
            "final_divisor",
            "must be at least 1",
        )?;
        Ok(Box::new(OneCycle { config, horizon }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The fraction of the run spent rising (`pct_start`). Default 0.3.
    rise: f64,
    /// The first learning rate is the peak divided by this (`div_factor`). Default 25.
    start_divisor: f64,
    /// The last learning rate is the first divided by this (`final_div_factor`). Default 10,000.
    final_divisor: f64,
    /// The shape of both phases. Default `cosine`.
    shape: Shape,
}

impl Default for Config {
    fn default() -> Self {
        Self { rise: 0.3, start_divisor: 25.0, final_divisor: 1e4, shape: Shape::Cosine }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Cosine,
    Linear,
}

impl Shape {
    fn between(self, start: f64, end: f64, fraction: f64) -> f64 {
        match self {
            Self::Cosine => end + (start - end) / 2.0 * (1.0 + (PI * fraction).cos()),
            Self::Linear => start + (end - start) * fraction,
        }
    }
}

struct OneCycle {
    config: Config,
    horizon: Horizon,
}

impl Schedule for OneCycle {
    fn factor(&self, step: u64) -> f64 {
        let start = 1.0 / self.config.start_divisor;
        let last = self.horizon.steps as f64 - 1.0;
        let peak = (self.config.rise * self.horizon.steps as f64 - 1.0).max(0.0);
        let at = (step as f64).min(last);
        if at < peak {
            self.config.shape.between(start, 1.0, at / peak)
        } else {
            let fraction = if last > peak { (at - peak) / (last - peak) } else { 0.0 };
            self.config.shape.between(1.0, start / self.config.final_divisor, fraction)
        }
    }
}
