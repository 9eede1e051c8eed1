//! RMSprop: `torch.optim.RMSprop`.
//!
//! Tieleman and Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning"; centred as in Graves 2013,
//! <https://arxiv.org/abs/1308.0850>. libtorch has no fused step for it: these are operations in place.

use super::{BuildError, Entry, Group, Optimiser, require_decay, require_not_negative};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

pub(super) const ENTRY: Entry = Entry {
    name: "rmsprop",
    summary: "the gradient over its root mean square (Tieleman and Hinton 2012)",
    defaults: settings::defaults::<Config>,
    build: |settings, groups| {
        let config: Config = settings::parse(settings)?;
        require_decay(config.alpha, "alpha")?;
        require_decay(config.momentum, "momentum")?;
        require_not_negative(config.weight_decay, "weight_decay")?;
        require(config.eps.is_finite() && config.eps > 0.0, "eps", "must be a number above 0")?;
        let member = |group| Member::new(group, &config);
        let groups = groups.into_iter().map(member).collect::<Result<_, _>>()?;
        Ok(Box::new(RmsProp { config, groups }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Decay of the mean square, from 0 to below 1. Default 0.99.
    alpha: f64,
    /// Added to the denominator, above 0. Default 1e-8.
    eps: f64,
    /// Momentum, from 0 to below 1. Default 0.
    momentum: f64,
    /// Divide by the standard deviation instead of the root mean square. Default false.
    centered: bool,
    /// Weight decay, added to the gradient. Default 0.
    weight_decay: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { alpha: 0.99, eps: 1e-8, momentum: 0.0, centered: false, weight_decay: 0.0 }
    }
}

struct Member {
    group: Group,
    mean_squares: Vec<Tensor>,
    momentums: Vec<Tensor>,
    means: Vec<Tensor>,
}

impl Member {
    fn new(group: Group, config: &Config) -> Result<Self, BuildError> {
        let zeros_if = |wanted: bool| {
            if wanted { group.zeros() } else { Ok(Vec::new()) }
        };
        Ok(Self {
            mean_squares: group.zeros()?,
            momentums: zeros_if(config.momentum > 0.0)?,
            means: zeros_if(config.centered)?,
            group,
        })
    }

    /// One parameter's update, in the order of operations of `torch.optim`.
    fn update(&self, member: usize, gradient: &Tensor, config: &Config, learning_rate: f64) -> Result<(), TchError> {
        let Some(mut weight) = self.group.parameters.get(member).map(|p| p.tensor.detach()) else {
            return Ok(());
        };
        let Some(mean_square) = self.mean_squares.get(member) else {
            return Ok(());
        };
        let mut mean_square = mean_square.shallow_clone();
        let decay = self.group.weight_decay(config.weight_decay);
        let gradient = match decay > 0.0 {
            true => gradient.f_add(&weight.f_mul_scalar(decay)?)?,
            false => gradient.shallow_clone(),
        };
        let scaled = gradient.f_mul_scalar(1.0 - config.alpha)?;
        let _ = mean_square.f_mul_scalar_(config.alpha)?.f_addcmul_(&scaled, &gradient)?;
        let mut denominator = match self.means.get(member) {
            Some(mean) => {
                let mut mean = mean.shallow_clone();
                let _ = mean.f_lerp_(&gradient, 1.0 - config.alpha)?;
                mean_square.f_sub(&mean.f_mul(&mean)?)?.f_sqrt_()?
            }
            None => mean_square.f_sqrt()?,
        };
        let _ = denominator.f_add_scalar_(config.eps)?;
        let mut update = gradient.f_div(&denominator)?;
        if let Some(momentum) = self.momentums.get(member) {
            let mut momentum = momentum.shallow_clone();
            update = momentum.f_mul_scalar_(config.momentum)?.f_add_(&update)?;
        }
        let _ = weight.f_sub_(&update.f_mul_scalar(learning_rate)?)?;
        Ok(())
    }
}

struct RmsProp {
    config: Config,
    groups: Vec<Member>,
}

impl Optimiser for RmsProp {
    fn step(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<(), TchError> {
        for group in &self.groups {
            let learning_rate = group.group.learning_rate(learning_rate);
            for (member, place) in group.group.places.iter().enumerate() {
                match gradients.get(*place) {
                    Some(gradient) if gradient.defined() => {
                        group.update(member, gradient, &self.config, learning_rate)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let of = |member: &Member| {
            let group = &member.group;
            [
                group.named("mean_square", &member.mean_squares),
                group.named("momentum", &member.momentums),
                group.named("mean", &member.means),
            ]
        };
        self.groups.iter().flat_map(of).flatten().collect()
    }
}
