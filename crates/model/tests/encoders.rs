//! Every encoder with every head against `transformers`: stored weights, inputs and answers, made by
//! `fixtures/make_encoders.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use tidemill_model::encoders::{self, EncoderModel, HeadKind};
use tidemill_model::layers::flat::{FlatBatch, TokenRow};
use tidemill_model::tasks::{
    Aggregation, AnswerOptions, Embedder, EmbeddingOptions, EmbeddingPooling, MaskFiller, Question, QuestionAnswerer,
    Reranker, Scoring, SequenceClassifier, TaskError, TaskOptions, TokenClassifier,
};
use tidemill_model::{ModelError, Weights, weights};

struct Fixture {
    name: String,
    weights: Weights,
    about: Value,
}

/// Every fixture; each architecture must have one.
fn fixtures() -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    let fixture = |file: PathBuf| Fixture {
        name: file.file_stem().unwrap().display().to_string(),
        about: serde_json::from_slice(&fs::read(file.with_extension("json")).unwrap()).unwrap(),
        weights: Weights::open(&file).unwrap(),
    };
    let fixtures: Vec<Fixture> = files.into_iter().map(fixture).collect();
    for model_type in encoders::ALL.iter().map(|architecture| architecture.model_types[0]) {
        let held = fixtures.iter().any(|fixture| fixture.about["config"]["model_type"] == model_type);
        assert!(held, "{model_type} has no fixture: see make_encoders.py");
    }
    fixtures
}

fn fixture(name: &str) -> Fixture {
    fixtures().into_iter().find(|fixture| fixture.name == name).unwrap()
}

impl Fixture {
    fn config(&self) -> Map<String, Value> {
        self.about["config"].as_object().unwrap().clone()
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.weights.tensor(name, Device::Cpu).unwrap()
    }

    fn answers(&self, task: &str) -> &Value {
        &self.about["answers"][task]
    }

    /// Weights as a checkpoint has them: with the prefix, and the head's.
    fn tensors(&self, head: Option<&str>, prefixed: bool) -> Vec<(String, Tensor)> {
        let prefix = if prefixed { format!("{}.", self.about["prefix"].as_str().unwrap()) } else { String::new() };
        let named = self.weights.names().filter_map(|name| {
            let (part, rest) = name.split_once('.')?;
            match part {
                "base" => Some((format!("{prefix}{rest}"), self.tensor(name))),
                part if Some(part) == head => Some((rest.to_string(), self.tensor(name))),
                _ => None,
            }
        });
        named.collect()
    }

    /// A folder as `save_pretrained` writes it.
    fn folder(&self, head: Option<&str>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        weights::write(&folder.path().join("model.safetensors"), &self.tensors(head, head.is_some())).unwrap();
        for (file, value) in [
            ("config.json", &self.about["config"]),
            ("tokenizer.json", &self.about["tokenizer"]),
            ("tokenizer_config.json", &self.about["tokenizer_config"]),
        ] {
            write_json(folder.path(), file, value);
        }
        folder
    }

    fn batch(&self) -> FlatBatch {
        let numbers = |name: &str| -> Vec<i64> { Vec::try_from(self.tensor(name)).unwrap() };
        let to_ids = |numbers: Vec<i64>| -> Vec<u32> { numbers.into_iter().map(|id| id as u32).collect() };
        let (ids, types) = (to_ids(numbers("input.ids")), to_ids(numbers("input.types")));
        let mut start = 0;
        let rows: Vec<TokenRow<'_>> = numbers("input.lengths")
            .into_iter()
            .map(|length| {
                let range = start..start + length as usize;
                start = range.end;
                TokenRow { ids: &ids[range.clone()], type_ids: Some(&types[range]) }
            })
            .collect();
        FlatBatch::new(&rows, Device::Cpu).unwrap()
    }

    fn open(
        &self,
        tensors: &[(String, Tensor)],
        head: Option<HeadKind>,
        kind: Kind,
    ) -> Result<EncoderModel, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        weights::write(&file, tensors).unwrap();
        let source = Box::new(Weights::open(&file).unwrap());
        EncoderModel::open(source, &self.config(), head, Device::Cpu, kind)
    }
}

