//! `config.json` of a checkpoint, read key by key. Other people's configurations have keys that we do not know, so unknown
//! ones are passed over; a key that is needed and missing, or out of range, is an error that names it.

use serde_json::{Map, Value};
use tidemill_torch::Activation;

use crate::error::ModelError;

/// The largest size that a configuration may ask for: beyond it products of two sizes could overflow.
const MAX_SIZE: i64 = 1 << 28;

/// The activations by the names that `transformers` gives them.
const ACTIVATIONS: [(&str, Activation); 11] = [
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
];

/// A checkpoint's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    architecture: &'a str,
    keys: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    /// Reads `keys`, which errors will call the configuration of its `model_type`.
    pub fn new(keys: &'a Map<String, Value>) -> Config<'a> {
        let architecture = keys.get("model_type").and_then(Value::as_str).unwrap_or("the model");
        Config { architecture, keys }
    }

    /// The value of `key`; `null` counts as missing.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there and `null`, which often says that something is switched off.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(Value::is_null)
    }

    /// A size: at least 1.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the key is missing or no such number.
    pub fn size(&self, key: &str) -> Result<i64, ModelError> {
        let value = self.get(key).ok_or_else(|| self.refuse(format!("the key \"{key}\" is missing")))?;
        let size = value.as_i64().filter(|size| (1..=MAX_SIZE).contains(size));
        size.ok_or_else(|| self.refuse(format!("\"{key}\" must be a whole number of at least 1, not {value}")))
    }

    /// A size, or `default` where the key is missing.
    ///
    /// # Errors
    /// As [`Config::size`].
    pub fn size_or(&self, key: &str, default: i64) -> Result<i64, ModelError> {
        self.get(key).map_or(Ok(default), |_| self.size(key))
    }

    /// A finite number, or `default` where the key is missing.
    ///
    /// # Errors
    /// [`ModelError::Config`] when it is no number.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        Ok(self.number(key)?.unwrap_or(default))
    }

    /// A finite number, if the key is there.
    ///
    /// # Errors
    /// [`ModelError::Config`] when it is no number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.refuse(format!("\"{key}\" must be a number, not {value}")))
    }

    /// True or false, or `default` where the key is missing.
    ///
    /// # Errors
    /// [`ModelError::Config`] when it is neither.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.refuse(format!("\"{key}\" must be true or false, not {value}")))
    }

    /// A text, or `default` where the key is missing.
    ///
    /// # Errors
    /// [`ModelError::Config`] when it is no text.
    pub fn text_or(&self, key: &str, default: &'a str) -> Result<&'a str, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.refuse(format!("\"{key}\" must be a text, not {value}")))
    }

    /// The activation that `key` names, or the one called `default` where the key is missing.
    ///
    /// # Errors
    /// [`ModelError::Config`] when there is none of this name, with the nearest and all names.
    pub fn activation(&self, key: &str, default: &'a str) -> Result<Activation, ModelError> {
        self.activation_named(key, self.text_or(key, default)?)
    }

    /// The activation called `name`, which `key` holds in some form.
    ///
    /// # Errors
    /// As [`Config::activation`].
    pub fn activation_named(&self, key: &str, name: &str) -> Result<Activation, ModelError> {
        let found = ACTIVATIONS.iter().find(|(known, _)| *known == name);
        found.map(|(_, activation)| *activation).ok_or_else(|| {
            let names: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
            let nearest = tidemill_data::nearest(name, names.iter().copied());
            let nearest = nearest.map(|nearest| format!("; did you mean \"{nearest}\"?")).unwrap_or_default();
            self.refuse(format!("\"{key}\" is \"{name}\"{nearest} (known: {})", names.join(", ")))
        })
    }

    /// The one of `all` that `model_type` names; `kind` is what they are called, `of` gives an entry's names.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the key is missing, [`ModelError::UnknownArchitecture`] with the nearest and all names when
    /// there is none of this name.
    pub(crate) fn architecture<'r, A>(
        &self,
        kind: &str,
        all: &'r [A],
        of: fn(&A) -> &'static [&'static str],
    ) -> Result<&'r A, ModelError> {
        let missing = || self.refuse("the key \"model_type\" is missing; it names the architecture");
        let name = self.get("model_type").and_then(Value::as_str).ok_or_else(missing)?;
        all.iter().find(|entry| of(entry).contains(&name)).ok_or_else(|| {
            let names: Vec<&str> = all.iter().flat_map(of).copied().collect();
            let nearest = tidemill_data::nearest(name, names.iter().copied());
            let nearest = nearest.map(|nearest| format!("did you mean \"{nearest}\"? ")).unwrap_or_default();
            let hint = format!("{nearest}The {kind} are {}", names.join(", "));
            ModelError::UnknownArchitecture { name: name.to_string(), hint }
        })
    }

    /// The section `key`, if it is there and an object.
    pub fn section(&self, key: &str) -> Option<Config<'a>> {
        let keys = self.get(key)?.as_object()?;
        Some(Config { architecture: self.architecture, keys })
    }

    /// The numbers of the list `key`, if it is there.
    ///
    /// # Errors
    /// [`ModelError::Config`] when it is no list of numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = value.as_array().map(|list| list.iter().filter_map(Value::as_f64).collect::<Vec<_>>());
        match numbers {
            Some(numbers) if Some(numbers.len()) == value.as_array().map(Vec::len) => Ok(Some(numbers)),
            _ => Err(self.refuse(format!("\"{key}\" must be a list of numbers"))),
        }
    }

    /// The texts of the list `key`, if it is there and a list of texts.
    pub fn texts(&self, key: &str) -> Option<Vec<&'a str>> {
        self.get(key)?.as_array()?.iter().map(Value::as_str).collect()
    }

    /// An error about this configuration.
    pub fn refuse(&self, problem: impl Into<String>) -> ModelError {
        ModelError::Config { architecture: self.architecture.to_string(), problem: problem.into() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_named() {
        let keys = json!({"model_type": "llama", "hidden_size": 0, "rope_theta": "many", "head_dim": null, "tied": 1});
        let config = Config::new(keys.as_object().unwrap());
        let problem = |error: ModelError| error.to_string();
        assert!(problem(config.size("hidden_size").unwrap_err()).contains("llama: \"hidden_size\" must be"));
        assert!(problem(config.size("vocab_size").unwrap_err()).contains("\"vocab_size\" is missing"));
        assert!(problem(config.number("rope_theta").unwrap_err()).contains("\"rope_theta\""));
        assert!(problem(config.flag_or("tied", true).unwrap_err()).contains("true or false"));
        assert_eq!(config.size_or("head_dim", 64).unwrap(), 64);
    }

    #[test]
    fn activations_are_known_by_their_names() {
        let keys = json!({"hidden_act": "gelu_new", "activation": "gleu"});
        let config = Config::new(keys.as_object().unwrap());
        assert_eq!(config.activation("hidden_act", "relu").unwrap(), Activation::GeluTanh);
        assert_eq!(config.activation("hidden_activation", "relu").unwrap(), Activation::Relu);
        let error = config.activation("activation", "gelu").unwrap_err().to_string();
        assert!(error.contains("\"activation\" is \"gleu\"; did you mean \"gelu\"?"), "{error}");
    }
}
