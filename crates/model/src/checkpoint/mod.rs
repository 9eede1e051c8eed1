//! A checkpoint: configuration, weights and tokeniser on disk in any form that is read, each a [`Checkpoint`]. What the
//! forms look like is in `folder.rs` and `gguf/`; what architectures do with a configuration is elsewhere. Opening
//! reads headers and small files; weights are read when a tensor is asked for.

mod error;
mod export;
mod folder;
pub mod gguf;
mod grouped;
mod marian_tokenizer;
mod sentence_transformer;
mod sentencepiece;
mod shards;
mod special_tokens;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tidemill_data::load_tokenizer;
use tokenizers::Tokenizer;

pub use error::CheckpointError;
pub use export::{ExportOptions, StoredType, Written, export};
pub use sentence_transformer::{Dense, Pooling, SentenceModule, SentenceModuleKind, SentenceTransformer};
pub use shards::Shards;
pub use special_tokens::{SpecialToken, SpecialTokens};

use crate::weights::{TensorSource, Weights};
use folder::WeightFiles;
use gguf::{Gguf, GgufTensors};
use grouped::GroupedTensors;
use special_tokens::{Sources, TokenKey, TokenizerOutline};

/// The form that a checkpoint has on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointForm {
    /// A Hugging Face folder with `model.safetensors`.
    Safetensors,
    /// A Hugging Face folder whose weights are in several files.
    Shards,
    /// A file of llama.cpp's format.
    Gguf,
}

/// An open checkpoint.
///
/// # Example
/// ```no_run
/// use std::path::Path;
/// use tidemill_model::Checkpoint;
///
/// let checkpoint = Checkpoint::open(Path::new("SmolLM2-135M-Instruct.Q4_1.gguf"))?;
/// println!("{} layers", checkpoint.config()["num_hidden_layers"]);
/// let tokenizer = checkpoint.tokenizer()?;
/// let weights = checkpoint.source()?;
/// println!("{} tensors", weights.names().len());
/// # Ok::<(), tidemill_model::CheckpointError>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    contents: Contents,
    config: Map<String, Value>,
    generation_config: Option<Map<String, Value>>,
    tokenizer_config: Option<Map<String, Value>>,
    chat_templates: BTreeMap<String, String>,
    special_tokens: SpecialTokens,
    model_max_length: Option<usize>,
    sentence_transformer: Option<SentenceTransformer>,
}

#[derive(Debug)]
enum Contents {
    Folder(WeightFiles),
    Gguf(Arc<Gguf>),
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a `.gguf` file, or a folder that holds exactly one.
    ///
    /// # Errors
    /// [`CheckpointError`] that names the file and says what to do. Folders with pickles alone are refused with the
    /// command that converts them.
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let refuse = |problem: &str| Err(CheckpointError::path(path, problem));
        if !path.exists() {
            return refuse("there is no such file or folder; give a Hugging Face folder or a .gguf file");
        }
        if path.is_file() {
            return match folder::first_bytes::<4>(path)? {
                bytes if &bytes == b"GGUF" => open_gguf(path, path),
                _ if folder::is_pickle(path) => {
                    refuse("is a pickle; give the folder it lies in to see how to convert it")
                }
                _ if path.extension().is_some_and(|ending| ending == "safetensors") => {
                    refuse("holds weights alone; give the folder that has its config.json")
                }
                _ => refuse("is not a checkpoint; give a Hugging Face folder or a .gguf file"),
            };
        }
        let config_file = path.join(folder::CONFIG);
        let has_safetensors = [folder::WEIGHTS, folder::INDEX].iter().any(|name| path.join(name).is_file());
        let gguf_files = if has_safetensors { Vec::new() } else { folder::gguf_files(path)? };
        match gguf_files.as_slice() {
            [] if config_file.is_file() => open_folder(path),
            [] => refuse("has no config.json and no .gguf file, so it is not a checkpoint"),
            [one] => open_gguf(path, &path.join(one)),
            several => Err(CheckpointError::path(
                path,
                format!("holds several .gguf files; give one of them: {}", several.join(", ")),
            )),
        }
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The form it has on disk.
    pub fn form(&self) -> CheckpointForm {
        match &self.contents {
            Contents::Folder(WeightFiles::One(_)) => CheckpointForm::Safetensors,
            Contents::Folder(WeightFiles::Sharded(_)) => CheckpointForm::Shards,
            Contents::Gguf(_) => CheckpointForm::Gguf,
        }
    }

