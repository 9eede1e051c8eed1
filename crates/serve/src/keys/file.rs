//! The file of keys: TOML, one `[[keys]]` for each, checked whole before any of it is used.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, de};
use tidemill_data::toml_file::TomlError;
use toml::value::{Datetime, Offset};

use crate::priority::Priority;

/// What can be wrong with a file of keys. Nothing here repeats a hash.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read as what it should be.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// A key of it does not make sense.
    #[error("{}: the key {name:?}: {field} {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key's name.
        name: String,
        /// The field.
        field: &'static str,
        /// What is wrong and what to write.
        problem: String,
    },
    /// It holds no key, so that nobody could call.
    #[error("{}: there is no key in it; `tidemill key new NAME` makes one", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The operating system has no random numbers.
    #[error("the operating system gives no random numbers: {reason}")]
    Random {
        /// Its reason.
        reason: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: Vec<Entry>,
}

/// One key, as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) hash: Hash,
    pub(super) scopes: BTreeSet<Scope>,
    pub(super) requests_per_second: Option<f64>,
    pub(super) burst: Option<u32>,
    pub(super) max_concurrent: Option<usize>,
    priority: Option<u64>,
    expires: Option<Datetime>,
}

impl Entry {
    /// Of its requests, unless they say that they can wait longer.
    pub(super) fn priority(&self) -> Priority {
        self.priority.and_then(Priority::new).unwrap_or_default()
    }

    /// Requests that may come at once: what the file says, else those of one second.
    pub(super) fn burst(&self) -> f64 {
        let second = || self.requests_per_second.unwrap_or(1.0).max(1.0);
        self.burst.map_or_else(second, f64::from)
    }

    /// Whether this is the same key, as narrow.
    pub(super) fn has_limits_of(&self, other: &Entry) -> bool {
        (&self.name, self.requests_per_second, self.burst, self.max_concurrent)
            == (&other.name, other.requests_per_second, other.burst, other.max_concurrent)
    }

    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.as_ref().and_then(instant).is_some_and(|expires| expires <= now)
    }

    fn problem(&self) -> Option<(&'static str, String)> {
        if self.name.is_empty() || self.name.len() > 64 || self.name.chars().any(char::is_control) {
            return Some(("name", "must have 1 to 64 bytes and no control characters".to_owned()));
        }
        if self.scopes.is_empty() {
            return Some((
                "scopes",
                "is empty; write \"infer:*\", \"infer:MODEL\", \"metrics\" or \"admin\"".to_owned(),
            ));
        }
        if self.requests_per_second.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Some(("requests_per_second", "must be above 0; leave it out for no bound".to_owned()));
        }
        if self.burst.is_some() && self.requests_per_second.is_none() {
            return Some(("burst", "needs requests_per_second beside it".to_owned()));
        }
        if self.burst == Some(0) {
            return Some(("burst", "is 0; it must be at least 1".to_owned()));
        }
        if self.max_concurrent == Some(0) {
            return Some(("max_concurrent", "is 0; it must be at least 1".to_owned()));
        }
        if self.priority.is_some_and(|priority| Priority::new(priority).is_none()) {
            return Some(("priority", format!("must be from 1, the most urgent, to {}", Priority::LEVELS)));
        }
        if self.expires.as_ref().is_some_and(|expires| instant(expires).is_none()) {
            return Some(("expires", "must be a date and a time of UTC, such as 2030-01-31T00:00:00Z".to_owned()));
        }
        None
    }
}

