//! Writes a checkpoint of any form as a Hugging Face folder: floats, which `transformers` loads, or matrices of integers in
//! groups (`grouped.rs`), which Tidemill loads. Large weights are spread over shards. The folder appears whole or not at
//! all, and no more than one tensor is in memory at a time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use super::error::CheckpointError;
use super::{Checkpoint, CheckpointForm, folder, grouped};
use crate::error::WeightsError;
use crate::files::{beside, put_folder_in_place, remove_folder, sync_folder, write_and_sync};
use crate::weights::{self, Bits, GROUP, Quantised, TensorSource};

/// What floats are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// 32 bits.
    Float32,
    /// 16 bits, with more digits and less range than bfloat16.
    Float16,
    /// 16 bits, with float32's range.
    BFloat16,
    /// Matrices in groups of 8-bit integers; what is no matrix of a product stays as it is.
    Int8,
    /// As `Int8`, of 4 bits.
    Int4,
}

impl StoredType {
    /// The type of all floats, where they stay floats.
    fn float(self) -> Option<Kind> {
        match self {
            StoredType::Float32 => Some(Kind::Float),
            StoredType::Float16 => Some(Kind::Half),
            StoredType::BFloat16 => Some(Kind::BFloat16),
            StoredType::Int8 | StoredType::Int4 => None,
        }
    }

    fn bits(self) -> Option<Bits> {
        match self {
            StoredType::Int8 => Some(Bits::Eight),
            StoredType::Int4 => Some(Bits::Four),
            _ => None,
        }
    }
}

/// How a checkpoint is written.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// The type that floats are written in. Integers stay as they are.
    pub stored: StoredType,
    /// No file of weights is larger, but for a tensor that alone is.
    pub shard_bytes: u64,
    /// Whether a checkpoint's folder that is there is exchanged for the new one.
    pub replace: bool,
}

impl Default for ExportOptions {
    /// bfloat16, in files of five gigabytes, as `transformers` writes them; nothing is replaced.
    fn default() -> ExportOptions {
        ExportOptions { stored: StoredType::BFloat16, shard_bytes: 5_000_000_000, replace: false }
    }
}

/// How far writing is.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Bytes of tensors that are written.
    pub bytes: u64,
    /// Bytes of all tensors.
    pub of: u64,
}

/// Files of a Hugging Face folder that are copied as they are, where they are there.
const COPIED: &[&str] = &[
    folder::TOKENIZER,
    folder::TOKENIZER_CONFIG,
    folder::SPECIAL_TOKENS_MAP,
    folder::GENERATION_CONFIG,
    folder::CHAT_TEMPLATE,
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    // sentence-transformers' own.
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
];

/// Writes `checkpoint` as a Hugging Face folder; `progress` hears of every tensor.
///
/// # Errors
/// [`CheckpointError`] when the folder is there and not empty (or, where it may be replaced, holds no checkpoint), a
/// tensor cannot be read or rounded, or the operating system refuses; the folder is then as it was.
pub fn export(
    checkpoint: &Checkpoint,
    folder: &Path,
    options: &ExportOptions,
    progress: &mut dyn FnMut(Written),
) -> Result<(), CheckpointError> {
    check_target(checkpoint, folder, options.replace)?;
    let partial = beside(folder, "partial").map_err(CheckpointError::io(folder))?;
    remove_folder(&partial).map_err(CheckpointError::io(&partial))?;
    fs::create_dir_all(&partial).map_err(CheckpointError::io(&partial))?;
    let written = fill(checkpoint, &partial, options, progress)
        .and_then(|()| sync_folder(&partial).map_err(CheckpointError::io(&partial)))
        .and_then(|()| put_folder_in_place(&partial, folder).map_err(CheckpointError::io(folder)));
    if written.is_err() {
        // The first error is the one to report; the leftover is only litter.
        let _ = remove_folder(&partial);
    }
    written
}

