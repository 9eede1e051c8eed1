//! Writes a checkpoint as a GGUF file that llama.cpp and Tidemill read: names, layouts and keys the other way round than
//! they are read. What the new file says of the model is read back before its weights are written and must be what the
//! checkpoint says, so that nothing the format has no place for is silently lost. From one GGUF file to another, names and
//! keys stay as they are. No more than one tensor is in memory at a time.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Map, Value as Json};
use tch::{Device, Kind, TchError, Tensor};

use super::blocks::GgmlType;
use super::encode::{BLOCK, GgufType, encode};
use super::names::{Architecture, Layout};
use super::reader::Gguf;
use super::source::RowOrder;
use super::tokenizer_keys;
use super::writer::{Header, padded};
use crate::checkpoint::{Checkpoint, CheckpointError, Written};
use crate::config::Config;
use crate::error::WeightsError;
use crate::files::{beside, folder_of, sync_folder};
use crate::weights::{self, TensorSource};

/// How a GGUF file is written.
#[derive(Clone, Copy, Debug)]
pub struct GgufOptions {
    /// The type of matrices.
    pub stored: GgufType,
    /// Whether a file that is there is replaced.
    pub replace: bool,
}

/// One tensor of the file to be.
struct Planned {
    name: String,
    shape: Vec<usize>,
    kind: &'static GgmlType,
    origin: Origin,
}

enum Origin {
    /// Under the same name in the GGUF file that is read.
    Stored,
    /// Tensors of the checkpoint, one an expert where there are several, and how they are laid out here.
    Tensors(Vec<String>, Layout),
    /// Numbers that stand for a part of the configuration.
    Numbers(Vec<f32>),
}

