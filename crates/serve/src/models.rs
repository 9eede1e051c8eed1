//! The models of one server, by name and version. Knows nothing of how they are loaded or run. What is here changes at
//! once: a request sees the models of before or those of after, and who holds a model of before may finish with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use futures::future::BoxFuture;
use rand::Rng as _;

use crate::error::ServeError;
use crate::keys::Caller;
use crate::model::{Kind, Model};
use crate::refusal::Refusal;
use crate::shadow::Shadow;

/// Loads a model that is not there when it is asked for.
pub(crate) trait OnDemand: Send + Sync {
    /// Whether there is such a model; if so it is loaded when this ends well.
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, Refusal>>;
}

/// The models of one server. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Models {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: RwLock<Arc<Table>>,
    on_demand: OnceLock<Arc<dyn OnDemand>>,
    clock: AtomicU64,
}

/// All models at one moment.
#[derive(Debug, Default, Clone)]
struct Table {
    by_name: BTreeMap<String, Arc<Served>>,
    aliases: BTreeMap<String, Alias>,
}

/// Another name of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// The model's own name.
    pub(crate) model: String,
    /// Its version; empty: the one that requests without a version get.
    pub(crate) version: String,
}

/// A model with all its versions that are loaded.
#[derive(Debug)]
pub(crate) struct Served {
    versions: Vec<Model>,
    weights: BTreeMap<String, u32>,
    shadowed: Option<Shadowed>,
    used: AtomicU64,
}

// A version that no request gets which names none, and the others as those that have it asked besides.
#[derive(Debug)]
struct Shadowed {
    shadow: Model,
    share: f64,
    versions: Vec<Model>,
}

impl Served {
    /// Versions, the newest last. `weights` share requests that name no version out; none: the newest gets them.
    pub(crate) fn new(versions: Vec<Model>, weights: BTreeMap<String, u32>) -> Served {
        Served { versions, weights, shadowed: None, used: AtomicU64::new(0) }
    }

    /// The same with a version of them, if it is there, asked beside the others and not in their place.
    pub(crate) fn with_shadow(mut self, shadow: &Shadow) -> Served {
        let Some(place) = self.versions.iter().position(|model| model.info().version == shadow.version) else {
            return self;
        };
        let own = self.versions.remove(place);
        let beside = |model: &Model| shadow.beside(model, &own).ok_or_else(|| model.does());
        match self.versions.iter().map(beside).collect::<Result<Vec<_>, _>>() {
            Ok(versions) => self.shadowed = Some(Shadowed { shadow: own, share: shadow.share, versions }),
            Err(does) => {
                let info = own.info();
                tracing::warn!(model = info.name, version = info.version, does, "the shadow cannot be asked beside it");
                self.shadowed = Some(Shadowed { shadow: own, share: 0.0, versions: Vec::new() });
            }
        }
        self
    }

    /// Its versions, the newest last, and then one that is asked beside them.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Model> {
        self.versions.iter().chain(self.shadowed.as_ref().map(|shadowed| &shadowed.shadow))
    }

    // The version that a request gets that names none, by chance with the shadow asked besides.
    fn default_version(&self) -> Option<&Model> {
        let versions = match &self.shadowed {
            Some(shadowed) if rand::rng().random::<f64>() < shadowed.share => &shadowed.versions,
            _ => &self.versions,
        };
        let weight = |model: &Model| self.weights.get(&model.info().version).copied().unwrap_or_default();
        let total: u32 = versions.iter().map(weight).sum();
        if total == 0 {
            return versions.last();
        }
        let mut left = rand::rng().random_range(0..total);
        versions.iter().find(|model| {
            let own = weight(model);
            let is_it = left < own;
            left = left.saturating_sub(own);
            is_it
        })
    }

    fn version(&self, name: &str, version: &str) -> Result<&Model, Refusal> {
        let found = match version {
            "" => self.default_version(),
            _ => self.versions().find(|model| model.info().version == version),
        };
        found.ok_or_else(|| {
            let version = shortened(version);
            let loaded: Vec<_> = self.versions().map(|model| format!("{:?}", model.info().version)).collect();
            let is_or_are = if loaded.len() == 1 { "the version" } else { "the versions" };
            let loaded = match loaded.is_empty() {
                true => "none is loaded".to_owned(),
                false if loaded.len() == 1 => format!("{is_or_are} {} is loaded", loaded.join(", ")),
                false => format!("{is_or_are} {} are loaded", loaded.join(", ")),
            };
            let message = format!("the model {name:?} has no version {version:?}; {loaded}");
            Refusal::UnknownModel { name: format!("{name}, version {version}"), message }
        })
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Models").field(&self.table()).finish()
    }
}