/// Refuses to write over what nobody asked to replace, over what is no checkpoint, and over the source itself.
fn check_target(checkpoint: &Checkpoint, folder: &Path, replace: bool) -> Result<(), CheckpointError> {
    let refuse = |problem: &str| Err(CheckpointError::path(folder, problem));
    let is_empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if !folder.exists() || is_empty() {
        return Ok(());
    }
    if !replace {
        return refuse("is there and not empty, so it is not replaced; give a new folder");
    }
    if !folder.join(folder::CONFIG).is_file() {
        return refuse("is there and holds no config.json, so it is not replaced; give a new folder");
    }
    match (fs::canonicalize(folder), fs::canonicalize(checkpoint.path())) {
        (Ok(target), Ok(source)) if source.starts_with(&target) => refuse("is what is read; give another folder"),
        _ => Ok(()),
    }
}

fn fill(
    checkpoint: &Checkpoint,
    folder: &Path,
    options: &ExportOptions,
    progress: &mut dyn FnMut(Written),
) -> Result<(), CheckpointError> {
    put_json(&folder.join(folder::CONFIG), &Value::Object(config(checkpoint, options.stored)))?;
    if checkpoint.form() == CheckpointForm::Gguf {
        put(&folder.join(folder::TOKENIZER), &checkpoint.tokenizer_json()?)?;
        put_json(&folder.join(folder::TOKENIZER_CONFIG), &tokenizer_config(checkpoint))?;
        put_json(&folder.join(folder::GENERATION_CONFIG), &generation_config(checkpoint))?;
    } else {
        copy_files(checkpoint, folder)?;
    }
    put_weights(checkpoint, folder, options, progress)
}

/// The configuration with the type that the weights now have.
fn config(checkpoint: &Checkpoint, stored: StoredType) -> Map<String, Value> {
    let mut config = checkpoint.config().clone();
    let type_name = match stored {
        StoredType::Float32 => Some("float32"),
        StoredType::Float16 => Some("float16"),
        StoredType::BFloat16 => Some("bfloat16"),
        StoredType::Int8 | StoredType::Int4 => None,
    };
    if let Some(name) = type_name {
        // transformers 5 calls it `dtype` and reads both.
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_string(), json!(name));
    }
    grouped::set(&mut config, stored.bits());
    config
}

/// The small files of a folder, and those of the modules that `sentence-transformers` has in folders of their own.
fn copy_files(checkpoint: &Checkpoint, folder: &Path) -> Result<(), CheckpointError> {
    let copy = |name: &str| -> Result<(), CheckpointError> {
        match folder::read_optional(&checkpoint.path().join(name))? {
            Some(bytes) => put(&folder.join(name), &bytes),
            None => Ok(()),
        }
    };
    COPIED.iter().try_for_each(|name| copy(name))?;
    let modules = checkpoint.sentence_transformer().map(|sentence| sentence.modules.as_slice()).unwrap_or_default();
    for module in modules.iter().filter(|module| folder::is_plain_name(&module.folder)) {
        let place = folder.join(&module.folder);
        fs::create_dir_all(&place).map_err(CheckpointError::io(&place))?;
        for name in [folder::CONFIG, folder::WEIGHTS] {
            copy(&format!("{}/{name}", module.folder))?;
        }
        sync_folder(&place).map_err(CheckpointError::io(&place))?;
    }
    Ok(())
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

/// One tensor of a file to be.
struct Planned<'a> {
    kind: Kind,
    shape: Vec<i64>,
    /// The tensor of the source, and what of it.
    from: &'a str,
    part: Part,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Floats,
    Integers(Bits),
    Scales,
    Minima,
}

/// The tensors of one file.
type Shard<'a> = BTreeMap<String, Planned<'a>>;

