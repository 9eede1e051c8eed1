//! Multiplies the learning rate by `gamma` every epoch or step: `torch.optim.lr_scheduler.ExponentialLR`.

use super::{Entry, Horizon, Schedule, Unit};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};

pub(super) const ENTRY: Entry = Entry {
    name: "exponential",
    summary: "falls by a factor every epoch or step",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require((0.0..=1.0).contains(&config.gamma), "gamma", "must be from 0 to 1")?;
        Ok(Box::new(Exponential { config, horizon }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The factor of one fall. Default 0.9.
    gamma: f64,
    /// How often it falls: every `epoch` (default) or every `step`.
    unit: Unit,
}

impl Default for Config {
    fn default() -> Self {
        Self { gamma: 0.9, unit: Unit::Epoch }
    }
}

struct Exponential {
    config: Config,
    horizon: Horizon,
}

impl Schedule for Exponential {
    fn factor(&self, step: u64) -> f64 {
        self.config.gamma.powf(self.config.unit.count(step, &self.horizon) as f64)
    }
}
