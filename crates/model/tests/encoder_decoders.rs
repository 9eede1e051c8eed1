//! Every encoder-decoder against transformers: checkpoints, sources of unequal lengths and what transformers says of them,
//! made by `fixtures/make_encoder_decoders.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::{Device, Tensor};
use tidemill_model::encoder_decoders::{self, EncoderDecoder, TargetStep, Targets};
use tidemill_model::{Parameters, Weights};

struct Fixture {
    name: String,
    config: Map<String, Value>,
    model: Box<dyn EncoderDecoder>,
    unused: Vec<String>,
    sources: Vec<Vec<u32>>,
    targets: Vec<Vec<u32>>,
    logits: Tensor,
}

fn rows(ids: &Tensor) -> Vec<Vec<u32>> {
    let row = |i| Vec::<i64>::try_from(ids.get(i)).unwrap().into_iter().map(|id| id as u32).collect();
    (0..ids.size()[0]).map(row).collect()
}

fn read(folder: PathBuf) -> Fixture {
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Map<String, Value> = serde_json::from_str(&config).unwrap();
    let weights = Weights::open(&folder.join("model.safetensors")).unwrap();
    let parameters = Parameters::mapped(Box::new(weights.clone()), Device::Cpu);
    let model = encoder_decoders::build(&parameters.root(), &config, 64).unwrap();
    let expected = Weights::open(&folder.join("expected.safetensors")).unwrap();
    let tensor = |name: &str| expected.tensor(name, Device::Cpu).unwrap();
    let lengths = Vec::<i64>::try_from(tensor("mask").sum_dim_intlist(1, false, None)).unwrap();
    let mut sources = rows(&tensor("sources"));
    for (source, length) in sources.iter_mut().zip(lengths) {
        source.truncate(length as usize);
    }
    Fixture {
        name: folder.file_name().unwrap().display().to_string(),
        config,
        model,
        unused: parameters.unused(&weights),
        sources,
        targets: rows(&tensor("targets")),
        logits: tensor("logits"),
    }
}

/// Every fixture in the folder; each architecture must have one.
fn fixtures() -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder_decoders");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let fixtures: Vec<Fixture> = folders.into_iter().map(read).collect();
    for model_type in encoder_decoders::ALL.iter().flat_map(|architecture| architecture.model_types) {
        let held = fixtures.iter().any(|fixture| fixture.config["model_type"] == *model_type);
        assert!(held, "{model_type} has no fixture: see make_encoder_decoders.py");
    }
    fixtures
}

impl Fixture {
    fn sources(&self) -> Vec<&[u32]> {
        self.sources.iter().map(Vec::as_slice).collect()
    }

    fn begin(&self, sources: &[&[u32]]) -> Targets {
        Targets::new(self.model.encode(sources).unwrap(), &self.model.shape()).unwrap()
    }

    /// `[rows, tokens, vocabulary]` of the next `tokens` of each row.
    fn step(&self, targets: &mut Targets, tokens: &[&[u32]]) -> Tensor {
        let each = tokens[0].len() as i64;
        let hidden = self.model.decode(&mut [TargetStep { targets, tokens: &tokens.concat() }]).unwrap();
        self.model.logits(&hidden).unwrap().view([tokens.len() as i64, each, -1])
    }

    fn assert_close(&self, found: &Tensor, expected: &Tensor, what: &str) {
        assert_eq!(found.size(), expected.size(), "{}, {what}", self.name);
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference <= 1e-4, "{}, {what}: {difference}", self.name);
    }
}

#[test]
fn all_tokens_at_once_give_the_logits_of_transformers() {
    for fixture in fixtures() {
        assert_eq!(fixture.unused, [""; 0], "{}", fixture.name);
        let mut targets = fixture.begin(&fixture.sources());
        let tokens: Vec<&[u32]> = fixture.targets.iter().map(Vec::as_slice).collect();
        let logits = fixture.step(&mut targets, &tokens);
        fixture.assert_close(&logits, &fixture.logits, "all at once");
    }
}

#[test]
fn tokens_one_by_one_give_the_same() {
    for fixture in fixtures() {
        let mut targets = fixture.begin(&fixture.sources());
        let mut logits = Vec::new();
        // Two at first, then one by one, then the rest.
        for range in [0..2, 2..3, 3..4, 4..5, 5..fixture.targets[0].len()] {
            let tokens: Vec<&[u32]> = fixture.targets.iter().map(|row| &row[range.clone()]).collect();
            logits.push(fixture.step(&mut targets, &tokens));
        }
        fixture.assert_close(&Tensor::cat(&logits, 1), &fixture.logits, "one by one");
    }
}

#[test]
fn targets_of_different_age_share_steps_and_rows_move() {
    for fixture in fixtures() {
        let (sources, target) = (fixture.sources(), &fixture.targets);
        let expected = |row: i64, at: i64| fixture.logits.get(row).get(at);
        // Sources 0 and 1 begin, 2 and 3 follow two steps later.
        let mut first = fixture.begin(&sources[..2]);
        let _ = fixture.step(&mut first, &[&target[0][..2], &target[1][..2]]);
        let mut second = fixture.begin(&sources[2..]);
        first.select(&[1, 0, 1]).unwrap();
        for at in 0..3 {
            let tokens = [target[1][at + 2], target[0][at + 2], target[1][at + 2]];
            let other = [target[2][at], target[3][at]];
            let hidden = fixture
                .model
                .decode(&mut [
                    TargetStep { targets: &mut first, tokens: &tokens },
                    TargetStep { targets: &mut second, tokens: &other },
                ])
                .unwrap();
            let logits = fixture.model.logits(&hidden).unwrap();
            let at = at as i64;
            let all = [expected(1, at + 2), expected(0, at + 2), expected(1, at + 2), expected(2, at), expected(3, at)];
            fixture.assert_close(&logits, &Tensor::stack(&all, 0), "shared");
        }
        // One source of the two goes.
        second.select(&[1]).unwrap();
        let logits = fixture.step(&mut second, &[&target[3][3..5]]);
        let all = Tensor::stack(&[expected(3, 3), expected(3, 4)], 0).unsqueeze(0);
        fixture.assert_close(&logits, &all, "alone");
    }
}

#[test]
fn what_cannot_be_run_is_said_and_changes_nothing() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.name == "bart").unwrap();
    let problem = |sources: &[&[u32]]| fixture.model.encode(sources).unwrap_err().to_string();
    assert_eq!(problem(&[]), "there is no source to encode");
    assert_eq!(problem(&[&[4], &[]]), "source 1: the source is empty");
    let long = [4; 41];
    assert!(problem(&[&long]).contains("41 tokens and the model reads at most 40"));
    assert!(problem(&[&[64]]).contains("token 64 is not one of the model's 64"));

    let mut targets = fixture.begin(&fixture.sources());
    let start: Vec<&[u32]> = fixture.targets.iter().map(|row| &row[..1]).collect();
    let _ = fixture.step(&mut targets, &start);
    for tokens in [&[][..], &[5], &[5, 6, 7], &[64; 4], &[5; 160]] {
        assert!(fixture.model.decode(&mut [TargetStep { targets: &mut targets, tokens }]).is_err(), "{tokens:?}");
    }
    assert!(fixture.model.decode(&mut []).is_err());
    let next: Vec<&[u32]> = fixture.targets.iter().map(|row| &row[1..2]).collect();
    let logits = fixture.step(&mut targets, &next);
    fixture.assert_close(&logits, &fixture.logits.narrow(1, 1, 1), "after refusals");
}