impl Models {
    /// Models with different names. `places` says where each comes from, for the complaint about two of one name.
    pub(crate) fn new(models: Vec<(Model, String)>) -> Result<Models, ServeError> {
        let mut table = Table::default();
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for (model, place) in models {
            let name = model.info().name.clone();
            if let Some(other) = places.insert(name.clone(), place.clone()) {
                let places = match (other.as_str(), place.as_str()) {
                    ("", _) | (_, "") => String::new(),
                    (other, place) => format!(", in {other} and in {place}"),
                };
                return Err(ServeError::DuplicateModel { name, places });
            }
            table.by_name.insert(name, Arc::new(Served::new(vec![model], BTreeMap::new())));
        }
        let models = Models::default();
        models.change(|old| *old = table);
        Ok(models)
    }

    /// Who loads models that are not there when they are asked for. To be called once.
    pub(crate) fn load_on_demand(&self, loader: Arc<dyn OnDemand>) {
        let _ = self.shared.on_demand.set(loader);
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.shared.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.shared.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = Table::clone(&table);
        let result = change(&mut new);
        *table = Arc::new(new);
        result
    }

    /// Puts a model with its versions in the place of what has its name. Those who hold a version of before may finish
    /// with it; its thread ends when the last of them has.
    pub(crate) fn put(&self, name: &str, served: Served) {
        self.change(|table| table.by_name.insert(name.to_owned(), Arc::new(served)));
    }

    /// Takes a model away; as for [`put`](Models::put) who holds it may finish.
    pub(crate) fn remove(&self, name: &str) -> Option<Arc<Served>> {
        self.change(|table| table.by_name.remove(name))
    }

    /// Other names of models, all of them.
    pub(crate) fn set_aliases(&self, aliases: BTreeMap<String, Alias>) {
        self.change(|table| table.aliases = aliases);
    }

    /// A model's versions.
    pub(crate) fn served(&self, name: &str) -> Option<Arc<Served>> {
        self.table().by_name.get(name).cloned()
    }

    /// Of these names that which was asked for least recently.
    pub(crate) fn least_recently_used<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let table = self.table();
        let used = |name: &str| table.by_name.get(name).map(|served| served.used.load(Ordering::Relaxed));
        names.filter_map(|name| Some((used(name)?, name))).min().map(|(_, name)| name)
    }

    /// Every model in every version, by name.
    pub(crate) fn all(&self) -> Vec<Model> {
        self.table().all().cloned().collect()
    }

    /// Every model in its newest version, by name.
    pub(crate) fn newest(&self) -> Vec<Model> {
        self.table().by_name.values().filter_map(|served| served.versions.last().cloned()).collect()
    }

    /// Whether every model is ready. A version that answers nobody does not count.
    pub(crate) fn all_ready(&self) -> bool {
        self.table().by_name.values().flat_map(|served| &served.versions).all(|model| model.readiness().is_ready())
    }

    /// Those that the caller may use.
    pub(crate) fn of<'a>(&'a self, caller: &'a Caller) -> Allowed<'a> {
        Allowed { models: self, caller }
    }
}

/// The models that one caller may use. The others are as if they were not there, but that asking for one is forbidden.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed<'a> {
    models: &'a Models,
    caller: &'a Caller,
}

