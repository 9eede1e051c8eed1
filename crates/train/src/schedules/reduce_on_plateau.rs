//! Lowers the learning rate when the validation's figure has not improved for a while.
//!
//! `torch.optim.lr_scheduler.ReduceLROnPlateau`, followed by validations instead of epochs. The figure is the one that
//! chooses the best checkpoint (`[training] select`).

use super::{Entry, Schedule, require_factor};
use crate::settings::{self, require};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) const ENTRY: Entry = Entry {
    name: "reduce_on_plateau",
    summary: "falls by a factor when validations stop improving",
    defaults: settings::defaults::<Config>,
    build: |settings, _| {
        let config: Config = settings::parse(settings)?;
        require(config.gamma > 0.0 && config.gamma < 1.0, "gamma", "must be above 0 and below 1")?;
        require(config.threshold.is_finite() && config.threshold >= 0.0, "threshold", "must be 0 or more")?;
        require_factor(config.final_factor, "final_factor")?;
        Ok(Box::new(ReduceOnPlateau { config, state: State::default() }))
    },
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The factor of one fall (`factor`). Default 0.1.
    gamma: f64,
    /// Validations without improvement that are let pass before a fall. Default 10.
    patience: u64,
    /// What counts as an improvement, by `threshold_mode`. Default 0.0001.
    threshold: f64,
    /// `relative` to the best figure (default) or `absolute`.
    threshold_mode: ThresholdMode,
    /// Validations after a fall in which none is counted. Default 0.
    cooldown: u64,
    /// The factor never goes below this. Default 0.
    final_factor: f64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ThresholdMode {
    Relative,
    Absolute,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            gamma: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::Relative,
            cooldown: 0,
            final_factor: 0.0,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    factor: f64,
    best: Option<f64>,
    bad: u64,
    cooldown: u64,
}

impl Default for State {
    fn default() -> Self {
        Self { factor: 1.0, best: None, bad: 0, cooldown: 0 }
    }
}

struct ReduceOnPlateau {
    config: Config,
    state: State,
}

impl ReduceOnPlateau {
    fn improves(&self, figure: f64, higher_is_better: bool) -> bool {
        let Some(best) = self.state.best else {
            return true;
        };
        let threshold = self.config.threshold;
        match (self.config.threshold_mode, higher_is_better) {
            (ThresholdMode::Relative, true) => figure > best * (1.0 + threshold),
            (ThresholdMode::Relative, false) => figure < best * (1.0 - threshold),
            (ThresholdMode::Absolute, true) => figure > best + threshold,
            (ThresholdMode::Absolute, false) => figure < best - threshold,
        }
    }
}

impl Schedule for ReduceOnPlateau {
    fn factor(&self, _: u64) -> f64 {
        self.state.factor
    }

    fn observe(&mut self, figure: f64, higher_is_better: bool) {
        if self.improves(figure, higher_is_better) {
            self.state.best = Some(figure);
            self.state.bad = 0;
        } else {
            self.state.bad += 1;
        }
        if self.state.cooldown > 0 {
            self.state.cooldown -= 1;
            self.state.bad = 0;
        }
        if self.state.bad > self.config.patience {
            let lowered = self.state.factor * self.config.gamma;
            self.state.factor = lowered.max(self.config.final_factor);
            self.state.cooldown = self.config.cooldown;
            self.state.bad = 0;
        }
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.state).unwrap_or_default()
    }

    fn restore(&mut self, state: &Value) -> Result<(), serde_json::Error> {
        self.state = serde_json::from_value(Value::clone(state))?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::schedules::Horizon;
    use serde_json::json;

    fn build() -> Box<dyn Schedule> {
        let settings = json!({"gamma": 0.5, "patience": 1, "threshold": 0.0});
        let horizon = Horizon { steps: 100, steps_per_epoch: 10, warmup: 0 };
        (ENTRY.build)(settings.as_object().unwrap(), horizon).unwrap()
    }

    #[test]
    fn it_falls_after_patience_and_goes_on_from_its_state() {
        let figures = [0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6];
        let mut whole = build();
        let mut factors = Vec::new();
        for figure in figures {
            whole.observe(figure, true);
            factors.push(whole.factor(0));
        }
        assert_eq!(factors, [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]);

        let mut first = build();
        figures[..4].iter().for_each(|figure| first.observe(*figure, true));
        let mut second = build();
        second.restore(&first.state()).unwrap();
        figures[4..].iter().for_each(|figure| second.observe(*figure, true));
        assert_eq!(second.factor(0), whole.factor(0));
    }
}
