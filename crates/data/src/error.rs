//! What can be wrong with data, as one typed error whose every sentence names the file and the line, column or key.
//!
//! It knows nothing of how rows are read; readers, cleaning and splitting all speak through it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where in a source something is: a file, and in it a line (a row for Parquet) and a column.
///
/// ```
/// let place = tidemill_data::Place::line("reviews.csv", 12).column("`rating`");
/// assert_eq!(place.to_string(), "reviews.csv, line 12, column `rating`");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as the recipe named it.
    pub path: PathBuf,
    /// The line, the first is 1; 0 when the whole file is meant.
    pub line: u64,
    /// What `line` counts: `line`, or `row` in a format without lines.
    pub unit: &'static str,
    /// The column: a field's name or number, or a byte's position in the line.
    pub column: Option<Box<str>>,
}

impl Place {
    /// A line of a text file; the first line is 1.
    pub fn line(path: impl AsRef<Path>, line: u64) -> Self {
        Self { path: path.as_ref().to_path_buf(), line, unit: "line", column: None }
    }

    /// A row of a file that has no lines; the first row is 1.
    pub fn row(path: impl AsRef<Path>, row: u64) -> Self {
        Self { unit: "row", ..Self::line(path, row) }
    }

    /// The same place, narrowed to a column.
    #[must_use]
    pub fn column(self, column: impl Into<Box<str>>) -> Self {
        Self { column: Some(column.into()), ..self }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ", {} {}", self.unit, self.line)?;
        }
        match &self.column {
            Some(column) => write!(f, ", column {column}"),
            None => Ok(()),
        }
    }
}

/// What is wrong with one row. With `bad_rows = "skip"` such rows are counted and left out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RowProblem {
    /// Bytes that are not UTF-8.
    #[error("the bytes are not UTF-8; convert the file, for example with `iconv -t UTF-8`")]
    InvalidUtf8,
    /// A row with another number of fields than the first.
    #[error("{found} fields where the file's first row has {expected}")]
    Ragged {
        /// Fields in this row.
        found: usize,
        /// Fields in the file's first row.
        expected: usize,
    },
    /// A quoted field that no quote ends.
    #[error("a quoted field is never closed; set `quote = \"\"` under [data] if quotes are plain characters")]
    UnclosedQuote,
    /// Characters between a closing quote and the next delimiter.
    #[error(
        "characters follow a closing quote; double the quotes inside a field, or set `quote = \"\"` under [data] \
         if quotes are plain characters"
    )]
    AfterQuote,
    /// A row larger than `max_row_bytes`.
    #[error("the row is larger than {limit} bytes; raise `max_row_bytes` under [data] if that is right")]
    TooLong {
        /// The bound, in bytes.
        limit: usize,
    },
    /// A line that is not one JSON object.
    #[error("not a JSON object: {reason}")]
    Json {
        /// The parser's words.
        reason: String,
    },
    /// A value that is a list or an object where a text or a number is wanted.
    #[error("{found} where a text, a number or a truth value is wanted")]
    NotScalar {
        /// What was found: `a list`, `an object`.
        found: String,
    },
    /// A label to be cut by intervals that is not a number.
    #[error("`{value}` is not a number, and `label.cut` cuts numbers")]
    NotANumber {
        /// The value, shortened.
        value: String,
    },
    /// A time that is neither a number nor an ISO 8601 date.
    #[error("`{value}` is neither a number nor a date such as 2026-01-31 or 2026-01-31T12:00:00Z")]
    NotATime {
        /// The value, shortened.
        value: String,
    },
    /// A label outside the fixed list.
    #[error("the label `{label}` is none of the known labels ({known}){}", hint(.nearest))]
    UnknownLabel {
        /// The label, shortened.
        label: Box<str>,
        /// The known labels, listed.
        known: Box<str>,
        /// The known label that looks most alike.
        nearest: Option<Box<str>>,
    },
    /// A missing value under `missing = "stop"`.
    #[error("the value is missing; `missing = \"drop\"` under [clean] leaves such rows out")]
    Missing,
}

