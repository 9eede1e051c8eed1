//! One TOML file into one type, with errors for people: the file, the line, the column, the key, and the nearest key.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::nearest;

/// What can be wrong with a TOML file.
#[derive(Debug, thiserror::Error)]
pub enum TomlError {
    /// The file is not there.
    #[error("{}: no such file", .path.display())]
    NoSuchFile {
        /// The file.
        path: PathBuf,
    },
    /// A folder where a file is wanted.
    #[error("{}: this is a folder, not a TOML file", .path.display())]
    IsAFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The system refused to read it.
    #[error("{}: cannot read: {reason}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        reason: std::io::Error,
    },
    /// Bytes that are not UTF-8.
    #[error("{}, line {line}: the bytes are not UTF-8", .path.display())]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A key that is not known.
    #[error("{}, line {line}, column {column}: unknown key `{key}`{}{}", .path.display(), hint(.nearest), list(.known))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The key with the tables around it: `data.trian`.
        key: String,
        /// The key that was most likely meant.
        nearest: Option<String>,
        /// The keys that are known there.
        known: Vec<String>,
    },
    /// Anything else: a syntax error, a wrong value, a missing key.
    #[error("{}, line {line}, column {column}{}: {problem}", .path.display(), at_key(.key))]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The key with the tables around it; empty when the error has none.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|key| format!("; did you mean `{key}`?")).unwrap_or_default()
}

fn list(known: &[String]) -> String {
    match known {
        [] => String::new(),
        known => format!(" (known here: {})", known.join(", ")),
    }
}

fn at_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(", key `{key}`") }
}

/// Reads a TOML file into `T`.
///
/// ```no_run
/// use std::path::Path;
/// use tidemill_data::{CleanConfig, toml_file};
///
/// let clean: CleanConfig = toml_file::read(Path::new("clean.toml"))?;
/// # Ok::<(), toml_file::TomlError>(())
/// ```
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, TomlError> {
    let owned = || path.to_path_buf();
    let bytes = std::fs::read(path).map_err(|reason| match reason.kind() {
        std::io::ErrorKind::NotFound => TomlError::NoSuchFile { path: owned() },
        std::io::ErrorKind::IsADirectory => TomlError::IsAFolder { path: owned() },
        _ if path.is_dir() => TomlError::IsAFolder { path: owned() },
        _ => TomlError::Io { path: owned(), reason },
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| TomlError::InvalidUtf8 {
        path: owned(),
        line: 1 + bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count(),
    })?;
    parse(text, path)
}

/// Parses TOML text into `T`; `path` is what errors call it.
///
/// ```
/// use std::path::Path;
/// use tidemill_data::{CleanConfig, toml_file};
///
/// let error = toml_file::parse::<CleanConfig>("htm = true", Path::new("clean.toml")).unwrap_err();
/// assert!(error.to_string().starts_with("clean.toml, line 1, column 1: unknown key `htm`; did you mean `html`?"));
/// ```
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, TomlError> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    toml::from_str(text).map_err(|error| explain(&error, text, path))
}

fn explain(error: &toml::de::Error, text: &str, path: &Path) -> TomlError {
    let at = error.span().map_or(0, |span| span.start);
    let (line, column) = position(text, at);
    let path = path.to_path_buf();
    let around = key_at(text, at);
    let message = error.message();
    let Some(rest) = message.strip_prefix("unknown field `") else {
        let problem = message.lines().collect::<Vec<_>>().join(", ");
        return TomlError::Value { path, line, column, key: around.join("."), problem };
    };
    let mut quoted = rest.split('`');
    let name = quoted.next().unwrap_or_default();
    let known: Vec<String> = quoted.skip(1).step_by(2).map(str::to_owned).collect();
    let mut key = around;
    if key.last().is_none_or(|last| last != name) {
        key.push(name.to_owned());
    }
    let nearest = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
    TomlError::UnknownKey { path, line, column, key: key.join("."), nearest, known }
}

/// Line and column, both from 1, the column in characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}

/// The keys from the top of the file down to the innermost one at byte `at`.
fn key_at(text: &str, at: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let (root, _) = toml::de::DeTable::parse_recoverable(text);
    descend(root.get_ref(), at, &mut keys);
    keys
}

fn descend(table: &toml::de::DeTable<'_>, at: usize, keys: &mut Vec<String>) {
    let inside = |span: std::ops::Range<usize>| span.start <= at && at < span.end.max(span.start + 1);
    for (key, value) in table {
        let mut below = Vec::new();
        match value.get_ref() {
            toml::de::DeValue::Table(table) => descend(table, at, &mut below),
            toml::de::DeValue::Array(list) => {
                for (i, item) in list.iter().enumerate() {
                    if let toml::de::DeValue::Table(table) = item.get_ref() {
                        let mut within = Vec::new();
                        descend(table, at, &mut within);
                        if !within.is_empty() || inside(item.span()) {
                            below.push((i + 1).to_string());
                            below.append(&mut within);
                        }
                    }
                }
            }
            _ => {}
        }
        if !below.is_empty() || inside(key.span()) || inside(value.span()) {
            keys.push(key.get_ref().to_string());
            keys.append(&mut below);
            return;
        }
    }
}
