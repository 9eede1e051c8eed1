//! What a folder of the `sentence-transformers` library says beyond the model: how token vectors become one vector. Owns
//! reading its files; the arithmetic is elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::folder::{is_plain_name, read_json, read_optional};

/// The steps from a text to its vector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SentenceTransformer {
    /// One after another; the first is the model itself.
    pub modules: Vec<SentenceModule>,
    /// Texts are cut to so many tokens.
    pub max_seq_length: Option<usize>,
    /// Whether texts are put in lower case before the tokeniser sees them.
    pub do_lower_case: bool,
    /// Texts to put before a text, by the names of what it is for: "query", "passage".
    pub prompts: BTreeMap<String, String>,
    /// The prompt when none is asked for.
    pub default_prompt_name: Option<String>,
    /// How vectors are compared: "cosine", "dot", "euclidean", "manhattan".
    pub similarity_fn_name: Option<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceModule {
    /// What it does.
    pub kind: SentenceModuleKind,
    /// Its folder within the checkpoint; empty for the checkpoint itself. Always a plain name.
    pub folder: String,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum SentenceModuleKind {
    /// The model: tokens to vectors.
    Transformer,
    /// Token vectors to one vector.
    Pooling(Pooling),
    /// A linear layer, whose weights are in the step's folder.
    Dense(Dense),
    /// Scales the vector to length one.
    Normalize,
    /// A class that is not known here.
    Other(String),
}

/// How token vectors become one; several are concatenated in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pooling {
    /// The first token's.
    pub cls: bool,
    /// The largest of every number.
    pub max: bool,
    /// The mean.
    pub mean: bool,
    /// The sum, divided by the square root of the length.
    pub mean_sqrt_len: bool,
    /// The mean, later tokens counting more.
    pub weighted_mean: bool,
    /// The last token's.
    pub last_token: bool,
    /// Whether the tokens of a prompt count.
    pub include_prompt: bool,
    /// Width of a token's vector.
    pub dimension: Option<usize>,
}

/// A linear layer after pooling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Width before.
    pub in_features: usize,
    /// Width after.
    pub out_features: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// The class of its activation: `torch.nn.modules.activation.Tanh`.
    pub activation_function: String,
}

#[derive(Deserialize)]
struct RawModule {
    #[serde(default)]
    path: String,
    r#type: String,
}

impl SentenceTransformer {
    /// Reads `modules.json` and what it names; nothing when the folder has none.
    pub(super) fn read(folder: &Path) -> Result<Option<SentenceTransformer>, CheckpointError> {
        let file = folder.join("modules.json");
        let Some(bytes) = read_optional(&file)? else {
            return Ok(None);
        };
        let raw: Vec<RawModule> = serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::file(&file, format!("is not a list of modules: {error}")))?;
        let mut modules = Vec::with_capacity(raw.len());
        for module in raw {
            if !module.path.is_empty() && !is_plain_name(&module.path) {
                let problem = format!("names the folder {:?}, which is not one inside the checkpoint", module.path);
                return Err(CheckpointError::file(&file, problem));
            }
            modules.push(SentenceModule { kind: kind_of(folder, &module)?, folder: module.path });
        }
        let mut found = SentenceTransformer { modules, ..SentenceTransformer::default() };
        // The library has renamed this file's class over time, not the file's keys.
        for name in ["sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json"] {
            if let Some(config) = read_json(&folder.join(name))? {
                found.max_seq_length = count(&config, "max_seq_length");
                found.do_lower_case = flag(&config, "do_lower_case");
                break;
            }
        }
        if let Some(config) = read_json(&folder.join("config_sentence_transformers.json"))? {
            let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_string);
            found.default_prompt_name = text("default_prompt_name");
            found.similarity_fn_name = text("similarity_fn_name");
            let prompts = config.get("prompts").and_then(Value::as_object);
            for (name, prompt) in prompts.into_iter().flatten() {
                if let Some(prompt) = prompt.as_str() {
                    found.prompts.insert(name.clone(), prompt.to_string());
                }
            }
        }
        Ok(Some(found))
    }
}

fn kind_of(folder: &Path, module: &RawModule) -> Result<SentenceModuleKind, CheckpointError> {
    let file = folder.join(&module.path).join("config.json");
    let config = || -> Result<Map<String, Value>, CheckpointError> {
        let missing = || CheckpointError::file(&file, "is missing; take a whole copy of the checkpoint");
        read_json(&file)?.ok_or_else(missing)
    };
    let class = module.r#type.rsplit('.').next().unwrap_or_default();
    Ok(match class {
        "Transformer" => SentenceModuleKind::Transformer,
        "Normalize" => SentenceModuleKind::Normalize,
        "Pooling" => SentenceModuleKind::Pooling(pooling(&file, &config()?)?),
        "Dense" => {
            let config = config()?;
            let needed = |key: &str| {
                count(&config, key).ok_or_else(|| CheckpointError::file(&file, format!("\"{key}\" must be a number")))
            };
            SentenceModuleKind::Dense(Dense {
                in_features: needed("in_features")?,
                out_features: needed("out_features")?,
                bias: config.get("bias").and_then(Value::as_bool).unwrap_or(true),
                activation_function: config
                    .get("activation_function")
                    .and_then(Value::as_str)
                    .unwrap_or("torch.nn.modules.activation.Tanh")
                    .to_string(),
            })
        }
        _ => SentenceModuleKind::Other(module.r#type.clone()),
    })
}

/// Older files have a truth value a mode, newer ones the mode's name.
fn pooling(file: &Path, config: &Map<String, Value>) -> Result<Pooling, CheckpointError> {
    let mut pooling = Pooling {
        cls: flag(config, "pooling_mode_cls_token"),
        max: flag(config, "pooling_mode_max_tokens"),
        mean: flag(config, "pooling_mode_mean_tokens"),
        mean_sqrt_len: flag(config, "pooling_mode_mean_sqrt_len_tokens"),
        weighted_mean: flag(config, "pooling_mode_weightedmean_tokens"),
        last_token: flag(config, "pooling_mode_lasttoken"),
        include_prompt: config.get("include_prompt").and_then(Value::as_bool).unwrap_or(true),
        dimension: count(config, "word_embedding_dimension").or_else(|| count(config, "embedding_dimension")),
    };
    let modes: Vec<&str> = match config.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode],
        Some(Value::Array(modes)) => modes.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    for mode in modes {
        let one = match mode {
            "cls" => &mut pooling.cls,
            "max" => &mut pooling.max,
            "mean" => &mut pooling.mean,
            "mean_sqrt_len_tokens" => &mut pooling.mean_sqrt_len,
            "weightedmean" => &mut pooling.weighted_mean,
            "lasttoken" => &mut pooling.last_token,
            _ => return Err(CheckpointError::file(file, format!("has the pooling mode {mode:?}, which is not known"))),
        };
        *one = true;
    }
    Ok(pooling)
}

fn count(config: &Map<String, Value>, key: &str) -> Option<usize> {
    config.get(key).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
}

fn flag(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key).and_then(Value::as_bool).unwrap_or(false)
}
