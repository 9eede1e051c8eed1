//! JSON lines: an object a line. Only the wanted keys are kept while parsing; nested keys are dotted paths.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::lines::Lines;
use super::{Columns, Rows};
use crate::error::{BadRow, DataError, Place, RowProblem, listed, nearest};
use crate::schema::{Column, DataConfig};

/// Rows after which a key that never came is called unknown.
const PATIENCE: u64 = 1000;

pub(super) struct JsonLines {
    path: PathBuf,
    lines: Lines,
    wanted: Vec<Wanted>,
    rows: u64,
    first_line: u64,
    first_keys: Vec<String>,
}

struct Wanted {
    key: &'static str,
    name: String,
    seen: bool,
}

impl JsonLines {
    pub(super) fn open(path: &Path, config: &DataConfig) -> Result<Self, DataError> {
        let wanted = config.columns().into_iter().map(|(key, column)| match column {
            Column::Name(name) => Ok(Wanted { key, name: name.clone(), seen: false }),
            Column::Number(number) => {
                let problem = format!("{} is JSON lines: give a key's name, not {number}", path.display());
                Err(DataError::config("data", key, problem))
            }
        });
        Ok(Self {
            path: path.to_path_buf(),
            wanted: wanted.collect::<Result<_, _>>()?,
            lines: Lines::open(path, config.max_row_bytes)?,
            rows: 0,
            first_line: 0,
            first_keys: Vec::new(),
        })
    }

    /// An error when a wanted key stood in none of the rows so far.
    fn check_seen(&self) -> Result<(), DataError> {
        let Some(wanted) = self.wanted.iter().find(|wanted| !wanted.seen) else {
            return Ok(());
        };
        let keys = || self.first_keys.iter().map(String::as_str);
        Err(DataError::UnknownColumn {
            place: Place::line(&self.path, self.first_line),
            column: format!("`{}` (key `{}`)", wanted.name, wanted.key).into(),
            nearest: nearest(&wanted.name, keys()).map(Into::into),
            known: listed(keys()).into(),
        })
    }
}

impl Rows for JsonLines {
    fn next_row(&mut self, columns: &mut Columns) -> Result<bool, DataError> {
        let line = loop {
            match self.lines.next_line()? {
                None if self.rows > 0 => return self.check_seen().map(|()| false),
                None => return Ok(false),
                Some(line) if line.bytes.trim_ascii().is_empty() => continue,
                Some(line) => break line,
            }
        };
        let (path, number) = (&self.path, line.number);
        let bad = |column: String, problem| BadRow { place: Place::line(path, number).column(column), problem };
        let text = line.text().map_err(|byte| bad(byte.to_string(), RowProblem::InvalidUtf8))?;
        if self.rows == 0 {
            self.first_line = number;
            self.first_keys = keys(text);
        }
        let mut values = vec![Slot::Absent; self.wanted.len()];
        let mut parser = serde_json::Deserializer::from_str(text);
        Pick { wanted: &self.wanted, values: &mut values }
            .deserialize(&mut parser)
            .and_then(|()| parser.end())
            .map_err(|error| {
                let full = error.to_string();
                let reason = full.rsplit_once(" at line ").map_or(full.as_str(), |(reason, _)| reason);
                bad(error.column().to_string(), RowProblem::Json { reason: reason.to_owned() })
            })?;
        for (value, wanted) in values.iter().zip(&mut self.wanted) {
            wanted.seen |= !matches!(value, Slot::Absent);
            if let Slot::NotScalar(found) = value {
                let problem = RowProblem::NotScalar { found: (*found).to_owned() };
                return Err(bad(format!("`{}`", wanted.name), problem).into());
            }
        }
        self.rows += 1;
        columns.push(number, values.iter().map(Slot::text));
        if self.rows == PATIENCE {
            self.check_seen()?;
        }
        Ok(true)
    }
}

/// The keys of the first row, for messages.
fn keys(text: &str) -> Vec<String> {
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        return Vec::new();
    };
    let mut keys = Vec::new();
    for (key, value) in object.iter().take(200) {
        match value {
            Value::Object(inner) => keys.extend(inner.keys().take(50).map(|name| format!("{key}.{name}"))),
            _ => keys.push(key.clone()),
        }
    }
    keys
}

/// What a wanted key held.
#[derive(Clone)]
enum Slot<'a> {
    Absent,
    Null,
    Text(Cow<'a, str>),
    NotScalar(&'static str),
}

impl Slot<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Text(Cow::Owned(truth.to_string())),
            Value::Number(number) => Self::Text(Cow::Owned(number.to_string())),
            Value::String(text) => Self::Text(Cow::Owned(text.clone())),
            Value::Array(_) => Self::NotScalar("a list"),
            Value::Object(_) => Self::NotScalar("an object"),
        }
    }
}

/// Takes the wanted keys out of an object.
struct Pick<'w, 'a> {
    wanted: &'w [Wanted],
    values: &'w mut [Slot<'a>],
}

impl<'a> DeserializeSeed<'a> for Pick<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Pick<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let below =
                |wanted: &Wanted| wanted.name.strip_prefix(key.as_ref()).is_some_and(|rest| rest.starts_with('.'));
            if self.wanted.iter().any(below) {
                let value: Value = map.next_value()?;
                for (slot, wanted) in self.values.iter_mut().zip(self.wanted) {
                    if let Some(found) = walk(&value, &key, &wanted.name) {
                        *slot = Slot::of(found);
                    }
                }
                continue;
            }
            match self.wanted.iter().position(|wanted| wanted.name == key) {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(first) => {
                    let slot = map.next_value_seed(Scalar)?;
                    let others = self.values.iter_mut().zip(self.wanted).skip(first);
                    others.filter(|(_, wanted)| wanted.name == key).for_each(|(value, _)| *value = slot.clone());
                }
            }
        }
        Ok(())
    }
}

/// The value that the dotted path `name` reaches below `key`.
fn walk<'v>(value: &'v Value, key: &str, name: &str) -> Option<&'v Value> {
    let rest = name.strip_prefix(key)?;
    if rest.is_empty() {
        return Some(value);
    }
    rest.strip_prefix('.')?.split('.').try_fold(value, |value, part| value.get(part))
}

/// A key, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// One value as text.
struct Scalar;

impl<'a> DeserializeSeed<'a> for Scalar {
    type Value = Slot<'a>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Slot<'a>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Scalar {
    type Value = Slot<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Slot<'a>, E> {
        Ok(Slot::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Slot<'a>, E> {
        Ok(Slot::Text(Cow::Borrowed(if value { "true" } else { "false" })))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Slot<'a>, E> {
        Ok(Slot::Text(Cow::Owned(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Slot<'a>, E> {
        Ok(Slot::Text(Cow::Owned(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Slot<'a>, E> {
        Ok(Slot::Text(Cow::Owned(format!("{value:?}"))))
    }

    fn visit_borrowed_str<E>(self, value: &'a str) -> Result<Slot<'a>, E> {
        Ok(Slot::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Slot<'a>, E> {
        Ok(Slot::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Slot<'a>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Slot::NotScalar("a list"))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Slot<'a>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Slot::NotScalar("an object"))
    }
}
