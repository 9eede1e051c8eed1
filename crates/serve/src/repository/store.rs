//! Opening an object store by its URL: S3, Google Cloud Storage, Azure Blob Storage, or a folder. Settings come from the
//! environment, under the names that each cloud's own tools read, and from the configuration. What goes wrong is said
//! without them: they hold secrets, and what a store answers may repeat them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, Error, ObjectStore, ObjectStoreScheme, RetryConfig};
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

/// What holds unless it is set otherwise. A large file may take long as long as something of it keeps coming.
const DEFAULTS: [(&str, &str); 3] = [("timeout", "1day"), ("connect_timeout", "5s"), ("read_timeout", "30s")];

/// Longest sentence of a store's that is passed on.
const MAX_REASON: usize = 200;

/// Settings of an object store, as `object_store` calls them: `endpoint`, `region`, `allow_http`…
///
/// ```
/// use tidemill_serve::StoreOptions;
///
/// let options = StoreOptions::from_iter([("secret_access_key", "hidden")]);
/// assert!(!format!("{options:?}").contains("hidden"));
/// ```
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreOptions(BTreeMap<String, String>);

impl StoreOptions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// The names alone: any value may be a secret.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for StoreOptions {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(options: I) -> StoreOptions {
        StoreOptions(options.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl<'de> Deserialize<'de> for StoreOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StoreOptions, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Flag(bool),
            Number(i64),
            Text(String),
        }
        let options = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let text = |value| match value {
            Value::Flag(flag) => flag.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Text(text) => text,
        };
        Ok(options.into_iter().map(|(name, value)| (name, text(value))).collect())
    }
}

/// An object store and the place in it where a repository begins.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) objects: Box<dyn ObjectStore>,
    pub(super) prefix: Path,
    /// What tells it from every other store and place.
    pub(super) identity: String,
}

/// The URL that a repository's path is, if it is one.
///
/// # Errors
/// What is wrong with it. The sentence does not repeat it.
pub(super) fn url(path: &std::path::Path) -> Result<Option<Url>, String> {
    let Some(text) = path.to_str().filter(|text| text.contains("://")) else { return Ok(None) };
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        let problem =
            "holds more than a bucket and a place in it; write credentials into the environment or [repository.store]";
        return Err(problem.to_owned());
    }
    match ObjectStoreScheme::parse(&url) {
        Ok((
            ObjectStoreScheme::Local
            | ObjectStoreScheme::AmazonS3
            | ObjectStoreScheme::GoogleCloudStorage
            | ObjectStoreScheme::MicrosoftAzure,
            _,
        )) => Ok(Some(url)),
        _ => Err("is no place that is known; write a folder, s3://, gs://, az:// or file:///".to_owned()),
    }
}

macro_rules! cloud {
    ($builder:ty, $key:ty, $prefix:literal, $told_apart_by:expr, $url:expr, $options:expr) => {{
        let mut builder = <$builder>::new().with_url($url.as_str()).with_retry(retry());
        for (name, value) in DEFAULTS {
            if let Ok(key) = name.parse::<$key>() {
                builder = builder.with_config(key, value);
            }
        }
        for (name, value) in environment($prefix) {
            if let Ok(key) = name.parse::<$key>() {
                builder = builder.with_config(key, value);
            }
        }
        for (name, value) in &$options.0 {
            let key = name.parse::<$key>().map_err(|_| format!("has {name:?}, which such a store does not know"))?;
            builder = builder.with_config(key, value);
        }
        let told_apart: Vec<_> = $told_apart_by.iter().filter_map(|key| builder.get_config_value(key)).collect();
        let store = builder.build().map_err(|error| format!("does not do: {}", reason(&error)))?;
        (Box::new(store) as Box<dyn ObjectStore>, told_apart.join(" "))
    }};
}

/// Opens the store that a URL names. Nothing is asked of it yet.
///
/// # Errors
/// What is wrong with the settings, without their values.
pub(super) fn open(url: &Url, options: &StoreOptions) -> Result<Store, String> {
    // The HTTP client takes the process's own choice of cryptography, and the rest of the server uses this one too. Where
    // the program has chosen already, that stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|error| format!("has no place: {error}"))?;
    let (objects, told_apart) = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let told_apart_by = [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint];
            cloud!(AmazonS3Builder, AmazonS3ConfigKey, "AWS_", told_apart_by, url, options)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let told_apart_by: [GoogleConfigKey; 0] = [];
            cloud!(GoogleCloudStorageBuilder, GoogleConfigKey, "GOOGLE_", told_apart_by, url, options)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let told_apart_by = [AzureConfigKey::AccountName, AzureConfigKey::Endpoint];
            cloud!(MicrosoftAzureBuilder, AzureConfigKey, "AZURE_", told_apart_by, url, options)
        }
        _ if !options.is_empty() => return Err("is for S3, Google Cloud Storage and Azure; leave it out".to_owned()),
        _ => (Box::new(LocalFileSystem::new()) as Box<dyn ObjectStore>, String::new()),
    };
    Ok(Store { objects, prefix, identity: format!("{url} {told_apart}") })
}

