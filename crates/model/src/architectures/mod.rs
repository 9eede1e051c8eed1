//! The registry of text classifiers. One more is one new file, one line in the list below, and one fixture in
//! `tests/fixtures`. Owns the keys that every `config.json` has; each architecture owns its own keys, their defaults
//! and its forward.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tch::Tensor;
use tidemill_data::Encoder;

use crate::error::ModelError;
use crate::parameters::Path;
use crate::text_input::TextInput;

/// A model that gives every text one score a label.
pub trait TextClassifier: Send {
    /// Scores before the softmax, `[batch, labels]`. With `train`, dropout acts.
    ///
    /// # Errors
    /// [`ModelError`] when the input does not fit the model or libtorch refuses; the model stays as it was.
    fn forward(&self, input: &TextInput, train: bool) -> Result<Tensor, ModelError>;

    /// The scores that learn, with dropout: those of each member where several models answer together, each `[batch,
    /// labels]`. Training takes the mean of their losses, so that every member learns as it would alone.
    ///
    /// # Errors
    /// As [`TextClassifier::forward`].
    fn members(&self, input: &TextInput) -> Result<Vec<Tensor>, ModelError> {
        Ok(vec![self.forward(input, true)?])
    }
}

/// Builds a model: parameters below the path, sizes by the configuration.
pub type Build = fn(&Path, &Map<String, Value>) -> Result<Box<dyn TextClassifier>, ModelError>;

/// One family of models: how it is called, configured and built.
pub struct Architecture {
    /// The name in recipes and the `model_type` in `config.json`.
    pub name: &'static str,
    /// One sentence: what it is, its source.
    pub summary: &'static str,
    /// Its own configuration keys with their default values.
    pub defaults: fn() -> Map<String, Value>,
    /// Builds it: parameters below the path, configuration as [`complete_config`] gives it.
    pub build: Build,
    /// Checks a configuration without building.
    pub check: fn(&Map<String, Value>) -> Result<(), ModelError>,
}

/// Declares the files of this folder and lists what they register.
macro_rules! registry {
    ($($file:ident),* $(,)?) => {
        $(pub mod $file;)*
        /// Every architecture.
        pub static ALL: &[Architecture] = &[$($file::ARCHITECTURE),*];
    };
}

registry! {
    bag_of_embeddings,
    text_cnn,
    bilstm,
    bigru,
    transformer,
    wide_and_deep,
}

/// The architecture of this name.
///
/// # Errors
/// [`ModelError::UnknownArchitecture`] with the nearest name and all names.
///
/// ```
/// use tidemill_model::architectures;
/// assert_eq!(architectures::find("text_cnn")?.name, "text_cnn");
/// let error = architectures::find("textcnn").err().unwrap().to_string();
/// assert!(error.contains("did you mean \"text_cnn\"?"));
/// # Ok::<(), tidemill_model::ModelError>(())
/// ```
pub fn find(name: &str) -> Result<&'static Architecture, ModelError> {
    ALL.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|architecture| architecture.name).collect();
        let nearest = tidemill_data::nearest(name, names.iter().copied());
        let nearest = nearest.map(|nearest| format!("did you mean \"{nearest}\"? "));
        let hint = format!("{}The architectures are {}", nearest.unwrap_or_default(), names.join(", "));
        ModelError::UnknownArchitecture { name: name.to_string(), hint }
    })
}

/// Builds the architecture that `config["model_type"]` names.
///
/// # Errors
/// [`ModelError`] when the configuration is wrong, or a parameter is missing or of another shape.
pub fn build(path: &Path, config: &Map<String, Value>) -> Result<Box<dyn TextClassifier>, ModelError> {
    let Some(name) = config.get("model_type").and_then(Value::as_str) else {
        return Err(ModelError::Config {
            architecture: "the model".to_string(),
            problem: "the key \"model_type\" is missing; it names the architecture".to_string(),
        });
    };
    (find(name)?.build)(path, config)
}