/// Writes `checkpoint` as a GGUF file; `progress` hears of every tensor.
///
/// # Errors
/// [`CheckpointError`] when the file is there (and may not be replaced), the architecture has no GGUF form or its
/// configuration says what the form has no place for, a tensor cannot be read or rounded, or the operating system refuses;
/// the file is then as it was.
pub fn export(
    checkpoint: &Checkpoint,
    file: &Path,
    options: &GgufOptions,
    progress: &mut dyn FnMut(Written),
) -> Result<(), CheckpointError> {
    if file.exists() && (!options.replace || file.is_dir()) {
        return Err(CheckpointError::path(file, "is there, so it is not replaced; give a new file"));
    }
    let own = checkpoint.gguf().map(Gguf::file);
    if own.is_some_and(|own| fs::canonicalize(own).ok() == fs::canonicalize(file).ok() && file.exists()) {
        return Err(CheckpointError::path(file, "is what is read; give another file"));
    }
    let source = checkpoint.source()?;
    let mut header = Header::default();
    let tensors = match checkpoint.gguf() {
        Some(gguf) => plan_again(gguf, options.stored, &mut header)?,
        None => plan(checkpoint, source.as_ref(), options.stored, &mut header)?,
    };
    for tensor in &tensors {
        header.tensor(&tensor.name, &tensor.shape, tensor.kind);
    }
    let partial = beside(file, "partial").map_err(CheckpointError::io(file))?;
    let written = write(checkpoint, source.as_ref(), &header, &tensors, &partial, progress)
        .and_then(|()| fs::rename(&partial, file).map_err(CheckpointError::io(file)))
        .and_then(|()| sync_folder(folder_of(file)).map_err(CheckpointError::io(file)));
    if written.is_err() {
        // The first error is the one to report; the leftover is only litter.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// The tensors of a GGUF file once more, and its keys.
fn plan_again(gguf: &Gguf, stored: GgufType, header: &mut Header) -> Result<Vec<Planned>, CheckpointError> {
    // The new file has its own.
    const OWN: [&str; 3] = ["general.alignment", "general.file_type", "general.quantization_version"];
    for key in gguf.keys().filter(|key| !OWN.contains(key)) {
        if let Some(bytes) = gguf.encoded(key) {
            header.encoded(key, &bytes);
        }
    }
    about_types(stored, header);
    let is_tied = gguf.tensor("output.weight").is_none();
    let tensors = gguf.tensor_names().filter_map(|name| {
        let info = gguf.tensor(name)?;
        let kept = !matches!(info.kind.name, "F64" | "I8" | "I16" | "I32" | "I64");
        let kind = if kept { type_of(name, &info.shape, stored, is_tied)? } else { info.kind };
        Some(Planned { name: name.to_string(), shape: info.shape.clone(), kind, origin: Origin::Stored })
    });
    Ok(tensors.collect())
}

fn about_types(stored: GgufType, header: &mut Header) {
    header.count("general.file_type", stored.file_type());
    if stored.is_quantised() {
        header.count("general.quantization_version", 2);
    }
}

fn plan(
    checkpoint: &Checkpoint,
    source: &dyn TensorSource,
    stored: GgufType,
    header: &mut Header,
) -> Result<Vec<Planned>, CheckpointError> {
    let refuse = |problem: String| CheckpointError::path(checkpoint.path(), problem);
    let config = flattened(checkpoint.config());
    let reader = Config::new(&config);
    let model_type = config.get("model_type").and_then(Json::as_str).unwrap_or_default();
    let architecture = Architecture::of_model_type(model_type).ok_or_else(|| {
        let known = Architecture::model_types().join(", ");
        refuse(format!("holds a model of the type \"{model_type}\", which has no GGUF form here (there are {known})"))
    })?;
    let said = |error: crate::error::ModelError| refuse(error.to_string());
    let lists = architecture.write(reader, header).map_err(said)?.lists;
    about_types(stored, header);
    let name = checkpoint.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    header.text("general.name", &name);
    header.text("general.type", "model");
    sampling(checkpoint, header);
    let tied = source.names().into_iter().all(|name| !is_output(architecture, name))
        || reader.flag_or("tie_word_embeddings", model_type == "gpt2" || model_type == "gemma2").map_err(said)?;
    let list = |(name, numbers): (&str, Vec<f32>)| {
        let shape = vec![numbers.len()];
        let kind = type_of(name, &shape, stored, tied)?;
        Some(Planned { name: name.to_string(), shape, kind, origin: Origin::Numbers(numbers) })
    };
    // What the configuration is read from comes first.
    let mut planned: Vec<Planned> = lists.into_iter().filter_map(list).collect();
    let first = planned.len();
    let heads = Heads::of(&config);
    let mut vocabulary = 0;
    for name in source.names() {
        if is_computed(name) || tied && is_output(architecture, name) {
            continue;
        }
        let (stored_name, expert, layout) = architecture.stored(name).ok_or_else(|| {
            refuse(format!("holds the tensor \"{name}\", which the GGUF form of \"{model_type}\" has no place for"))
        })?;
        let mut shape: Vec<usize> = source.shape(name).unwrap_or_default().iter().map(|size| *size as usize).collect();
        if layout == Layout::Transposed {
            shape.reverse();
        }
        if !heads.fit(layout, shape.first().copied().unwrap_or_default()) {
            return Err(refuse(format!("holds the tensor \"{name}\", whose rows do not make whole heads")));
        }
        if stored_name == "token_embd.weight" {
            vocabulary = shape.first().copied().unwrap_or_default();
        }
        if layout == Layout::Experts {
            let there = planned.iter_mut().find(|planned| planned.name == stored_name);
            match there.map(|planned| (&planned.origin, &planned.shape)) {
                Some((_, all)) if all.get(1..) != Some(shape.as_slice()) => {
                    return Err(refuse(format!(
                        "holds the expert \"{name}\" of another shape than the ones before it"
                    )));
                }
                Some(_) => continue,
                None => {
                    let names = experts(architecture, source, &stored_name);
                    let complete = names.iter().enumerate().all(|(at, (number, _))| at == *number);
                    if !complete || expert.is_none() {
                        return Err(refuse(format!("lacks experts beside \"{name}\"")));
                    }
                    shape.insert(0, names.len());
                    let names = names.into_iter().map(|(_, name)| name).collect();
                    planned.push(of_names(stored_name, shape, names, layout, stored, tied)?);
                }
            }
            continue;
        }
        planned.push(of_names(stored_name, shape, vec![name.to_string()], layout, stored, tied)?);
    }
    if let Some(rest) = planned.get_mut(first..) {
        rest.sort_by(|one, other| order(&one.name).cmp(&order(&other.name)));
    }
    tokenizer_keys::write(checkpoint, vocabulary, header)?;
    Ok(planned)
}

fn of_names(
    name: String,
    shape: Vec<usize>,
    names: Vec<String>,
    layout: Layout,
    stored: GgufType,
    tied: bool,
) -> Result<Planned, CheckpointError> {
    let kind = type_of(&name, &shape, stored, tied);
    let kind = kind.ok_or_else(|| CheckpointError::path(Path::new(&name), "has no type".to_string()))?;
    Ok(Planned { name, shape, kind, origin: Origin::Tensors(names, layout) })
}

/// The experts that one tensor holds, by their numbers.
fn experts(architecture: &Architecture, source: &dyn TensorSource, stored: &str) -> Vec<(usize, String)> {
    let expert = |name: &str| match architecture.stored(name) {
        Some((other, Some(number), _)) if other == stored => Some((number, name.to_string())),
        _ => None,
    };
    let mut experts: Vec<(usize, String)> = source.names().into_iter().filter_map(expert).collect();
    experts.sort();
    experts
}

/// Layers in the order of their numbers.
fn order(name: &str) -> (usize, &str) {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse::<usize>().ok());
    (layer.map_or(0, |layer| layer + 1), name)
}

/// Whether a tensor is the matrix of the logits, which a tied model may store a second time.
fn is_output(architecture: &Architecture, name: &str) -> bool {
    architecture.stored(name).is_some_and(|(stored, ..)| stored == "output.weight")
}

/// Masks and frequencies, which old checkpoints store though they are computed.
fn is_computed(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The type of one tensor. Lists, norms, routers and positions are F32, rows that are no whole blocks F16; the matrix of
/// the logits, which decides most, has at least 8 bits: all as llama.cpp's own tools do.
fn type_of(name: &str, shape: &[usize], stored: GgufType, tied: bool) -> Option<&'static GgmlType> {
    let plain = shape.len() < 2
        || ["_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight"]
            .iter()
            .any(|end| name.ends_with(end));
    let of_logits = name == "output.weight" || tied && name == "token_embd.weight";
    let whole = shape.last().is_some_and(|row| row.is_multiple_of(BLOCK));
    let stored = match stored {
        _ if plain => GgufType::F32,
        stored if !stored.is_quantised() => stored,
        _ if !whole => GgufType::F16,
        _ if of_logits => GgufType::Q8_0,
        stored => stored,
    };
    GgmlType::from_id(stored.id())
}

/// How the model's authors sample, by the names that GGUF has.
fn sampling(checkpoint: &Checkpoint, header: &mut Header) {
    const NAMES: [(&str, &str); 5] = [
        ("temperature", "temp"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("repetition_penalty", "penalty_repeat"),
    ];
    for (name, key) in NAMES {
        let value = checkpoint.generation_config().and_then(|config| config.get(name));
        let key = format!("general.sampling.{key}");
        match (name, value.and_then(Json::as_u64), value.and_then(Json::as_f64)) {
            ("top_k", Some(count), _) => header.integer(&key, i32::try_from(count).unwrap_or(i32::MAX)),
            (_, _, Some(number)) => header.number(&key, number as f32),
            _ => {}
        }
    }
}

/// A configuration with its rotation as transformers 4 writes it, whichever wrote it.
fn flattened(config: &Map<String, Json>) -> Map<String, Json> {
    let mut config = config.clone();
    if let Some(Json::Object(mut rope)) = config.remove("rope_parameters") {
        for name in ["rope_theta", "partial_rotary_factor"] {
            if let Some(value) = rope.remove(name) {
                config.insert(name.to_string(), value);
            }
        }
        if rope.get("rope_type").is_some_and(|kind| kind != "default") {
            config.insert("rope_scaling".to_string(), Json::Object(rope));
        }
    }
    config
}

fn write(
    checkpoint: &Checkpoint,
    source: &dyn TensorSource,
    header: &Header,
    tensors: &[Planned],
    partial: &Path,
    progress: &mut dyn FnMut(Written),
) -> Result<(), CheckpointError> {
    let io = || CheckpointError::io(partial);
    let (bytes, length) = header.bytes();
    let start = bytes.len() as u64;
    let file = File::create(partial).map_err(io())?;
    // To its full length at once: a disk without room is found out here, and the header can be read back.
    file.set_len(length).map_err(io())?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&bytes).map_err(io())?;
    let heads = Heads::of(checkpoint.config());
    let (mut done, mut checked) = (0, checkpoint.gguf().is_some());
    for tensor in tensors {
        if !checked && !matches!(tensor.origin, Origin::Numbers(_)) {
            out.flush().map_err(io())?;
            check(checkpoint, partial)?;
            checked = true;
        }
        put(checkpoint, source, tensor, heads, &mut out).map_err(|problem| problem.in_file(partial))?;
        done += padded(tensor.kind.bytes_of(&tensor.shape));
        out.seek(SeekFrom::Start(start + done)).map_err(io())?;
        progress(Written { bytes: done, of: length - start });
    }
    out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).map_err(io())
}

