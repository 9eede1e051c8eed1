//! Writes a checkpoint of any form as a Hugging Face folder that `transformers` loads: blocks become floats, large weights
//! are spread over shards. The folder appears whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use super::error::CheckpointError;
use super::{Checkpoint, CheckpointForm, folder};
use crate::error::WeightsError;
use crate::files::{beside, folder_of, sync_folder, write_and_sync};
use crate::weights::{self, TensorSource};

/// How a checkpoint is written.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// The type that all floats are written in: `Float`, `BFloat16` or `Half`. Integers stay as they are.
    pub kind: Kind,
    /// No file of weights is larger, but for a tensor that alone is.
    pub shard_bytes: u64,
}

impl Default for ExportOptions {
    /// bfloat16, in files of five gigabytes, as `transformers` writes them.
    fn default() -> ExportOptions {
        ExportOptions { kind: Kind::BFloat16, shard_bytes: 5_000_000_000 }
    }
}

/// Files of a Hugging Face folder that are copied as they are, where they are there.
const COPIED: &[&str] = &[
    folder::TOKENIZER,
    folder::TOKENIZER_CONFIG,
    folder::SPECIAL_TOKENS_MAP,
    folder::GENERATION_CONFIG,
    folder::CHAT_TEMPLATE,
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
];

