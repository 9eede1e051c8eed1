//! Encoder-decoders against transformers: checkpoints, sources of unequal lengths and what transformers says and generates
//! from them, made by `fixtures/make_encoder_decoders.py`. Those in `fixtures/checkpoints` are the parity test's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::{Device, Tensor};
use tidemill_model::encoder_decoders::{self, EncoderDecoder, TargetStep, Targets};
use tidemill_model::engine::{EncoderDecoderEngine, EngineConfig, Event, Refused, Request, RequestId, TokenEngine};
use tidemill_model::generation::{FinishReason, SamplingConfig};
use tidemill_model::{Parameters, Weights};

struct Fixture {
    name: String,
    folder: PathBuf,
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
    let config = json(&folder.join("config.json"));
    let weights = Weights::open(&folder.join("model.safetensors")).unwrap();
    let parameters = Parameters::stored(Box::new(weights.clone()), Device::Cpu);
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
        folder,
        model,
        unused: parameters.unused(&weights),
        sources,
        targets: rows(&tensor("targets")),
        logits: tensor("logits"),
    }
}

fn folders(of: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(of);
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn json(file: &Path) -> Map<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Every fixture in the folder.
fn fixtures() -> Vec<Fixture> {
    folders("encoder_decoders").into_iter().map(read).collect()
}

#[test]
fn every_family_has_a_checkpoint_of_transformers() {
    let of = |folder: PathBuf| json(&folder.join("config.json"))["model_type"].as_str().unwrap().to_string();
    let held: BTreeSet<String> = ["encoder_decoders", "checkpoints"].into_iter().flat_map(folders).map(of).collect();
    for model_type in encoder_decoders::ALL.iter().flat_map(|architecture| architecture.model_types) {
        assert!(held.contains(*model_type), "{model_type} has no fixture: see make_encoder_decoders.py");
    }
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
    let fixture = fixtures().into_iter().find(|fixture| fixture.name == "mbart").unwrap();
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

/// One way to generate and what transformers gives for all sources: as many outputs for each as were asked for.
#[derive(serde::Deserialize)]
struct Way {
    options: Map<String, Value>,
    sequences: Vec<Vec<u32>>,
    scores: Option<Vec<f32>>,
}

/// The tokens of an answer, and a beam's score.
type Answers = BTreeMap<(RequestId, usize), (Vec<u32>, Option<f32>)>;

fn run(engine: &mut EncoderDecoderEngine) -> Answers {
    let mut answers = Answers::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Token { request, sample, chosen, .. } => {
                    answers.entry((request, sample)).or_default().0.push(chosen.token);
                }
                Event::Beams { request, hypotheses } => {
                    for (sample, found) in hypotheses.into_iter().enumerate() {
                        answers.insert((request, sample), (found.tokens, Some(found.score)));
                    }
                }
                Event::Started { .. } => {}
                Event::Failed { problem, .. } => panic!("{problem}"),
            }
        }
    }
    answers
}

/// What the authors' configuration and `options` ask for, from `source`.
fn request(folder: &Path, options: &Map<String, Value>, source: &[u32]) -> Request {
    let mut keys = json(&folder.join("generation_config.json"));
    keys.extend(options.clone());
    let token = |key: &str| u32::try_from(keys[key].as_u64().unwrap()).unwrap();
    Request {
        source: source.to_vec(),
        prompt: vec![token("decoder_start_token_id")],
        sampling: SamplingConfig::from_generation_config(&keys, Some(1)).unwrap(),
        end_tokens: vec![token("eos_token_id")],
        ..Request::default()
    }
}

#[test]
fn every_way_to_generate_gives_what_transformers_gives() {
    for fixture in fixtures() {
        let ways: BTreeMap<String, Way> =
            serde_json::from_str(&std::fs::read_to_string(fixture.folder.join("expected.json")).unwrap()).unwrap();
        let mut engine = EncoderDecoderEngine::new(fixture.model, EngineConfig::default()).unwrap();
        // All ways of all sources together: what shares the batch changes nothing.
        let mut ids = BTreeMap::new();
        for (name, way) in &ways {
            let submit = |source: &Vec<u32>| engine.submit(request(&fixture.folder, &way.options, source)).unwrap();
            ids.insert(name, fixture.sources.iter().map(submit).collect::<Vec<RequestId>>());
        }
        let answers = run(&mut engine);
        let config = json(&fixture.folder.join("config.json"));
        let filling = ["pad_token_id", "eos_token_id"].map(|key| config[key].as_i64().unwrap());
        for (name, way) in &ways {
            let each = way.sequences.len() / fixture.sources.len();
            for (i, expected) in way.sequences.iter().enumerate() {
                let what = format!("{}, {name}, output {i}", fixture.name);
                let (tokens, score) = &answers[&(ids[name][i / each], i % each)];
                let (written, padding) = expected[1..].split_at(tokens.len());
                assert_eq!(tokens, written, "{what}");
                assert!(padding.iter().all(|token| filling.contains(&i64::from(*token))), "{what}");
                if let Some(scores) = &way.scores {
                    assert!((score.unwrap() - scores[i]).abs() <= 1e-3, "{what}: {score:?}, {}", scores[i]);
                }
            }
        }
    }
}

