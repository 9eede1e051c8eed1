//! Falls as one over the square root of the step.
//!
//! Vaswani et al. 2017, "Attention Is All You Need", <https://arxiv.org/abs/1706.03762>, section 5.3, as
//! `get_inverse_sqrt_schedule` of `transformers` has it: after the warm-up the factor is `sqrt(timescale / (timescale + t))`.

use super::{Entry, Schedule};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};

pub(super) const ENTRY: Entry = Entry {
    name: "inverse_square_root",
    summary: "falls as one over the square root of the step",
    defaults: settings::defaults::<Config>,
    build: |settings, horizon| {
        let config: Config = settings::parse(settings)?;
        require(config.timescale != Some(0), "timescale", "must be at least 1")?;
        let by_warmup = if horizon.warmup > 0 { horizon.warmup } else { 10_000 };
        Ok(Box::new(InverseSquareRoot { timescale: config.timescale.unwrap_or(by_warmup) }))
    },
};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Steps after which the factor is `1 / sqrt(2)`. Default: the warm-up's length, or 10,000 without a warm-up.
    timescale: Option<u64>,
}

struct InverseSquareRoot {
    timescale: u64,
}

impl Schedule for InverseSquareRoot {
    fn factor(&self, step: u64) -> f64 {
        let timescale = self.timescale as f64;
        (timescale / (timescale + step as f64)).sqrt()
    }
}
