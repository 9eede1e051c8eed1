//! GGUF files: agreement with llama.cpp's own package, and files that lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tidemill_model::checkpoint::gguf::Gguf;
use tidemill_model::checkpoint::{ExportOptions, export};
use tidemill_model::{Checkpoint, CheckpointForm, TensorSource, Weights};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).contiguous().view(-1)).unwrap()
}

/// What `make_gguf.py` fills a tensor of this Hugging Face name with.
fn numbers(name: &str, count: usize) -> Vec<f32> {
    let first: usize = name.bytes().map(usize::from).sum();
    (0..count).map(|i| ((first + i) % 1000) as f32).collect()
}

/// A header, put together as a test likes.
#[derive(Clone)]
struct File {
    magic: &'static [u8],
    version: u32,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    key_count: Option<u64>,
    tensor_count: Option<u64>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(name), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

fn tensor(name: &str, shape: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let shape_bytes: Vec<u8> = shape.iter().flat_map(|dimension| dimension.to_le_bytes()).collect();
    let rank = (shape.len() as u32).to_le_bytes().to_vec();
    [text(name), rank, shape_bytes, kind.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat()
}

impl Default for File {
    fn default() -> File {
        File {
            magic: b"GGUF",
            version: 3,
            keys: vec![key("general.architecture", 8, &text("llama"))],
            tensors: vec![tensor("a", &[4, 2], 0, 0), tensor("b", &[32], 2, 32)],
            key_count: None,
            tensor_count: None,
            data: 64,
        }
    }
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        bytes.extend(self.keys.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }

    fn problem(&self) -> String {
        Gguf::from_bytes("lying.gguf", self.bytes()).unwrap_err().to_string()
    }
}

#[test]
fn every_block_format_gives_the_numbers_of_the_reference() {
    let gguf = Gguf::open(&fixture("blocks.gguf")).unwrap();
    let expected = Weights::open(&fixture("blocks.safetensors")).unwrap();
    assert_eq!(gguf.tensor_names().count(), 16);
    for name in gguf.tensor_names() {
        assert_eq!(gguf.tensor_type(name), Some(name));
        let ours = gguf.floats(name).unwrap();
        let theirs = floats(&expected.tensor(name, Device::Cpu).unwrap());
        assert_eq!(ours.len(), 512);
        for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{name}[{at}]: {ours} is not {theirs}");
        }
    }
}

fn tensors_of(name: &str) -> Box<dyn TensorSource> {
    Checkpoint::open(&fixture(name)).unwrap().source().unwrap()
}

/// Every tensor of a model that went through llama.cpp's converter is as it was before, exactly or within its blocks.
fn check_tensors(file: &str, count: usize) {
    let tensors = tensors_of(file);
    let names = tensors.names();
    assert_eq!(names.len(), count, "{names:?}");
    for name in names {
        let tensor = tensors.tensor(name, Device::Cpu).unwrap();
        assert_eq!(tensor.size(), tensors.shape(name).unwrap(), "{name}");
        assert_eq!(Some(tensor.kind()), tensors.kind(name), "{name}");
        let expected = numbers(name, tensor.numel());
        let quantised = tensors.quantised(name).unwrap();
        let tolerance = if quantised.is_some() { 40.0 } else { 0.0 };
        for (at, (ours, expected)) in floats(&tensor).iter().zip(expected).enumerate() {
            assert!((ours - expected).abs() <= tolerance, "{name}[{at}]: {ours} is not {expected}");
        }
    }
}

#[test]
fn tensors_have_their_hugging_face_names_and_layout() {
    for (file, count) in [
        ("llama.gguf", 12),
        ("qwen3moe.gguf", 21),
        ("phi3.gguf", 9),
        ("gemma2.gguf", 13),
        ("gpt2.gguf", 16),
        ("gptneox.gguf", 16),
    ] {
        check_tensors(file, count);
    }
}

#[test]
fn integers_with_scales_are_the_same_numbers_in_the_same_order() {
    for (file, name, transposed) in [
        ("llama.gguf", "model.layers.0.self_attn.q_proj.weight", false),
        ("llama.gguf", "model.layers.0.self_attn.v_proj.weight", false),
        ("gpt2.gguf", "transformer.h.0.mlp.c_fc.weight", true),
    ] {
        let tensors = tensors_of(file);
        let quantised = tensors.quantised(name).unwrap().unwrap();
        let tensor = tensors.tensor(name, Device::Cpu).unwrap();
        let tensor = if transposed { tensor.transpose(0, 1) } else { tensor };
        assert_eq!(tensor.size(), [quantised.outputs as i64, quantised.inputs as i64]);
        assert_eq!(quantised.to_floats(), floats(&tensor), "{name}");
        assert_eq!(quantised.group, 32);
        assert_eq!(quantised.minima.is_some(), name.contains("v_proj"));
    }
    assert!(tensors_of("llama.gguf").quantised("model.norm.weight").unwrap().is_none());
}

#[test]
fn tensors_outlast_their_file() {
    let tensors = tensors_of("llama.gguf");
    let one = tensors.tensor("model.layers.0.mlp.up_proj.weight", Device::Cpu).unwrap();
    drop(tensors);
    assert_eq!(floats(&one)[0], numbers("model.layers.0.mlp.up_proj.weight", 1)[0]);
}

#[test]
fn configurations_are_those_of_the_hugging_face_folder() {
    let config = |name: &str| Value::Object(Checkpoint::open(&fixture(name)).unwrap().config().clone());
    assert_eq!(
        config("llama.gguf"),
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "tie_word_embeddings": true,
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
            "head_dim": 8, "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
            "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192},
        })
    );
    let moe = config("qwen3moe.gguf");
    let expected = json!({"model_type": "qwen3_moe", "num_experts": 3, "num_experts_per_tok": 2,
        "moe_intermediate_size": 8, "head_dim": 8, "norm_topk_prob": true, "tie_word_embeddings": false});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&moe[key], value, "{key}");
    }
    let phi = config("phi3.gguf");
    assert_eq!((&phi["partial_rotary_factor"], &phi["sliding_window"]), (&json!(0.75), &json!(48)));
    assert_eq!(phi["original_max_position_embeddings"], 32);
    assert_eq!(
        phi["rope_scaling"],
        json!({"rope_type": "longrope", "type": "longrope", "long_factor": [1.5, 2.5, 4.0], "short_factor": [1.0, 1.1, 1.2],
               "attention_factor": 1.25})
    );
    let gemma = config("gemma2.gguf");
    assert_eq!((&gemma["query_pre_attn_scalar"], &gemma["final_logit_softcapping"]), (&json!(8), &json!(30.0)));
    let gpt2 = config("gpt2.gguf");
    assert_eq!((&gpt2["n_positions"], &gpt2["n_inner"], &gpt2["n_head"]), (&json!(12), &json!(64), &json!(2)));
    let neox = config("gptneox.gguf");
    assert_eq!((&neox["rotary_pct"], &neox["use_parallel_residual"]), (&json!(0.25), &json!(true)));
}

