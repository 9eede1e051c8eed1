//! Adam with decoupled weight decay: `torch.optim.AdamW`.
//!
//! Loshchilov and Hutter 2019, <https://arxiv.org/abs/1711.05101>.

use super::adam::{Moments, Rates};
use super::{Entry, require_not_negative};
use crate::settings;
use serde::{Deserialize, Serialize};

pub(super) const ENTRY: Entry = Entry {
    name: "adamw",
    summary: "Adam with decoupled weight decay (Loshchilov and Hutter 2019)",
    defaults: settings::defaults::<Config>,
    build: |settings, groups| {
        let config: Config = settings::parse(settings)?;
        let rates = Rates { beta1: config.beta1, beta2: config.beta2, eps: config.eps };
        rates.check()?;
        require_not_negative(config.weight_decay, "weight_decay")?;
        Ok(Box::new(Moments::new(rates, config.weight_decay, true, groups)?))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Decay of the gradient's mean, from 0 to below 1. Default 0.9.
    beta1: f64,
    /// Decay of the gradient's mean square, from 0 to below 1. Default 0.999.
    beta2: f64,
    /// Added to the denominator, above 0. Default 1e-8.
    eps: f64,
    /// Weight decay, taken from the weight times the learning rate. Default 0.01.
    weight_decay: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}
