//! Making a key: shown once, and never stored.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use sha2::{Digest as _, Sha256};

use super::file::{KeysError, Scope};

/// A key of 256 random bits, and what a file of keys has to hold for it to be known.
///
/// ```
/// use tidemill_serve::NewKey;
///
/// let key = NewKey::random("team", &["infer:*".to_owned()])?;
/// assert!(key.secret().starts_with("tm_"));
/// assert!(key.entry().contains("name = \"team\"") && !key.entry().contains(key.secret()));
/// # Ok::<(), tidemill_serve::KeysError>(())
/// ```
pub struct NewKey {
    secret: String,
    entry: String,
}

impl NewKey {
    /// A key with this name and these scopes: `infer:*`, `infer:MODEL`, `metrics`, `admin`.
    ///
    /// # Errors
    /// A scope that is none, a name that a file could not hold, or no random numbers.
    pub fn random(name: &str, scopes: &[String]) -> Result<NewKey, KeysError> {
        let wrong =
            |field, problem| KeysError::Key { path: "tidemill key new".into(), name: name.to_owned(), field, problem };
        if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
            return Err(wrong("name", "must have 1 to 64 bytes and no control characters".to_owned()));
        }
        let mut listed = Vec::new();
        for scope in scopes {
            let scope: Scope = scope.parse().map_err(|problem| wrong("scopes", problem))?;
            listed.push(toml::Value::String(scope.to_string()).to_string());
        }
        let mut bits = [0; 32];
        OsRng.try_fill_bytes(&mut bits).map_err(|error| KeysError::Random { reason: error.to_string() })?;
        let secret = format!("tm_{}", URL_SAFE_NO_PAD.encode(bits));
        let mut hash = String::new();
        for byte in Sha256::digest(&secret) {
            // Writing to a string cannot fail.
            let _ = write!(hash, "{byte:02x}");
        }
        let name = toml::Value::String(name.to_owned());
        let entry = format!("[[keys]]\nname = {name}\nhash = \"{hash}\"\nscopes = [{}]\n", listed.join(", "));
        Ok(NewKey { secret, entry })
    }

    /// The key itself.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The entry of the file, TOML.
    pub fn entry(&self) -> &str {
        &self.entry
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey")
    }
}
