//! API keys: who may call what, how often, and how many requests at once. A file holds their hashes, never the keys.
//!
//! A key is 256 random bits, so that nobody guesses one however fast a guess is checked: SHA-256 is enough. Slow hashes are
//! for passwords, which people choose; here one would only hand a stranger the means to keep the server busy.

mod caller;
mod file;
mod new;
mod rate;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use axum::http::HeaderMap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

pub(crate) use caller::Caller;
pub use file::KeysError;
pub use new::NewKey;

use crate::refusal::Refusal;
use file::Entry;
use rate::Rate;

/// One key of the file.
#[derive(Debug)]
pub(crate) struct Key {
    entry: Entry,
    usage: Arc<Usage>,
}

// What a key has used: kept when the file is read again, so that a reload gives nobody a fresh allowance.
#[derive(Debug)]
struct Usage {
    rate: Option<Rate>,
    places: Option<Arc<Semaphore>>,
}

impl Usage {
    fn new(entry: &Entry) -> Usage {
        Usage {
            rate: entry.requests_per_second.map(|per_second| Rate::new(per_second, entry.burst())),
            places: entry.max_concurrent.map(|max| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))),
        }
    }
}

/// The keys of a server, as the file last said. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    path: PathBuf,
    current: Arc<RwLock<Arc<Vec<Arc<Key>>>>>,
}

impl Keys {
    /// Reads the file.
    pub(crate) fn open(path: &Path) -> Result<Keys, KeysError> {
        let keys = file::read(path)?.into_iter().map(|entry| {
            let usage = Arc::new(Usage::new(&entry));
            Arc::new(Key { entry, usage })
        });
        Ok(Keys { path: path.to_owned(), current: Arc::new(RwLock::new(Arc::new(keys.collect()))) })
    }

    /// Reads the file again. When it cannot be used the keys stay as they were.
    pub(crate) fn reload(&self) -> Result<(), KeysError> {
        let entries = file::read(&self.path)?;
        let before = self.current();
        let keys: Vec<Arc<Key>> = entries
            .into_iter()
            .map(|entry| {
                let same = before.iter().find(|key| key.entry.has_limits_of(&entry));
                let usage = same.map_or_else(|| Arc::new(Usage::new(&entry)), |key| Arc::clone(&key.usage));
                Arc::new(Key { entry, usage })
            })
            .collect();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// Who presents these headers: `authorization: Bearer KEY`, or `x-api-key: KEY`.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let presented = presented(headers).ok_or(Refusal::Unauthenticated { problem: "needs an API key" })?;
        let key = self.find(&Sha256::digest(presented).into());
        let key = key.ok_or(Refusal::Unauthenticated { problem: "has an API key that is not known" })?;
        if key.entry.is_expired(SystemTime::now()) {
            return Err(Refusal::Unauthenticated { problem: "has an API key that has expired" });
        }
        Ok(Caller::new(key, self.clone()))
    }

    // Compares with every key, each in constant time, so that the time taken says nothing of what is in the file.
    fn find(&self, hash: &[u8; 32]) -> Option<Arc<Key>> {
        let mut found = None;
        for key in self.current().iter() {
            if bool::from(key.entry.hash.0.ct_eq(hash)) {
                found = Some(Arc::clone(key));
            }
        }
        found
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn current(&self) -> Arc<Vec<Arc<Key>>> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get("authorization").and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn keys_are_known_by_either_header_and_a_reload_keeps_what_was_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let key = NewKey::random("team", &["infer:*".to_owned()]).unwrap();
        let limited = format!("{}requests_per_second = 0.001\n", key.entry());
        std::fs::write(&path, &limited).unwrap();
        let keys = Keys::open(&path).unwrap();

        let caller = keys.caller(&headers("authorization", &format!("bearer {}", key.secret()))).unwrap();
        assert_eq!(caller.name(), Some("team"));
        caller.enter().unwrap();
        keys.caller(&headers("x-api-key", key.secret())).unwrap();
        for wrong in [headers("authorization", "Bearer x"), headers("authorization", key.secret()), HeaderMap::new()] {
            assert!(matches!(keys.caller(&wrong), Err(Refusal::Unauthenticated { .. })), "{wrong:?}");
        }

        std::fs::write(&path, format!("{limited}expires = 2020-01-01T00:00:00Z\n")).unwrap();
        keys.reload().unwrap();
        assert!(!caller.is_valid());
        let refused = keys.caller(&headers("x-api-key", key.secret())).unwrap_err();
        assert!(refused.to_string().contains("expired"), "{refused}");

        std::fs::write(&path, "keys = 3").unwrap();
        keys.reload().unwrap_err();
        std::fs::write(&path, &limited).unwrap();
        keys.reload().unwrap();
        let caller = keys.caller(&headers("x-api-key", key.secret())).unwrap();
        assert!(matches!(caller.enter(), Err(Refusal::TooFast { .. })));
    }
}