fn put_weights(
    checkpoint: &Checkpoint,
    folder: &Path,
    options: &ExportOptions,
    progress: &mut dyn FnMut(Written),
) -> Result<(), CheckpointError> {
    let source = checkpoint.source()?;
    let source = Matrices { source: source.as_ref(), turned: is_turned(checkpoint), last: None };
    let (shards, total) = plan(&source, options)?;
    let name_of = |number: usize| match shards.len() {
        1 => folder::WEIGHTS.to_string(),
        count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    };
    let (mut places, mut done) = (Map::new(), 0);
    let mut source = source;
    for (number, shard) in shards.iter().enumerate() {
        let file: PathBuf = folder.join(name_of(number));
        let announced = shard.iter().map(|(name, planned)| (name.as_str(), (planned.kind, planned.shape.clone())));
        weights::write_one_by_one(&file, &announced.collect(), |name| {
            let planned = shard.get(name).ok_or_else(|| weights::missing(&file, name))?;
            let tensor = source.part(planned)?;
            done += planned.bytes();
            progress(Written { bytes: done, of: total });
            Ok(tensor)
        })?;
        places.extend(shard.keys().map(|name| (name.clone(), json!(name_of(number)))));
    }
    if shards.len() > 1 {
        put_json(&folder.join(folder::INDEX), &json!({"metadata": {"total_size": total}, "weight_map": places}))?;
    }
    Ok(())
}

/// GPT-2 stores its matrices the other way round, and what a GGUF file of it holds as integers is turned.
fn is_turned(checkpoint: &Checkpoint) -> bool {
    checkpoint.form() == CheckpointForm::Gguf && checkpoint.config().get("model_type") == Some(&json!("gpt2"))
}

/// Which tensors go into which file, in the order of their names, and how many bytes all have.
fn plan<'a>(source: &Matrices<'a>, options: &ExportOptions) -> Result<(Vec<Shard<'a>>, u64), WeightsError> {
    let mut shards: Vec<Shard<'a>> = vec![Shard::new()];
    let (mut in_shard, mut total) = (0_u64, 0_u64);
    for name in source.source.names() {
        let (Some(shape), Some(kind)) = (source.source.shape(name), source.source.kind(name)) else {
            continue;
        };
        let parts = match options.stored.bits().filter(|_| is_matrix(name, shape, kind)) {
            Some(bits) => source.plan(name, shape, bits)?,
            None => {
                let kind = if is_float(kind) { options.stored.float().unwrap_or(kind) } else { kind };
                vec![(name.to_string(), Planned { kind, shape: shape.to_vec(), from: name, part: Part::Floats })]
            }
        };
        let bytes = parts.iter().map(|(_, planned)| planned.bytes()).sum::<u64>();
        if in_shard > 0 && in_shard + bytes > options.shard_bytes {
            shards.push(Shard::new());
            in_shard = 0;
        }
        if let Some(shard) = shards.last_mut() {
            shard.extend(parts);
        }
        in_shard += bytes;
        total += bytes;
    }
    Ok((shards, total))
}

impl Planned<'_> {
    fn bytes(&self) -> u64 {
        self.shape.iter().product::<i64>() as u64 * self.kind.elt_size_in_bytes() as u64
    }
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
}

/// Whether a tensor is the matrix of a product, or a table of tokens: not a table of positions, types or distances, nor
/// the router of experts, which are small and decide much.
fn is_matrix(name: &str, shape: &[i64], kind: Kind) -> bool {
    let Some(path) = name.strip_suffix(".weight") else {
        return false;
    };
    let last = path.rsplit('.').next().unwrap_or(path);
    let kept = ["position", "wpe", "token_type", "relative_attention_bias", "norm"];
    let is_wide = matches!(shape, [_, inputs] if inputs % GROUP as i64 == 0);
    is_float(kind) && is_wide && last != "gate" && !kept.iter().any(|part| last.contains(part))
}

/// A source whose matrices are asked for in parts, one part after another.
struct Matrices<'a> {
    source: &'a dyn TensorSource,
    turned: bool,
    last: Option<(String, Quantised)>,
}

