//! A straight line from the base learning rate to its final factor at the end of the run.
//!
//! `torch.optim.lr_scheduler.LinearLR` from 1, and with a warm-up `get_linear_schedule_with_warmup` of `transformers`.

use super::{Entry, Horizon, Schedule, fraction, require_factor};
use crate::settings;
use serde::{Deserialize, Serialize};

pub(super) const ENTRY: Entry = Entry {
    name: "linear",
    summary: "a straight line to the final factor at the end of the run",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require_factor(config.final_factor, "final_factor")?;
        Ok(Box::new(Linear { config, horizon }))
    },
};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The factor at the end, from 0 to 1. Default 0.
    final_factor: f64,
}

struct Linear {
    config: Config,
    horizon: Horizon,
}

impl Schedule for Linear {
    fn factor(&self, step: u64) -> f64 {
        1.0 - (1.0 - self.config.final_factor) * fraction(step, self.horizon.steps)
    }
}
