//! Packages from the writing to the answer, and packages that were changed on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tch::Device;
use tidemill_data::{Encoder, TextCleaning, TokenizerConfig};
use tidemill_model::architectures::Vocabulary;
use tidemill_model::manifest::Source;
use tidemill_model::{
    Package, PackageParts, Parameters, Pipeline, PipelineOptions, Scheduling, Weights, architectures, weights,
};

const TEXTS: [&str; 4] = ["a good film", "a bad film", "two hours of my life", "good, good and good again"];

struct Trained {
    encoder: Arc<Encoder>,
    labels: Vec<String>,
    config: Map<String, Value>,
    parameters: Parameters,
}

fn trained(architecture: &str, seed: u64) -> Trained {
    let config = TokenizerConfig::default();
    let encoder = Encoder::train(&config, TextCleaning::default(), &mut TEXTS.into_iter()).unwrap();
    let labels = vec!["negative".to_string(), "positive".to_string()];
    let config = architectures::complete_config(architecture, &Map::new(), Vocabulary::of(&encoder), &labels).unwrap();
    let parameters = Parameters::new(seed, Device::Cpu);
    architectures::build(&parameters.root(), &config).unwrap();
    Trained { encoder: Arc::new(encoder), labels, config, parameters }
}

impl Trained {
    fn write(&self, folder: &Path) -> Result<(), tidemill_model::PackageError> {
        let parts = PackageParts {
            name: "reviews",
            version: "1",
            labels: &self.labels,
            config: &self.config,
            parameters: &self.parameters,
            encoder: &self.encoder,
            scheduling: Scheduling::default(),
            source: Source { seed: Some(5), ..Source::default() },
            report_json: Some("{\"accuracy\": 0.5}"),
        };
        Package::write(folder, &parts)
    }
}

fn packed(architecture: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("package");
    trained(architecture, 1).write(&package).unwrap();
    (folder, package)
}

fn refusal(package: &Path) -> String {
    Pipeline::open(package, &PipelineOptions::default()).map(drop).unwrap_err().to_string()
}

#[test]
fn a_package_answers_as_the_model_in_training_did() {
    for architecture in architectures::ALL {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        let trained = trained(architecture.name, 1);
        trained.write(&package).unwrap();
        let during = Pipeline::from_parts(
            "reviews",
            &trained.labels,
            &trained.config,
            &trained.parameters,
            Arc::clone(&trained.encoder),
        )
        .unwrap();
        let opened = Pipeline::open(&package, &PipelineOptions::default()).unwrap();
        assert_eq!(opened.labels(), trained.labels);
        assert_eq!(opened.parameters_count(), trained.parameters.count());
        let texts = ["a good film", "", "entirely unseen words", "good good good good good good", "film"];
        let (expected, found) = (during.classify(&texts).unwrap(), opened.classify(&texts).unwrap());
        assert_eq!(found.len(), texts.len());
        for (expected, found) in expected.iter().zip(&found) {
            let sum: f32 = found.probabilities.iter().sum();
            assert!((sum - 1.0).abs() < 1e-6, "{}: {sum}", architecture.name);
            for (expected, found) in expected.probabilities.iter().zip(&found.probabilities) {
                assert!((expected - found).abs() < 1e-5, "{}", architecture.name);
            }
        }
    }
}