/// Writes `checkpoint` as a Hugging Face folder.
///
/// # Errors
/// [`CheckpointError`] when the folder is there and not empty, a tensor cannot be read, or the operating system refuses;
/// there is then no folder.
pub fn export(checkpoint: &Checkpoint, folder: &Path, options: &ExportOptions) -> Result<(), CheckpointError> {
    if !matches!(options.kind, Kind::Float | Kind::BFloat16 | Kind::Half) {
        let problem = format!("cannot be written in {:?}; choose Float, BFloat16 or Half", options.kind);
        return Err(CheckpointError::path(folder, problem));
    }
    let is_empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if folder.exists() && !is_empty() {
        return Err(CheckpointError::path(folder, "is there and not empty, so it is not replaced; give a new folder"));
    }
    let partial = beside(folder, "partial").map_err(CheckpointError::io(folder))?;
    remove(&partial).map_err(CheckpointError::io(&partial))?;
    fs::create_dir_all(&partial).map_err(CheckpointError::io(&partial))?;
    let written = fill(checkpoint, &partial, options)
        .and_then(|()| sync_folder(&partial).map_err(CheckpointError::io(&partial)))
        .and_then(|()| fs::rename(&partial, folder).map_err(CheckpointError::io(folder)))
        .and_then(|()| sync_folder(folder_of(folder)).map_err(CheckpointError::io(folder)));
    if written.is_err() {
        // The first error is the one to report; the leftover is only litter.
        let _ = remove(&partial);
    }
    written
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn fill(checkpoint: &Checkpoint, folder: &Path, options: &ExportOptions) -> Result<(), CheckpointError> {
    let mut config = checkpoint.config().clone();
    let type_name = match options.kind {
        Kind::Float => "float32",
        Kind::Half => "float16",
        _ => "bfloat16",
    };
    config.insert("torch_dtype".to_string(), json!(type_name));
    put_json(&folder.join(folder::CONFIG), &Value::Object(config))?;
    if checkpoint.form() == CheckpointForm::Gguf {
        put(&folder.join(folder::TOKENIZER), &checkpoint.tokenizer_json()?)?;
        put_json(&folder.join(folder::TOKENIZER_CONFIG), &tokenizer_config(checkpoint))?;
        put_json(&folder.join(folder::GENERATION_CONFIG), &generation_config(checkpoint))?;
    } else {
        for name in COPIED {
            if let Some(bytes) = folder::read_optional(&checkpoint.path().join(name))? {
                put(&folder.join(name), &bytes)?;
            }
        }
    }
    put_weights(checkpoint.source()?.as_ref(), folder, options)
}

fn put(file: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    write_and_sync(file, |out| out.write_all(bytes)).map_err(CheckpointError::io(file))
}

fn put_json(file: &Path, value: &Value) -> Result<(), CheckpointError> {
    put(file, format!("{value:#}\n").as_bytes())
}

fn tokenizer_config(checkpoint: &Checkpoint) -> Value {
    let tokens = checkpoint.special_tokens();
    let mut config = Map::new();
    config.insert("tokenizer_class".to_string(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".to_string(), json!(false));
    let named = [
        ("bos_token", tokens.bos.as_ref()),
        ("eos_token", tokens.eos.first()),
        ("pad_token", tokens.pad.as_ref()),
        ("unk_token", tokens.unk.as_ref()),
    ];
    for (name, token) in named {
        if let Some(token) = token {
            config.insert(name.to_string(), json!(token.text));
        }
    }
    if let Some(length) = checkpoint.model_max_length() {
        config.insert("model_max_length".to_string(), json!(length));
    }
    if let Some(template) = checkpoint.chat_template() {
        config.insert("chat_template".to_string(), json!(template));
    }
    Value::Object(config)
}

fn generation_config(checkpoint: &Checkpoint) -> Value {
    let tokens = checkpoint.special_tokens();
    let mut config = checkpoint.generation_config().cloned().unwrap_or_default();
    let ends: Vec<u32> = tokens.eos.iter().map(|end| end.id).collect();
    if !ends.is_empty() {
        config.insert("eos_token_id".to_string(), json!(ends));
    }
    for (name, token) in [("bos_token_id", &tokens.bos), ("pad_token_id", &tokens.pad)] {
        if let Some(token) = token {
            config.insert(name.to_string(), json!(token.id));
        }
    }
    Value::Object(config)
}

/// Kind and shape of each tensor of one file.
type Announced<'a> = BTreeMap<&'a str, (Kind, Vec<i64>)>;

fn put_weights(source: &dyn TensorSource, folder: &Path, options: &ExportOptions) -> Result<(), CheckpointError> {
    let (shards, total) = plan(source, options);
    let name_of = |number: usize| match shards.len() {
        1 => folder::WEIGHTS.to_string(),
        count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    };
    let mut places = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let file: PathBuf = folder.join(name_of(number));
        weights::write_one_by_one(&file, shard, |name| converted(source, name, shard))?;
        places.extend(shard.keys().map(|name| ((*name).to_string(), json!(name_of(number)))));
    }
    if shards.len() > 1 {
        let map: Map<String, Value> = places.into_iter().collect();
        put_json(&folder.join(folder::INDEX), &json!({"metadata": {"total_size": total}, "weight_map": map}))?;
    }
    Ok(())
}

/// Which tensors go into which file, in the order of their names, and how many bytes all have.
fn plan<'a>(source: &'a dyn TensorSource, options: &ExportOptions) -> (Vec<Announced<'a>>, u64) {
    let mut shards: Vec<Announced<'a>> = vec![BTreeMap::new()];
    let (mut in_shard, mut total) = (0_u64, 0_u64);
    for name in source.names() {
        let (Some(shape), Some(kind)) = (source.shape(name), source.kind(name)) else {
            continue;
        };
        let is_float = matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        let kind = if is_float { options.kind } else { kind };
        let bytes = shape.iter().product::<i64>() as u64 * kind.elt_size_in_bytes() as u64;
        if in_shard > 0 && in_shard + bytes > options.shard_bytes {
            shards.push(BTreeMap::new());
            in_shard = 0;
        }
        if let Some(shard) = shards.last_mut() {
            shard.insert(name, (kind, shape.to_vec()));
        }
        in_shard += bytes;
        total += bytes;
    }
    (shards, total)
}

fn converted(source: &dyn TensorSource, name: &str, shard: &Announced<'_>) -> Result<Tensor, WeightsError> {
    let tensor = source.tensor(name, Device::Cpu)?;
    let kind = shard.get(name).map_or_else(|| tensor.kind(), |(kind, _)| *kind);
    let torch = |source_error| WeightsError::Torch { file: source.file_of(name).to_path_buf(), source: source_error };
    tensor.f_to_kind(kind).map_err(torch)
}
