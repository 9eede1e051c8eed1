//! What a repository is told: where it lies, which versions of its models are served, and how they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::store::{self, StoreOptions};
use crate::error::ServeError;
use crate::models::Alias;

/// A folder of models: `NAME/VERSION/`, where a version is a whole number from 1 on and holds a package, a checkpoint, or
/// one `.gguf` file. It lies on this machine or in an object store.
///
/// ```
/// use tidemill_serve::{RepositoryConfig, VersionPolicy};
///
/// let config = RepositoryConfig {
///     path: "models".into(),
///     versions: VersionPolicy::Latest(2),
///     ..RepositoryConfig::default()
/// };
/// assert!(!config.load_on_demand);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositoryConfig {
    /// The folder, or the URL of one in an object store: `s3://bucket/models`, `gs://…`, `az://…`, `file:///…`.
    pub path: PathBuf,
    /// How the store is reached. What is not here comes from the environment, as `AWS_…`, `GOOGLE_…` and `AZURE_…`.
    pub store: StoreOptions,
    /// The folder for copies of what lies in a store. Default (absent): `tidemill/repositories` in the user's cache.
    pub cache: Option<PathBuf>,
    /// What makes models come and go. Default: `explicit`.
    pub mode: RepositoryMode,
    /// How often the folder is looked at when it is polled. Default: 15 s.
    #[serde(with = "tidemill_data::duration")]
    pub poll_interval: Duration,
    /// The models that are loaded at the start. Default (absent): all.
    pub load: Option<BTreeSet<String>>,
    /// Whether a model that is not loaded is loaded when it is asked for. Default: no.
    pub load_on_demand: bool,
    /// Most bytes that the files of all loaded models may take together; those least recently used make room. Default
    /// (absent): no bound.
    pub memory_budget: Option<u64>,
    /// The versions of a model that are served. Default: the latest.
    pub versions: VersionPolicy,
    /// What holds for one model, by its name.
    pub models: BTreeMap<String, RepositoryModelConfig>,
    /// Other names: each stands for a model, `NAME`, or for a version of one, `NAME/VERSION`.
    pub aliases: BTreeMap<String, String>,
}

/// What makes models of a repository come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepositoryMode {
    /// Requests to load and to unload.
    Explicit,
    /// What lies in the folder: it is looked at again and again.
    Poll,
}

/// Which versions of a model are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionPolicy {
    /// All.
    All,
    /// This many of the highest.
    Latest(usize),
    /// These.
    Specific(BTreeSet<u64>),
}

/// What holds for one model of a repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositoryModelConfig {
    /// The versions that are served. Default (absent): as for all models.
    pub versions: Option<VersionPolicy>,
    /// How requests that name no version are shared out among versions, in parts. Default (empty): the highest gets all.
    pub weights: BTreeMap<u64, u32>,
    /// A version that is tried on requests that name none: others answer them. Default (absent): none.
    pub shadow: Option<ShadowConfig>,
}

/// A version that is asked beside those that answer. What it says nobody gets; how often it agrees is counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShadowConfig {
    /// The version, which is loaded besides those that the policy serves.
    pub version: u64,
    /// The part of the requests that it is asked too, above 0 and up to 1.
    pub share: f64,
}

impl Default for RepositoryConfig {
    fn default() -> RepositoryConfig {
        RepositoryConfig {
            path: PathBuf::new(),
            store: StoreOptions::default(),
            cache: None,
            mode: RepositoryMode::Explicit,
            poll_interval: Duration::from_secs(15),
            load: None,
            load_on_demand: false,
            memory_budget: None,
            versions: VersionPolicy::Latest(1),
            models: BTreeMap::new(),
            aliases: BTreeMap::new(),
        }
    }
}

impl VersionPolicy {
    /// Those of `found`, in their order, that are to be served.
    pub(super) fn choose(&self, found: &BTreeSet<u64>) -> BTreeSet<u64> {
        match self {
            VersionPolicy::All => found.clone(),
            VersionPolicy::Latest(count) => found.iter().rev().take(*count).copied().collect(),
            VersionPolicy::Specific(wanted) => found & wanted,
        }
    }
}

