//! The tokeniser of a Marian folder that has no `tokenizer.json`, against the MarianTokenizer of `transformers`; see
//! `fixtures/make_marian_tokenizer.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill_model::Checkpoint;

#[derive(Deserialize)]
struct Expected {
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/marian_tokenizer")
}

/// The tokeniser's files beside the weights of another fixture.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["source.spm", "target.spm", "vocab.json", "tokenizer_config.json"] {
        std::fs::copy(fixture().join(file), folder.path().join(file)).unwrap();
    }
    let weights = fixture().join("../encoder_decoders/marian");
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(weights.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn problem(folder: &TempDir) -> String {
    Checkpoint::open(folder.path()).unwrap_err().to_string()
}

#[test]
fn texts_become_the_ids_of_transformers_and_ids_its_texts() {
    let expected: Expected =
        serde_json::from_str(&std::fs::read_to_string(fixture().join("expected.json")).unwrap()).unwrap();
    let folder = folder();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    for Text { text, ids, decoded } in expected.texts {
        let found = tokenizer.encode(text.as_str(), true).unwrap();
        assert_eq!(found.get_ids(), ids, "{text:?}: {:?}", found.get_tokens());
        assert_eq!(tokenizer.decode(&ids, true).unwrap().trim(), decoded.trim(), "{text:?}");
    }
    let special = checkpoint.special_tokens();
    assert_eq!((special.before.as_slice(), special.after.as_slice()), ([].as_slice(), [0].as_slice()));
    assert_eq!(special.eos[0].text, "</s>");
}

#[test]
fn files_that_are_damaged_or_of_another_kind_are_named() {
    let folder = folder();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let spm = std::fs::read(fixture().join("source.spm")).unwrap();
    write("source.spm", &spm[..spm.len() - 9]);
    assert!(problem(&folder).contains("source.spm: is not a SentencePiece model, or is cut short"));
    write("source.spm", &spm);

    let vocabulary: Value = serde_json::from_slice(&std::fs::read(fixture().join("vocab.json")).unwrap()).unwrap();
    write("vocab.json", json!({"</s>": 0, "<unk>": 2}).to_string().as_bytes());
    assert!(problem(&folder).contains("vocab.json: does not number its pieces from 0 on"), "{}", problem(&folder));
    write("vocab.json", json!({"</s>": 0, "a": 1}).to_string().as_bytes());
    assert!(problem(&folder).contains("vocab.json: has no <unk>"), "{}", problem(&folder));
    write("vocab.json", vocabulary.to_string().as_bytes());
    Checkpoint::open(folder.path()).unwrap();

    write("tokenizer_config.json", br#"{"separate_vocabs": true}"#);
    assert!(problem(&folder).contains("second vocabulary for the target language"), "{}", problem(&folder));
    std::fs::remove_file(folder.path().join("source.spm")).unwrap();
    let missing = Checkpoint::open(folder.path()).unwrap().tokenizer().unwrap_err().to_string();
    assert!(missing.contains("tokenizer.json"), "{missing}");
}
