//! Optimisers: a registry by name, one file each in `optimisers/`.
//!
//! Owns the update rule and its state, and the rule that weight decay leaves one-dimensional parameters (norms and
//! biases) alone. Knows nothing of losses, schedules or files: it is given gradients and a learning rate. The numbers are
//! those of `torch.optim`, checked in `tests/optimisers.rs`; the arithmetic is libtorch's fused kernels where it has them.

use crate::settings::{self, SettingError, Settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{TchError, Tensor};

/// Declares the files of `optimisers/` and lists their entries.
macro_rules! registry {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every optimiser, by the name that `[optimiser] name` takes.
        pub static ALL: &[Entry] = &[$($file::ENTRY),*];
    };
}

registry! {
    sgd,
    adam,
    adamw,
    rmsprop,
    adagrad,
}

/// Changes parameters by their gradients.
pub trait Optimiser: Send {
    /// One step. `gradients` stand in the order of the parameters; an undefined one leaves its parameter as it is.
    fn step(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<(), TchError>;

    /// Its state by name, `<parameter>.<slot>`, sharing memory: copying into these tensors restores it exactly.
    fn state(&self) -> Vec<(String, Tensor)>;
}

/// One parameter, as an optimiser takes it.
pub struct Parameter {
    /// Its name in the checkpoint.
    pub name: String,
    /// The tensor, shared with the model.
    pub tensor: Tensor,
}

/// Builds an optimiser from its settings for the given parameters.
pub type Build = fn(&Settings, Vec<Group>) -> Result<Box<dyn Optimiser>, BuildError>;

/// One optimiser in the registry.
pub struct Entry {
    /// The name in recipes.
    pub name: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// Its keys with their defaults.
    pub defaults: fn() -> Settings,
    /// Checks its keys and gives what builds it.
    pub build: Build,
}

/// Why an optimiser could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A key of the recipe.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Allocating its state.
    #[error("cannot allocate the optimiser's state: {0}")]
    Torch(#[from] TchError),
}

/// Parameters that are treated alike: with or without weight decay, and at one speed.
pub struct Group {
    parameters: Vec<Parameter>,
    /// The place of each in the list of gradients.
    places: Vec<usize>,
    decay: bool,
    /// What the learning rate is multiplied by.
    multiplier: f64,
}

/// The keys that every `[optimiser]` takes beside those of the optimiser itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommonConfig {
    /// `learning_rate`: the base, which the schedule multiplies. Default 0.001.
    pub learning_rate: f64,
    /// `decay_norms_and_biases`: whether weight decay touches one-dimensional parameters too. Default false.
    pub decay_norms_and_biases: bool,
    /// `multipliers`: the learning rate of a part of the model, over the base one, by the beginning of its parameters'
    /// names: `{ wide = 2.0 }`. The longest that fits counts. Default none.
    pub multipliers: BTreeMap<String, f64>,
}

impl Default for CommonConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3, decay_norms_and_biases: false, multipliers: BTreeMap::new() }
    }
}

impl CommonConfig {
    /// Takes the common keys out of `settings`, leaving the optimiser's own.
    pub fn take(settings: &mut Settings) -> Result<Self, SettingError> {
        let own: Settings = settings::defaults::<Self>()
            .keys()
            .filter_map(|key| settings.shift_remove(key).map(|value| (key.clone(), value)))
            .collect();
        let config: Self = settings::parse(&own)?;
        settings::require(
            config.learning_rate.is_finite() && config.learning_rate > 0.0,
            "learning_rate",
            "must be a number above 0",
        )?;
        let fine = |multiplier: &f64| multiplier.is_finite() && *multiplier >= 0.0;
        settings::require(config.multipliers.values().all(fine), "multipliers", "must be numbers of 0 or more")?;
        Ok(config)
    }

    fn multiplier(&self, name: &str) -> f64 {
        let begins = |part: &str| name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let fitting = self.multipliers.iter().filter(|(part, _)| begins(part));
        fitting.max_by_key(|(part, _)| part.len()).map_or(1.0, |(_, multiplier)| *multiplier)
    }
}

/// The entry called `name`; an unknown name gives the nearest.
///
/// ```
/// assert_eq!(tidemill_train::optimisers::find("adamw").unwrap().name, "adamw");
/// ```
pub fn find(name: &str) -> Result<&'static Entry, SettingError> {
    ALL.iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| settings::unknown_name("optimiser", name, ALL.iter().map(|entry| entry.name)))
}