impl RowProblem {
    /// A short name of the kind, under which skipped rows are counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "not UTF-8",
            Self::Ragged { .. } => "wrong number of fields",
            Self::UnclosedQuote => "quote never closed",
            Self::AfterQuote => "characters after a closing quote",
            Self::TooLong { .. } => "row too large",
            Self::Json { .. } => "not a JSON object",
            Self::NotScalar { .. } => "not a text or a number",
            Self::NotANumber { .. } => "label is not a number",
            Self::NotATime { .. } => "not a time",
            Self::UnknownLabel { .. } => "unknown label",
            Self::Missing => "missing value",
        }
    }
}

/// One row that cannot be used, and where it is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct BadRow {
    /// Where.
    pub place: Place,
    /// What is wrong there.
    pub problem: RowProblem,
}

/// Everything that reading, cleaning and splitting can answer instead of data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file is not there.
    #[error("{}: no such file; paths in a recipe start at the recipe's folder", .path.display())]
    NoSuchFile {
        /// The file.
        path: PathBuf,
    },
    /// A folder where a file is wanted.
    #[error("{}: this is a folder; name the files in it", .path.display())]
    IsAFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The system refused to read, write or map.
    #[error("{}: cannot {action}: {reason}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `write examples here`…
        action: &'static str,
        /// The system's answer.
        reason: std::io::Error,
    },
    /// A gzip stream that ends before its end.
    #[error("{place}: the gzip data end too early; the file was cut short, fetch it again")]
    TruncatedGzip {
        /// The file and the line reached.
        place: Place,
    },
    /// A gzip stream that is damaged.
    #[error("{place}: the gzip data are damaged ({reason}); fetch the file again")]
    DamagedGzip {
        /// The file and the line reached.
        place: Place,
        /// The decoder's words.
        reason: String,
    },
    /// A Parquet file that cannot be read.
    #[error("{place}: not a readable Parquet file: {reason}")]
    Parquet {
        /// The file, and the row when known.
        place: Place,
        /// The decoder's words.
        reason: String,
    },
    /// A UTF-16 file.
    #[error("{}: the file is UTF-16; convert it, for example with `iconv -f UTF-16 -t UTF-8`", .path.display())]
    Utf16 {
        /// The file.
        path: PathBuf,
    },
    /// An extension that names no format.
    #[error("{}: the name does not tell the format; set `format` under [data] to csv, tsv, jsonl, parquet or text", .path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A file without a row.
    #[error("{}: the file holds no rows", .path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A column that the file does not have.
    #[error("{place}: no column {column}{}; the columns are {known}", hint(.nearest))]
    UnknownColumn {
        /// The file, and the line of the header or of the first row.
        place: Place,
        /// The column asked for, and by which key.
        column: Box<str>,
        /// The column that looks most alike.
        nearest: Option<Box<str>>,
        /// The columns there are, listed.
        known: Box<str>,
    },
    /// One row is bad and `bad_rows` is `stop`.
    #[error("{row}{hint}", row = .0, hint = skip_hint(.0))]
    Row(BadRow),
    /// A key of the configuration has a value that cannot be.
    #[error("[{section}] {key}: {problem}")]
    Config {
        /// The recipe's section.
        section: &'static str,
        /// The key.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A label column with too many different values.
    #[error("{place}: more than {limit} different labels; is this the label column?")]
    TooManyLabels {
        /// Where the bound was passed.
        place: Place,
        /// The bound.
        limit: usize,
    },
    /// All examples have the same label.
    #[error("all {rows} examples of {from} have the label `{label}`; a classifier needs at least two classes")]
    OneClass {
        /// The files.
        from: String,
        /// How many examples there are.
        rows: usize,
        /// The only label.
        label: String,
    },
    /// A side of the split without examples.
    #[error("the {side} side holds no examples ({reason})")]
    EmptySplit {
        /// `train`, `validation` or `test`.
        side: &'static str,
        /// Where the examples went and what to do.
        reason: String,
    },
    /// The same text on two sides, under `leakage = "stop"`.
    #[error(
        "{first} and {second} hold the same text on the {first_side} and the {second_side} side ({rows} such rows in all)"
    )]
    Leakage {
        /// The row on the first side.
        first: String,
        /// The row on the second side.
        second: String,
        /// The first side.
        first_side: &'static str,
        /// The second side.
        second_side: &'static str,
        /// How many rows leak.
        rows: u64,
    },
    /// More rows than an index can number.
    #[error("more than {limit} rows; split the data over several runs")]
    TooManyRows {
        /// The bound.
        limit: u64,
    },
}