// A server that waits for its store keeps someone waiting.
fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
        max_retries: 4,
        retry_timeout: Duration::from_secs(60),
    }
}

fn environment(prefix: &'static str) -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(move |(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(prefix))?;
        Some((name.to_ascii_lowercase(), value.into_string().ok()?))
    })
}

/// What a store's error means, as a sentence without a request's address, its headers or the store's own words.
pub(super) fn explain(error: &Error) -> io::Error {
    let code = code(error).map(|code| format!(" ({code})")).unwrap_or_default();
    let (kind, sentence) = match error {
        Error::NotFound { .. } => (io::ErrorKind::NotFound, format!("the store has no such bucket or object{code}")),
        Error::PermissionDenied { .. } => {
            (io::ErrorKind::PermissionDenied, format!("the store refuses the credentials, or what they ask for{code}"))
        }
        Error::Unauthenticated { .. } => (
            io::ErrorKind::PermissionDenied,
            format!("the store wants credentials{code}; none were given, or wrong ones"),
        ),
        error => (io::ErrorKind::Other, format!("the store cannot be asked: {}{code}", reason(error))),
    };
    io::Error::new(kind, sentence)
}

// The last of an error's reasons. Of what a store answered its status alone, as the text repeats the request's signature.
fn reason(error: &Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = last.to_string();
    let text = match text.strip_prefix("Server returned ").map(|answer| answer.split(": ").nth(1)) {
        Some(Some(status)) if status.starts_with(|c: char| c.is_ascii_digit()) => format!("it answers {status}"),
        Some(_) => "it answers with an error".to_owned(),
        None => text,
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}

// The word for what is wrong that S3 and Azure put into their answers.
fn code(error: &Error) -> Option<String> {
    let text = error.to_string();
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_word = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word.then(|| code.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn stores_are_told_from_folders_and_what_a_url_hides_is_not_repeated() {
        assert_eq!(url(Path::new("models")).unwrap(), None);
        assert_eq!(url(Path::new("/models/s3:/x")).unwrap(), None);
        for known in ["s3://bucket/models", "gs://bucket", "az://container@account/a", "file:///srv/models"] {
            assert!(url(Path::new(known)).unwrap().is_some(), "{known}");
        }
        for wrong in ["s3://id:hidden@bucket/a", "az://container/a?sig=hidden", "ftp://hidden/a", "memory:///hidden"] {
            let problem = url(Path::new(wrong)).unwrap_err();
            assert!(!problem.contains("hidden"), "{problem}");
        }
    }

    #[test]
    fn settings_are_read_as_they_are_written_and_unknown_ones_are_named() {
        let options: StoreOptions =
            serde_json::from_str(r#"{"region": "eu-west-1", "allow_http": true, "endpoint": "http://127.0.0.1:9"}"#)
                .unwrap();
        let bucket = Url::parse("s3://bucket/a/b").unwrap();
        let store = open(&bucket, &options).unwrap();
        assert_eq!(store.prefix.as_ref(), "a/b");
        assert!(store.identity.contains("127.0.0.1:9"));
        let problem = open(&bucket, &StoreOptions::from_iter([("regoin", "hidden")])).unwrap_err();
        assert!(problem.contains("regoin") && !problem.contains("hidden"), "{problem}");
        let folder = Url::parse("file:///srv/models").unwrap();
        assert!(open(&folder, &options).is_err());
        assert_eq!(open(&folder, &StoreOptions::default()).unwrap().prefix.as_ref(), "srv/models");
    }

    #[test]
    fn what_a_store_answers_is_cut_down_to_its_word() {
        let answer = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\
                      <AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        let denied = Error::PermissionDenied { path: "bucket/AKIA".to_owned(), source: answer.into() };
        let sentence = explain(&denied).to_string();
        assert!(sentence.contains("SignatureDoesNotMatch") && !sentence.contains("AKIA"), "{sentence}");
        let failed = Error::Generic { store: "S3", source: answer.replace("403 Forbidden", "500").into() };
        let sentence = explain(&failed).to_string();
        assert!(sentence.contains("500") && !sentence.contains("AKIA"), "{sentence}");
    }
}