/// A whole `config.json`: the keys that every classifier has, and the architecture's own, `keys` over the defaults.
///
/// # Errors
/// [`ModelError`] when there is no such architecture, or a key is unknown or out of range.
///
/// # Example
/// ```
/// use tidemill_model::architectures::{self, Vocabulary};
///
/// let keys = serde_json::from_str(r#"{"filters": 50}"#)?;
/// let labels = ["negative".to_string(), "positive".to_string()];
/// let config = architectures::complete_config("text_cnn", &keys, Vocabulary::of_tokens(20_000), &labels)?;
/// assert_eq!(config["filters"], 50);
/// assert_eq!(config["embedding_dim"], 128);
/// assert_eq!(config["id2label"]["1"], "positive");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn complete_config(
    architecture: &str,
    keys: &Map<String, Value>,
    vocabulary: Vocabulary,
    labels: &[String],
) -> Result<Map<String, Value>, ModelError> {
    let found = find(architecture)?;
    let id2label: Map<String, Value> =
        labels.iter().enumerate().map(|(id, label)| (id.to_string(), json!(label))).collect();
    let label2id: Map<String, Value> =
        labels.iter().enumerate().map(|(id, label)| (label.clone(), json!(id))).collect();
    let mut config = Map::new();
    config.insert("model_type".to_string(), json!(found.name));
    config.insert("vocab_size".to_string(), json!(vocabulary.size));
    config.insert("num_tokens".to_string(), json!(vocabulary.tokens));
    config.insert("num_labels".to_string(), json!(labels.len()));
    config.insert("pad_token_id".to_string(), json!(vocabulary.pad_id));
    config.insert("id2label".to_string(), Value::Object(id2label));
    config.insert("label2id".to_string(), Value::Object(label2id));
    config.extend((found.defaults)());
    for (key, value) in keys {
        if COMMON_KEYS.contains(&key.as_str()) {
            return Err(refuse(found.name, format!("the key \"{key}\" comes from the data and cannot be set")));
        }
        config.insert(key.clone(), value.clone());
    }
    (found.check)(&config)?;
    Ok(config)
}

/// The ids that texts become: what an architecture must know of the tokeniser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Rows of the embedding table: tokens and the buckets of hashed n-grams.
    pub size: usize,
    /// Ids below this one are tokens.
    pub tokens: usize,
    /// The padding token's id.
    pub pad_id: u32,
}

impl Vocabulary {
    /// The encoder's.
    pub fn of(encoder: &Encoder) -> Vocabulary {
        Vocabulary { size: encoder.vocab_size(), tokens: encoder.tokens(), pad_id: encoder.pad_id() }
    }

    /// Tokens alone, of which the first is the padding.
    pub fn of_tokens(tokens: usize) -> Vocabulary {
        Vocabulary { size: tokens, tokens, pad_id: 0 }
    }
}

/// The keys that every classifier's configuration has.
pub const COMMON_KEYS: &[&str] =
    &["model_type", "vocab_size", "num_tokens", "num_labels", "pad_token_id", "id2label", "label2id"];

/// The common keys' values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// Rows of the embedding table, hashed n-grams included.
    pub vocab_size: i64,
    /// Ids below this one are tokens, those from it on hashed n-grams. Where all ids are tokens: the largest number.
    pub num_tokens: i64,
    /// How many labels there are.
    pub num_labels: i64,
    /// The padding token's id, below `vocab_size`.
    pub pad_token_id: i64,
}

