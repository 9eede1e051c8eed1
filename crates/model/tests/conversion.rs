//! Checkpoints in another form or precision: what goes there and comes back is the same, what was rounded is what running
//! it rounded would be, and nothing is lost without a word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tidemill_model::checkpoint::gguf::{self, GgufOptions, GgufType};
use tidemill_model::checkpoint::{ExportOptions, StoredType, export};
use tidemill_model::tasks::perplexity::{Perplexity, Windows, of_checkpoint, of_tokens};
use tidemill_model::{Checkpoint, CheckpointForm, Parameters, decoders};
use tidemill_torch::{Matrix, Precision};

/// Stored checkpoints of decoders whose configurations GGUF has a place for.
const DECODERS: [&str; 8] = ["gpt2", "gpt_neox_sequential", "llama_3", "mistral", "mixtral", "phi3", "qwen2", "qwen3"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn stored(name: &str) -> Checkpoint {
    Checkpoint::open(&fixtures().join("checkpoints").join(name)).unwrap()
}

fn folder_of(checkpoint: &Checkpoint, path: &Path, stored: StoredType) -> Checkpoint {
    let options = ExportOptions { stored, ..ExportOptions::default() };
    export(checkpoint, path, &options, &mut |_| ()).unwrap();
    Checkpoint::open(path).unwrap()
}

fn gguf_of(checkpoint: &Checkpoint, path: &Path, stored: GgufType) -> Checkpoint {
    let mut bytes = 0;
    gguf::export(checkpoint, path, &GgufOptions { stored, replace: false }, &mut |written| {
        assert!(written.bytes > bytes && written.bytes <= written.of);
        bytes = written.bytes;
    })
    .unwrap();
    Checkpoint::open(path).unwrap()
}

/// Every tensor of `again` is, to the bit, that of `checkpoint` in its type there; none is missing but a tied matrix.
fn assert_same_numbers(checkpoint: &Checkpoint, again: &Checkpoint, kind: Kind) {
    let (one, other) = (checkpoint.source().unwrap(), again.source().unwrap());
    for name in one.names() {
        if name == "lm_head.weight" && other.shape(name).is_none() {
            continue;
        }
        let expected = one.tensor(name, Device::Cpu).unwrap().to_kind(kind);
        assert_eq!(other.tensor(name, Device::Cpu).unwrap().to_kind(kind), expected, "{name}");
    }
    assert!(other.names().iter().all(|name| one.shape(name).is_some()));
}

fn ids(checkpoint: &Checkpoint, text: &str) -> Vec<u32> {
    checkpoint.tokenizer().unwrap().encode(text, true).unwrap().get_ids().to_vec()
}

#[test]
fn floats_come_back_from_gguf_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    for name in DECODERS {
        let checkpoint = stored(name);
        let file = folder.path().join(format!("{name}.gguf"));
        let gguf = gguf_of(&checkpoint, &file, GgufType::F32);
        assert_eq!(gguf.form(), CheckpointForm::Gguf);
        let again = folder_of(&gguf, &folder.path().join(name), StoredType::Float32);
        assert_same_numbers(&checkpoint, &again, Kind::Float);
        let (one, other) = (checkpoint.special_tokens(), again.special_tokens());
        assert_eq!((&one.bos, &one.pad, one.adds_bos), (&other.bos, &other.pad, other.adds_bos), "{name}");
        // As llama.cpp, the reader also ends with what is called an end.
        assert!(other.eos.starts_with(&one.eos), "{name}: {other:?}");
        for text in ["The tide turns at 17:45, isn't it?", "naïve Übergröße  \n\t 東京 🌊"] {
            assert_eq!(ids(&again, text), ids(&checkpoint, text), "{name}");
        }
    }
}