fn write_json(folder: &Path, file: &str, value: &Value) {
    fs::write(folder.join(file), serde_json::to_vec(value).unwrap()).unwrap();
}

fn largest_difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found - expected).abs().max().double_value(&[])
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{what}: {a} and {b}");
    }
}

#[test]
fn encoders_give_the_vectors_of_transformers() {
    for fixture in fixtures() {
        let expected = fixture.tensor("output.base");
        for prefixed in [false, true] {
            let model = fixture.open(&fixture.tensors(None, prefixed), None, Kind::Float).unwrap();
            let difference = largest_difference(&model.forward(&fixture.batch()).unwrap(), &expected);
            assert!(difference <= 1e-5, "{}: {difference}", fixture.name);
        }
        let model = fixture.open(&fixture.tensors(None, false), None, Kind::BFloat16).unwrap();
        let rounded = model.forward(&fixture.batch()).unwrap().to_kind(Kind::Float);
        let alike = Tensor::cosine_similarity(&rounded, &expected, 1, 1e-8).min().double_value(&[]);
        assert!(alike > 0.998, "{} in bfloat16: {alike}", fixture.name);
    }
}

#[test]
fn heads_give_the_scores_of_transformers() {
    let heads = [
        ("sequence", HeadKind::SequenceClassification),
        ("token", HeadKind::TokenClassification),
        ("question", HeadKind::QuestionAnswering),
        ("mask", HeadKind::MaskedLanguageModel),
    ];
    for fixture in fixtures() {
        for (head, kind) in heads {
            let model = fixture.open(&fixture.tensors(Some(head), true), Some(kind), Kind::Float).unwrap();
            let batch = fixture.batch();
            let scores = model.scores(&model.forward(&batch).unwrap(), &batch).unwrap();
            let difference = largest_difference(&scores, &fixture.tensor(&format!("output.{head}")));
            assert!(difference <= 3e-5, "{} {head}: {difference}", fixture.name);
        }
    }
}

#[test]
fn old_names_of_norms_are_known() {
    let fixture = fixture("bert");
    let old = fixture.tensors(None, true).into_iter().map(|(name, tensor)| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        (name, tensor)
    });
    let model = fixture.open(&old.collect::<Vec<_>>(), None, Kind::Float).unwrap();
    let difference = largest_difference(&model.forward(&fixture.batch()).unwrap(), &fixture.tensor("output.base"));
    assert!(difference <= 1e-5, "{difference}");
}

#[test]
fn texts_become_the_vectors_of_transformers() {
    for fixture in fixtures() {
        let folder = fixture.folder(None);
        let answers = fixture.answers("embedding");
        let texts = strings(&answers["texts"]);
        for (name, pooling) in [
            ("mean", EmbeddingPooling::Mean),
            ("cls", EmbeddingPooling::Cls),
            ("last", EmbeddingPooling::LastToken),
            ("max", EmbeddingPooling::Max),
        ] {
            let options = EmbeddingOptions { pooling: Some(pooling), ..EmbeddingOptions::default() };
            let embedder = Embedder::open(folder.path(), &options).unwrap();
            assert_eq!(embedder.dimension(), 32);
            let vectors = embedder.embed(&texts).unwrap();
            for ((vector, expected), text) in vectors.iter().zip(answers[name].as_array().unwrap()).zip(&texts) {
                let what = format!("{} {name} {text:?}", fixture.name);
                assert_near(vector, &numbers(expected), 2e-5, &what);
                assert_near(&embedder.embed(&[*text]).unwrap()[0], vector, 1e-5, &what);
            }
            assert!(embedder.embed(&[]).unwrap().is_empty());
        }
    }
}

