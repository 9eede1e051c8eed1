//! `tidemill convert`: between folders and GGUF files as a user runs it, with the perplexity of both, and nothing replaced
//! or left behind that nobody asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use serde_json::Value;
use tidemill_tests::{checkpoint, tidemill};

#[test]
fn a_checkpoint_goes_to_gguf_and_back_and_generates_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint("qwen2");
    std::fs::write(folder.path().join("text.txt"), "The tide comes in, the wheel turns. ".repeat(20)).unwrap();
    tidemill(folder.path(), &["convert", &source, "model.gguf", "--type", "float32"]).success();
    tidemill(folder.path(), &["convert", "model.gguf", "again", "--type", "float32"]).success();
    let of = |model: &str| {
        let arguments = ["generate", model, "The tide", "--max-tokens", "12", "--temperature", "0", "--json"];
        let finished = tidemill(folder.path(), &arguments).success();
        serde_json::from_str::<Value>(&finished.stdout).unwrap()["texts"].clone()
    };
    assert_eq!(of("again"), of(&source));
    assert_eq!(of("model.gguf"), of(&source));

    let arguments =
        ["convert", "again", "int4", "--type", "int4", "--perplexity", "text.txt", "--window", "32", "--json"];
    let finished = tidemill(folder.path(), &arguments).success();
    let said: Value = serde_json::from_str(&finished.stdout).unwrap();
    let perplexity = &said["perplexity"];
    let number = |key: &str| perplexity[key].as_f64().unwrap();
    assert!(number("source") > 1.0 && number("target") > 1.0 && number("tokens") > 100.0, "{said}");
    assert!((number("target") - number("source") - number("loss")).abs() < 1e-9, "{said}");
    assert!(said["bytes"].as_u64() < said["source_bytes"].as_u64(), "{said}");
    tidemill(folder.path(), &["generate", "int4", "The tide", "--max-tokens", "5"]).success();
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint("qwen2");
    let target: PathBuf = folder.path().join("model.gguf");
    std::fs::write(&target, "mine").unwrap();
    std::fs::write(folder.path().join("word.txt"), "").unwrap();
    for (arguments, sentence) in [
        (vec!["model.gguf"], "--force replaces it"),
        (vec!["a.gguf", "--type", "int4"], "take q8_0"),
        (vec!["a", "--type", "q4_0"], "take int8 or int4"),
        (vec!["a", "--perplexity", "absent.txt"], "absent.txt"),
        (vec!["a", "--perplexity", "word.txt"], "too few"),
    ] {
        let arguments: Vec<&str> = ["convert", source.as_str()].into_iter().chain(arguments).collect();
        let finished = tidemill(folder.path(), &arguments);
        assert_eq!(finished.code, 2, "{arguments:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(sentence), "{arguments:?}: {}", finished.stderr);
    }
    assert_eq!(std::fs::read(&target).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
    tidemill(folder.path(), &["convert", &source, "model.gguf", "--force"]).success();
    assert!(std::fs::read(&target).unwrap().starts_with(b"GGUF"));
}