impl RepositoryConfig {
    /// The same, paths that are relative taken from `folder`.
    pub fn within(&self, folder: &Path) -> RepositoryConfig {
        // What is wrong with a URL is said when it is checked.
        let path = if matches!(store::url(&self.path), Ok(None)) { folder.join(&self.path) } else { self.path.clone() };
        let cache = self.cache.as_ref().map(|cache| folder.join(cache));
        RepositoryConfig { path, cache, ..self.clone() }
    }

    /// The URL, of a repository in an object store.
    pub(super) fn url(&self) -> Result<Option<Url>, ServeError> {
        store::url(&self.path).map_err(|problem| ServeError::Config { key: "repository.path", problem })
    }

    pub(crate) fn check(&self) -> Result<(), ServeError> {
        let wrong = |key, problem: String| Err(ServeError::Config { key, problem });
        if self.path.as_os_str().is_empty() {
            return wrong("repository.path", "is missing; name the folder of the models".to_owned());
        }
        if self.url()?.is_none() {
            let of_stores = [("repository.store", !self.store.is_empty()), ("repository.cache", self.cache.is_some())];
            if let Some((key, _)) = of_stores.into_iter().find(|(_, is_given)| *is_given) {
                return wrong(
                    key,
                    "is for a repository in an object store, and repository.path is a folder".to_owned(),
                );
            }
        }
        if self.poll_interval.is_zero() {
            return wrong("repository.poll_interval", "is 0; write a duration such as \"15s\"".to_owned());
        }
        let policies = self.models.values().filter_map(|model| model.versions.as_ref()).chain([&self.versions]);
        for policy in policies {
            if matches!(policy, VersionPolicy::Latest(0)) {
                return wrong(
                    "repository.versions",
                    "is { latest = 0 }, which serves nothing; write 1 or more".to_owned(),
                );
            }
        }
        for (name, model) in &self.models {
            if !model.weights.is_empty() && model.weights.values().all(|weight| *weight == 0) {
                return wrong("repository.models", format!("has weights for {name:?} that are all 0"));
            }
            if model.weights.values().try_fold(0u32, |sum, weight| sum.checked_add(*weight)).is_none() {
                return wrong(
                    "repository.models",
                    format!("has weights for {name:?} whose sum is beyond {}", u32::MAX),
                );
            }
        }
        for (name, ShadowConfig { version, share }) in self.models.iter().filter_map(|(n, m)| Some((n, m.shadow?))) {
            if !(share > 0.0 && share <= 1.0) {
                let problem = format!("has a shadow of {name:?} with the share {share}; write a part, such as 0.1");
                return wrong("repository.models", problem);
            }
            if self.models.get(name).is_some_and(|model| model.weights.contains_key(&version)) {
                let problem = format!("has version {version} of {name:?} both as its shadow and with a weight");
                return wrong("repository.models", problem);
            }
        }
        for (alias, target) in &self.aliases {
            let version = target.split_once('/').map_or("1", |(_, version)| version);
            if version.parse::<u64>().is_err() {
                let problem = format!("has {alias:?} = {target:?}; write \"NAME\" or \"NAME/VERSION\"");
                return wrong("repository.aliases", problem);
            }
        }
        Ok(())
    }

    /// The versions of a model that are to be served, of those that are there. A shadow needs one that answers.
    pub(super) fn choose(&self, name: &str, found: &BTreeSet<u64>) -> BTreeSet<u64> {
        let own = self.models.get(name).and_then(|model| model.versions.as_ref());
        let shadow = self.shadow(name).map(|shadow| shadow.version).filter(|version| found.contains(version));
        let answering = found.iter().copied().filter(|version| Some(*version) != shadow).collect();
        let mut chosen = own.unwrap_or(&self.versions).choose(&answering);
        if !chosen.is_empty() {
            chosen.extend(shadow);
        }
        chosen
    }

    /// A model's shadow.
    pub(super) fn shadow(&self, name: &str) -> Option<ShadowConfig> {
        self.models.get(name)?.shadow
    }

    /// A model's weights, by the name of the version.
    pub(super) fn weights(&self, name: &str) -> BTreeMap<String, u32> {
        let weights = self.models.get(name).map(|model| &model.weights);
        weights.into_iter().flatten().map(|(version, weight)| (version.to_string(), *weight)).collect()
    }

