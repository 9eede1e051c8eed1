//! `(1 - t)^power` from the base learning rate to its final factor at the end of the run.
//!
//! `torch.optim.lr_scheduler.PolynomialLR`, and with a final factor `get_polynomial_decay_schedule_with_warmup` of
//! `transformers`.

use super::{Entry, Horizon, Schedule, fraction, require_factor};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};

pub(super) const ENTRY: Entry = Entry {
    name: "polynomial",
    summary: "a power of what is left of the run, down to the final factor",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require(config.power.is_finite() && config.power > 0.0, "power", "must be a number above 0")?;
        require_factor(config.final_factor, "final_factor")?;
        Ok(Box::new(Polynomial { config, horizon }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The exponent, above 0. Default 2.
    power: f64,
    /// The factor at the end, from 0 to 1. Default 0.
    final_factor: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { power: 2.0, final_factor: 0.0 }
    }
}

struct Polynomial {
    config: Config,
    horizon: Horizon,
}

impl Schedule for Polynomial {
    fn factor(&self, step: u64) -> f64 {
        let left = 1.0 - fraction(step, self.horizon.steps);
        let low = self.config.final_factor;
        low + (1.0 - low) * left.powf(self.config.power)
    }
}
