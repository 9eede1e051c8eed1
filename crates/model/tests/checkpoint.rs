//! Hugging Face folders: whole and sharded weights, the small files around them, and what is refused with which sentence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tidemill_model::checkpoint::{ExportOptions, Pooling, SentenceModuleKind, Shards, StoredType, export};
use tidemill_model::{Checkpoint, CheckpointForm, TensorSource, weights};

fn put(folder: &Path, name: &str, json: &Value) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, json.to_string()).unwrap();
}

fn put_weights(folder: &Path, name: &str, tensors: &[&str]) {
    let tensors: Vec<(String, Tensor)> = tensors
        .iter()
        .map(|name| ((*name).to_string(), Tensor::full([2, 3], name.len() as i64, (Kind::Float, Device::Cpu))))
        .collect();
    weights::write(&folder.join(name), &tensors).unwrap();
}

/// A folder with two shards and the files that surround weights.
fn sharded() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    put(path, "config.json", &json!({"model_type": "llama", "max_position_embeddings": 2048, "eos_token_id": 2}));
    put_weights(path, "model-00001-of-00002.safetensors", &["a", "bb"]);
    put_weights(path, "model-00002-of-00002.safetensors", &["ccc"]);
    let map = json!({"a": "model-00001-of-00002.safetensors", "bb": "model-00001-of-00002.safetensors",
                     "ccc": "model-00002-of-00002.safetensors"});
    put(path, "model.safetensors.index.json", &json!({"metadata": {"total_size": 72}, "weight_map": map}));
    folder
}

fn problem_of(folder: &Path) -> String {
    match Checkpoint::open(folder) {
        Ok(checkpoint) => checkpoint.source().map(|_| ()).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn shards_are_one_source() {
    let folder = sharded();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.form(), CheckpointForm::Shards);
    let source = checkpoint.source().unwrap();
    assert_eq!(source.names(), ["a", "bb", "ccc"]);
    assert_eq!((source.shape("ccc"), source.kind("ccc")), (Some([2, 3].as_slice()), Some(Kind::Float)));
    assert_eq!(source.tensor("ccc", Device::Cpu).unwrap().double_value(&[1, 2]), 3.0);
    assert!(source.file_of("ccc").ends_with("model-00002-of-00002.safetensors"));
    assert!(source.tensor("d", Device::Cpu).unwrap_err().to_string().contains("tensor \"d\" is missing"));
    assert!(source.quantised("a").unwrap().is_none());
}

#[test]
fn an_index_that_lies_is_refused_by_name() {
    let refused = |map: &str| {
        let folder = sharded();
        let index = folder.path().join("model.safetensors.index.json");
        fs::write(&index, format!("{{\"weight_map\": {map}}}")).unwrap();
        problem_of(folder.path())
    };
    let first = "model-00001-of-00002.safetensors";
    for (map, expected) in [
        (format!("{{\"ccc\": \"{first}\"}}"), format!("puts the tensor \"ccc\" into {first}, which does not have it")),
        ("{\"a\": \"../model.safetensors\"}".to_string(), "which is not a file of its own folder".to_string()),
        ("{\"a\": \"/etc/passwd\"}".to_string(), "\"/etc/passwd\", which is not a file of its own".to_string()),
        ("{\"a\": \"config.json\"}".to_string(), "\"config.json\", which is not a file of its own".to_string()),
        (
            "{\"a\": \"other.safetensors\"}".to_string(),
            "other.safetensors: is missing, and the index names it".to_string(),
        ),
        (format!("{{\"a\": \"{first}\", \"a\": \"{first}\"}}"), "names the tensor \"a\" twice".to_string()),
        ("{}".to_string(), "names no tensors".to_string()),
        ("[]".to_string(), "is not an index of safetensors".to_string()),
    ] {
        let problem = refused(&map);
        assert!(problem.contains(&expected), "{problem} lacks {expected}");
    }
    let folder = sharded();
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(problem_of(folder.path()).contains("model-00002-of-00002.safetensors: is missing"));
    let folder = sharded();
    fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    assert!(problem_of(folder.path()).contains("model.safetensors.index.json: is missing"));
    let folder = sharded();
    fs::write(folder.path().join(first), [0; 20]).unwrap();
    assert!(problem_of(folder.path()).contains(first));
}

#[test]
fn what_is_no_checkpoint_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(problem_of(&path.join("nowhere")).contains("there is no such file or folder"));
    assert!(problem_of(path).contains("has no config.json and no .gguf file"));
    put(path, "config.json", &json!({"architectures": ["LlamaForCausalLM"]}));
    assert!(problem_of(path).contains("has no weights: neither model.safetensors nor model.safetensors.index.json"));
    fs::write(path.join("pytorch_model.bin"), b"PK").unwrap();
    let problem = problem_of(path);
    assert!(problem.contains("pytorch_model.bin: is a pickle"), "{problem}");
    assert!(problem.contains("t.LlamaForCausalLM.from_pretrained(a).save_pretrained(b)"), "{problem}");
    put(path, "config.json", &json!({"architectures": ["x\"); import os"]}));
    assert!(problem_of(path).contains("t.AutoModel.from_pretrained"));
    assert!(problem_of(&path.join("pytorch_model.bin")).contains("is a pickle"));
    fs::write(path.join("config.json"), "[1]").unwrap();
    put_weights(path, "model.safetensors", &["a"]);
    assert!(problem_of(path).contains("config.json: is not a JSON object"));
    assert!(problem_of(&path.join("model.safetensors")).contains("give the folder that has its config.json"));
}