/// What a key may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// `infer:*`: use every model.
    Every,
    /// `infer:NAME`: use this model.
    Model(String),
    /// `metrics`: read them.
    Metrics,
    /// `admin`: manage the server.
    Admin,
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        match text {
            "infer" | "infer:*" => Ok(Scope::Every),
            "metrics" => Ok(Scope::Metrics),
            "admin" => Ok(Scope::Admin),
            _ => match text.strip_prefix("infer:").filter(|name| !name.is_empty()) {
                Some(name) => Ok(Scope::Model(name.to_owned())),
                None => Err(format!("{text:?} is no scope; write infer:*, infer:MODEL, metrics or admin")),
            },
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Every => f.write_str("infer:*"),
            Scope::Model(name) => write!(f, "infer:{name}"),
            Scope::Metrics => f.write_str("metrics"),
            Scope::Admin => f.write_str("admin"),
        }
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hash(pub(super) [u8; 32]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash")
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::custom("a hash is 64 hexadecimal digits, as `tidemill key new` prints them");
        let mut hash = [0; 32];
        let pairs = text.as_bytes().chunks(2);
        if text.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in hash.iter_mut().zip(pairs) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            let is_hex = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| is_hex).ok_or_else(wrong)?;
        }
        Ok(Hash(hash))
    }
}

/// The keys of a file, each sound, no two of one name or one hash.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, KeysError> {
    let file: File = tidemill_data::toml_file::read(path)?;
    if file.keys.is_empty() {
        return Err(KeysError::Empty { path: path.to_owned() });
    }
    let (mut names, mut hashes) = (BTreeSet::new(), BTreeSet::new());
    for entry in &file.keys {
        let twice = if !names.insert(&entry.name) {
            Some(("name", "is there twice; every key has its own".to_owned()))
        } else if !hashes.insert(entry.hash) {
            Some(("hash", "is another key's too; every key has its own".to_owned()))
        } else {
            None
        };
        if let Some((field, problem)) = entry.problem().or(twice) {
            return Err(KeysError::Key { path: path.to_owned(), name: entry.name.clone(), field, problem });
        }
    }
    Ok(file.keys)
}

// Of a date, a time and an offset, as RFC 3339 has them. Days by Howard Hinnant's `days_from_civil`.
fn instant(written: &Datetime) -> Option<SystemTime> {
    let (date, time) = (written.date?, written.time?);
    let offset_minutes = match written.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let minutes = i64::from(time.hour) * 60 + i64::from(time.minute) - offset_minutes;
    let seconds = days * 86_400 + minutes * 60 + time.second.map_or(0, i64::from);
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(keys: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, keys).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("keys.toml"), "{message}");
        message
    }

    #[test]
    fn times_are_counted_from_1970() {
        let at = |text: &str| instant(&text.parse().unwrap()).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(at("1970-01-01T00:00:00Z"), 0);
        assert_eq!(at("2024-02-29T12:30:15Z"), 1_709_209_815);
        assert_eq!(at("2030-01-01T01:00:00+01:00"), 1_893_456_000);
        assert!(instant(&"2030-01-01".parse().unwrap()).is_none());
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_by_its_field_and_no_hash_is_repeated() {
        let hash = "ab".repeat(32);
        let key = |rest: &str| format!("[[keys]]\nname = \"a\"\nhash = \"{hash}\"\n{rest}\n");
        for (text, says) in [
            (String::new(), "no key"),
            (key("scopes = []"), "scopes"),
            (key("scopes = [\"root\"]"), "scope"),
            (key("scopes = [\"admin\"]\nburst = 3"), "burst"),
            (key("scopes = [\"admin\"]\nrequests_per_second = -1.0"), "requests_per_second"),
            (key("scopes = [\"admin\"]\nmax_concurrent = 0"), "max_concurrent"),
            (key("scopes = [\"admin\"]\nexpires = 2030-01-01"), "expires"),
            (key("scopes = [\"admin\"]\nsecret = \"x\""), "secret"),
            (key("scopes = [\"admin\"]") + &key("scopes = [\"admin\"]"), "twice"),
            (key("scopes = [\"admin\"]").replace("ab", "xy"), "64 hexadecimal"),
        ] {
            let message = refused(&text);
            assert!(message.contains(says), "{says}: {message}");
            assert!(!message.contains(&hash), "{message}");
        }
    }
}