    /// The GGUF file, when it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.contents {
            Contents::Gguf(gguf) => Some(gguf),
            Contents::Folder(_) => None,
        }
    }

    /// The configuration: `config.json`, or what a GGUF file says, under the same names.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// How the model's authors generate with it: `generation_config.json`.
    pub fn generation_config(&self) -> Option<&Map<String, Value>> {
        self.generation_config.as_ref()
    }

    /// What `transformers` knows of the tokeniser beside its own file: `tokenizer_config.json`.
    pub fn tokenizer_config(&self) -> Option<&Map<String, Value>> {
        self.tokenizer_config.as_ref()
    }

    /// The chat template, as Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_templates.get("default").map(String::as_str)
    }

    /// All chat templates by name; the usual one is "default".
    pub fn chat_templates(&self) -> &BTreeMap<String, String> {
        &self.chat_templates
    }

    /// The special tokens, and which of them the tokeniser puts around a text.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special_tokens
    }

    /// How many tokens the model takes, as far as its files say.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// What `sentence-transformers` does with it, when it is a checkpoint of that library.
    pub fn sentence_transformer(&self) -> Option<&SentenceTransformer> {
        self.sentence_transformer.as_ref()
    }

    /// The weights of a module of [`Checkpoint::sentence_transformer`] that has its own.
    ///
    /// # Errors
    /// [`CheckpointError`] when its folder has no sound `model.safetensors`.
    pub fn module_weights(&self, module: &SentenceModule) -> Result<Weights, CheckpointError> {
        if !folder::is_plain_name(&module.folder) {
            return Err(CheckpointError::path(&self.path, format!("{:?} is not a module's folder", module.folder)));
        }
        let file = self.path.join(&module.folder).join(folder::WEIGHTS);
        if !file.is_file() {
            let problem = "is missing; save the model again with a current sentence-transformers";
            return Err(CheckpointError::file(&file, problem));
        }
        Ok(Weights::open(&file)?)
    }

    /// The weights under their Hugging Face names, not yet read.
    ///
    /// # Errors
    /// [`CheckpointError`] that names the file, and the tensor where there is one.
    pub fn source(&self) -> Result<Box<dyn TensorSource>, CheckpointError> {
        let source: Box<dyn TensorSource> = match &self.contents {
            Contents::Folder(WeightFiles::One(file)) => Box::new(Weights::open(file)?),
            Contents::Folder(WeightFiles::Sharded(index)) => Box::new(Shards::open(index)?),
            Contents::Gguf(gguf) => Box::new(GgufTensors::new(Arc::clone(gguf))?),
        };
        Ok(if grouped::is_grouped(&self.config) { Box::new(GroupedTensors::new(source)?) } else { source })
    }

    /// The tokeniser as `tokenizer.json`: the file itself, or what a GGUF file describes in the same form.
    ///
    /// # Errors
    /// [`CheckpointError`] that names the file and what is missing.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        if let Contents::Gguf(gguf) = &self.contents {
            return Ok(gguf.tokenizer_json()?);
        }
        folder_tokenizer(&self.path, &self.config)?.ok_or_else(|| {
            let folder = self.path.display();
            let file = self.path.join(folder::TOKENIZER);
            if self.config.get("model_type").and_then(Value::as_str) == Some("m2m_100") {
                // transformers reads sentencepiece.bpe.model and vocab.json by code that makes no tokenizer.json.
                let problem = "is missing, and transformers cannot make one from M2M100's files; take a checkpoint of NLLB, \
                               which has it";
                return CheckpointError::file(&file, problem);
            }
            CheckpointError::file(
                &file,
                format!(
                    "is missing; make it with: python -c \"import sys, transformers as t; \
                     t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])\" '{folder}'"
                ),
            )
        })
    }

    /// The tokeniser. It neither pads nor truncates, whatever its file says.
    ///
    /// # Errors
    /// As [`Checkpoint::tokenizer_json`], and when the library refuses it.
    pub fn tokenizer(&self) -> Result<Tokenizer, CheckpointError> {
        let json = self.tokenizer_json()?;
        let file = match &self.contents {
            Contents::Gguf(gguf) => gguf.file().to_path_buf(),
            Contents::Folder(_) => self.path.join(folder::TOKENIZER),
        };
        let unusable =
            |problem| CheckpointError::file(&file, format!("is not a tokeniser that can be used: {problem}"));
        load_tokenizer(&json).map_err(unusable)
    }
}

fn open_gguf(path: &Path, file: &Path) -> Result<Checkpoint, CheckpointError> {
    let gguf = Gguf::open(file)?;
    let parts = gguf.parts()?;
    if parts > 1 {
        let problem = format!("is one of {parts} parts; join them with `llama-gguf-split --merge FIRST-PART NEW-FILE`");
        return Err(CheckpointError::file(file, problem));
    }
    let config = gguf.config()?;
    Ok(Checkpoint {
        path: path.to_path_buf(),
        generation_config: gguf::generation_config(&gguf),
        tokenizer_config: None,
        chat_templates: gguf.chat_templates()?,
        special_tokens: gguf::special_tokens(&gguf)?,
        model_max_length: longest(&config),
        sentence_transformer: None,
        config,
        contents: Contents::Gguf(Arc::new(gguf)),
    })
}

