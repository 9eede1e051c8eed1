//! Stochastic gradient descent with momentum and Nesterov's momentum: `torch.optim.SGD`.
//!
//! Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".

use super::{BuildError, Entry, Group, Optimiser, pick, require_decay, require_not_negative};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};
use tidemill_torch::fused;

pub(super) const ENTRY: Entry = Entry {
    name: "sgd",
    summary: "stochastic gradient descent, with momentum or Nesterov's",
    defaults: settings::defaults::<Config>,
    build: |settings, groups| {
        let config: Config = settings::parse(settings)?;
        require_decay(config.momentum, "momentum")?;
        require_not_negative(config.weight_decay, "weight_decay")?;
        require(!config.nesterov || config.momentum > 0.0, "nesterov", "needs a `momentum`")?;
        let groups = groups.into_iter().map(Member::new).collect::<Result<_, _>>()?;
        Ok(Box::new(SgdOptimiser { config, groups }))
    },
};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Momentum, from 0 to below 1. Default 0.
    momentum: f64,
    /// Nesterov's momentum. Default false.
    nesterov: bool,
    /// Weight decay, added to the gradient. Default 0.
    weight_decay: f64,
}

struct Member {
    group: Group,
    momentums: Vec<Tensor>,
}

impl Member {
    fn new(group: Group) -> Result<Self, BuildError> {
        Ok(Self { momentums: group.zeros()?, group })
    }
}

struct SgdOptimiser {
    config: Config,
    groups: Vec<Member>,
}

impl Optimiser for SgdOptimiser {
    fn step(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<(), TchError> {
        for Member { group, momentums } in &self.groups {
            let present = group.present(gradients);
            if present.is_empty() {
                continue;
            }
            let options = fused::Sgd {
                learning_rate: group.learning_rate(learning_rate),
                momentum: self.config.momentum,
                dampening: 0.0,
                nesterov: self.config.nesterov,
                weight_decay: group.weight_decay(self.config.weight_decay),
            };
            let buffers = match self.config.momentum > 0.0 {
                true => pick(momentums, &present),
                false => Vec::new(),
            };
            // A buffer of zeros gives the first step of torch's too, as nothing is dampened.
            fused::sgd(&group.tensors(&present), &group.gradients(&present, gradients), &buffers, false, options)?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let named = |member: &Member| member.group.named("momentum", &member.momentums);
        match self.config.momentum > 0.0 {
            true => self.groups.iter().flat_map(named).collect(),
            false => Vec::new(),
        }
    }
}
