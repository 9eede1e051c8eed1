//! Every optimiser against `torch.optim`, by `fixtures/make_optimisers.py`; its state saved and restored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use tidemill_train::optimisers::{self, ALL, Optimiser, Parameter};
use tidemill_train::settings::Settings;

#[derive(Deserialize)]
struct Fixture {
    learning_rate: f64,
    weight: Vec<f32>,
    bias: Vec<f32>,
    gradients: Vec<(Vec<f32>, Option<Vec<f32>>)>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    settings: Settings,
    after: Vec<(Vec<f32>, Vec<f32>)>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/optimisers.json")).unwrap()
}

struct Run {
    weight: Tensor,
    bias: Tensor,
    optimiser: Box<dyn Optimiser>,
}

impl Run {
    fn new(fixture: &Fixture, case: &Case) -> Self {
        let weight = Tensor::from_slice(&fixture.weight).view([3, 2]).set_requires_grad(true);
        let bias = Tensor::from_slice(&fixture.bias).set_requires_grad(true);
        let parameter =
            |name: &str, tensor: &Tensor| Parameter { name: name.to_owned(), tensor: tensor.shallow_clone() };
        let parameters = vec![parameter("weight", &weight), parameter("bias", &bias)];
        let optimiser = optimisers::build(&case.name, &case.settings, parameters).unwrap();
        Self { weight, bias, optimiser }
    }

    fn step(&mut self, fixture: &Fixture, step: usize) {
        let (weight, bias) = &fixture.gradients[step];
        let weight = Tensor::from_slice(weight).view([3, 2]);
        let bias = bias.as_ref().map_or_else(Tensor::new, |bias| Tensor::from_slice(bias));
        tch::no_grad(|| self.optimiser.step(&[weight, bias], fixture.learning_rate)).unwrap();
    }

    fn values(&self) -> (Vec<f32>, Vec<f32>) {
        let values = |tensor: &Tensor| Vec::try_from(tensor.detach().flatten(0, -1)).unwrap();
        (values(&self.weight), values(&self.bias))
    }
}

#[test]
fn every_optimiser_makes_the_steps_of_torch() {
    let fixture = fixture();
    for case in &fixture.cases {
        let mut run = Run::new(&fixture, case);
        for (step, expected) in case.after.iter().enumerate() {
            run.step(&fixture, step);
            let (weight, bias) = run.values();
            let got = weight.iter().chain(&bias);
            for (got, expected) in got.zip(expected.0.iter().chain(&expected.1)) {
                let message = format!("{} {:?}, step {step}", case.name, case.settings);
                let tolerance = 2e-6 * expected.abs().max(1.0);
                assert!((got - expected).abs() <= tolerance, "{message}: {got} {expected}");
            }
        }
    }
}

#[test]
fn every_optimiser_goes_on_exactly_from_its_state() {
    let fixture = fixture();
    for case in &fixture.cases {
        let mut whole = Run::new(&fixture, case);
        let mut second = Run::new(&fixture, case);
        (0..5).for_each(|step| whole.step(&fixture, step));
        for ((name, mut to), (same, from)) in second.optimiser.state().into_iter().zip(whole.optimiser.state()) {
            assert_eq!(name, same);
            to.copy_(&from);
        }
        tch::no_grad(|| {
            second.weight.copy_(&whole.weight);
            second.bias.copy_(&whole.bias);
        });
        for step in 5..10 {
            whole.step(&fixture, step);
            second.step(&fixture, step);
        }
        assert_eq!(whole.values(), second.values(), "{} {:?}", case.name, case.settings);
    }
}

#[test]
fn every_optimiser_has_a_fixture() {
    for entry in ALL {
        assert!(fixture().cases.iter().any(|case| case.name == entry.name), "{}", entry.name);
    }
}

#[test]
fn wrong_keys_are_named() {
    let problem = |name: &str, settings: serde_json::Value| {
        optimisers::check(name, settings.as_object().unwrap()).unwrap_err().to_string()
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert!(problem("adamm", json("{}")).contains("did you mean `adam`?"));
    assert!(problem("adam", json(r#"{"beta": 0.9}"#)).contains("`beta1`"));
    assert!(problem("adam", json(r#"{"learning_rate": -1}"#)).starts_with("`learning_rate`"));
    assert!(problem("sgd", json(r#"{"nesterov": true}"#)).contains("needs a `momentum`"));
    assert!(problem("rmsprop", json(r#"{"alpha": 1.5}"#)).starts_with("`alpha`"));
}

#[test]
fn parts_of_a_model_learn_at_their_own_speed() {
    let parameter = |name: &str| Parameter {
        name: name.to_owned(),
        tensor: Tensor::zeros([2], (Kind::Float, Device::Cpu)).set_requires_grad(true),
    };
    let named = ["wide.weight", "wider.weight", "deep.0.weight", "deep.1.weight"];
    let parameters: Vec<Parameter> = named.map(parameter).into();
    let tensors: Vec<Tensor> = parameters.iter().map(|parameter| parameter.tensor.detach()).collect();
    let settings = serde_json::json!({"multipliers": {"wide": 2.0, "deep": 0.5, "deep.1": 0.0}});
    let mut sgd = optimisers::build("sgd", settings.as_object().unwrap(), parameters).unwrap();
    let gradients: Vec<Tensor> = named.map(|_| Tensor::ones([2], (Kind::Float, Device::Cpu))).into();
    sgd.step(&gradients, 1.0).unwrap();
    let moved: Vec<f64> = tensors.iter().map(|tensor| tensor.double_value(&[1])).collect();
    assert_eq!(moved, [-2.0, -1.0, -0.5, 0.0]);

    let settings = serde_json::json!({"multipliers": {"depth": 2.0}});
    let refused = optimisers::build("sgd", settings.as_object().unwrap(), vec![parameter("deep.weight")]);
    assert!(refused.err().unwrap().to_string().contains("`depth`"));
}