/// Reads back what the new file says of the model: it must say what the checkpoint does.
fn check(checkpoint: &Checkpoint, partial: &Path) -> Result<(), CheckpointError> {
    let config = flattened(checkpoint.config());
    let again = Gguf::open(partial)?.config()?;
    // Names of classes and tokens differ and are looked for elsewhere; contexts may have been cut to a window.
    const OTHER: [&str; 9] = [
        "architectures",
        "model_type",
        "max_position_embeddings",
        "use_sliding_window",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
        "n_ctx",
    ];
    let differs = again.iter().filter(|(key, _)| !OTHER.contains(&key.as_str())).find_map(|(key, value)| {
        let own = config.get(key).filter(|own| !own.is_null())?;
        (!agree(own, value)).then_some((key, own))
    });
    match differs {
        Some((key, own)) => {
            let problem = format!("says \"{key}\": {own}, which GGUF has no place for; keep the safetensors form");
            Err(CheckpointError::path(checkpoint.path(), problem))
        }
        None => Ok(()),
    }
}

fn agree(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Object(one), Json::Object(other)) => {
            let kind = |of: &Map<String, Json>| of.get("rope_type").or(of.get("type")).cloned();
            // Llama 3's stretching is read back from its divisors, and known again where they are the usual ones.
            if kind(one).is_some_and(|kind| kind == "llama3") && kind(other).is_some_and(|kind| kind == "longrope") {
                return true;
            }
            let both = one.iter().filter_map(|(key, value)| Some((value, other.get(key)?)));
            kind(one) == kind(other) && both.clone().all(|(one, other)| agree(one, other))
        }
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| agree(one, other))
        }
        _ => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => (one - other).abs() <= 1e-6 * one.abs().max(other.abs()),
            _ => one == other || same_activation(one, other),
        },
    }
}