impl Allowed<'_> {
    /// Every model in every version, by name.
    pub(crate) fn all(self) -> Vec<Model> {
        self.models.all().into_iter().filter(|model| self.caller.may_use(&model.info().name)).collect()
    }

    /// Every model in its newest version, by name.
    pub(crate) fn newest(self) -> Vec<Model> {
        self.models.newest().into_iter().filter(|model| self.caller.may_use(&model.info().name)).collect()
    }

    /// The model of this name and version, whatever its kind. An empty version is the one that such requests get; an empty
    /// name is the only model, if there is one. `name_field` is what the request calls the name.
    pub(crate) async fn find_any(self, name: &str, version: &str, name_field: &str) -> Result<Model, Refusal> {
        self.look_up(name, version, name_field, |_| true).await
    }

    /// The same, of the models that are loaded already.
    pub(crate) fn loaded(self, name: &str, version: &str, name_field: &str) -> Result<Model, Refusal> {
        self.find_now(name, version, name_field, &|_| true)
    }

    /// The model of this name, version and kind. An empty version is the one that such requests get; an empty name is the
    /// only model of the kind. `name_field` is what the request calls the name.
    pub(crate) async fn find<K: Kind + Clone>(self, name: &str, version: &str, name_field: &str) -> Result<K, Refusal> {
        let model = self.look_up(name, version, name_field, |model| K::of(model).is_some()).await?;
        K::of(&model).cloned().ok_or_else(|| {
            let (name, does) = (&model.info().name, model.does());
            Refusal::invalid(name_field, format!("is {name:?}, which {does}; a model that {} is needed", K::DOES))
        })
    }

    async fn look_up(
        self,
        name: &str,
        version: &str,
        field: &str,
        is_of_kind: impl Fn(&Model) -> bool,
    ) -> Result<Model, Refusal> {
        let found = self.find_now(name, version, field, &is_of_kind);
        let (Err(Refusal::UnknownModel { .. }), Some(loader)) = (&found, self.models.shared.on_demand.get()) else {
            return found;
        };
        let own_name = self.models.table().own_name(name, version).0.to_owned();
        match loader.load(&own_name).await? {
            true => self.find_now(name, version, field, &is_of_kind),
            false => found,
        }
    }

    fn find_now(
        self,
        name: &str,
        version: &str,
        field: &str,
        is_of_kind: &dyn Fn(&Model) -> bool,
    ) -> Result<Model, Refusal> {
        let table = self.models.table();
        let (name, version) = table.own_name(name, version);
        let (name, served) = if name.is_empty() {
            let is_wanted = |(name, served): &(&String, &Arc<Served>)| {
                self.caller.may_use(name) && served.versions.iter().any(is_of_kind)
            };
            self.only(&table, table.by_name.iter().filter(is_wanted), field)?
        } else {
            // Before the look-up, so that nobody learns what else there is.
            if !self.caller.may_use(name) {
                let problem = format!("this key may not use a model {:?}", shortened(name));
                return Err(Refusal::Forbidden { problem });
            }
            (name, table.by_name.get(name).ok_or_else(|| self.unknown(&table, name))?)
        };
        let now = self.models.shared.clock.fetch_add(1, Ordering::Relaxed);
        served.used.store(now, Ordering::Relaxed);
        served.version(name, version).cloned()
    }

    fn unknown(self, table: &Table, name: &str) -> Refusal {
        let name = shortened(name);
        let known = table.by_name.keys().filter(|name| self.caller.may_use(name)).map(String::as_str);
        let hint = match tidemill_data::nearest(&name, known) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None if table.by_name.is_empty() => "this server has none".to_owned(),
            None => format!("this server has {}", self.names(table)),
        };
        let message = format!("there is no model {name:?}; {hint}");
        Refusal::UnknownModel { name, message }
    }

    fn only<'t>(
        self,
        table: &Table,
        mut models: impl Iterator<Item = (&'t String, &'t Arc<Served>)>,
        field: &str,
    ) -> Result<(&'t str, &'t Arc<Served>), Refusal> {
        match (models.next(), models.next()) {
            (Some((name, served)), None) => Ok((name.as_str(), served)),
            _ => Err(Refusal::invalid(field, format!("is empty; name one of the models: {}", self.names(table)))),
        }
    }

    fn names(self, table: &Table) -> String {
        let known = table.by_name.keys().filter(|name| self.caller.may_use(name));
        let names: Vec<String> = known.take(20).map(|name| format!("{name:?}")).collect();
        names.join(", ")
    }
}

impl Table {
    fn all(&self) -> impl Iterator<Item = &Model> {
        self.by_name.values().flat_map(|served| served.versions())
    }

    // What a name, which may be an alias, and a version stand for.
    fn own_name<'a>(&'a self, name: &'a str, version: &'a str) -> (&'a str, &'a str) {
        match self.aliases.get(name) {
            Some(alias) if !self.by_name.contains_key(name) => {
                (alias.model.as_str(), if version.is_empty() { alias.version.as_str() } else { version })
            }
            _ => (name, version),
        }
    }
}

// A stranger's name in an answer: never the whole of a megabyte.
fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}
