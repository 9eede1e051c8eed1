//! The `[data]` section: which files, which columns play which role, and what a label is made of.
//!
//! It knows nothing of how formats are read. Values arrive as text; here they become labels and times.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{DataError, RowProblem, shortened};
use crate::source::Format;

/// The `[data]` section of a recipe.
///
/// ```
/// use tidemill_data::DataConfig;
///
/// let data: DataConfig = toml::from_str(r#"
///     train = ["a.csv", "b.csv.gz"]
///     text = "review"
///     label = { column = "rating", cut = [
///         { below = -0.5, label = "negative" },
///         { above = 0.5, label = "positive" },
///     ] }
/// "#)?;
/// assert_eq!(data.train.paths().len(), 2);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Training files: one name or a list, relative to the recipe's folder.
    pub train: Files,
    /// Validation files; without them `[split]` takes a part of `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Files>,
    /// Test files; without them (and without `validation`) `[split]` takes a part of `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Files>,
    /// `csv`, `tsv`, `jsonl`, `parquet` or `text`; by default the extension tells, `.gz` left aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Whether CSV and TSV files begin with column names. Default: yes when any column is given by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// The delimiter, one ASCII character. Default `,` for CSV, tab for TSV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// The quote, one ASCII character, or `""` for none. Default `"` for CSV, none for TSV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
    /// The column of the text: a name, or a number from 1. Default `text`. Plain text has no columns: a line is a text.
    #[serde(default = "Column::text")]
    pub text: Column,
    /// The column of the label, and how a label is made of it. Training needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelColumn>,
    /// A column whose equal values must stay on one side of the split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Column>,
    /// A column of times (a number, or ISO 8601) to split by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Column>,
    /// The labels in order; a label outside the list is a bad row. Default: those found, sorted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// What a bad row does: `stop` (default) or `skip`, which counts and reports it.
    #[serde(default)]
    pub bad_rows: BadRows,
    /// Bound on one row in bytes. Default 16777216 (16 MiB).
    #[serde(default = "default_max_row_bytes")]
    pub max_row_bytes: usize,
}

fn default_max_row_bytes() -> usize {
    16 << 20
}

impl DataConfig {
    /// The default configuration for the given training files.
    pub fn new(train: impl Into<Files>) -> Self {
        Self {
            train: train.into(),
            validation: None,
            test: None,
            format: None,
            header: None,
            delimiter: None,
            quote: None,
            text: Column::text(),
            label: None,
            group: None,
            time: None,
            labels: None,
            bad_rows: BadRows::default(),
            max_row_bytes: default_max_row_bytes(),
        }
    }

    /// Makes relative paths start at `folder`, the recipe's.
    pub fn resolve(&mut self, folder: &Path) {
        let files = [Some(&mut self.train), self.validation.as_mut(), self.test.as_mut()];
        for path in files.into_iter().flatten().flat_map(|files| &mut files.0) {
            *path = folder.join(&*path);
        }
    }

    /// Whether the values can be; the error names the key.
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |key: &str, problem: &str| Err(DataError::config("data", key, problem));
        if self.train.0.is_empty() {
            return wrong("train", "the list is empty; name at least one file");
        }
        if self.delimiter.is_some_and(|c| !c.is_ascii() || c == '\n' || c == '\r') {
            return wrong("delimiter", "must be one ASCII character, and no line break");
        }
        if !(1..=1 << 30).contains(&self.max_row_bytes) {
            return wrong("max_row_bytes", "must lie between 1 and 1073741824");
        }
        if let Some(labels) = &self.labels {
            let mut sorted: Vec<&String> = labels.iter().collect();
            sorted.sort_unstable();
            if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
                return wrong("labels", "the same label stands there twice");
            }
        }
        self.label.as_ref().map_or(Ok(()), LabelColumn::check)
    }

    /// The columns to read, in the order text, label, group, time; with the keys that name them.
    pub(crate) fn columns(&self) -> Vec<(&'static str, &Column)> {
        let mut columns = vec![("text", &self.text)];
        columns.extend(self.label.as_ref().map(|label| ("label", &label.column)));
        columns.extend(self.group.as_ref().map(|column| ("group", column)));
        columns.extend(self.time.as_ref().map(|column| ("time", column)));
        columns
    }
}

/// One file or several, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(pub Vec<PathBuf>);

