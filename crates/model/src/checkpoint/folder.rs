//! A Hugging Face folder: which of its files matter, and reading the small ones within bounds. Owns finding its weights, or
//! saying how to make some when it has only pickles, which can run code and are never opened.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::error::CheckpointError;

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
pub(super) const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Configurations, indexes and tokenisers are read into memory.
const MAX_SMALL_FILE: u64 = 512 << 20;

/// Endings of files that are pickles, or hold them.
const PICKLES: &[&str] = &["bin", "pt", "pth", "ckpt", "pkl"];

/// Where a folder's weights are.
#[derive(Clone, Debug)]
pub(super) enum WeightFiles {
    One(PathBuf),
    Sharded(PathBuf),
}

/// Finds the weights of a folder that has a configuration.
pub(super) fn find_weights(folder: &Path, config: &Map<String, Value>) -> Result<WeightFiles, CheckpointError> {
    let (one, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if one.is_file() {
        return Ok(WeightFiles::One(one));
    }
    if index.is_file() {
        return Ok(WeightFiles::Sharded(index));
    }
    let names = file_names(folder)?;
    if names.iter().any(|name| name.starts_with("model-") && name.ends_with(".safetensors")) {
        let problem = "is missing, and the weights are in several files; take a whole copy of the checkpoint";
        return Err(CheckpointError::file(&index, problem));
    }
    let pickle = names.iter().find(|name| has_ending(name, PICKLES));
    Err(match pickle {
        Some(pickle) => CheckpointError::file(&folder.join(pickle), pickle_problem(folder, config)),
        None => CheckpointError::path(
            folder,
            format!("has no weights: neither {WEIGHTS} nor {INDEX}; take a whole copy of the checkpoint"),
        ),
    })
}

/// Why a pickle is not read, and the command that makes what is.
fn pickle_problem(folder: &Path, config: &Map<String, Value>) -> String {
    let class = config.get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str);
    let is_name = |class: &&str| !class.is_empty() && class.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let class = class.filter(is_name).unwrap_or("AutoModel");
    let from = folder.display().to_string();
    let into = format!("{}-safetensors", from.trim_end_matches('/'));
    format!(
        "is a pickle, which can run code when it is opened, so it is not; if you trust it, convert it with\n  \
         python -c \"import sys, transformers as t; a, b = sys.argv[1:]; \
         t.{class}.from_pretrained(a).save_pretrained(b); t.AutoTokenizer.from_pretrained(a).save_pretrained(b)\" {} {}\n\
         and give the folder that this makes",
        shell_quoted(&from),
        shell_quoted(&into)
    )
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The `.gguf` files in a folder.
pub(super) fn gguf_files(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    Ok(file_names(folder)?.into_iter().filter(|name| has_ending(name, &["gguf"])).collect())
}

pub(super) fn is_pickle(path: &Path) -> bool {
    path.to_str().is_some_and(|name| has_ending(name, PICKLES))
}

fn has_ending(name: &str, endings: &[&str]) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

/// Names of the files directly in a folder, sorted; those that are not UTF-8 are none of ours.
fn file_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(CheckpointError::io(folder))? {
        let entry = entry.map_err(CheckpointError::io(folder))?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a name from a file is the name of something directly in a folder, and no path.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    one && !name.contains(['/', '\\', '\0'])
}

/// The start of a file, to know what it is.
pub(super) fn first_bytes<const N: usize>(file: &Path) -> Result<[u8; N], CheckpointError> {
    let mut bytes = [0; N];
    match File::open(file).and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; N]),
        Err(error) => Err(CheckpointError::io(file)(error)),
    }
}

/// A small file; an error when it is not there.
pub(super) fn read_needed(file: &Path) -> Result<Vec<u8>, CheckpointError> {
    let missing = || CheckpointError::file(file, "is missing; take a whole copy of the checkpoint");
    read_optional(file)?.ok_or_else(missing)
}

/// A small file, or nothing when it is not there.
pub(super) fn read_optional(file: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CheckpointError::io(file)(error)),
    };
    let about = opened.metadata().map_err(CheckpointError::io(file))?;
    if !about.is_file() {
        return Err(CheckpointError::file(file, "is not a file"));
    }
    if about.len() > MAX_SMALL_FILE {
        let problem = format!("has {} bytes, more than such a file can need", about.len());
        return Err(CheckpointError::file(file, problem));
    }
    let mut bytes = Vec::with_capacity(about.len() as usize);
    opened.take(MAX_SMALL_FILE).read_to_end(&mut bytes).map_err(CheckpointError::io(file))?;
    Ok(Some(bytes))
}

/// A small text file, or nothing when it is not there.
pub(super) fn read_text(file: &Path) -> Result<Option<String>, CheckpointError> {
    let Some(bytes) = read_optional(file)? else {
        return Ok(None);
    };
    String::from_utf8(bytes).map(Some).map_err(|_| CheckpointError::file(file, "is not UTF-8"))
}

/// A file that holds one JSON object, or nothing when it is not there.
pub(super) fn read_json(file: &Path) -> Result<Option<Map<String, Value>>, CheckpointError> {
    let Some(bytes) = read_optional(file)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| CheckpointError::file(file, format!("is not a JSON object: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_folders_own_files_are_plain() {
        for name in ["model-00001-of-00002.safetensors", "1_Pooling", "..."] {
            assert!(is_plain_name(name), "{name}");
        }
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "./a", "a/", "a\0"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