#[test]
fn a_model_that_came_back_gives_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    for name in DECODERS {
        let checkpoint = stored(name);
        let gguf = gguf_of(&checkpoint, &folder.path().join(format!("{name}.gguf")), GgufType::F32);
        // Within Mistral's window, with which the file's context ends.
        let tokens = [5, 9, 3, 70, 11, 2];
        let of = |checkpoint| {
            let windows = Windows { window: 6, stride: 3 };
            of_checkpoint(checkpoint, Some(Precision::Float32), &tokens, windows, &mut |_, _| ()).unwrap().nats
        };
        let (one, other): (f64, f64) = (of(&checkpoint), of(&gguf));
        assert!((one - other).abs() < 1e-6, "{name}: {one} and {other}");
    }
}

#[test]
fn sixteen_bits_are_rounded_once() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = stored("phi3");
    let bfloat16 = folder_of(&checkpoint, &folder.path().join("bfloat16"), StoredType::BFloat16);
    assert_same_numbers(&checkpoint, &bfloat16, Kind::BFloat16);
    let gguf = gguf_of(&bfloat16, &folder.path().join("b.gguf"), GgufType::BF16);
    assert_same_numbers(
        &bfloat16,
        &folder_of(&gguf, &folder.path().join("again"), StoredType::BFloat16),
        Kind::BFloat16,
    );
    let half = gguf_of(&checkpoint, &folder.path().join("h.gguf"), GgufType::F16);
    let matrix = "model.layers.0.mlp.down_proj.weight";
    let kind = |checkpoint: &Checkpoint, name: &str| checkpoint.source().unwrap().kind(name);
    let inputs = checkpoint.source().unwrap().shape(matrix).unwrap()[1];
    assert_eq!((kind(&half, matrix), inputs % 32 != 0), (Some(Kind::Half), true));
    assert_eq!(kind(&half, "model.norm.weight"), Some(Kind::Float));
}

#[test]
fn integers_are_those_that_running_the_source_so_would_make() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = stored("qwen2");
    let source = checkpoint.source().unwrap();
    for (stored, precision, bits) in [(StoredType::Int8, Precision::Int8, 8), (StoredType::Int4, Precision::Int4, 4)] {
        let again = folder_of(&checkpoint, &folder.path().join(format!("int{bits}")), stored);
        let expected = json!({"quant_method": "tidemill", "bits": bits, "group_size": 32});
        assert_eq!(again.config()["quantization_config"], expected);
        let tensors = again.source().unwrap();
        assert_eq!(tensors.names(), source.names());
        let mut rounded = 0;
        for name in source.names() {
            let (own, other) = (source.tensor(name, Device::Cpu).unwrap(), tensors.tensor(name, Device::Cpu).unwrap());
            assert_eq!((tensors.shape(name), other.size()), (source.shape(name), own.size()));
            let Some(integers) = tensors.quantised(name).unwrap() else {
                assert_eq!(own, other, "{name}");
                continue;
            };
            rounded += 1;
            let matrix = Matrix::from_tensor(&own, precision).unwrap().to_tensor().unwrap();
            assert_eq!(matrix, other, "{name}");
            assert_eq!(Tensor::from_slice(&integers.to_floats()).view_as(&other), other);
        }
        assert!(rounded > 10, "{rounded} matrices");
        // It runs as it is stored, nearly as the source does in that precision: rows that are no whole groups stay floats.
        let nats = |checkpoint: &Checkpoint, precision| {
            let windows = Windows { window: 16, stride: 8 };
            of_checkpoint(checkpoint, precision, &[5, 9, 3, 70, 11, 2, 200, 4], windows, &mut |_, _| ()).unwrap().nats
        };
        let (of_stored, of_source) = (nats(&again, None), nats(&checkpoint, Some(precision)));
        assert!((of_stored - of_source).abs() < 0.05, "{of_stored} and {of_source}");
        // And becomes floats again, without the mark.
        let floats = folder_of(&again, &folder.path().join(format!("floats{bits}")), StoredType::Float32);
        assert_eq!(floats.config().get("quantization_config"), None);
        assert_same_numbers(&again, &floats, Kind::Float);
    }
}

