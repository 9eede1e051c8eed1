//! Every architecture against PyTorch: stored weights, ids, logits and gradients, made by
//! `fixtures/make_architectures.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::{Device, Tensor};
use tidemill_model::{Parameters, TextInput, Weights, architectures};

struct Fixture {
    name: String,
    weights: Weights,
    config: Map<String, Value>,
    input: TextInput,
    logits: Tensor,
}

/// Every fixture in the folder; each architecture must have one.
fn fixtures() -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    let fixture = |file: PathBuf| {
        let weights = Weights::open(&file).unwrap();
        let tensor = |name: &str| weights.tensor(name, Device::Cpu).unwrap();
        let lengths: Vec<i64> = Vec::try_from(tensor("input.lengths")).unwrap();
        let padded = tensor("input.ids");
        let rows: Vec<Vec<u32>> = lengths
            .iter()
            .enumerate()
            .map(|(row, &length)| {
                let ids: Vec<i64> = Vec::try_from(padded.get(row as i64).narrow(0, 0, length)).unwrap();
                ids.into_iter().map(|id| id as u32).collect()
            })
            .collect();
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        Fixture {
            name: file.file_stem().unwrap().display().to_string(),
            config: serde_json::from_str(&weights.metadata()["config"]).unwrap(),
            input: TextInput::from_ids(&rows, 0, Device::Cpu).unwrap(),
            logits: tensor("output.logits"),
            weights,
        }
    };
    let fixtures: Vec<Fixture> = files.into_iter().map(fixture).collect();
    for architecture in architectures::ALL {
        let held = fixtures.iter().any(|fixture| fixture.config["model_type"] == architecture.name);
        assert!(held, "{} has no fixture: see make_architectures.py", architecture.name);
    }
    fixtures
}

fn largest_difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found - expected).abs().max().double_value(&[])
}

#[test]
fn inference_gives_the_logits_of_pytorch() {
    for fixture in fixtures() {
        let parameters = Parameters::stored(Box::new(fixture.weights.clone()), Device::Cpu);
        let model = architectures::build(&parameters.root(), &fixture.config).unwrap();
        // The second pass runs on weights that the first has packed.
        for pass in 0..2 {
            let logits = tch::no_grad(|| model.forward(&fixture.input, false).unwrap());
            let difference = largest_difference(&logits, &fixture.logits);
            assert!(difference <= 1e-5, "{}, pass {pass}: {difference}", fixture.name);
        }
        for name in parameters.unused(&fixture.weights) {
            let known = ["gradient.", "input.", "output."].iter().any(|start| name.starts_with(start));
            assert!(known, "{}: {name} is in PyTorch's model and not in ours", fixture.name);
        }
    }
}

#[test]
fn training_gives_the_logits_and_gradients_of_pytorch() {
    for fixture in fixtures() {
        let parameters = Parameters::new(0, Device::Cpu);
        let model = architectures::build(&parameters.root(), &fixture.config).unwrap();
        for (name, mut tensor) in parameters.named() {
            tch::no_grad(|| tensor.copy_(&fixture.weights.tensor(&name, Device::Cpu).unwrap()));
        }
        let logits = model.forward(&fixture.input, false).unwrap();
        let difference = largest_difference(&logits, &fixture.logits);
        assert!(difference <= 1e-5, "{}: {difference}", fixture.name);

        let targets: Vec<i64> = (0..fixture.input.batch()).map(|row| row % 3).collect();
        logits.cross_entropy_for_logits(&Tensor::from_slice(&targets)).backward();
        for (name, tensor) in parameters.trainable() {
            let expected = fixture.weights.tensor(&format!("gradient.{name}"), Device::Cpu).unwrap();
            let difference = largest_difference(&tensor.grad(), &expected);
            assert!(difference <= 1e-5, "{}: gradient of {name}: {difference}", fixture.name);
        }
    }
}