#[test]
fn texts_get_the_labels_of_transformers() {
    for fixture in fixtures() {
        let folder = fixture.folder(Some("sequence"));
        let answers = fixture.answers("sequence");
        let classifier = SequenceClassifier::open(folder.path(), &TaskOptions::default()).unwrap();
        assert_eq!((classifier.labels()[1].as_str(), classifier.scoring()), ("B-PER", Scoring::Softmax));
        let found = classifier.classify(&strings(&answers["texts"])).unwrap();
        for (index, found) in found.iter().enumerate() {
            let what = format!("{} text {index}", fixture.name);
            assert_near(&found.logits, &numbers(&answers["logits"][index]), 3e-5, &what);
            assert_near(&found.scores, &numbers(&answers["scores"][index]), 1e-5, &what);
            assert_eq!(found.top(1)[0].0, found.label());
        }
        let pairs: Vec<Vec<&str>> = answers["pairs"].as_array().unwrap().iter().map(strings).collect();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|pair| (pair[0], pair[1])).collect();
        for (index, found) in classifier.classify_pairs(&pairs).unwrap().iter().enumerate() {
            let what = format!("{} pair {index}", fixture.name);
            assert_near(&found.logits, &numbers(&answers["pair_logits"][index]), 3e-5, &what);
        }
        for (problem, scoring) in [("multi_label_classification", Scoring::Sigmoid), ("regression", Scoring::Plain)] {
            let mut config = fixture.config();
            config.insert("problem_type".to_string(), json!(problem));
            write_json(folder.path(), "config.json", &Value::Object(config));
            let classifier = SequenceClassifier::open(folder.path(), &TaskOptions::default()).unwrap();
            let again = classifier.classify(&["the film"]).unwrap().remove(0);
            let of = |logit: &f32| if scoring == Scoring::Sigmoid { 1.0 / (1.0 + (-logit).exp()) } else { *logit };
            assert_eq!(classifier.scoring(), scoring);
            assert_near(&again.scores, &again.logits.iter().map(of).collect::<Vec<_>>(), 1e-6, problem);
        }
        let error = Reranker::open(folder.path(), &TaskOptions::default()).unwrap_err().to_string();
        assert!(error.contains("has 5 labels, and a reranker has one output"), "{error}");
    }
}

#[test]
fn documents_are_ranked_by_their_logits() {
    let fixture = fixture("bert");
    let folder = fixture.folder(Some("sequence"));
    // The first label's row of the classifier alone.
    let one = fixture.tensors(Some("sequence"), true).into_iter().map(|(name, tensor)| {
        let tensor = if name.starts_with("classifier") { tensor.narrow(0, 0, 1) } else { tensor };
        (name, tensor.contiguous())
    });
    weights::write(&folder.path().join("model.safetensors"), &one.collect::<Vec<_>>()).unwrap();
    let mut config = fixture.config();
    config.insert("id2label".to_string(), json!({"0": "LABEL_0"}));
    write_json(folder.path(), "config.json", &Value::Object(config));
    let reranker = Reranker::open(folder.path(), &TaskOptions::default()).unwrap();
    let answers = fixture.answers("sequence");
    let (query, document) = (answers["pairs"][0][0].as_str().unwrap(), answers["pairs"][0][1].as_str().unwrap());
    let ranked = reranker.rerank(query, &["the film", document, ""]).unwrap();
    assert!(ranked.windows(2).all(|pair| pair[0].logit >= pair[1].logit) && ranked.len() == 3);
    let of_document = ranked.iter().find(|ranked| ranked.index == 1).unwrap();
    assert_near(&[of_document.logit], &numbers(&answers["pair_logits"][0])[..1], 3e-5, "the pair's logit");
    assert!(reranker.rerank(query, &[]).unwrap().is_empty());
}

#[test]
fn entities_are_those_of_transformers() {
    for fixture in fixtures() {
        let folder = fixture.folder(Some("token"));
        let answers = fixture.answers("token");
        let texts = strings(&answers["texts"]);
        let classifier = TokenClassifier::open(folder.path(), &TaskOptions::default()).unwrap();
        for (name, aggregation) in [("none", Aggregation::None), ("simple", Aggregation::Simple)] {
            let found = classifier.entities(&texts, aggregation).unwrap();
            for ((found, expected), text) in found.iter().zip(answers[name].as_array().unwrap()).zip(&texts) {
                let expected = expected.as_array().unwrap();
                assert_eq!(found.len(), expected.len(), "{} {name} {text:?}: {found:?}", fixture.name);
                for (found, expected) in found.iter().zip(expected) {
                    let what = format!("{} {name} {text:?} {found:?}", fixture.name);
                    assert_eq!(found.label, expected[0].as_str().unwrap(), "{what}");
                    assert_near(&[found.score], &[expected[1].as_f64().unwrap() as f32], 2e-5, &what);
                    assert_eq!(
                        (found.start as u64, found.end as u64),
                        (expected[2].as_u64().unwrap(), expected[3].as_u64().unwrap()),
                        "{what}"
                    );
                    let part: String = text.chars().skip(found.start).take(found.end - found.start).collect();
                    assert_eq!(found.text, part, "{what}");
                }
            }
        }
        assert!(classifier.entities(&[], Aggregation::Simple).unwrap().is_empty());
    }
}