/// Parts a configuration into the common keys and an architecture's own, which are checked by their type.
///
/// # Errors
/// [`ModelError::Config`] that names the key.
pub fn read_config<Own: DeserializeOwned + Serialize + Default>(
    architecture: &str,
    config: &Map<String, Value>,
) -> Result<(Common, Own), ModelError> {
    let number = |key: &str, least: i64| {
        let value = config.get(key).ok_or_else(|| refuse(architecture, format!("the key \"{key}\" is missing")))?;
        value.as_i64().filter(|&number| number >= least && number <= i64::from(i32::MAX)).ok_or_else(|| {
            refuse(architecture, format!("\"{key}\" must be a whole number of at least {least}, not {value}"))
        })
    };
    let vocab_size = number("vocab_size", 1)?;
    // Where all ids are tokens, one that lies outside the table is an error and not an n-gram.
    let all_tokens = !config.contains_key("num_tokens") || number("num_tokens", 1)? == vocab_size;
    let num_tokens = if all_tokens { i64::MAX } else { number("num_tokens", 1)? };
    let common = Common {
        vocab_size,
        num_tokens,
        num_labels: number("num_labels", 1)?,
        pad_token_id: number("pad_token_id", 0)?,
    };
    if common.pad_token_id >= common.vocab_size {
        let problem = format!("\"pad_token_id\" must be below \"vocab_size\", {}", common.vocab_size);
        return Err(refuse(architecture, problem));
    }
    let own: Map<String, Value> = config
        .iter()
        .filter(|(key, _)| !COMMON_KEYS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let known = defaults::<Own>();
    if let Some(unknown) = own.keys().find(|key| !known.contains_key(*key)) {
        let nearest = tidemill_data::nearest(unknown, known.keys().map(String::as_str));
        let nearest = nearest.map(|nearest| format!("; did you mean \"{nearest}\"?")).unwrap_or_default();
        let keys = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(refuse(architecture, format!("the key \"{unknown}\" is unknown{nearest} (its keys: {keys})")));
    }
    let mut read = None;
    for (key, value) in &own {
        // One key at a time, so that the message can name it.
        let alone: Map<String, Value> = [(key.clone(), value.clone())].into_iter().collect();
        if let Err(error) = serde_json::from_value::<Own>(Value::Object(alone)) {
            read = Some(refuse(architecture, format!("the key \"{key}\": {error}")));
            break;
        }
    }
    if let Some(error) = read {
        return Err(error);
    }
    let own = serde_json::from_value(Value::Object(own)).map_err(|error| refuse(architecture, error.to_string()))?;
    Ok((common, own))
}

/// An architecture's own keys with their default values.
pub fn defaults<Own: Serialize + Default>() -> Map<String, Value> {
    match serde_json::to_value(Own::default()) {
        Ok(Value::Object(keys)) => keys,
        _ => Map::new(),
    }
}

fn refuse(architecture: &str, problem: String) -> ModelError {
    ModelError::Config { architecture: architecture.to_string(), problem }
}

/// Checks of values that several architectures share: each an error that names the key.
pub(crate) struct Check(pub(crate) &'static str);

impl Check {
    pub(crate) fn size(&self, key: &str, value: i64) -> Result<(), ModelError> {
        if (1..=1 << 20).contains(&value) {
            return Ok(());
        }
        Err(refuse(self.0, format!("\"{key}\" must be at least 1 and at most 1048576, not {value}")))
    }

    pub(crate) fn probability(&self, key: &str, value: f64) -> Result<(), ModelError> {
        if (0.0..1.0).contains(&value) {
            return Ok(());
        }
        Err(refuse(self.0, format!("\"{key}\" must be at least 0 and below 1, not {value}")))
    }

    pub(crate) fn that(&self, holds: bool, problem: impl FnOnce() -> String) -> Result<(), ModelError> {
        if holds { Ok(()) } else { Err(refuse(self.0, problem())) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::parameters::Parameters;
    use tch::Device;

    fn labels() -> Vec<String> {
        vec!["no".to_string(), "yes".to_string(), "maybe".to_string()]
    }

    fn keys(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_architecture_builds_from_its_defaults_and_takes_empty_and_short_texts() {
        for architecture in ALL {
            let config = complete_config(architecture.name, &Map::new(), Vocabulary::of_tokens(50), &labels()).unwrap();
            let parameters = Parameters::new(1, Device::Cpu);
            let model = build(&parameters.root(), &config).unwrap();
            for rows in [vec![&[][..]], vec![&[1][..], &[], &[2, 3, 4, 5, 6, 7, 8]]] {
                let input = TextInput::from_ids(&rows, 0, Device::Cpu).unwrap();
                for train in [true, false] {
                    let logits = model.forward(&input, train).unwrap();
                    assert_eq!(logits.size(), [rows.len() as i64, 3], "{}", architecture.name);
                    assert!(bool::try_from(logits.isfinite().all()).unwrap(), "{}", architecture.name);
                }
            }
            let ids = [60];
            let outside = TextInput::from_ids(&[&ids], 0, Device::Cpu).unwrap();
            assert!(model.forward(&outside, false).is_err(), "{}: an id outside the table", architecture.name);
        }
    }

    #[test]
    fn every_parameter_learns() {
        for architecture in ALL {
            let config = complete_config(architecture.name, &Map::new(), Vocabulary::of_tokens(50), &labels()).unwrap();
            let parameters = Parameters::new(1, Device::Cpu);
            let model = build(&parameters.root(), &config).unwrap();
            let input = TextInput::from_ids(&[&[1, 2, 3, 4, 5, 6], &[7, 8, 9]], 0, Device::Cpu).unwrap();
            let target = Tensor::from_slice(&[0_i64, 2]);
            model.forward(&input, false).unwrap().cross_entropy_for_logits(&target).backward();
            for (name, tensor) in parameters.trainable() {
                let grad = tensor.grad();
                assert!(grad.defined(), "{}: {name} has no gradient", architecture.name);
                assert!(bool::try_from(grad.isfinite().all()).unwrap());
                assert!(grad.abs().max().double_value(&[]) > 0.0, "{}: {name} stands still", architecture.name);
            }
        }
    }

    #[test]
    fn an_answer_does_not_depend_on_the_batch_around_it() {
        for architecture in ALL {
            let config = complete_config(architecture.name, &Map::new(), Vocabulary::of_tokens(50), &labels()).unwrap();
            let parameters = Parameters::new(3, Device::Cpu);
            let model = build(&parameters.root(), &config).unwrap();
            let short: &[u32] = &[4, 9, 17];
            let long: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
            let run = |rows: &[&[u32]]| {
                let input = TextInput::from_ids(rows, 0, Device::Cpu).unwrap();
                tch::no_grad(|| model.forward(&input, false).unwrap())
            };
            let together = run(&[short, long]);
            for (row, ids) in [short, long].into_iter().enumerate() {
                let alone = run(&[ids]);
                let difference = (together.get(row as i64) - alone.get(0)).abs().max().double_value(&[]);
                assert!(difference < 1e-5, "{}: {difference}", architecture.name);
            }
        }
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        let refused = |name: &str, text: &str| {
            complete_config(name, &keys(text), Vocabulary::of_tokens(50), &labels()).unwrap_err().to_string()
        };
        let unknown = refused("text_cnn", r#"{"filter": 3}"#);
        assert!(unknown.contains("\"filter\" is unknown; did you mean \"filters\"?"), "{unknown}");
        let kind = refused("text_cnn", r#"{"filters": "many"}"#);
        assert!(kind.contains("\"filters\"") && kind.contains("string"), "{kind}");
        assert!(refused("bilstm", r#"{"dropout": 1.0}"#).contains("\"dropout\" must be"));
        assert!(refused("bigru", r#"{"hidden_dim": 0}"#).contains("bigru: \"hidden_dim\" must be"));
        assert!(refused("transformer", r#"{"heads": 3}"#).contains("multiple of \"heads\""));
        assert!(refused("text_cnn", r#"{"vocab_size": 9}"#).contains("comes from the data"));
        assert!(refused("text_cnn", r#"{"embedding_init": "nrmal"}"#).contains("no initialiser \"nrmal\""));
    }

    #[test]
    fn defaults_are_complete_and_accepted() {
        for architecture in ALL {
            let config = complete_config(architecture.name, &Map::new(), Vocabulary::of_tokens(50), &labels()).unwrap();
            for (key, value) in (architecture.defaults)() {
                assert_eq!(config.get(&key), Some(&value), "{}", architecture.name);
            }
        }
    }
}