#[test]
fn answers_join_leave_and_are_drawn_apart() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.name == "mbart").unwrap();
    let config = EngineConfig { max_sequences: 5, ..EngineConfig::default() };
    let mut engine = EncoderDecoderEngine::new(fixture.model, config).unwrap();
    let sampling =
        |n| SamplingConfig { n, seed: Some(3), max_tokens: Some(12), ignore_eos: true, ..SamplingConfig::default() };
    let ask = |source: usize, n: usize| Request {
        source: fixture.sources[source].clone(),
        prompt: vec![2],
        sampling: sampling(n),
        ..Request::default()
    };
    let alone = |engine: &mut EncoderDecoderEngine, source, n| {
        let id = engine.submit(ask(source, n)).unwrap();
        let answers = run(engine);
        (0..n).map(|sample| answers[&(id, sample)].0.clone()).collect::<Vec<_>>()
    };
    let three = alone(&mut engine, 0, 3);
    let two = alone(&mut engine, 2, 2);
    assert_ne!(three[0], three[1]);

    // Together, with one that is cancelled midway, one whose second answer is ended, and one that has to wait.
    let [first, second, third] = [ask(0, 3), ask(2, 2), ask(2, 2)].map(|request| engine.submit(request).unwrap());
    let mut events = Vec::new();
    for _ in 0..4 {
        events.extend(engine.step().unwrap());
    }
    assert!(engine.is_waiting(third) && engine.state().running == 5);
    engine.cancel(second);
    engine.finish(first, 1);
    while !engine.is_idle() {
        events.extend(engine.step().unwrap());
        assert!(!engine.is_waiting(third), "there is room since one has left");
    }
    let mut answers = Answers::new();
    let mut finished = BTreeMap::new();
    for event in events {
        let Event::Token { request, sample, chosen, finish } = event else { panic!("{event:?}") };
        answers.entry((request, sample)).or_default().0.push(chosen.token);
        finished.extend(finish.map(|finish| ((request, sample), finish)));
    }
    assert_eq!(answers[&(first, 0)].0, three[0]);
    assert_eq!(answers[&(first, 1)].0, three[1][..4]);
    assert_eq!(answers[&(first, 2)].0, three[2]);
    assert_eq!(answers[&(second, 0)].0, two[0][..4]);
    assert_eq!([&answers[&(third, 0)].0, &answers[&(third, 1)].0], [&two[0], &two[1]]);
    assert_eq!(finished.get(&(first, 0)), Some(&FinishReason::Length));
    assert_eq!(finished.get(&(first, 1)), None);
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.name == "mbart").unwrap();
    // Room for a source of 11 and an answer of 20 with its start.
    let config = EngineConfig { max_sequences: 4, max_waiting: 1, cache_tokens: 32, ..EngineConfig::default() };
    let mut engine = EncoderDecoderEngine::new(fixture.model, config).unwrap();
    let sampling = SamplingConfig { max_tokens: Some(20), ..SamplingConfig::greedy() };
    let good = || Request { source: vec![4; 11], prompt: vec![2], sampling: sampling.clone(), ..Request::default() };
    let mut refusal = |request: Request| engine.submit(request).unwrap_err();
    assert_eq!(refusal(Request { source: Vec::new(), ..good() }), Refused::Empty);
    assert_eq!(refusal(Request { prompt: Vec::new(), ..good() }), Refused::Empty);
    assert_eq!(refusal(Request { source: vec![64], ..good() }), Refused::UnknownToken { token: 64, vocabulary: 64 });
    assert_eq!(refusal(Request { source: vec![4; 41], ..good() }), Refused::TooLong { tokens: 41, max: 40 });
    assert_eq!(refusal(Request { source: vec![4; 12], ..good() }), Refused::TooLong { tokens: 12, max: 11 });
    let five = SamplingConfig { n: 5, ..sampling.clone() };
    assert_eq!(refusal(Request { sampling: five, ..good() }), Refused::TooMany { asked: 5, max: 4 });
    engine.submit(good()).unwrap();
    assert_eq!(engine.submit(good()).unwrap_err(), Refused::Full { max: 1 });
    assert!(!run(&mut engine).is_empty());
}