impl Files {
    /// The files in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

impl<P: Into<PathBuf>> From<P> for Files {
    fn from(path: P) -> Self {
        Self(vec![path.into()])
    }
}

impl Serialize for Files {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Files;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file's name or a list of names")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<Files, E> {
                Ok(Files::from(path))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Files, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element::<PathBuf>()? {
                    paths.push(path);
                }
                Ok(Files(paths))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A column by its name, or by its number, the first being 1. In JSON lines and Parquet a name may be a dotted path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// By name.
    Name(String),
    /// By number, from 1.
    Number(usize),
}

impl Column {
    fn text() -> Self {
        Self::Name("text".to_owned())
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "`{}`", shortened(name)),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl From<&str> for Column {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<usize> for Column {
    fn from(number: usize) -> Self {
        Self::Number(number)
    }
}

impl Serialize for Column {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => serializer.serialize_str(name),
            Self::Number(number) => serializer.serialize_u64(*number as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ColumnVisitor)
    }
}

struct ColumnVisitor;

impl de::Visitor<'_> for ColumnVisitor {
    type Value = Column;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column's name, or its number (the first is 1)")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Column, E> {
        Ok(Column::from(name))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Column, E> {
        match usize::try_from(number) {
            Ok(number) if number > 0 => Ok(Column::Number(number)),
            _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Column, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }
}

/// The label's column, and how its values become labels: a column, or a table with `column`, `cut` and `map`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelColumn {
    /// The column.
    pub column: Column,
    /// Intervals of a number; the first that holds it gives the label, and a row in none of them is dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<Cut>,
    /// New names for values (before `cut` there are none; after it they are its labels). Others stay as they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub map: BTreeMap<String, String>,
}

/// One interval of numbers and its label. At least one bound is wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Numbers above this one, itself left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Numbers from this one on, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// Numbers below this one, itself left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// Numbers up to this one, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// The label.
    pub label: String,
}

impl Cut {
    fn holds(&self, number: f64) -> bool {
        self.above.is_none_or(|bound| number > bound)
            && self.at_least.is_none_or(|bound| number >= bound)
            && self.below.is_none_or(|bound| number < bound)
            && self.at_most.is_none_or(|bound| number <= bound)
    }
}

/// What a value of the label column is.
#[derive(Debug, PartialEq)]
pub(crate) enum LabelValue<'a> {
    Label(Cow<'a, str>),
    /// In none of the intervals.
    Outside,
}

impl LabelColumn {
    /// Plain labels from a column.
    pub fn new(column: impl Into<Column>) -> Self {
        Self { column: column.into(), cut: Vec::new(), map: BTreeMap::new() }
    }

    fn check(&self) -> Result<(), DataError> {
        for cut in &self.cut {
            let bounds = [cut.above, cut.at_least, cut.below, cut.at_most];
            if bounds.iter().all(Option::is_none) {
                let problem = format!("`{}` needs a bound: above, at_least, below or at_most", cut.label);
                return Err(DataError::config("data", "label.cut", problem));
            }
            let low = cut.above.into_iter().chain(cut.at_least).fold(f64::NEG_INFINITY, f64::max);
            let high = cut.below.into_iter().chain(cut.at_most).fold(f64::INFINITY, f64::min);
            if low > high || bounds.iter().flatten().any(|bound| bound.is_nan()) {
                let problem = format!("no number lies in the interval of `{}`", cut.label);
                return Err(DataError::config("data", "label.cut", problem));
            }
        }
        Ok(())
    }

    pub(crate) fn value<'a>(&'a self, raw: &'a str) -> Result<LabelValue<'a>, RowProblem> {
        let mut label = raw;
        if !self.cut.is_empty() {
            let number: f64 = match raw.trim().parse() {
                Ok(number) if f64::is_finite(number) => number,
                _ => {
                    return Err(RowProblem::NotANumber { value: shortened(raw) });
                }
            };
            match self.cut.iter().find(|cut| cut.holds(number)) {
                Some(cut) => label = &cut.label,
                None => return Ok(LabelValue::Outside),
            }
        }
        let label = self.map.get(label).map_or(label, String::as_str);
        Ok(LabelValue::Label(Cow::Borrowed(label)))
    }
}