#[test]
fn answers_are_those_of_transformers() {
    for fixture in fixtures() {
        let folder = fixture.folder(Some("question"));
        let answers = fixture.answers("question");
        let answerer = QuestionAnswerer::open(folder.path(), &TaskOptions::default()).unwrap();
        let size = |key: &str| answers[key].as_u64().unwrap() as usize;
        let options = AnswerOptions {
            top: size("top"),
            longest_answer: size("longest"),
            window: size("window"),
            stride: size("stride"),
            may_be_unanswered: false,
        };
        let question = answers["question"].as_str().unwrap();
        let documents = strings(&answers["documents"]);
        let asked: Vec<Question<'_>> = documents.iter().map(|document| Question { question, document }).collect();
        let found = answerer.answer(&asked, &options).unwrap();
        for (found, expected) in found.iter().zip(answers["found"].as_array().unwrap()) {
            let expected = expected["answers"].as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{}: {found:?}", fixture.name);
            for (found, expected) in found.iter().zip(expected) {
                let what = format!("{}: {found:?} and {expected}", fixture.name);
                assert_near(&[found.score], &[expected[0].as_f64().unwrap() as f32], 2e-6, &what);
                assert_eq!(
                    (found.start, found.end),
                    (expected[1].as_u64().unwrap() as usize, expected[2].as_u64().unwrap() as usize),
                    "{what}"
                );
                assert_eq!(found.text, expected[3].as_str().unwrap(), "{what}");
            }
        }
        let options = AnswerOptions { may_be_unanswered: true, top: 1000, ..options };
        for (found, expected) in
            answerer.answer(&asked, &options).unwrap().iter().zip(answers["found"].as_array().unwrap())
        {
            let none = found.iter().find(|answer| answer.text.is_empty()).unwrap();
            assert_near(&[none.score], &[expected["unanswered"].as_f64().unwrap() as f32], 2e-6, &fixture.name);
        }
        let nothing = Question { question, document: "" };
        assert!(answerer.answer(&[nothing], &AnswerOptions::default()).unwrap()[0].is_empty());
        let long = Question { question: &"a ".repeat(60), document: "the film" };
        let error = answerer.answer(&[long], &AnswerOptions::default()).unwrap_err().to_string();
        assert!(error.contains("leaves no room"), "{error}");
    }
}

#[test]
fn gaps_are_filled_as_by_transformers() {
    for fixture in fixtures() {
        let folder = fixture.folder(Some("mask"));
        let answers = fixture.answers("mask");
        let texts = strings(&answers["texts"]);
        let filler = MaskFiller::open(folder.path(), &TaskOptions::default()).unwrap();
        let found = filler.fill(&texts, 3).unwrap();
        for (found, expected) in found.iter().zip(answers["gaps"].as_array().unwrap()) {
            assert_eq!(found.len(), expected.as_array().unwrap().len(), "{}", fixture.name);
            for (gap, expected) in found.iter().zip(expected.as_array().unwrap()) {
                for (filling, expected) in gap.iter().zip(expected.as_array().unwrap()) {
                    let what = format!("{}: {filling:?} and {expected}", fixture.name);
                    assert_eq!(u64::from(filling.id), expected[0].as_u64().unwrap(), "{what}");
                    assert_near(&[filling.score], &[expected[1].as_f64().unwrap() as f32], 1e-5, &what);
                    assert_eq!(filling.token, expected[2].as_str().unwrap(), "{what}");
                }
            }
        }
        let text = &found[0][0][0].text;
        assert_eq!(*text, texts[0].replace(filler.mask(), found[0][0][0].token.trim()));
        let error = filler.fill(&["no gap"], 3).unwrap_err();
        assert!(matches!(error, TaskError::Input(_)) && error.to_string().contains("has no"), "{error}");
        assert!(filler.fill(&[], 3).unwrap().is_empty());
    }
}