#[test]
fn answers_come_in_the_order_of_the_questions_whatever_the_number() {
    let (_folder, package) = packed("text_cnn");
    let pipeline = Pipeline::open(&package, &PipelineOptions::default()).unwrap();
    let texts: Vec<String> = (0..900).map(|i| TEXTS[i % 4].repeat(1 + (i * 7) % 23)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = pipeline.classify(&texts).unwrap();
    assert_eq!(together.len(), 900);
    for at in [0, 1, 17, 450, 899] {
        let alone = pipeline.classify(&texts[at..=at]).unwrap();
        let difference = (alone[0].probabilities[0] - together[at].probabilities[0]).abs();
        assert!(difference < 1e-5, "text {at}: {difference}");
    }
    assert!(pipeline.classify(&[]).unwrap().is_empty());
}

#[test]
fn a_pipeline_in_training_sees_the_weights_change() {
    let trained = trained("bilstm", 1);
    let encoder = Arc::clone(&trained.encoder);
    let pipeline = Pipeline::from_parts("r", &trained.labels, &trained.config, &trained.parameters, encoder).unwrap();
    let before = pipeline.classify(&["a good film"]).unwrap();
    for (_, mut tensor) in trained.parameters.named() {
        let _ = tch::no_grad(|| tensor.g_add_scalar_(0.3));
    }
    let after = pipeline.classify(&["a good film"]).unwrap();
    assert_ne!(before, after);
}

#[test]
fn the_same_parts_give_the_same_bytes_and_a_new_package_replaces_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    trained("bag_of_embeddings", 2).write(&two).unwrap();
    trained("bag_of_embeddings", 1).write(&one).unwrap();
    trained("bag_of_embeddings", 1).write(&two).unwrap();
    for name in ["tidemill.toml", "config.json", "model.safetensors", "tokenizer.json", "report.json"] {
        assert_eq!(fs::read(one.join(name)).unwrap(), fs::read(two.join(name)).unwrap(), "{name}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside");
}

#[test]
fn a_folder_that_is_no_package_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "years of work").unwrap();
    let message = trained("text_cnn", 1).write(folder.path()).unwrap_err().to_string();
    assert!(message.contains("is not a package"), "{message}");
    assert!(folder.path().join("thesis.tex").exists());
}

#[test]
fn one_changed_byte_anywhere_is_found() {
    let (_folder, package) = packed("bag_of_embeddings");
    for entry in fs::read_dir(&package).unwrap() {
        let path = entry.unwrap().path();
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let message = refusal(&package);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(message.contains(name) && message.contains("change"), "{name}, byte {at}: {message}");
        }
        fs::write(&path, whole).unwrap();
    }
    Pipeline::open(&package, &PipelineOptions::default()).unwrap();
}

#[test]
fn missing_cut_and_absent_files_are_named() {
    let (folder, package) = packed("bag_of_embeddings");
    let weights = package.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 7]).unwrap();
    assert!(refusal(&package).contains("it was cut or changed"));
    fs::remove_file(&weights).unwrap();
    let message = refusal(&package);
    assert!(message.contains("model.safetensors: it is missing"), "{message}");
    fs::remove_file(package.join("tidemill.toml")).unwrap();
    assert!(refusal(&package).contains("it has no tidemill.toml"));
    assert!(refusal(&folder.path().join("nowhere")).contains("no such folder"));
    assert!(refusal(&package.join("config.json")).contains("it is a file"));
}