fn open_folder(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let json = |name: &str| folder::read_json(&path.join(name));
    let config = json(folder::CONFIG)?.unwrap_or_default();
    let weights = folder::find_weights(path, &config)?;
    let generation_config = json(folder::GENERATION_CONFIG)?;
    let tokenizer_config = json(folder::TOKENIZER_CONFIG)?;
    let special_tokens_map = json(folder::SPECIAL_TOKENS_MAP)?;
    let tokenizer_file = path.join(folder::TOKENIZER);
    let tokenizer = folder_tokenizer(path, &config)?;
    let outline: TokenizerOutline = match &tokenizer {
        Some(bytes) => serde_json::from_slice(bytes)
            .map_err(|error| CheckpointError::file(&tokenizer_file, format!("is not a tokeniser: {error}")))?,
        None => TokenizerOutline::default(),
    };
    let sources = Sources {
        config: Some(&config),
        generation_config: generation_config.as_ref(),
        tokenizer_config: tokenizer_config.as_ref(),
        special_tokens_map: special_tokens_map.as_ref(),
        outline,
    };
    let special_tokens = sources.special_tokens(&mut whole_vocabulary(tokenizer.as_deref()));
    Ok(Checkpoint {
        path: path.to_path_buf(),
        chat_templates: chat_templates(path, tokenizer_config.as_ref())?,
        model_max_length: tokenizer_config.as_ref().and_then(tokenizers_length).or_else(|| longest(&config)),
        sentence_transformer: SentenceTransformer::read(path)?,
        contents: Contents::Folder(weights),
        config,
        generation_config,
        tokenizer_config,
        special_tokens,
    })
}

/// The tokeniser of a folder: its `tokenizer.json`, or what Marian's own files come to.
fn folder_tokenizer(path: &Path, config: &Map<String, Value>) -> Result<Option<Vec<u8>>, CheckpointError> {
    match folder::read_optional(&path.join(folder::TOKENIZER))? {
        Some(json) => Ok(Some(json)),
        None => marian_tokenizer::tokenizer_json(path, config),
    }
}

/// Looks a token up in the whole tokeniser, which is loaded for the first question.
fn whole_vocabulary(json: Option<&[u8]>) -> impl FnMut(&TokenKey<'_>) -> Option<SpecialToken> {
    let mut loaded: Option<Option<Tokenizer>> = None;
    move |key| {
        let tokenizer = loaded.get_or_insert_with(|| json.and_then(|json| load_tokenizer(json).ok())).as_ref()?;
        match key {
            TokenKey::Id(id) => tokenizer.id_to_token(*id).map(|text| SpecialToken { id: *id, text }),
            TokenKey::Text(text) => {
                tokenizer.token_to_id(text).map(|id| SpecialToken { id, text: (*text).to_string() })
            }
        }
    }
}

/// `chat_template.jinja` first, then `chat_template` of the tokeniser's configuration: one, or a list with names.
fn chat_templates(
    path: &Path,
    tokenizer_config: Option<&Map<String, Value>>,
) -> Result<BTreeMap<String, String>, CheckpointError> {
    let mut templates = BTreeMap::new();
    match tokenizer_config.and_then(|config| config.get("chat_template")) {
        Some(Value::String(template)) => {
            templates.insert("default".to_string(), template.clone());
        }
        Some(Value::Array(named)) => {
            for entry in named {
                let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_string);
                if let (Some(name), Some(template)) = (text("name"), text("template")) {
                    templates.insert(name, template);
                }
            }
        }
        _ => {}
    }
    if let Some(template) = folder::read_text(&path.join(folder::CHAT_TEMPLATE))? {
        templates.insert("default".to_string(), template);
    }
    Ok(templates)
}

/// The tokeniser's own bound; `transformers` writes 10^30 for none.
fn tokenizers_length(config: &Map<String, Value>) -> Option<usize> {
    let length = config.get("model_max_length")?.as_u64()?;
    usize::try_from(length).ok().filter(|length| *length < 1_000_000_000)
}

/// How many positions the model has, by the names that architectures have for it.
fn longest(config: &Map<String, Value>) -> Option<usize> {
    let of = |config: &Map<String, Value>| {
        let names = ["max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx", "seq_length"];
        names.iter().find_map(|name| config.get(*name)?.as_u64()).and_then(|length| usize::try_from(length).ok())
    };
    of(config).or_else(|| of(config.get("text_config")?.as_object()?))
}