impl<'de> Deserialize<'de> for LabelColumn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            column: Column,
            #[serde(default)]
            cut: Vec<Cut>,
            #[serde(default)]
            map: BTreeMap<String, String>,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = LabelColumn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column's name or number, or a table with `column`, `cut` and `map`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<LabelColumn, E> {
                ColumnVisitor.visit_str(name).map(LabelColumn::new)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<LabelColumn, E> {
                ColumnVisitor.visit_u64(number).map(LabelColumn::new)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<LabelColumn, E> {
                ColumnVisitor.visit_i64(number).map(LabelColumn::new)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<LabelColumn, A::Error> {
                let Table { column, cut, map } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(LabelColumn { column, cut, map })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The quote of delimited text: one ASCII character, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote(pub Option<u8>);

impl Serialize for Quote {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.map(char::from).map(String::from).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Quote {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_bytes() {
            [] => Ok(Self(None)),
            [byte] if byte.is_ascii() && !byte.is_ascii_control() => Ok(Self(Some(*byte))),
            _ => Err(de::Error::custom("a quote is one ASCII character, or \"\" for none")),
        }
    }
}

/// What a bad row does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadRows {
    /// End with an error that names it.
    #[default]
    Stop,
    /// Leave it out, count it, report it.
    Skip,
}

/// A time as a number: seconds since 1970 for dates, the number itself (rounded down) for numbers.
pub(crate) fn time(raw: &str) -> Result<i64, RowProblem> {
    let text = raw.trim();
    if let Ok(number) = text.parse::<i64>() {
        return Ok(number);
    }
    if let Some(number) = text.parse::<f64>().ok().filter(|number| number.abs() < 9e18) {
        return Ok(number.floor() as i64);
    }
    iso_8601(text).ok_or_else(|| RowProblem::NotATime { value: shortened(raw) })
}

/// `2026-01-31`, `2026-01-31T12:30`, `2026-01-31 12:30:59.5+02:00`, `…Z`; without a zone it is UTC.
fn iso_8601(text: &str) -> Option<i64> {
    let number = |text: &str, low: i64, high: i64| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>().ok().filter(|n| digits && (low..=high).contains(n))
    };
    let (date, clock) = match text.split_once(['T', 't', ' ']) {
        Some((date, clock)) => (date, Some(clock)),
        None => (text, None),
    };
    let mut parts = date.splitn(3, '-');
    let year = number(parts.next()?, 0, 9999)?;
    let month = number(parts.next()?, 1, 12)?;
    let day = number(parts.next()?, 1, 31)?;
    let mut seconds = days_from_civil(year, month, day) * 86_400;
    if let Some(clock) = clock {
        let (clock, offset) = match clock.strip_suffix(['Z', 'z']) {
            Some(clock) => (clock, 0),
            None => match clock.rfind(['+', '-']) {
                Some(at) => {
                    let (clock, zone) = clock.split_at_checked(at)?;
                    let digits = zone.get(1..)?.replace(':', "");
                    let hours = number(digits.get(..2)?, 0, 23)?;
                    let minutes = digits.get(2..).filter(|m| !m.is_empty());
                    let minutes = minutes.map_or(Some(0), |m| number(m, 0, 59))?;
                    let offset = hours * 3600 + minutes * 60;
                    (clock, if zone.starts_with('-') { -offset } else { offset })
                }
                None => (clock, 0),
            },
        };
        let mut parts = clock.splitn(3, ':');
        let hours = number(parts.next()?, 0, 24)?;
        let minutes = number(parts.next()?, 0, 59)?;
        let whole = parts.next().map(|s| s.split('.').next().unwrap_or_default());
        let second = whole.map_or(Some(0), |s| number(s, 0, 60))?;
        seconds += hours * 3600 + minutes * 60 + second - offset;
    }
    Some(seconds)
}

/// Days from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, wanted) in [
            ("1970-01-01", 0),
            ("2000-03-01", 951_868_800),
            ("2026-11-24T20:25:15Z", 1_795_551_915),
            ("2026-11-24 22:25:15.25+02:00", 1_795_551_915),
            ("-12", -12),
            ("3.9", 3),
        ] {
            assert_eq!(time(text), Ok(wanted), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "2026-01-01T25:00", "2026-01-01T10:00+", "NaN"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_are_cut_and_renamed() {
        let config: DataConfig = toml::from_str(
            r#"train = "a.csv"
               label = { column = 2, cut = [{ below = -0.5, label = "0" }, { at_least = 0.5, label = "1" }],
                         map = { 0 = "negative" } }"#,
        )
        .unwrap();
        config.check().unwrap();
        let label = config.label.unwrap();
        let value = |raw| match label.value(raw).unwrap() {
            LabelValue::Label(label) => label.into_owned(),
            LabelValue::Outside => "outside".to_owned(),
        };
        assert_eq!(["-0.6", "-0.5", "0.5", " 3 "].map(value), ["negative", "outside", "1", "1"]);
        assert!(label.value("three").is_err());
        assert!(label.value("NaN").is_err());
    }

    #[test]
    fn wrong_values_name_their_key() {
        let parse = |text: &str| toml::from_str::<DataConfig>(text).map_err(|error| error.to_string());
        assert!(parse("train = 'a'\ntext = 0").unwrap_err().contains("the first is 1"));
        assert!(parse("train = 'a'\nquote = 'ab'").unwrap_err().contains("one ASCII character"));
        assert!(parse("train = 'a'\nlabel = { column = 1, cutt = [] }").unwrap_err().contains("cutt"));
        let check = |text: &str| parse(text).unwrap().check().unwrap_err().to_string();
        assert!(check("train = []").contains("[data] train"));
        assert!(check("train = 'a'\nlabels = ['x', 'x']").contains("[data] labels"));
        assert!(check("train = 'a'\nlabel = { column = 1, cut = [{ label = 'x' }] }").contains("label.cut"));
        let mut config = parse("train = ['a', '/b']\nvalidation = 'c'").unwrap();
        config.resolve(Path::new("/r"));
        assert_eq!(config.train.paths(), [PathBuf::from("/r/a"), PathBuf::from("/b")]);
        assert_eq!(config.validation.unwrap().paths(), [PathBuf::from("/r/c")]);
    }
}
