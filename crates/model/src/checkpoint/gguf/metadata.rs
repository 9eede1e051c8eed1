//! Typed reading of a GGUF file's metadata: a key of another type than expected, or a number that no model could have,
//! is an error that names the key.

use serde_json::Value as Json;

use super::problem::Problem;
use super::reader::{Array, Gguf, Value};

/// No count in any model comes near this.
const MAX_COUNT: u64 = 1 << 31;

/// The metadata with an architecture's name put before the keys that are its own.
pub(crate) struct Metadata<'a> {
    pub(crate) gguf: &'a Gguf,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    pub(crate) fn new(gguf: &'a Gguf) -> Result<Metadata<'a>, Problem> {
        let architecture = text(gguf, "general.architecture")?
            .ok_or_else(|| Problem::new("key \"general.architecture\" is missing, so it is not a model"))?;
        Ok(Metadata { gguf, architecture })
    }

    /// `general.architecture`.
    pub(crate) fn architecture(&self) -> &'a str {
        self.architecture
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A count under the architecture's own `key`. A list with one number a layer counts when all are the same.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u64>, Problem> {
        count(self.gguf, &self.key(key))
    }

    /// As [`Metadata::count`]; an error when there is none.
    pub(crate) fn needed(&self, key: &str) -> Result<u64, Problem> {
        let missing = || Problem::new(format!("key \"{}\" is missing; convert the model again", self.key(key)));
        self.count(key)?.filter(|count| *count > 0).ok_or_else(missing)
    }

    /// A number, in the shortest decimal form that is the same float.
    pub(crate) fn number(&self, key: &str) -> Result<Option<Json>, Problem> {
        let key = self.key(key);
        match self.gguf.value(&key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(shortest(value))),
            Some(Value::Double(value)) if value.is_finite() => Ok(Some(Json::from(value))),
            Some(Value::Unsigned(value)) => Ok(Some(Json::from(value))),
            Some(Value::Signed(value)) => Ok(Some(Json::from(value))),
            Some(_) => Err(Problem::new(format!("key {key:?} is not a number"))),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, Problem> {
        text(self.gguf, &self.key(key))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Problem> {
        flag(self.gguf, &self.key(key))
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }
}

/// A count under a whole key.
pub(crate) fn count(gguf: &Gguf, key: &str) -> Result<Option<u64>, Problem> {
    let bad = |what: &str| Problem::new(format!("key {key:?} {what}"));
    let one = |value: Value<'_>| match value {
        Value::Unsigned(count) if count <= MAX_COUNT => Ok(count),
        Value::Signed(count) if u64::try_from(count).is_ok_and(|count| count <= MAX_COUNT) => Ok(count as u64),
        Value::Unsigned(_) | Value::Signed(_) => Err(bad("is beyond what a model can have")),
        _ => Err(bad("is not a whole number")),
    };
    match gguf.value(key) {
        None => Ok(None),
        Some(Value::Array(array)) => {
            let mut values = array.iter();
            let Some(first) = values.next() else {
                return Ok(None);
            };
            if values.any(|value| value != first) {
                return Err(bad("differs from layer to layer, which is not supported"));
            }
            one(first).map(Some)
        }
        Some(value) => one(value).map(Some),
    }
}

pub(crate) fn flag(gguf: &Gguf, key: &str) -> Result<Option<bool>, Problem> {
    match gguf.value(key) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(_) => Err(Problem::new(format!("key {key:?} is not a truth value"))),
    }
}

pub(crate) fn text<'a>(gguf: &'a Gguf, key: &str) -> Result<Option<&'a str>, Problem> {
    match gguf.value(key) {
        None => Ok(None),
        Some(Value::Text(bytes)) => {
            let text = str::from_utf8(bytes).map_err(|_| Problem::new(format!("key {key:?} is not UTF-8")))?;
            Ok(Some(text))
        }
        Some(_) => Err(Problem::new(format!("key {key:?} is not a string"))),
    }
}

pub(crate) fn array<'a>(gguf: &'a Gguf, key: &str) -> Result<Option<Array<'a>>, Problem> {
    match gguf.value(key) {
        None => Ok(None),
        Some(Value::Array(array)) => Ok(Some(array)),
        Some(_) => Err(Problem::new(format!("key {key:?} is not a list"))),
    }
}

/// A float32 as the decimal number that people wrote: 1e-5, not 0.000009999999747378752.
pub(crate) fn shortest(value: f32) -> Json {
    Json::from(value.to_string().parse::<f64>().unwrap_or_else(|_| f64::from(value)))
}