#[test]
fn a_folder_with_one_gguf_file_is_that_file() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixtures.join("bpe.gguf"), folder.path().join("model.gguf")).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!((checkpoint.form(), checkpoint.path()), (CheckpointForm::Gguf, folder.path()));
    fs::copy(fixtures.join("spm.gguf"), folder.path().join("other.gguf")).unwrap();
    assert!(problem_of(folder.path()).contains("several .gguf files; give one of them: model.gguf, other.gguf"));
}

#[test]
fn templates_lengths_and_special_tokens_come_from_the_small_files() {
    let folder = sharded();
    let path = folder.path();
    assert_eq!(Checkpoint::open(path).unwrap().model_max_length(), Some(2048));
    put(path, "generation_config.json", &json!({"eos_token_id": [2, 7], "temperature": 0.6}));
    let decoder = json!({"1": {"content": "<s>"}, "2": {"content": "</s>"}, "7": {"content": "<|end|>"}});
    let named = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]);
    let mut config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "model_max_length": 1024,
                            "chat_template": named, "added_tokens_decoder": decoder});
    put(path, "tokenizer_config.json", &config);
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!(checkpoint.chat_template(), Some("plain"));
    assert_eq!(checkpoint.chat_templates()["tool_use"], "tools");
    assert_eq!(checkpoint.model_max_length(), Some(1024));
    assert_eq!(checkpoint.generation_config().unwrap()["temperature"], 0.6);
    let tokens = checkpoint.special_tokens();
    assert_eq!(tokens.eos.iter().map(|end| end.id).collect::<Vec<_>>(), [2, 7]);
    assert_eq!(tokens.bos.as_ref().map(|bos| bos.id), Some(1));
    config["model_max_length"] = json!(1e30);
    config["chat_template"] = json!("one");
    put(path, "tokenizer_config.json", &config);
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!((checkpoint.chat_template(), checkpoint.model_max_length()), (Some("one"), Some(2048)));
    fs::write(path.join("chat_template.jinja"), "a file").unwrap();
    assert_eq!(Checkpoint::open(path).unwrap().chat_template(), Some("a file"));
    assert!(
        Checkpoint::open(path).unwrap().tokenizer().unwrap_err().to_string().contains("tokenizer.json: is missing")
    );
    fs::write(path.join("tokenizer.json"), "{\"model\": 3}").unwrap();
    assert!(Checkpoint::open(path).unwrap().tokenizer().is_err());
}

#[test]
fn a_tokeniser_that_contradicts_itself_is_an_error() {
    let folder = sharded();
    // The library copies both halves of a merge into room for its longest token, without a look.
    let tokenizer = json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}});
    put(folder.path(), "tokenizer.json", &tokenizer);
    assert!(Checkpoint::open(folder.path()).unwrap().tokenizer().is_err());
}

