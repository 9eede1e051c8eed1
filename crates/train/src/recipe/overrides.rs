//! `--set section.key=value`: keys laid over those of the file.

use super::{Recipe, RecipeError};
use std::path::Path;
use std::str::FromStr;
use tidemill_data::toml_file;
use toml::{Table, Value};

/// One key laid over a recipe, written `section.key=value`.
///
/// The value is TOML; one that is not is taken as a string, so that `data.train=reviews.tsv` needs no quotes. An empty
/// value takes the key away, so that its default holds.
///
/// ```
/// use tidemill_train::Override;
///
/// let set: Override = "training.epochs=3".parse().unwrap();
/// assert_eq!(set.key(), "training.epochs");
/// assert!("epochs".parse::<Override>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    text: String,
    path: Vec<String>,
    value: Option<Value>,
}

impl Override {
    /// The key, as `section.key`.
    pub fn key(&self) -> String {
        self.path.join(".")
    }

    fn error(&self, problem: impl Into<String>) -> RecipeError {
        RecipeError::Override { text: self.text.clone(), problem: problem.into() }
    }

    fn set(&self, table: &mut Table) -> Result<(), RecipeError> {
        let (last, sections) = match self.path.split_last() {
            Some(split) => split,
            None => return Err(self.error("names no key")),
        };
        let mut here = table;
        for section in sections {
            let inner = here.entry(section).or_insert_with(|| Value::Table(Table::new()));
            here = match inner {
                Value::Table(inner) => inner,
                _ => return Err(self.error(format!("`{section}` is not a section"))),
            };
        }
        match &self.value {
            Some(value) => here.insert(last.clone(), value.clone()),
            None => here.remove(last),
        };
        Ok(())
    }
}

impl FromStr for Override {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Self, RecipeError> {
        let error = |problem: &str| RecipeError::Override { text: text.to_owned(), problem: problem.to_owned() };
        let (key, value) =
            text.split_once('=').ok_or_else(|| error("is not `section.key=value`, as in training.epochs=3"))?;
        let path: Vec<String> = key.trim().split('.').map(|part| part.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(error("has an empty part in its key"));
        }
        let value = value.trim();
        if value.is_empty() {
            return Ok(Self { text: text.to_owned(), path, value: None });
        }
        let parsed = toml::from_str::<Table>(&format!("value = {value}"));
        let value = match parsed.ok().and_then(|mut table| table.remove("value")) {
            Some(value) => value,
            None => Value::String(value.to_owned()),
        };
        Ok(Self { text: text.to_owned(), path, value: Some(value) })
    }
}

/// `recipe` with `overrides` laid over its keys. The recipe's own paths must have been resolved.
pub(super) fn apply(recipe: &Recipe, overrides: &[Override], path: &Path) -> Result<Recipe, RecipeError> {
    let mut table = to_table(recipe);
    for set in overrides {
        set.set(&mut table)?;
    }
    let text = toml::to_string(&table).unwrap_or_default();
    let set = || overrides.iter().map(|set| set.text.as_str()).collect::<Vec<_>>().join(" --set ");
    toml_file::parse(&text, &path.with_extension("toml --set"))
        .map_err(|error| RecipeError::Override { text: set(), problem: error.to_string() })
}

/// Every key of `recipe` as a TOML table; keys that are absent are left out.
pub(super) fn to_table(recipe: &Recipe) -> Table {
    let value = serde_json::to_value(recipe).unwrap_or_default();
    match to_toml(value) {
        Some(Value::Table(table)) => table,
        _ => Table::new(),
    }
}

/// JSON as TOML, which has no null.
fn to_toml(value: serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match value {
        Json::Null => return None,
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Float(number.as_f64()?),
        },
        Json::String(text) => Value::String(text),
        Json::Array(items) => Value::Array(items.into_iter().filter_map(to_toml).collect()),
        Json::Object(map) => {
            Value::Table(map.into_iter().filter_map(|(key, value)| Some((key, to_toml(value)?))).collect())
        }
    })
}