#[test]
fn rebuilt_tokenisers_give_the_ids_of_their_makers() {
    let expected: Value = serde_json::from_slice(&fs::read(fixture("tokenizers.json")).unwrap()).unwrap();
    for name in ["bpe", "spm"] {
        let checkpoint = Checkpoint::open(&fixture(&format!("{name}.gguf"))).unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap();
        for pair in expected[name].as_array().unwrap() {
            let text = pair[0].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(pair[1].clone()).unwrap();
            let encoding = tokenizer.encode(text, true).unwrap();
            assert_eq!(encoding.get_ids(), ids, "{name}: {text:?} became {:?}", encoding.get_tokens());
            assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), without_specials(text), "{name}");
        }
    }
}

fn without_specials(text: &str) -> String {
    text.replace("<|user|>", "").replace("<|end|>", "")
}

#[test]
fn symbols_in_a_text_are_one_token_in_either_kind() {
    for (name, id) in [("bpe", 2), ("spm", 3)] {
        let tokenizer = Checkpoint::open(&fixture(&format!("{name}.gguf"))).unwrap().tokenizer().unwrap();
        let ids = tokenizer.encode("The tide<|user|>turns", false).unwrap();
        assert_eq!(ids.get_ids().iter().filter(|found| **found == id).count(), 1, "{:?}", ids.get_tokens());
    }
}

#[test]
fn special_tokens_and_template_come_from_the_metadata() {
    let checkpoint = Checkpoint::open(&fixture("bpe.gguf")).unwrap();
    assert_eq!(checkpoint.form(), CheckpointForm::Gguf);
    assert!(checkpoint.chat_template().unwrap().starts_with("{{ bos_token }}"));
    let tokens = checkpoint.special_tokens();
    assert_eq!(tokens.bos.as_ref().unwrap().text, "<|begin|>");
    assert_eq!(tokens.eos.iter().map(|end| end.id).collect::<Vec<_>>(), [1]);
    assert!(tokens.adds_bos && !tokens.adds_eos);
    assert_eq!(checkpoint.model_max_length(), Some(64));
}