impl From<BadRow> for DataError {
    fn from(row: BadRow) -> Self {
        Self::Row(row)
    }
}

impl DataError {
    pub(crate) fn io(path: &Path, action: &'static str, reason: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), action, reason }
    }

    pub(crate) fn config(section: &'static str, key: &str, problem: impl Into<String>) -> Self {
        Self::Config { section, key: key.to_owned(), problem: problem.into() }
    }
}

fn hint(nearest: &Option<Box<str>>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

fn skip_hint(row: &BadRow) -> &'static str {
    match row.problem {
        RowProblem::Missing => "",
        _ => "; `bad_rows = \"skip\"` under [data] would leave it out and count it",
    }
}

/// The name in `known` that `name` was most likely meant to be, or `None` when nothing is near.
///
/// ```
/// assert_eq!(tidemill_data::nearest("learning_rte", ["learning_rate", "seed"]), Some("learning_rate"));
/// assert_eq!(tidemill_data::nearest("colour", ["seed"]), None);
/// ```
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(name);
    known
        .into_iter()
        .map(|candidate| {
            let other = plain(candidate);
            let distance = strsim::damerau_levenshtein(&wanted, &other);
            let longer = wanted.chars().count().max(other.chars().count());
            let part = wanted.len() >= 4 && other.len() >= 4 && (other.contains(&wanted) || wanted.contains(&other));
            (if part { distance.min(longer / 3) } else { distance }, longer, candidate)
        })
        .filter(|(distance, longer, _)| *distance <= (longer / 3).max(1))
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, candidate)| candidate)
}

/// Lower case, with `-` and ` ` as `_`: the differences that people do not see. Long names are cut.
fn plain(name: &str) -> String {
    name.trim()
        .chars()
        .take(64)
        .flat_map(char::to_lowercase)
        .map(|c| if c == '-' || c == ' ' { '_' } else { c })
        .collect()
}

/// A value as a sentence may quote it: on one line and short.
pub(crate) fn shortened(value: &str) -> String {
    let mut short: String = value.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

/// Names as a sentence lists them, at most twenty.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let mut text = names.iter().take(20).map(|name| format!("`{}`", shortened(name))).collect::<Vec<_>>().join(", ");
    if names.len() > 20 {
        text.push_str(&format!(" and {} more", names.len() - 20));
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn nearest_sees_typing_errors_and_stays_silent_otherwise() {
        let known = ["train", "validation", "bad_rows", "text"];
        assert_eq!(nearest("trian", known), Some("train"));
        assert_eq!(nearest("bad-rows", known), Some("bad_rows"));
        assert_eq!(nearest("valid", known), Some("validation"));
        assert_eq!(nearest("zzzzzz", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn a_bad_row_names_file_line_and_column_and_the_way_out() {
        let row = BadRow {
            place: Place::line("a.csv", 3).column("2 (`label`)"),
            problem: RowProblem::NotANumber { value: "x".into() },
        };
        let sentence = DataError::from(row).to_string();
        assert!(sentence.starts_with("a.csv, line 3, column 2 (`label`): `x` is not a number"), "{sentence}");
        assert!(sentence.contains("bad_rows"), "{sentence}");
    }
}
