//! Half a cosine from the base learning rate down to its final factor at the end of the run.
//!
//! Loshchilov and Hutter 2017, "SGDR", <https://arxiv.org/abs/1608.03983>, equation 5 without restarts:
//! `torch.optim.lr_scheduler.CosineAnnealingLR`, and with a warm-up `get_cosine_schedule_with_warmup` of `transformers`.

use super::{Entry, Horizon, Schedule, fraction, require_factor};
use crate::settings;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

pub(super) const ENTRY: Entry = Entry {
    name: "cosine",
    summary: "half a cosine down to the final factor at the end of the run",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require_factor(config.final_factor, "final_factor")?;
        Ok(Box::new(Cosine { config, horizon }))
    },
};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The factor at the end, from 0 to 1. Default 0.
    final_factor: f64,
}

struct Cosine {
    config: Config,
    horizon: Horizon,
}

impl Schedule for Cosine {
    fn factor(&self, step: u64) -> f64 {
        let low = self.config.final_factor;
        low + (1.0 - low) * (1.0 + (PI * fraction(step, self.horizon.steps)).cos()) / 2.0
    }
}