#[test]
fn modules_say_how_vectors_are_made() {
    let fixture = fixture("bert");
    let folder = fixture.folder(None);
    let plain = Embedder::open(folder.path(), &EmbeddingOptions::default()).unwrap();
    assert!(!plain.is_normalised() && plain.max_length() == 40);
    let module = |index: u64, path: &str, class: &str| json!({"idx": index, "name": "", "path": path, "type": class});
    let prefix = "sentence_transformers.models.";
    write_json(
        folder.path(),
        "modules.json",
        &json!([
            module(0, "", &format!("{prefix}Transformer")),
            module(1, "1_Pooling", &format!("{prefix}Pooling")),
            module(2, "2_Dense", &format!("{prefix}Dense")),
            module(3, "3_Normalize", &format!("{prefix}Normalize")),
        ]),
    );
    write_json(folder.path(), "sentence_bert_config.json", &json!({"max_seq_length": 12, "do_lower_case": true}));
    write_json(
        folder.path(),
        "config_sentence_transformers.json",
        &json!({"prompts": {"query": "where is ", "none": ""}, "default_prompt_name": null}),
    );
    for part in ["1_Pooling", "2_Dense"] {
        fs::create_dir(folder.path().join(part)).unwrap();
    }
    let pooling =
        json!({"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
    write_json(&folder.path().join("1_Pooling"), "config.json", &pooling);
    let dense = json!({"in_features": 64, "out_features": 8, "bias": true, "activation_function": "torch.nn.modules.activation.Tanh"});
    write_json(&folder.path().join("2_Dense"), "config.json", &dense);
    tch::manual_seed(8);
    let weight = Tensor::randn([8, 64], (Kind::Float, Device::Cpu)) * 0.1;
    let bias = Tensor::randn([8], (Kind::Float, Device::Cpu));
    let linear = [("linear.weight".to_string(), weight.copy()), ("linear.bias".to_string(), bias.copy())];
    weights::write(&folder.path().join("2_Dense/model.safetensors"), &linear).unwrap();

    let embedder = Embedder::open(folder.path(), &EmbeddingOptions::default()).unwrap();
    assert_eq!((embedder.dimension(), embedder.max_length(), embedder.is_normalised()), (8, 12, true));
    let by_hand = |text: &str| {
        let of = |pooling| {
            let model = TaskOptions { max_length: Some(12), ..TaskOptions::default() };
            let options = EmbeddingOptions { model, pooling: Some(pooling), normalised: Some(false) };
            let bare = fixture.folder(None);
            Embedder::open(bare.path(), &options).unwrap().embed(&[text]).unwrap().remove(0)
        };
        let both = [of(EmbeddingPooling::Cls), of(EmbeddingPooling::Mean)].concat();
        let vector = Tensor::from_slice(&both).unsqueeze(0).linear(&weight, Some(&bias)).tanh();
        let vector = &vector / vector.norm();
        Vec::<f32>::try_from(vector.view(-1)).unwrap()
    };
    let text = "the film is in the house of a good Ada";
    assert_near(&embedder.embed(&[text]).unwrap()[0], &by_hand(text), 1e-5, "as they are");
    let queried = embedder.embed_with_prompt(&["the film"], "query").unwrap();
    assert_near(&queried[0], &by_hand("where is the film"), 1e-5, "with a prompt");
    let none = embedder.embed_with_prompt(&["the film"], "none").unwrap();
    assert_near(&none[0], &by_hand("the film"), 1e-5, "with an empty prompt");
    let error = embedder.embed_with_prompt(&["a"], "qery").unwrap_err().to_string();
    assert!(error.contains("did you mean \"query\"?"), "{error}");

    write_json(&folder.path().join("2_Dense"), "config.json", &json!({"in_features": 32, "out_features": 8}));
    let error = Embedder::open(folder.path(), &EmbeddingOptions::default()).unwrap_err().to_string();
    assert!(error.contains("takes vectors of 32 numbers, and those before it have 64"), "{error}");
}

#[test]
fn an_answer_does_not_depend_on_the_batch_around_it() {
    for fixture in fixtures() {
        let folder = fixture.folder(Some("sequence"));
        let model = TaskOptions { tokens_a_pass: 16, ..TaskOptions::default() };
        let small = SequenceClassifier::open(folder.path(), &model).unwrap();
        let large = SequenceClassifier::open(folder.path(), &TaskOptions::default()).unwrap();
        let texts: Vec<String> = (0..40).map(|count| "a good film ".repeat(count % 9)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (small, large) = (small.classify(&texts).unwrap(), large.classify(&texts).unwrap());
        for (small, large) in small.iter().zip(&large) {
            assert_near(&small.logits, &large.logits, 1e-5, &fixture.name);
        }
    }
}

#[test]
fn what_cannot_be_is_an_error_that_says_so() {
    for fixture in fixtures() {
        let model = fixture.open(&fixture.tensors(None, false), None, Kind::Float).unwrap();
        let run = |ids: &[u32]| {
            let batch = FlatBatch::new(&[TokenRow::of(ids)], Device::Cpu)?;
            model.forward(&batch).map(drop)
        };
        assert!(run(&[1, 2, 9999]).unwrap_err().to_string().contains("id 9999 is outside a table"));
        let longest = model.shape().longest as usize;
        assert!(run(&vec![5; longest]).is_ok(), "{}", fixture.name);
        let error = run(&vec![5; longest + 1]).unwrap_err().to_string();
        assert!(error.contains(&format!("and the model takes {longest}")), "{error}");
        assert!(run(&[]).is_err());
        let batch = fixture.batch();
        assert!(
            model.scores(&model.forward(&batch).unwrap(), &batch).unwrap_err().to_string().contains("without a head")
        );
        let error = fixture.open(&fixture.tensors(None, false), None, Kind::Half).unwrap_err().to_string();
        assert!(error.contains("float32 or bfloat16"), "{error}");
        let mut tensors = fixture.tensors(None, false);
        let (lost, _) = tensors.remove(0);
        let error = fixture.open(&tensors, None, Kind::Float).unwrap_err().to_string();
        let found = error.contains(&lost) || lost.contains("pooler");
        assert!(found && (error.contains("is missing") || lost.contains("pooler")), "{lost}: {error}");
    }
}

#[test]
fn checkpoints_that_do_not_fit_are_refused() {
    let fixture = fixture("bert");
    let refused = |change: &dyn Fn(&mut Map<String, Value>)| {
        let folder = fixture.folder(Some("sequence"));
        let mut config = fixture.config();
        change(&mut config);
        write_json(folder.path(), "config.json", &Value::Object(config));
        SequenceClassifier::open(folder.path(), &TaskOptions::default()).unwrap_err().to_string()
    };
    let cases: [(&str, Value, &str); 8] = [
        ("model_type", json!("berd"), "did you mean \"bert\"?"),
        ("hidden_size", json!("wide"), "\"hidden_size\" must be a whole number"),
        ("hidden_size", json!(0), "\"hidden_size\" must be a whole number of at least 1, not 0"),
        ("num_attention_heads", json!(5), "must be a multiple of \"num_attention_heads\""),
        ("hidden_act", json!("gleu"), "did you mean \"gelu\"?"),
        ("num_hidden_layers", json!(3), "encoder.layer.2"),
        ("vocab_size", json!(61), "has the shape [60, 32]"),
        ("id2label", json!({"0": "a", "1": "b"}), "classifier.weight"),
    ];
    for (key, value, part) in cases {
        let error = refused(&|config: &mut Map<String, Value>| drop(config.insert(key.to_string(), value.clone())));
        assert!(error.contains(part), "{key}: {error}");
    }
    let folder = fixture.folder(Some("sequence"));
    let mut tokenizer = fixture.about["tokenizer"].clone();
    tokenizer["model"]["vocab"]["toomuch"] = json!(60);
    write_json(folder.path(), "tokenizer.json", &tokenizer);
    let error = SequenceClassifier::open(folder.path(), &TaskOptions::default()).unwrap_err().to_string();
    assert!(error.contains("they do not belong together"), "{error}");
    let options = TaskOptions { max_length: Some(2), ..TaskOptions::default() };
    let folder = fixture.folder(Some("sequence"));
    let classifier = SequenceClassifier::open(folder.path(), &options).unwrap();
    assert!(classifier.classify(&["a"]).unwrap_err().to_string().contains("no room beside 2 special"));
}