/// `gelu_new` and `gelu_pytorch_tanh` are one function.
fn same_activation(one: &Json, other: &Json) -> bool {
    let tanh = |name: &Json| matches!(name.as_str(), Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast"));
    let silu = |name: &Json| matches!(name.as_str(), Some("silu" | "swish"));
    tanh(one) && tanh(other) || silu(one) && silu(other)
}

/// How many heads there are, whose rows change places.
#[derive(Clone, Copy)]
struct Heads {
    queries: usize,
    keys: usize,
}

impl Heads {
    fn of(config: &Map<String, Json>) -> Heads {
        let count = |key: &str| config.get(key).and_then(Json::as_u64).and_then(|count| usize::try_from(count).ok());
        let queries = count("num_attention_heads").unwrap_or(1).max(1);
        Heads { queries, keys: count("num_key_value_heads").unwrap_or(queries).max(1) }
    }

    /// Whether so many rows are whole heads, of whole pairs or of three parts.
    fn fit(self, layout: Layout, rows: usize) -> bool {
        let of = |parts: usize| rows >= parts && rows.is_multiple_of(parts);
        match layout {
            Layout::RotaryQuery => of(2 * self.queries),
            Layout::RotaryKey => of(2 * self.keys),
            Layout::FusedHeads => of(3 * self.queries),
            Layout::Same | Layout::PlusOne | Layout::Transposed | Layout::Experts => true,
        }
    }
}

/// What went wrong with a tensor, or with writing it.
enum Failure {
    Weights(WeightsError),
    Io(io::Error),
}

impl Failure {
    fn in_file(self, file: &Path) -> CheckpointError {
        match self {
            Failure::Weights(error) => error.into(),
            Failure::Io(source) => CheckpointError::Io { path: file.to_path_buf(), source },
        }
    }
}

/// Numbers that are converted at once.
const PIECE: usize = 1 << 22;

fn put(
    checkpoint: &Checkpoint,
    source: &dyn TensorSource,
    tensor: &Planned,
    heads: Heads,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let row = tensor.shape.last().copied().unwrap_or(1).max(1);
    let file = |name: &str| source.file_of(name).to_path_buf();
    let mut encoded = |name: &str, floats: &[f32]| {
        let bytes = encode(tensor.kind, floats)
            .map_err(|problem| Failure::Weights(problem.of_tensor(name).in_file(&file(name))))?;
        out.write_all(&bytes).map_err(Failure::Io)
    };
    match &tensor.origin {
        Origin::Numbers(numbers) => encoded(&tensor.name, numbers),
        Origin::Stored => {
            let gguf = checkpoint.gguf();
            let Some((gguf, info)) = gguf.and_then(|gguf| Some((gguf, gguf.tensor(&tensor.name)?))) else {
                return Err(Failure::Weights(weights::missing(checkpoint.path(), &tensor.name)));
            };
            let bytes = gguf
                .tensor_bytes(info)
                .map_err(|problem| Failure::Weights(problem.of_tensor(&tensor.name).in_file(gguf.file())))?;
            if info.kind.id() == tensor.kind.id() {
                return out.write_all(&bytes).map_err(Failure::Io);
            }
            let rows = tensor.shape.iter().product::<usize>() / row;
            let each = (PIECE / row).max(1);
            for first in (0..rows).step_by(each) {
                let mut floats = vec![0.0; each.min(rows - first) * row];
                info.kind
                    .dequantise(&bytes, row, |at| first + at, &mut floats)
                    .map_err(|problem| Failure::Weights(problem.of_tensor(&tensor.name).in_file(gguf.file())))?;
                encoded(&tensor.name, &floats)?;
            }
            Ok(())
        }
        Origin::Tensors(names, layout) => {
            for name in names {
                let torch = |source| Failure::Weights(WeightsError::Torch { file: file(name), source });
                let whole = source.tensor(name, Device::Cpu).map_err(Failure::Weights)?;
                let flat = laid_out(&whole, *layout, heads).and_then(|laid| laid.f_reshape([-1])).map_err(torch)?;
                let numbers = flat.numel();
                let each = (PIECE / row).max(1) * row;
                for first in (0..numbers).step_by(each) {
                    let piece = flat.f_narrow(0, first as i64, each.min(numbers - first) as i64);
                    let piece = piece.and_then(|piece| Vec::<f32>::try_from(piece.f_to_kind(Kind::Float)?));
                    encoded(name, &piece.map_err(torch)?)?;
                }
            }
            Ok(())
        }
    }
}

/// A tensor of the checkpoint as the file has it: the other direction of `GgufTensors`.
fn laid_out(tensor: &Tensor, layout: Layout, heads: Heads) -> Result<Tensor, TchError> {
    let rows = tensor.size().first().map_or(0, |rows| *rows as usize);
    let order = match layout {
        Layout::Same | Layout::Experts => return Ok(tensor.shallow_clone()),
        Layout::PlusOne => return tensor.f_to_kind(Kind::Float)?.f_add_scalar(1),
        Layout::Transposed if tensor.dim() == 2 => return tensor.f_transpose(0, 1)?.f_contiguous(),
        Layout::Transposed => return Ok(tensor.shallow_clone()),
        Layout::RotaryQuery => RowOrder::Rotary { width: rows / heads.queries },
        Layout::RotaryKey => RowOrder::Rotary { width: rows / heads.keys },
        Layout::FusedHeads => RowOrder::Fused { heads: heads.queries, width: rows / heads.queries / 3 },
    };
    let mut ours = vec![0_i64; rows];
    for row in 0..rows {
        if let Some(place) = ours.get_mut(order.stored(row)) {
            *place = row as i64;
        }
    }
    tensor.f_index_select(0, &Tensor::f_from_slice(&ours)?)
}