#[test]
fn sentence_transformers_files_are_read() {
    let folder = sharded();
    let path = folder.path();
    let module = |path: &str, kind: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules = json!([
        module("", "Transformer"),
        module("1_Pooling", "Pooling"),
        module("2_Dense", "Dense"),
        module("3_Normalize", "Normalize")
    ]);
    put(path, "modules.json", &modules);
    put(path, "sentence_bert_config.json", &json!({"max_seq_length": 256, "do_lower_case": false}));
    put(path, "1_Pooling/config.json", &json!({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": true}));
    let dense = json!({"in_features": 3, "out_features": 2, "activation_function": "torch.nn.modules.linear.Identity"});
    put(path, "2_Dense/config.json", &dense);
    put_weights(path, "2_Dense/model.safetensors", &["linear.weight"]);
    put(path, "config_sentence_transformers.json", &json!({"prompts": {"query": "search: "}}));
    let checkpoint = Checkpoint::open(path).unwrap();
    let sentence = checkpoint.sentence_transformer().unwrap();
    assert_eq!((sentence.max_seq_length, sentence.prompts["query"].as_str()), (Some(256), "search: "));
    let pooling = Pooling { mean: true, include_prompt: true, dimension: Some(384), ..Pooling::default() };
    assert_eq!(sentence.modules[1].kind, SentenceModuleKind::Pooling(pooling));
    let dense = &sentence.modules[2];
    assert_eq!(checkpoint.module_weights(dense).unwrap().shape("linear.weight"), Some([2, 3].as_slice()));
    assert!(checkpoint.module_weights(&sentence.modules[3]).is_err());
    put(path, "1_Pooling/config.json", &json!({"pooling_mode": "lasttoken"}));
    let sentence = Checkpoint::open(path).unwrap().sentence_transformer().cloned().unwrap();
    let SentenceModuleKind::Pooling(pooling) = sentence.modules[1].kind else { panic!("{sentence:?}") };
    assert!(pooling.last_token && !pooling.mean);
    put(path, "modules.json", &json!([module("../../etc", "Pooling")]));
    assert!(problem_of(path).contains("modules.json: names the folder \"../../etc\""));
}

/// The real folder, where it is: `TIDEMILL_SENTENCE_TRANSFORMER` names it.
#[test]
fn a_real_sentence_transformer_opens() {
    let Some(path) = std::env::var_os("TIDEMILL_SENTENCE_TRANSFORMER") else {
        return;
    };
    let checkpoint = Checkpoint::open(Path::new(&path)).unwrap();
    let sentence = checkpoint.sentence_transformer().unwrap();
    assert_eq!(sentence.modules.len(), 3);
    assert_eq!(sentence.max_seq_length, Some(256));
    assert_eq!(checkpoint.special_tokens().pad.as_ref().unwrap().text, "[PAD]");
    assert!(checkpoint.source().unwrap().shape("embeddings.word_embeddings.weight").is_some());
    assert_eq!(checkpoint.tokenizer().unwrap().encode("hello world", true).unwrap().get_ids(), [101, 7592, 2088, 102]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_indexes_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let folder = sharded();
        let index = folder.path().join("model.safetensors.index.json");
        let mut bytes = fs::read(&index).unwrap();
        for (place, byte) in changes {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(&index, bytes).unwrap();
        let _ = Shards::open(&index).map(|shards| shards.names().len());
    }
}

#[test]
fn an_export_is_a_folder_that_opens_with_the_same_numbers() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let folder = tempfile::tempdir().unwrap();
    let gguf = Checkpoint::open(&fixtures.join("llama.gguf")).unwrap();
    let path = folder.path().join("exported");
    // The file has no tokeniser, so nothing may be left behind.
    let options = ExportOptions { stored: StoredType::Float32, shard_bytes: 10_000, replace: false };
    assert!(export(&gguf, &path, &options, &mut |_| ()).unwrap_err().to_string().contains("holds no tokeniser"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let gguf = Checkpoint::open(&fixtures.join("bpe.gguf")).unwrap();
    export(&gguf, &path, &options, &mut |_| ()).unwrap();
    assert!(export(&gguf, &path, &options, &mut |_| ()).unwrap_err().to_string().contains("is there and not empty"));
    let again = Checkpoint::open(&path).unwrap();
    assert_eq!(again.form(), CheckpointForm::Safetensors);
    assert_eq!((again.special_tokens(), again.chat_template()), (gguf.special_tokens(), gguf.chat_template()));
    let ids = |checkpoint: &Checkpoint| {
        checkpoint.tokenizer().unwrap().encode("The tide turns", true).unwrap().get_ids().to_vec()
    };
    assert_eq!(ids(&again), ids(&gguf));

    // A folder exported again, in shards of one tensor and another type.
    let source = sharded();
    let other = folder.path().join("other");
    let options = ExportOptions { shard_bytes: 1, ..ExportOptions::default() };
    export(&Checkpoint::open(source.path()).unwrap(), &other, &options, &mut |_| ()).unwrap();
    let exported = Checkpoint::open(&other).unwrap();
    assert_eq!((exported.form(), &exported.config()["torch_dtype"]), (CheckpointForm::Shards, &json!("bfloat16")));
    let tensors = exported.source().unwrap();
    assert_eq!((tensors.names(), tensors.kind("bb")), (vec!["a", "bb", "ccc"], Some(Kind::BFloat16)));
    assert_eq!(tensors.tensor("ccc", Device::Cpu).unwrap().double_value(&[1, 2]), 3.0);
    assert!(other.join("model-00003-of-00003.safetensors").is_file());
}
