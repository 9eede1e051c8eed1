//! Multiplies the learning rate by `gamma` every `size` epochs or steps: `torch.optim.lr_scheduler.StepLR`.

use super::{Entry, Horizon, Schedule, Unit};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};

pub(super) const ENTRY: Entry = Entry {
    name: "step",
    summary: "falls by a factor every few epochs or steps",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require(config.size > 0, "size", "must be at least 1")?;
        require((0.0..=1.0).contains(&config.gamma), "gamma", "must be from 0 to 1")?;
        Ok(Box::new(Step { config, horizon }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Epochs or steps between two falls. Default 1.
    size: u64,
    /// The factor of one fall. Default 0.1.
    gamma: f64,
    /// What `size` counts: `epoch` (default) or `step`.
    unit: Unit,
}

impl Default for Config {
    fn default() -> Self {
        Self { size: 1, gamma: 0.1, unit: Unit::Epoch }
    }
}

struct Step {
    config: Config,
    horizon: Horizon,
}

impl Schedule for Step {
    fn factor(&self, step: u64) -> f64 {
        let falls = self.config.unit.count(step, &self.horizon) / self.config.size;
        self.config.gamma.powf(falls as f64)
    }
}
