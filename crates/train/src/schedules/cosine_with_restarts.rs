//! Half a cosine down, again and again, each period longer than the last by `multiplier`.
//!
//! Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts",
//! <https://arxiv.org/abs/1608.03983>: `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`.

use super::{Entry, Horizon, Schedule, Unit, require_factor};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

pub(super) const ENTRY: Entry = Entry {
    name: "cosine_with_restarts",
    summary: "half a cosine down, restarted after each period",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require(config.period > 0, "period", "must be at least 1")?;
        require(config.multiplier > 0, "multiplier", "must be at least 1")?;
        require_factor(config.final_factor, "final_factor")?;
        Ok(Box::new(CosineWithRestarts { config, horizon }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Length of the first period, in `unit`. Default 1.
    period: u64,
    /// How many times longer each period is than the one before it. Default 2.
    multiplier: u64,
    /// The factor at the end of a period, from 0 to 1. Default 0.
    final_factor: f64,
    /// What `period` counts: `epoch` (default) or `step`. The factor moves at every step in both.
    unit: Unit,
}

impl Default for Config {
    fn default() -> Self {
        Self { period: 1, multiplier: 2, final_factor: 0.0, unit: Unit::Epoch }
    }
}

struct CosineWithRestarts {
    config: Config,
    horizon: Horizon,
}

impl Schedule for CosineWithRestarts {
    fn factor(&self, step: u64) -> f64 {
        let unit = match self.config.unit {
            Unit::Step => 1,
            Unit::Epoch => self.horizon.steps_per_epoch,
        };
        let mut period = self.config.period.saturating_mul(unit).max(1);
        let mut within = step;
        if self.config.multiplier == 1 {
            within %= period;
        }
        while within >= period {
            within -= period;
            period = period.saturating_mul(self.config.multiplier);
        }
        let low = self.config.final_factor;
        low + (1.0 - low) * (1.0 + (PI * within as f64 / period as f64).cos()) / 2.0
    }
}