#[test]
fn what_was_rounded_is_not_rounded_again() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = stored("qwen2");
    for (kind, stored) in
        [(GgufType::Q4_1, StoredType::Int4), (GgufType::Q4_0, StoredType::Int4), (GgufType::Q8_0, StoredType::Int8)]
    {
        let gguf = gguf_of(&checkpoint, &folder.path().join(format!("{kind:?}.gguf")), kind);
        let again = folder_of(&gguf, &folder.path().join(format!("{kind:?}")), stored);
        let (one, other) = (gguf.source().unwrap(), again.source().unwrap());
        let matrix = "model.layers.1.self_attn.q_proj.weight";
        let read = |source: &dyn tidemill_model::TensorSource| source.tensor(matrix, Device::Cpu).unwrap();
        assert_eq!(read(one.as_ref()), read(other.as_ref()), "{kind:?}");
        // The same type once more is the same bytes.
        let copy = folder.path().join(format!("{kind:?}-copy.gguf"));
        gguf_of(&gguf, &copy, kind);
        let copied = Checkpoint::open(&copy).unwrap();
        assert_eq!(read(copied.source().unwrap().as_ref()), read(one.as_ref()));
        assert_eq!((copied.config(), copied.special_tokens()), (gguf.config(), gguf.special_tokens()));
    }
}

#[test]
fn what_gguf_has_no_place_for_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let options = GgufOptions { stored: GgufType::F32, replace: false };
    let refused = |checkpoint: &Checkpoint, names: &[&str]| {
        let problem = gguf::export(checkpoint, &file, &options, &mut |_| ()).unwrap_err().to_string();
        assert!(names.iter().all(|name| problem.contains(name)), "{problem}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{problem}");
    };
    // Gemma 2 whose queries are scaled as no published one's are.
    refused(&stored("gemma2"), &["query_pre_attn_scalar", "24"]);
    refused(&stored("t5"), &["\"t5\"", "llama"]);

    let changed = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join("checkpoints/gpt2")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), changed.path().join(entry.file_name())).unwrap();
    }
    let path = changed.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in [("scale_attn_by_inverse_layer_idx", json!(true)), ("activation_function", json!("relu"))] {
        let own = std::mem::replace(&mut config[key], value);
        fs::write(&path, config.to_string()).unwrap();
        refused(&Checkpoint::open(changed.path()).unwrap(), &[key]);
        config[key] = own;
    }
}

#[test]
fn only_what_was_asked_for_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = stored("qwen2");
    let (path, file) = (folder.path().join("model"), folder.path().join("model.gguf"));
    folder_of(&checkpoint, &path, StoredType::BFloat16);
    let (mut options, mut of_gguf) = (
        ExportOptions { stored: StoredType::Float32, ..ExportOptions::default() },
        GgufOptions { stored: GgufType::F16, replace: false },
    );
    gguf::export(&checkpoint, &file, &of_gguf, &mut |_| ()).unwrap();
    assert!(export(&checkpoint, &path, &options, &mut |_| ()).is_err());
    assert!(gguf::export(&checkpoint, &file, &of_gguf, &mut |_| ()).is_err());
    (options.replace, of_gguf.replace) = (true, true);
    // What is read is never written over.
    let own = Checkpoint::open(&path).unwrap();
    assert!(export(&own, &path, &options, &mut |_| ()).unwrap_err().to_string().contains("is what is read"));
    let own = Checkpoint::open(&file).unwrap();
    assert!(gguf::export(&own, &file, &of_gguf, &mut |_| ()).unwrap_err().to_string().contains("is what is read"));
    // Nor a folder that is no checkpoint.
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), "years of work").unwrap();
    assert!(export(&checkpoint, &other, &options, &mut |_| ()).is_err());
    assert!(gguf::export(&checkpoint, &other, &of_gguf, &mut |_| ()).is_err());
    export(&checkpoint, &path, &options, &mut |_| ()).unwrap();
    gguf::export(&checkpoint, &file, &of_gguf, &mut |_| ()).unwrap();
    let kind = Checkpoint::open(&path).unwrap().source().unwrap().kind("model.embed_tokens.weight");
    assert_eq!((kind, fs::read_dir(folder.path()).unwrap().count()), (Some(Kind::Float), 3));
}

