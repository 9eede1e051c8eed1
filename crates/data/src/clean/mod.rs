//! The `[clean]` section: which text steps run, and which rows are dropped.
//!
//! `text.rs` owns the steps from text to text, `markup.rs` HTML, `repeats.rs` exact and near duplicates. Nothing here
//! reads files or knows of splits.

mod markup;
pub(crate) mod repeats;
mod text;

use serde::{Deserialize, Serialize};

pub use text::{Case, Step, TextCleaning, Unicode, folded};

use crate::error::DataError;

/// The `[clean]` section of a recipe. Text steps run in the order of the keys here, then rows are dropped.
///
/// ```
/// use tidemill_data::CleanConfig;
///
/// let clean = CleanConfig { html: true, ..CleanConfig::default() };
/// assert_eq!(clean.text().apply("<b>fine</b>  film &amp; cast"), "fine film & cast");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CleanConfig {
    /// Remove HTML tags, comments, scripts and styles, and decode entities. Default false.
    pub html: bool,
    /// Unicode normalisation form: `none`, `nfc` (default), `nfd`, `nfkc`, `nfkd`.
    pub unicode: Unicode,
    /// Remove control characters, zero-width and bidirectional marks. Default true.
    pub control: bool,
    /// Make every run of white space one space, and trim. Default true.
    pub white_space: bool,
    /// `keep` (default), `lower` or `upper`.
    pub case: Case,
    /// A cleaned text with fewer characters is dropped. Default 1: empty texts are dropped; 0 keeps them.
    pub min_chars: usize,
    /// A cleaned text with more characters is truncated or dropped, as `too_long` says. Default: no bound.
    pub max_chars: Option<usize>,
    /// `truncate` (default) or `drop`, for texts longer than `max_chars`.
    pub too_long: TooLong,
    /// Rows whose text or label is missing: `drop` (default), `stop`, or a table of what to put in:
    /// `missing = { text = "", label = "other" }` (what has no filling is dropped).
    pub missing: Missing,
    /// Values that mean "missing" besides an empty field and null, for example `["NA", "n/a"]`. Default none.
    pub missing_values: Vec<String>,
    /// Training rows with the text and the label of an earlier one: `drop` (default) or `keep`.
    pub duplicates: Repeats,
    /// Training rows whose text also stands there with another label: `keep` (default) or `drop`. Always reported.
    pub conflicts: Repeats,
    /// Training rows that are nearly an earlier one: `keep` (default) or `drop`.
    pub near_duplicates: Repeats,
    /// Jaccard similarity of word shingles from which on two texts are near duplicates, in (0, 1]. Default 0.8.
    pub near_threshold: f64,
    /// Words a shingle. Default 3.
    pub near_words: usize,
}

impl Default for CleanConfig {
    fn default() -> Self {
        Self {
            html: false,
            unicode: Unicode::default(),
            control: true,
            white_space: true,
            case: Case::default(),
            min_chars: 1,
            max_chars: None,
            too_long: TooLong::default(),
            missing: Missing::default(),
            missing_values: Vec::new(),
            duplicates: Repeats::Drop,
            conflicts: Repeats::Keep,
            near_duplicates: Repeats::Keep,
            near_threshold: 0.8,
            near_words: 3,
        }
    }
}

impl CleanConfig {
    /// The steps from text to text alone: what a package carries and serving runs.
    pub fn text(&self) -> TextCleaning {
        TextCleaning {
            html: self.html,
            unicode: self.unicode,
            control: self.control,
            white_space: self.white_space,
            case: self.case,
            max_chars: self.max_chars.filter(|_| self.too_long == TooLong::Truncate),
        }
    }

    /// Whether the values can be; the error names the key.
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |key, problem: &str| Err(DataError::config("clean", key, problem));
        if !(self.near_threshold > 0.0 && self.near_threshold <= 1.0) {
            return wrong("near_threshold", "must be above 0 and at most 1");
        }
        if !(1..=32).contains(&self.near_words) {
            return wrong("near_words", "must lie between 1 and 32");
        }
        if self.max_chars.is_some_and(|most| most == 0 || most < self.min_chars) {
            return wrong("max_chars", "must be at least 1 and not below min_chars");
        }
        Ok(())
    }
}

/// What happens to a text longer than `max_chars`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TooLong {
    /// Keep its first `max_chars` characters.
    #[default]
    Truncate,
    /// Drop the row.
    Drop,
}

/// What happens to rows that repeat others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repeats {
    /// Drop them.
    Drop,
    /// Keep them.
    Keep,
}

/// What happens to rows without a text or a label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Leave them out and count them.
    #[default]
    Drop,
    /// Stop with an error that names the first.
    Stop,
    /// Put something in; a part without a filling is dropped.
    Fill {
        /// Filling for a missing text.
        text: Option<String>,
        /// Filling for a missing label.
        label: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filling {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

impl Serialize for Missing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Drop => serializer.serialize_str("drop"),
            Self::Stop => serializer.serialize_str("stop"),
            Self::Fill { text, label } => Filling { text: text.clone(), label: label.clone() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Missing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Missing;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"drop\", \"stop\" or a table such as { text = \"…\" }")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Missing, E> {
                match value {
                    "drop" => Ok(Missing::Drop),
                    "stop" => Ok(Missing::Stop),
                    _ => Err(E::unknown_variant(value, &["drop", "stop"])),
                }
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Missing, A::Error> {
                let filling = Filling::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Missing::Fill { text: filling.text, label: filling.label })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
