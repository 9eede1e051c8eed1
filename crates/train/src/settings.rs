//! Reads a free table of a recipe (`[optimiser]`, `[schedule]`) into one typed configuration.
//!
//! Owns the complaint: the key at fault, what is wrong with it, and the nearest key where it is unknown. Knows nothing of
//! files; [`crate::recipe`] adds the line and the column.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A table of settings by name, as a recipe holds it.
pub type Settings = Map<String, Value>;

/// One key that cannot be taken as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {problem}")]
pub struct SettingError {
    /// The key, without its table.
    pub key: String,
    /// What is wrong with it and what to do: the rest of a sentence that starts with the key.
    pub problem: String,
}

impl SettingError {
    /// A complaint about `key`; `problem` continues the sentence.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

/// Every key of `T` with its default. Keys that are absent by default are `null`.
pub fn defaults<T: Serialize + Default>() -> Settings {
    match serde_json::to_value(T::default()) {
        Ok(Value::Object(map)) => map,
        _ => Settings::new(),
    }
}

/// `settings` laid over the defaults of `T`; an unknown key names the nearest one.
pub fn parse<T>(settings: &Settings) -> Result<T, SettingError>
where
    T: Serialize + DeserializeOwned + Default,
{
    let known = defaults::<T>();
    for key in settings.keys() {
        if !known.contains_key(key) {
            return Err(unknown(key, known.keys().map(String::as_str)));
        }
    }
    let merged = |own: &mut dyn Iterator<Item = (&String, &Value)>| {
        let mut all = known.clone();
        all.extend(own.map(|(key, value)| (key.clone(), value.clone())));
        serde_json::from_value::<T>(Value::Object(all))
    };
    merged(&mut settings.iter()).map_err(|error| {
        let culprit = settings.iter().find(|entry| merged(&mut std::iter::once(*entry)).is_err());
        let key = culprit.map_or_else(String::new, |(key, _)| key.clone());
        SettingError::new(key, format!("cannot be read: {error}"))
    })
}

/// The complaint about a key that is not among `known`.
pub(crate) fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> SettingError {
    let all = known.clone().collect::<Vec<_>>().join(", ");
    let problem = match tidemill_data::nearest(key, known) {
        Some(near) => format!("is not a key here; did you mean `{near}`?"),
        None if all.is_empty() => "is not a key here; this one takes no keys".to_owned(),
        None => format!("is not a key here; known are {all}"),
    };
    SettingError::new(key, problem)
}

/// The complaint about a registry's unknown `name`; `what` is a kind of thing, as "schedule".
pub(crate) fn unknown_name<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> SettingError {
    let all = known.clone().collect::<Vec<_>>().join(", ");
    let near = match tidemill_data::nearest(name, known) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    };
    SettingError::new("name", format!("says `{name}`, which is no {what}{near} There are {all}"))
}

/// Requires `ok`, or complains about `key`.
pub(crate) fn require(ok: bool, key: &str, problem: &str) -> Result<(), SettingError> {
    if ok { Ok(()) } else { Err(SettingError::new(key, problem)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        momentum: f64,
        cap: Option<u64>,
    }

    impl Default for Config {
        fn default() -> Self {
            Self { momentum: 0.9, cap: None }
        }
    }

    fn settings(value: Value) -> Settings {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn settings_lie_over_the_defaults() {
        let config: Config = parse(&settings(json!({"cap": 3}))).unwrap();
        assert_eq!(config, Config { momentum: 0.9, cap: Some(3) });
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = parse::<Config>(&settings(json!({"momentun": 0.5}))).unwrap_err();
        assert_eq!(error.key, "momentun");
        assert!(error.to_string().contains("did you mean `momentum`?"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_its_key() {
        let error = parse::<Config>(&settings(json!({"momentum": 0.5, "cap": "x"}))).unwrap_err();
        assert_eq!(error.key, "cap");
    }
}