#[test]
fn integers_whose_parts_do_not_go_together_are_an_error_that_names_the_tensor() {
    type Change<'a> = &'a dyn Fn(&str, Tensor) -> Option<Tensor>;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("int4");
    let good = folder_of(&stored("qwen2"), &path, StoredType::Int4);
    let weights = tidemill_model::Weights::open(&path.join("model.safetensors")).unwrap();
    let matrix = "model.layers.0.mlp.up_proj.weight";
    let write = |change: Change| {
        let tensors: Vec<(String, Tensor)> = weights
            .names()
            .filter_map(|name| {
                let tensor = weights.tensor(name, Device::Cpu).unwrap().copy();
                Some((name.to_string(), if name.starts_with(matrix) { change(name, tensor)? } else { tensor }))
            })
            .collect();
        tidemill_model::weights::write(&path.join("model.safetensors"), &tensors).unwrap();
        Checkpoint::open(&path).unwrap().source().map(drop)
    };
    drop(good);
    let changes: [Change; 4] = [
        &|name, tensor| Some(if name == matrix { tensor.to_kind(Kind::Int64) } else { tensor }),
        &|name, tensor| Some(if name.ends_with("_scale") { tensor.narrow(0, 0, 1) } else { tensor }),
        &|name, tensor| Some(if name.ends_with("_minimum") { tensor.narrow(1, 0, 0) } else { tensor }),
        &|name, tensor| Some(if name.ends_with("_scale") { tensor.to_kind(Kind::Int8) } else { tensor }),
    ];
    for change in changes {
        let problem = write(change).unwrap_err().to_string();
        assert!(problem.contains(matrix), "{problem}");
    }
    write(&|_, tensor| Some(tensor)).unwrap();
}

#[test]
fn perplexity_is_that_of_transformers() {
    let expected: Value = serde_json::from_slice(&fs::read(fixtures().join("perplexity.json")).unwrap()).unwrap();
    let size = |key: &str| expected[key].as_u64().unwrap() as usize;
    let checkpoint = stored(expected["checkpoint"].as_str().unwrap());
    let tokens: Vec<u32> = serde_json::from_value(expected["tokens"].clone()).unwrap();
    let windows = Windows { window: size("window"), stride: size("stride") };
    let mut told = (0, 0);
    let found = of_checkpoint(&checkpoint, None, &tokens, windows, &mut |done, all| told = (done, all)).unwrap();
    assert_eq!((found.tokens, told), (size("scored"), (size("scored"), tokens.len() - 1)));
    assert!((found.nats - expected["nats"].as_f64().unwrap()).abs() < 1e-4, "{found:?}");
    assert!((Perplexity { nats: 8.0_f64.ln(), tokens: 3 }.value() - 8.0).abs() < 1e-12);
}

#[test]
fn perplexity_of_too_little_or_foreign_tokens_is_refused() {
    let checkpoint = stored("qwen2");
    let parameters = Parameters::stored(checkpoint.source().unwrap(), Device::Cpu);
    let model = decoders::build(&parameters.root(), checkpoint.config(), 64).unwrap();
    let of =
        |tokens: &[u32], window, stride| of_tokens(model.as_ref(), tokens, Windows { window, stride }, &mut |_, _| ());
    for (tokens, window, stride) in
        [(&[][..], 8, 4), (&[1], 8, 4), (&[1, 99_999], 8, 4), (&[1, 2], 1, 1), (&[1, 2], 8, 0)]
    {
        assert!(of(tokens, window, stride).is_err(), "{tokens:?} {window} {stride}");
    }
    // Windows that do not overlap leave out the first token of each.
    assert_eq!(of(&[1, 2, 3, 4, 5], 2, 2).unwrap().tokens, 2);
}