    pub(super) fn aliases(&self) -> BTreeMap<String, Alias> {
        let alias = |target: &String| match target.split_once('/') {
            Some((model, version)) => Alias { model: model.to_owned(), version: version.to_owned() },
            None => Alias { model: target.clone(), version: String::new() },
        };
        self.aliases.iter().map(|(name, target)| (name.clone(), alias(target))).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn policies_choose_among_what_is_there() {
        let found = BTreeSet::from([1, 2, 10]);
        assert_eq!(VersionPolicy::All.choose(&found), found);
        assert_eq!(VersionPolicy::Latest(2).choose(&found), BTreeSet::from([2, 10]));
        assert_eq!(VersionPolicy::Specific(BTreeSet::from([1, 7])).choose(&found), BTreeSet::from([1]));
    }

    #[test]
    fn a_shadow_comes_beside_what_the_policy_serves_and_never_alone() {
        let text = r#"{"path": "models", "models": {"a": {"shadow": {"version": 3, "share": 0.1}}}}"#;
        let config: RepositoryConfig = serde_json::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(config.choose("a", &BTreeSet::from([1, 2, 3])), BTreeSet::from([2, 3]));
        assert_eq!(config.choose("a", &BTreeSet::from([1, 2, 3, 4])), BTreeSet::from([3, 4]));
        assert_eq!(config.choose("a", &BTreeSet::from([1, 2])), BTreeSet::from([2]));
        assert_eq!(config.choose("a", &BTreeSet::from([3])), BTreeSet::new());
    }

    #[test]
    fn it_is_read_and_what_contradicts_is_named() {
        let text = r#"{"path": "models", "mode": "poll", "versions": {"latest": 2},
            "models": {"a": {"versions": "all", "weights": {"1": 9, "2": 1}}}, "aliases": {"chat": "a/2"}}"#;
        let config: RepositoryConfig = serde_json::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(config.choose("a", &BTreeSet::from([1, 2, 3])).len(), 3);
        assert_eq!(config.choose("b", &BTreeSet::from([1, 2, 3])), BTreeSet::from([2, 3]));
        assert_eq!(config.aliases()["chat"], Alias { model: "a".to_owned(), version: "2".to_owned() });
        for (text, key) in [
            (r#"{}"#, "repository.path"),
            (r#"{"path": "m", "versions": {"latest": 0}}"#, "repository.versions"),
            (r#"{"path": "m", "models": {"a": {"weights": {"1": 0}}}}"#, "repository.models"),
            (r#"{"path": "m", "models": {"a": {"shadow": {"version": 2, "share": 1.5}}}}"#, "repository.models"),
            (r#"{"path": "m", "models": {"a": {"shadow": {"version": 2, "share": 0}}}}"#, "repository.models"),
            (
                r#"{"path": "m", "models": {"a": {"weights": {"2": 1}, "shadow": {"version": 2, "share": 0.5}}}}"#,
                "repository.models",
            ),
            (r#"{"path": "m", "aliases": {"chat": "a/new"}}"#, "repository.aliases"),
            (r#"{"path": "m", "poll_interval": "0s"}"#, "repository.poll_interval"),
            (r#"{"path": "m", "store": {"region": "eu-west-1"}}"#, "repository.store"),
            (r#"{"path": "m", "cache": "copies"}"#, "repository.cache"),
            (r#"{"path": "ftp://m"}"#, "repository.path"),
        ] {
            let error = serde_json::from_str::<RepositoryConfig>(text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        assert!(serde_json::from_str::<RepositoryConfig>(r#"{"pth": "m"}"#).is_err());
    }

    #[test]
    fn paths_are_taken_from_the_files_folder_and_urls_stay() {
        let within = |path: &str| {
            let config =
                RepositoryConfig { path: path.into(), cache: Some("copies".into()), ..RepositoryConfig::default() };
            config.within(Path::new("/etc/tidemill"))
        };
        assert_eq!(within("models").path, Path::new("/etc/tidemill/models"));
        assert_eq!(within("s3://bucket/models").path, Path::new("s3://bucket/models"));
        assert_eq!(within("s3://bucket/models").cache.as_deref(), Some(Path::new("/etc/tidemill/copies")));
    }
}