impl<'a> Matrices<'a> {
    /// The parts of a matrix.
    fn plan(&self, name: &'a str, shape: &[i64], bits: Bits) -> Result<Vec<(String, Planned<'a>)>, WeightsError> {
        let (outputs, inputs) = match *shape {
            [outputs, inputs] => (outputs, inputs),
            _ => return Ok(Vec::new()),
        };
        let own = self.own(name, bits)?;
        let group = own.as_ref().map_or(GROUP as i64, |own| own.group as i64);
        let has_minima = own.as_ref().map_or(bits == Bits::Four, |own| own.minima.is_some());
        let is_half = |number: &f32| half::f16::from_f32(*number).to_f32() == *number;
        let all_half = own.is_none_or(|own| own.scales.iter().chain(own.minima.iter().flatten()).all(is_half));
        let (kind, width) = match bits {
            Bits::Eight => (Kind::Int8, inputs),
            Bits::Four => (Kind::Uint8, inputs / 2),
        };
        let scale_kind = if all_half { Kind::Half } else { Kind::Float };
        let part = |kind, width, part| Planned { kind, shape: vec![outputs, width], from: name, part };
        let mut parts = vec![
            (name.to_string(), part(kind, width, Part::Integers(bits))),
            (grouped::scale_name(name), part(scale_kind, inputs / group, Part::Scales)),
        ];
        if has_minima {
            parts.push((grouped::minimum_name(name), part(scale_kind, inputs / group, Part::Minima)));
        }
        Ok(parts)
    }

    /// The integers that the source itself holds, where they fit: what was rounded before is not rounded again.
    fn own(&self, name: &str, bits: Bits) -> Result<Option<Quantised>, WeightsError> {
        if self.turned {
            return Ok(None);
        }
        let own = self.source.quantised(name)?;
        Ok(own.filter(|own| matches!(own.group, 16 | GROUP) && grouped::holds(bits, own)))
    }

    fn part(&mut self, planned: &Planned<'_>) -> Result<Tensor, WeightsError> {
        let file = self.source.file_of(planned.from).to_path_buf();
        let torch = |source| WeightsError::Torch { file, source };
        let tensor = match planned.part {
            Part::Floats => {
                let tensor = self.source.tensor(planned.from, Device::Cpu)?;
                return tensor.f_to_kind(planned.kind).map_err(torch);
            }
            // The integers come first, whatever the names' order makes of the rest.
            Part::Integers(bits) => {
                let matrix = self.rounded(planned.from, bits)?;
                let tensor = match bits {
                    Bits::Eight => Tensor::f_from_slice(&matrix.values),
                    Bits::Four => Tensor::f_from_slice(&grouped::packed(&matrix)),
                };
                self.last = Some((planned.from.to_string(), matrix));
                tensor
            }
            Part::Scales | Part::Minima => {
                let last = self.last.as_ref().filter(|(name, _)| name == planned.from);
                let (_, matrix) =
                    last.ok_or_else(|| weights::missing(self.source.file_of(planned.from), planned.from))?;
                let numbers = if planned.part == Part::Scales { Some(&matrix.scales) } else { matrix.minima.as_ref() };
                Tensor::f_from_slice(numbers.map(Vec::as_slice).unwrap_or_default())
            }
        };
        tensor.and_then(|tensor| tensor.f_to_kind(planned.kind)?.f_view(planned.shape.as_slice())).map_err(torch)
    }

    fn rounded(&self, name: &str, bits: Bits) -> Result<Quantised, WeightsError> {
        if let Some(own) = self.own(name, bits)? {
            return Ok(own);
        }
        let tensor = self.source.tensor(name, Device::Cpu)?;
        let floats = tensor.f_to_kind(Kind::Float).and_then(|tensor| Vec::<f32>::try_from(tensor.f_reshape([-1])?));
        let file = || self.source.file_of(name).to_path_buf();
        let floats = floats.map_err(|source| WeightsError::Torch { file: file(), source })?;
        let [outputs, inputs] = *tensor.size().as_slice() else {
            return Err(weights::missing(&file(), name));
        };
        Quantised::from_floats(&floats, outputs as usize, inputs as usize, bits).ok_or_else(|| WeightsError::Tensor {
            file: file(),
            tensor: name.to_string(),
            problem: "holds numbers that are not finite or beyond 60,000, which integers with scales cannot"
                .to_string(),
        })
    }
}
