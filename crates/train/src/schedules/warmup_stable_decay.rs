//! Stays at the base learning rate and falls in the last part of the run.
//!
//! Hu et al. 2024, "MiniCPM", <https://arxiv.org/abs/2404.06395>, section 4: `get_wsd_schedule` of `transformers`.

use super::{Entry, Horizon, Schedule, require_factor};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

pub(super) const ENTRY: Entry = Entry {
    name: "warmup_stable_decay",
    summary: "stays at the base learning rate, then falls in the last part of the run",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require(
            (0.0..=1.0).contains(&config.decay),
            "decay",
            "must be a fraction of the run after the warm-up, from 0 to 1",
        )?;
        require_factor(config.final_factor, "final_factor")?;
        Ok(Box::new(WarmupStableDecay { config, horizon }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The fraction of the run after the warm-up that is spent falling. Default 0.1.
    decay: f64,
    /// The factor at the end, from 0 to 1. Default 0.
    final_factor: f64,
    /// How it falls: `cosine` (default), `linear`, or `square_root` (one minus the root of the way).
    shape: Shape,
}

impl Default for Config {
    fn default() -> Self {
        Self { decay: 0.1, final_factor: 0.0, shape: Shape::Cosine }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Cosine,
    Linear,
    SquareRoot,
}

struct WarmupStableDecay {
    config: Config,
    horizon: Horizon,
}

impl Schedule for WarmupStableDecay {
    fn factor(&self, step: u64) -> f64 {
        let falling = (self.config.decay * self.horizon.steps as f64).round();
        let stable = self.horizon.steps as f64 - falling;
        if (step as f64) < stable {
            return 1.0;
        }
        let way = ((step as f64 - stable) / falling.max(1.0)).min(1.0);
        let left = match self.config.shape {
            Shape::Cosine => (1.0 + (PI * way).cos()) / 2.0,
            Shape::Linear => 1.0 - way,
            Shape::SquareRoot => 1.0 - way.sqrt(),
        };
        self.config.final_factor + (1.0 - self.config.final_factor) * left
    }
}