#[test]
fn a_sound_file_opens() {
    let gguf = Gguf::from_bytes("sound.gguf", File::default().bytes()).unwrap();
    assert_eq!(gguf.tensor_names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(gguf.tensor_shape("a"), Some([2, 4].as_slice()));
    assert_eq!(gguf.floats("b").unwrap(), [0.0; 32]);
    assert!(Gguf::from_bytes("older.gguf", File { version: 2, ..File::default() }.bytes()).is_ok());
}

#[test]
fn a_file_cut_anywhere_is_refused_by_name() {
    let bytes = File::default().bytes();
    // The last tensor's 18 bytes begin at 32 of 64.
    for length in 0..bytes.len() - (64 - 32 - 18) {
        let problem = Gguf::from_bytes("cut.gguf", bytes[..length].to_vec()).unwrap_err().to_string();
        assert!(problem.starts_with("cut.gguf: "), "{problem}");
    }
}

#[test]
fn lies_about_the_file_are_refused() {
    let sound = File::default();
    let cases = [
        (File { magic: b"GGML", ..sound.clone() }, "is not a GGUF file"),
        (File { version: 1, ..sound.clone() }, "version 1"),
        (File { version: 4, ..sound.clone() }, "version 4"),
        (File { version: 3_u32.swap_bytes(), ..sound.clone() }, "big-endian"),
        (File { key_count: Some(u64::MAX), ..sound.clone() }, "claims 18446744073709551615 keys"),
        (File { tensor_count: Some(1 << 40), ..sound.clone() }, "claims 1099511627776 tensors"),
        (File { data: 40, ..sound.clone() }, "tensor \"b\" claims 18 bytes at 32, but the file holds 40"),
    ];
    for (file, expected) in cases {
        let problem = file.problem();
        assert!(problem.contains(expected), "{problem} lacks {expected}");
    }
}

#[test]
fn lies_about_a_key_name_the_key() {
    let with = |key: Vec<u8>| File { keys: vec![key], ..File::default() }.problem();
    let array = |element: u32, count: u64| [element.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
    let cases = [
        (with(key("k", 13, &[])), "key \"k\" has a value of type 13"),
        (with(key("k", 9, &array(9, 1))), "key \"k\" is an array of arrays"),
        (with(key("k", 9, &array(77, 1))), "key \"k\" has a value of type 77"),
        (with(key("k", 9, &array(8, u64::MAX))), "key \"k\" claims 18446744073709551615 values"),
        (with(key("k", 9, &array(10, 1 << 61))), "key \"k\" claims 2305843009213693952 values"),
        (with(key("k", 8, &u64::MAX.to_le_bytes())), "key \"k\" is cut short"),
        (
            with([u64::MAX.to_le_bytes().to_vec(), b"k".to_vec()].concat()),
            "claims a name of 18446744073709551615 bytes",
        ),
        (with(key("general.alignment", 4, &[3, 0, 0, 0])), "key \"general.alignment\" must be a power of two"),
        (with(key("general.alignment", 4, &[0, 0, 0, 0])), "key \"general.alignment\" must be a power of two"),
        (with(key("general.alignment", 8, &text("32"))), "key \"general.alignment\" must be a power of two"),
    ];
    for (problem, expected) in cases {
        assert!(problem.contains(expected), "{problem} lacks {expected}");
    }
    let twice = vec![key("k", 7, &[1]), key("k", 7, &[0])];
    assert!(File { keys: twice, ..File::default() }.problem().contains("key \"k\" comes twice"));
}

#[test]
fn lies_about_a_tensor_name_the_tensor() {
    let with = |tensors: &[Vec<u8>]| File { tensors: tensors.to_vec(), ..File::default() }.problem();
    let cases = [
        (with(&[tensor("t", &[1; 5], 0, 0)]), "tensor \"t\" claims 5 dimensions"),
        (with(&[tensor("t", &[u64::MAX, 2], 0, 0)]), "tensor \"t\" has an absurd shape"),
        (with(&[tensor("t", &[1 << 62, 1], 0, 0)]), "tensor \"t\" has an absurd shape"),
        (with(&[tensor("t", &[0, 1 << 63], 0, 0)]), "tensor \"t\" has an absurd shape"),
        (with(&[tensor("t", &[4], 4, 0)]), "tensor \"t\" has the type number 4"),
        (with(&[tensor("t", &[4], u32::MAX, 0)]), "tensor \"t\" has the type number 4294967295"),
        (with(&[tensor("t", &[33], 2, 0)]), "tensor \"t\" has rows of 33 numbers, which blocks of 32 (Q4_0)"),
        (with(&[tensor("t", &[4], 0, 8)]), "tensor \"t\" starts at byte 8, which is not a multiple of 32"),
        (with(&[tensor("t", &[4], 0, u64::MAX - 31)]), "tensor \"t\" claims 16 bytes"),
        (with(&[tensor("t", &[1000], 0, 0)]), "tensor \"t\" claims 4000 bytes at 0, but the file holds 64"),
        (with(&[tensor("t", &[16], 0, 0), tensor("u", &[4], 0, 32)]), "tensor \"u\" overlaps the tensor before it"),
        (with(&[tensor("t", &[4], 0, 0), tensor("t", &[4], 0, 32)]), "tensor \"t\" comes twice"),
        (with(&[tensor(&"t".repeat(300), &[4], 0, 0)]), "claims a name of 300 bytes for tensor 1"),
    ];
    for (problem, expected) in cases {
        assert!(problem.contains(expected), "{problem} lacks {expected}");
    }
}

/// Everything that a checkpoint is asked for, on a file that may hold anything.
fn use_up(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let Ok(checkpoint) = Checkpoint::open(&path) else {
        return;
    };
    let _ = checkpoint.tokenizer().map(|tokenizer| tokenizer.encode("The tide<s> turns", true).map(|_| ()));
    let Ok(tensors) = checkpoint.source() else {
        return;
    };
    for name in tensors.names() {
        let _ = tensors.tensor(name, Device::Cpu);
        let _ = tensors.quantised(name);
    }
}

const SOUND: &[&str] =
    &["llama.gguf", "qwen3moe.gguf", "phi3.gguf", "gemma2.gguf", "gpt2.gguf", "gptneox.gguf", "bpe.gguf", "spm.gguf"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut framed = b"GGUF\x03\0\0\0".to_vec();
        framed.extend(&bytes);
        use_up(&bytes);
        use_up(&framed);
    }

    #[test]
    fn damaged_files_never_panic(
        file in 0..SOUND.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        in_header in any::<bool>(),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = fs::read(fixture(SOUND[file])).unwrap();
        let range = if in_header { bytes.len().min(1200) } else { bytes.len() };
        for (place, byte) in changes {
            let at = place.index(range);
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        use_up(&bytes);
    }
}

#[test]
fn a_long_header_is_read_and_a_file_that_is_cut_off_later_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.gguf");
    let template = "a".repeat(3 << 20);
    let keys =
        vec![key("general.architecture", 8, &text("llama")), key("tokenizer.chat_template", 8, &text(&template))];
    fs::write(&path, File { keys, ..File::default() }.bytes()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.floats("a").unwrap(), [0.0; 8]);
    fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let problem = gguf.floats("a").unwrap_err().to_string();
    assert!(problem.contains("long.gguf") && problem.contains("cut off"), "{problem}");
}

/// The real file, where it is: `TIDEMILL_GGUF` names it.
#[test]
fn a_real_file_opens_fast_and_speaks_its_own_tokens() {
    let Some(path) = std::env::var_os("TIDEMILL_GGUF").map(PathBuf::from) else {
        return;
    };
    let start = std::time::Instant::now();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let opened = start.elapsed();
    let tensors = checkpoint.source().unwrap();
    let listed = start.elapsed();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let loaded = start.elapsed();
    let table = tensors.tensor("model.embed_tokens.weight", Device::Cpu).unwrap();
    println!(
        "opened {opened:?}, listed {listed:?}, tokeniser {loaded:?}, table of {:?} {:?}",
        table.size(),
        start.elapsed()
    );
    println!("{}", Value::Object(checkpoint.config().clone()));
    println!("{:?}", checkpoint.special_tokens());
    let ids = tokenizer.encode("<|im_start|>user\nWhat is 1234 + 5?<|im_end|>\n", true).unwrap();
    println!("{:?}", ids.get_ids());
    let start = std::time::Instant::now();
    for name in tensors.names() {
        let _ = tensors.quantised(name).unwrap();
    }
    println!("all integers {:?}", start.elapsed());
    if let Some(folder) = std::env::var_os("TIDEMILL_EXPORT") {
        let options = ExportOptions { shard_bytes: 200_000_000, ..ExportOptions::default() };
        export(&checkpoint, Path::new(&folder), &options, &mut |_| ()).unwrap();
    }
}
