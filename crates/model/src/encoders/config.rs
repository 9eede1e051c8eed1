//! Reading an encoder's `config.json`: keys that are not there have the defaults that `transformers` gives them, keys that
//! no architecture asks for are ignored, and an error names the key.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tidemill_torch::encode::Activation;

use crate::architectures::Check;
use crate::error::ModelError;

/// An architecture's keys out of a configuration. `null` stands for a key that is not there.
///
/// # Errors
/// [`ModelError::Config`] that names the first key of another type.
pub(super) fn read<Own: DeserializeOwned>(name: &str, config: &Map<String, Value>) -> Result<Own, ModelError> {
    let given = config.iter().filter(|(_, value)| !value.is_null());
    let given: Map<String, Value> = given.map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in &given {
        let alone: Map<String, Value> = [(key.clone(), value.clone())].into_iter().collect();
        if let Err(error) = serde_json::from_value::<Own>(Value::Object(alone)) {
            return Err(refuse(name, format!("the key \"{key}\": {error}")));
        }
    }
    serde_json::from_value(Value::Object(given)).map_err(|error| refuse(name, error.to_string()))
}

/// The sizes that every encoder has.
pub(super) struct Sizes {
    pub(super) vocabulary: i64,
    pub(super) width: i64,
    pub(super) heads: i64,
    pub(super) inner: i64,
    pub(super) layers: i64,
    pub(super) positions: i64,
    pub(super) epsilon: f64,
}

impl Sizes {
    /// Checks them, by the keys that this configuration has for each.
    pub(super) fn check(&self, name: &'static str, keys: [&str; 7]) -> Result<(), ModelError> {
        let check = Check(name);
        let [vocabulary, width, heads, inner, layers, positions, epsilon] = keys;
        for (key, value) in [
            (vocabulary, self.vocabulary),
            (width, self.width),
            (heads, self.heads),
            (inner, self.inner),
            (positions, self.positions),
        ] {
            check.size(key, value)?;
        }
        check.that((1..=256).contains(&self.layers), || {
            format!("\"{layers}\" must be at least 1 and at most 256, not {}", self.layers)
        })?;
        check.that(self.width % self.heads == 0, || {
            format!("\"{width}\", {}, must be a multiple of \"{heads}\", {}", self.width, self.heads)
        })?;
        check.that(self.epsilon > 0.0 && self.epsilon < 1.0, || {
            format!("\"{epsilon}\" must lie between 0 and 1, not {}", self.epsilon)
        })
    }
}

/// The activation of this name in `transformers`.
///
/// # Errors
/// [`ModelError::Config`] with the names that are known.
pub(super) fn activation(architecture: &str, key: &str, name: &str) -> Result<Activation, ModelError> {
    const KNOWN: [(&str, Activation); 11] = [
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
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation).ok_or_else(|| {
        let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        let nearest = tidemill_data::nearest(name, names.iter().copied());
        let nearest = nearest.map(|nearest| format!("; did you mean \"{nearest}\"?")).unwrap_or_default();
        refuse(architecture, format!("\"{key}\" is \"{name}\"{nearest} (known: {})", names.join(", ")))
    })
}

/// The labels' names, in the order of their scores: `id2label`, or as many as `num_labels` says, which is two by default.
///
/// ```
/// let config = serde_json::from_str(r#"{"id2label": {"1": "good", "0": "bad"}}"#)?;
/// assert_eq!(tidemill_model::encoders::labels(&config), ["bad", "good"]);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn labels(config: &Map<String, Value>) -> Vec<String> {
    let named = config.get("id2label").and_then(Value::as_object).filter(|names| !names.is_empty());
    let count = match named {
        Some(names) => names.len(),
        None => config.get("num_labels").and_then(Value::as_u64).map_or(2, |count| count.min(1 << 20) as usize),
    };
    let name = |id: usize| named?.get(&id.to_string())?.as_str().map(str::to_string);
    (0..count).map(|id| name(id).unwrap_or_else(|| format!("LABEL_{id}"))).collect()
}

pub(super) fn refuse(architecture: &str, problem: String) -> ModelError {
    ModelError::Config { architecture: architecture.to_string(), problem }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_type_is_named() {
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default)]
        struct Own {
            width: i64,
        }
        let config = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        assert_eq!(read::<Own>("x", &config(r#"{"width": 3, "other": []}"#)).unwrap().width, 3);
        assert_eq!(read::<Own>("x", &config(r#"{"width": null}"#)).unwrap().width, 0);
        let error = read::<Own>("x", &config(r#"{"other": 1, "width": "wide"}"#)).unwrap_err().to_string();
        assert!(error.contains("configuration of x: the key \"width\""), "{error}");
    }

    #[test]
    fn activations_are_known_by_their_names() {
        assert_eq!(activation("x", "hidden_act", "gelu_new").unwrap(), Activation::GeluTanh);
        let error = activation("x", "hidden_act", "gleu").unwrap_err().to_string();
        assert!(error.contains("\"hidden_act\" is \"gleu\"; did you mean \"gelu\"?"), "{error}");
    }

    #[test]
    fn labels_without_names_are_numbered() {
        let config = serde_json::from_str(r#"{"num_labels": 3}"#).unwrap();
        assert_eq!(labels(&config), ["LABEL_0", "LABEL_1", "LABEL_2"]);
        assert_eq!(labels(&Map::new()).len(), 2);
    }
}