/// The optimiser `name` over `parameters`, with `settings` (the common keys and its own).
///
/// ```
/// use serde_json::json;
/// use tch::{Device, Kind, Tensor};
/// use tidemill_train::optimisers::{self, Parameter};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let weight = Tensor::f_ones([2, 2], (Kind::Float, Device::Cpu))?.set_requires_grad(true);
/// let parameter = Parameter { name: "weight".into(), tensor: weight.shallow_clone() };
/// let settings = json!({"momentum": 0.9});
/// let mut sgd = optimisers::build("sgd", settings.as_object().unwrap(), vec![parameter])?;
/// let gradient = Tensor::f_ones([2, 2], (Kind::Float, Device::Cpu))?;
/// sgd.step(&[gradient], 0.1)?;
/// assert!((weight.double_value(&[0, 0]) - 0.9).abs() < 1e-6);
/// # Ok(()) }
/// ```
pub fn build(name: &str, settings: &Settings, parameters: Vec<Parameter>) -> Result<Box<dyn Optimiser>, BuildError> {
    let entry = find(name)?;
    let mut own = settings.clone();
    let common = CommonConfig::take(&mut own)?;
    let idle = |part: &&String| common.multiplier(part) > 0.0 && !parameters.iter().any(|p| p.name.starts_with(*part));
    if let Some(part) = common.multipliers.keys().find(idle).filter(|_| !parameters.is_empty()) {
        let problem = format!("names `{part}`, and no parameter of the model begins so");
        return Err(SettingError::new("multipliers", problem).into());
    }
    let mut groups: Vec<Group> = Vec::new();
    for (place, parameter) in parameters.into_iter().enumerate() {
        let decay = common.decay_norms_and_biases || parameter.tensor.dim() > 1;
        let multiplier = common.multiplier(&parameter.name);
        let alike = groups.iter().position(|group| group.decay == decay && group.multiplier == multiplier);
        let alike = alike.unwrap_or_else(|| {
            groups.push(Group { parameters: Vec::new(), places: Vec::new(), decay, multiplier });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(alike) {
            group.parameters.push(parameter);
            group.places.push(place);
        }
    }
    (entry.build)(&own, groups)
}

/// Checks the keys of `[optimiser]` without building anything.
pub fn check(name: &str, settings: &Settings) -> Result<CommonConfig, SettingError> {
    match build(name, settings, Vec::new()) {
        Err(BuildError::Setting(error)) => Err(error),
        _ => CommonConfig::take(&mut settings.clone()),
    }
}

impl Group {
    /// `decay` for the parameters that take it, 0 for the others.
    fn weight_decay(&self, decay: f64) -> f64 {
        if self.decay { decay } else { 0.0 }
    }

    /// The group's learning rate.
    fn learning_rate(&self, base: f64) -> f64 {
        base * self.multiplier
    }

    /// A tensor of zeros in the shape of each parameter.
    fn zeros(&self) -> Result<Vec<Tensor>, TchError> {
        self.filled(0.0)
    }

    /// A tensor of `value` in the shape of each parameter.
    fn filled(&self, value: f64) -> Result<Vec<Tensor>, TchError> {
        let like = |parameter: &Parameter| parameter.tensor.f_detach()?.f_full_like(value);
        self.parameters.iter().map(like).collect()
    }

    /// A float32 scalar for each parameter, as the fused kernels count steps.
    fn counters(&self) -> Result<Vec<Tensor>, TchError> {
        let scalar = |parameter: &Parameter| Tensor::f_zeros([], (tch::Kind::Float, parameter.tensor.device()));
        self.parameters.iter().map(scalar).collect()
    }

    /// Which members have a gradient, by their place within the group.
    fn present(&self, gradients: &[Tensor]) -> Vec<usize> {
        let has = |place: &usize| gradients.get(*place).is_some_and(Tensor::defined);
        (0..self.places.len()).filter(|member| self.places.get(*member).is_some_and(has)).collect()
    }

    /// The gradients of `members`.
    fn gradients(&self, members: &[usize], gradients: &[Tensor]) -> Vec<Tensor> {
        let of = |member: &usize| gradients.get(*self.places.get(*member)?);
        members.iter().filter_map(of).map(Tensor::shallow_clone).collect()
    }

    /// The parameters of `members`, cut from the graph.
    fn tensors(&self, members: &[usize]) -> Vec<Tensor> {
        let of = |member: &usize| self.parameters.get(*member).map(|p| p.tensor.detach());
        members.iter().filter_map(of).collect()
    }

    /// `slot` of every member, by name.
    fn named(&self, slot: &str, tensors: &[Tensor]) -> Vec<(String, Tensor)> {
        self.parameters
            .iter()
            .zip(tensors)
            .map(move |(parameter, tensor)| (format!("{}.{slot}", parameter.name), tensor.shallow_clone()))
            .collect()
    }
}

/// The tensors of `members`, sharing memory.
fn pick(tensors: &[Tensor], members: &[usize]) -> Vec<Tensor> {
    members.iter().filter_map(|member| tensors.get(*member)).map(Tensor::shallow_clone).collect()
}

/// Requires a number of 0 or more.
fn require_not_negative(value: f64, key: &str) -> Result<(), SettingError> {
    settings::require(value.is_finite() && value >= 0.0, key, "must be 0 or more")
}

/// Requires a decay: from 0 to below 1.
fn require_decay(value: f64, key: &str) -> Result<(), SettingError> {
    settings::require((0.0..1.0).contains(&value), key, "must be from 0 to below 1")
}
