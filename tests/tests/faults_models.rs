//! Files that are cut off or written over under a running server, and versions that come damaged: what is loaded answers as
//! before, and nothing else changes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tidemill_tests::{Server, checkpoint, encoder, lengthened, small_recipe, tidemill, train_sentiment, within};

const SOON: Duration = Duration::from_secs(20);

/// The JSON of an answer that is one.
fn body(answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap()
}

fn classify(server: &Server, model: &str) -> Value {
    let text = json!({"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a superb cast", "a dull plot"]});
    let path = format!("/v2/models/{model}/infer");
    let answer = body(&server.post(&path, &json!({"inputs": [text], "outputs": [{"name": "probabilities"}]})));
    assert_eq!(answer["outputs"][0]["shape"], json!([2, 2]));
    answer
}

fn generate(server: &Server, model: &str) -> Value {
    let request = json!({"model": model, "prompt": "The tide", "max_tokens": 12, "temperature": 0, "ignore_eos": true});
    body(&server.post("/v1/completions", &request))["choices"].take()
}

/// What each model of the server says.
fn answers(server: &Server) -> Vec<Value> {
    let embedded = server.post("/v1/embeddings", &json!({"model": "encoder", "input": "a tide mill"}));
    let embedding = body(&embedded)["data"].take();
    let text = body(&server.post(
        "/v2/models/t5/infer",
        &json!({"inputs": [
        {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a tide mill"]}]}),
    ));
    vec![classify(server, "sentiment"), embedding, generate(server, "chat"), generate(server, "packed"), text]
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn models_whose_files_are_cut_off_and_written_over_answer_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    train_sentiment(folder.path(), 120, &small_recipe(""));
    copied(&folder.path().join("run/package"), &models.join("sentiment"));
    encoder(&models.join("encoder"));
    lengthened("qwen2", &models.join("chat"), 160);
    copied(Path::new(&checkpoint("t5")), &models.join("t5"));
    tidemill(&models, &["convert", "chat", "packed.gguf", "--type", "bfloat16"]).success();
    let server = Server::start(&models, &["sentiment", "encoder", "chat", "packed.gguf", "t5"]);
    let before = answers(&server);

    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(answers(&server), before);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let go_on = |rounds: usize| {
            let enough = asked.load(Ordering::Relaxed) + rounds;
            within(SOON, "requests are answered", || asked.load(Ordering::Relaxed) >= enough || asking.is_finished());
        };
        go_on(1);
        let files = files(&models);
        assert!(files.len() > 15, "{files:?}");
        let lengths: Vec<u64> = files.iter().map(|file| file.metadata().unwrap().len()).collect();
        for file in &files {
            OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
        }
        go_on(2);
        for (file, length) in files.iter().zip(lengths) {
            // In its place, not beside it.
            let mut open = OpenOptions::new().write(true).open(file).unwrap();
            std::io::Write::write_all(&mut open, &vec![0x7f; length as usize]).unwrap();
        }
        go_on(2);
        is_over.store(true, Ordering::Relaxed);
        asking.join().unwrap();
    });
    server.terminate();
    assert_eq!(server.wait(SOON), Some(0));
}

/// The states that the repository's index gives, as `name/version STATE`.
fn index(server: &Server) -> Vec<String> {
    let line = |model: &Value| {
        let text = |key: &str| model[key].as_str().unwrap_or_default().to_owned();
        format!("{}/{} {}", text("name"), text("version"), text("state"))
    };
    body(&server.post("/v2/repository/index", &json!({}))).as_array().unwrap().iter().map(line).collect()
}

#[test]
fn damaged_versions_in_a_polled_repository_take_nothing_down() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    train_sentiment(folder.path(), 120, &small_recipe(""));
    let package = folder.path().join("run/package");
    copied(&package, &models.join("films/1"));
    lengthened("qwen2", &models.join("chat/1"), 160);
    let config =
        "[repository]\npath = \"models\"\nmode = \"poll\"\npoll_interval = \"20ms\"\n[admin]\nenabled = true\n";
    fs::write(folder.path().join("server.toml"), config).unwrap();
    let log = folder.path().join("log");
    let server = Server::logged(folder.path(), &["--config", "server.toml"], &log);
    let before = (classify(&server, "films")["outputs"].clone(), generate(&server, "chat"));

    // What is wrong with a file of a version that comes, whole but for that, or file by file as it is copied.
    type Damage = (&'static str, fn(Vec<u8>) -> Vec<u8>);
    let damages: [Damage; 6] = [
        ("model.safetensors", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("model.safetensors", |mut bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            bytes
        }),
        ("tidemill.toml", |_| b"name = \"films\"\nversion".to_vec()),
        ("tokenizer.json", |bytes| bytes.iter().map(|byte| byte ^ 0x55).collect()),
        ("config.json", |_| b"[]".to_vec()),
        ("model.safetensors", |_| Vec::new()),
    ];
    let damaged = |name: &str, damage: fn(Vec<u8>) -> Vec<u8>, from: &Path, to: &Path| {
        copied(from, to);
        let bytes = damage(fs::read(from.join(name)).unwrap());
        fs::write(to.join(name), bytes).unwrap();
    };
    for (at, (name, damage)) in damages.into_iter().enumerate() {
        let version = at + 2;
        damaged(name, damage, &package, &models.join(".new"));
        fs::rename(models.join(".new"), models.join(format!("films/{version}"))).unwrap();
        damaged(name, damage, &package, &models.join(format!("other{at}/1")));
        for line in [format!("films/{version} UNAVAILABLE"), format!("other{at}/1 UNAVAILABLE")] {
            within(SOON, &line, || index(&server).contains(&line));
        }
        assert_eq!(classify(&server, "films")["outputs"], before.0, "{name}");
        assert_eq!(generate(&server, "chat"), before.1, "{name}");
    }
    fs::create_dir_all(models.join("packed/1")).unwrap();
    tidemill(&models, &["convert", "chat/1", "whole.gguf"]).success();
    let whole = fs::read(models.join("whole.gguf")).unwrap();
    fs::write(models.join("packed/1/model.gguf"), &whole[..whole.len() - 100]).unwrap();
    within(SOON, "it is refused", || index(&server).contains(&"packed/1 UNAVAILABLE".to_owned()));

    // A loaded version that is cut off where it lies, and a sound one that comes after all that.
    let weights = OpenOptions::new().write(true).open(models.join("films/1/model.safetensors")).unwrap();
    weights.set_len(10).unwrap();
    assert_eq!(classify(&server, "films")["outputs"], before.0);
    copied(&package, &models.join(".new"));
    fs::rename(models.join(".new"), models.join("films/20")).unwrap();
    within(SOON, "a sound version is served", || classify(&server, "films")["model_version"] == "20");
    assert_eq!((classify(&server, "films")["outputs"].clone(), generate(&server, "chat")), before);
    server.terminate();
    assert_eq!(server.wait(SOON), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("the model is not loaded") && !log.contains("panicked"), "{log}");
}
