//! Adam: `torch.optim.Adam`.
//!
//! Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>. Weight decay is added to the gradient; [`super::adamw`] takes it
//! from the weight.

use super::{BuildError, Entry, Group, Optimiser, pick, require_decay, require_not_negative};
use crate::settings::{self, SettingError, require};
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};
use tidemill_torch::fused;

pub(super) const ENTRY: Entry = Entry {
    name: "adam",
    summary: "adaptive moments (Kingma and Ba 2015)",
    defaults: settings::defaults::<Config>,
    build: |settings, groups| {
        let config: Config = settings::parse(settings)?;
        let rates = Rates { beta1: config.beta1, beta2: config.beta2, eps: config.eps };
        rates.check()?;
        require_not_negative(config.weight_decay, "weight_decay")?;
        Ok(Box::new(Moments::new(rates, config.weight_decay, false, groups)?))
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
    /// Weight decay, added to the gradient. Default 0.
    weight_decay: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The constants that Adam and AdamW share.
pub(super) struct Rates {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
}

impl Rates {
    pub(super) fn check(&self) -> Result<(), SettingError> {
        require_decay(self.beta1, "beta1")?;
        require_decay(self.beta2, "beta2")?;
        require(self.eps.is_finite() && self.eps > 0.0, "eps", "must be a number above 0")
    }
}

struct Member {
    group: Group,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

/// Adam, and AdamW where `decoupled`.
pub(super) struct Moments {
    rates: Rates,
    weight_decay: f64,
    decoupled: bool,
    groups: Vec<Member>,
}

impl Moments {
    pub(super) fn new(
        rates: Rates,
        weight_decay: f64,
        decoupled: bool,
        groups: Vec<Group>,
    ) -> Result<Self, BuildError> {
        let member = |group: Group| -> Result<Member, TchError> {
            Ok(Member { exp_avgs: group.zeros()?, exp_avg_sqs: group.zeros()?, steps: group.counters()?, group })
        };
        let groups = groups.into_iter().map(member).collect::<Result<_, _>>()?;
        Ok(Self { rates, weight_decay, decoupled, groups })
    }
}

impl Optimiser for Moments {
    fn step(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<(), TchError> {
        for member in &self.groups {
            let present = member.group.present(gradients);
            if present.is_empty() {
                continue;
            }
            let options = fused::Adam {
                learning_rate: member.group.learning_rate(learning_rate),
                beta1: self.rates.beta1,
                beta2: self.rates.beta2,
                eps: self.rates.eps,
                weight_decay: member.group.weight_decay(self.weight_decay),
                decoupled: self.decoupled,
            };
            fused::adam(
                &member.group.tensors(&present),
                &member.group.gradients(&present, gradients),
                &pick(&member.exp_avgs, &present),
                &pick(&member.exp_avg_sqs, &present),
                &pick(&member.steps, &present),
                options,
            )?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let of = |Member { group, exp_avgs, exp_avg_sqs, steps }: &Member| {
            [group.named("exp_avg", exp_avgs), group.named("exp_avg_sq", exp_avg_sqs), group.named("step", steps)]
        };
        self.groups.iter().flat_map(of).flatten().collect()
    }
}
