//! Adagrad: `torch.optim.Adagrad`.
//!
//! Duchi, Hazan and Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization".

use super::{Entry, Group, Optimiser, pick, require_not_negative};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};
use tidemill_torch::fused;

pub(super) const ENTRY: Entry = Entry {
    name: "adagrad",
    summary: "a rate for each weight by its squared gradients so far (Duchi et al. 2011)",
    defaults: settings::defaults::<Config>,
    build: |settings, groups| {
        let config: Config = settings::parse(settings)?;
        require_not_negative(config.learning_rate_decay, "learning_rate_decay")?;
        require_not_negative(config.initial_accumulator, "initial_accumulator")?;
        require_not_negative(config.weight_decay, "weight_decay")?;
        require(config.eps.is_finite() && config.eps > 0.0, "eps", "must be a number above 0")?;
        let member = |group: Group| -> Result<Member, TchError> {
            let sums = group.filled(config.initial_accumulator)?;
            Ok(Member { sums, steps: group.counters()?, group })
        };
        let groups = groups.into_iter().map(member).collect::<Result<_, _>>()?;
        Ok(Box::new(AdagradOptimiser { config, groups }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The learning rate at step t is divided by `1 + (t - 1) · learning_rate_decay`. Default 0.
    learning_rate_decay: f64,
    /// What the sums of squares start at. Default 0.
    initial_accumulator: f64,
    /// Added to the denominator, above 0. Default 1e-10.
    eps: f64,
    /// Weight decay, added to the gradient. Default 0.
    weight_decay: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { learning_rate_decay: 0.0, initial_accumulator: 0.0, eps: 1e-10, weight_decay: 0.0 }
    }
}

struct Member {
    group: Group,
    sums: Vec<Tensor>,
    steps: Vec<Tensor>,
}

struct AdagradOptimiser {
    config: Config,
    groups: Vec<Member>,
}

impl Optimiser for AdagradOptimiser {
    fn step(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<(), TchError> {
        for Member { group, sums, steps } in &self.groups {
            let present = group.present(gradients);
            if present.is_empty() {
                continue;
            }
            let options = fused::Adagrad {
                learning_rate: group.learning_rate(learning_rate),
                learning_rate_decay: self.config.learning_rate_decay,
                weight_decay: group.weight_decay(self.config.weight_decay),
                eps: self.config.eps,
            };
            fused::adagrad(
                &group.tensors(&present),
                &group.gradients(&present, gradients),
                &pick(sums, &present),
                &pick(steps, &present),
                options,
            )?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let of = |Member { group, sums, steps }: &Member| [group.named("sum", sums), group.named("step", steps)];
        self.groups.iter().flat_map(of).flatten().collect()
    }
}