/// Repacks with changed weights, as if someone had made the package so.
fn with_weights(change: impl Fn(&mut Vec<(String, tch::Tensor)>)) -> (tempfile::TempDir, PathBuf) {
    let (folder, package) = packed("bag_of_embeddings");
    let path = package.join("model.safetensors");
    let opened = Weights::open(&path).unwrap();
    let mut tensors: Vec<(String, tch::Tensor)> =
        opened.names().map(|name| (name.to_string(), opened.tensor(name, Device::Cpu).unwrap())).collect();
    change(&mut tensors);
    weights::write(&path, &tensors).unwrap();
    let (sha256, bytes) = tidemill_model::files::sha256_file(&path).unwrap();
    let manifest_path = package.join("tidemill.toml");
    let text = fs::read_to_string(&manifest_path).unwrap();
    let mut manifest: toml::Table = text.split_once('\n').unwrap().1.parse().unwrap();
    manifest["files"]["model.safetensors"]["bytes"] = toml::Value::Integer(bytes as i64);
    manifest["files"]["model.safetensors"]["sha256"] = toml::Value::String(sha256);
    let body = toml::to_string(&manifest).unwrap();
    let digest = tidemill_model::files::sha256(body.as_bytes());
    fs::write(&manifest_path, format!("digest = \"sha256:{digest}\"\n{body}")).unwrap();
    (folder, package)
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_named() {
    let (_folder, fine) = with_weights(|_| ());
    Pipeline::open(&fine, &PipelineOptions::default()).unwrap();

    let (_folder, wrong) = with_weights(|tensors| {
        for (name, tensor) in tensors {
            if name == "classifier.weight" {
                *tensor = tensor.repeat([1, 2]);
            }
        }
    });
    let message = refusal(&wrong);
    assert!(message.contains("\"classifier.weight\": has the shape [2, 200]"), "{message}");
    assert!(message.contains("asks for [2, 100]"), "{message}");

    let (_folder, missing) = with_weights(|tensors| tensors.retain(|(name, _)| name != "classifier.bias"));
    assert!(refusal(&missing).contains("\"classifier.bias\": is missing"));

    let extra = |tensors: &mut Vec<(String, tch::Tensor)>| {
        tensors.push(("lm_head.weight".to_string(), tch::Tensor::from_slice(&[1.0_f32])));
    };
    let (_folder, unexpected) = with_weights(extra);
    assert!(refusal(&unexpected).contains("\"lm_head.weight\": is in"));

    let (_folder, whole_numbers) = with_weights(|tensors| {
        for (_, tensor) in tensors {
            *tensor = tensor.to_kind(tch::Kind::Int64);
        }
    });
    assert!(refusal(&whole_numbers).contains("not floating-point numbers"));

    let (_folder, diverged) = with_weights(|tensors| {
        for (_, tensor) in tensors {
            *tensor = tensor.full_like(f64::NAN);
        }
    });
    let pipeline = Pipeline::open(&diverged, &PipelineOptions::default()).unwrap();
    let message = pipeline.classify(&["a good film"]).unwrap_err().to_string();
    assert!(message.contains("not finite numbers for text 0 of 1"), "{message}");
}

#[test]
fn paths_in_a_manifest_are_refused() {
    let (_folder, package) = packed("bag_of_embeddings");
    let path = package.join("tidemill.toml");
    let text = fs::read_to_string(&path).unwrap();
    let body = text.split_once('\n').unwrap().1;
    let body = body.replace("\"report.json\"", "\"../../../etc/passwd\"");
    let body = body.replace("files.report.json", "files.\"../../../etc/passwd\"");
    let digest = tidemill_model::files::sha256(body.as_bytes());
    fs::write(&path, format!("digest = \"sha256:{digest}\"\n{body}")).unwrap();
    let message = refusal(&package);
    assert!(message.contains("etc/passwd") && message.contains("refused"), "{message}");
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let trained = trained("text_cnn", 1);
    let with = |key: &str, value: Value| {
        let mut config = trained.config.clone();
        config.insert(key.to_string(), value);
        let encoder = Arc::clone(&trained.encoder);
        let pipeline = Pipeline::from_parts("r", &trained.labels, &config, &trained.parameters, encoder);
        pipeline.map(drop).unwrap_err().to_string()
    };
    assert!(with("num_labels", json!(3)).contains("\"num_labels\" must be 2"));
    assert!(with("vocab_size", json!(3)).contains("\"vocab_size\" is 3, but the tokeniser gives ids up to"));
    assert!(with("filters", json!(7)).contains("convs.0.weight"));
    assert!(with("model_type", json!("text_rnn")).contains("there is no architecture \"text_rnn\""));
}

#[test]
fn a_pipeline_moves_to_its_thread() {
    let (_folder, package) = packed("bigru");
    let pipeline = Pipeline::open(&package, &PipelineOptions::default()).unwrap();
    let here = pipeline.classify(&["a good film"]).unwrap();
    let there = std::thread::spawn(move || pipeline.classify(&["a good film"]).unwrap()).join().unwrap();
    assert_eq!(here, there);
}
