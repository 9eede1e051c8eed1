//! Every schedule against `torch.optim.lr_scheduler` or `transformers`, by `fixtures/make_schedules.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde::Deserialize;
use tidemill_train::schedules::{ALL, WithWarmup};
use tidemill_train::settings::Settings;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    settings: Settings,
    steps: u64,
    steps_per_epoch: u64,
    #[serde(default)]
    figures: Vec<f64>,
    #[serde(default)]
    higher_is_better: bool,
    factors: Vec<f64>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("fixtures/schedules.json")).unwrap()
}

#[test]
fn every_schedule_is_that_of_torch_or_transformers() {
    for case in cases() {
        let Case { name, settings, steps, steps_per_epoch, .. } = &case;
        let mut schedule = WithWarmup::build(name, settings, *steps, *steps_per_epoch).unwrap();
        for (step, expected) in case.factors.iter().enumerate() {
            let factor = schedule.factor(step as u64);
            let message = format!("{name} {settings:?}, step {step}: {factor}, not {expected}");
            assert!((factor - expected).abs() < 1e-9, "{message}");
            if let Some(figure) = case.figures.get(step) {
                schedule.observe(*figure, case.higher_is_better);
            }
        }
    }
}

#[test]
fn every_schedule_has_a_fixture() {
    for entry in ALL {
        assert!(cases().iter().any(|case| case.name == entry.name), "{} has none", entry.name);
    }
}
