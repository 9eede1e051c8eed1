//! The repository: a folder of models that are loaded, switched and let go of while the server runs. One change at a time;
//! requests never wait for one, and none fails because of one.
//!
//! What is in use changes when the new versions are ready, all at once. Requests that hold a version of before finish with
//! it; its thread ends with the last of them. A version that cannot be opened changes nothing but its state. What is copied
//! from a store first holds up no other model meanwhile, and a store that is gone takes nothing away.

mod cache;
pub(crate) mod config;
mod folder;
mod remote;
mod storage;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::{self, StreamExt as _};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use config::{RepositoryConfig, RepositoryMode, RepositoryModelConfig, ShadowConfig, VersionPolicy};
pub use store::StoreOptions;

use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::model_path::ModelPath;
use crate::models::{Models, OnDemand, Served};
use crate::refusal::Refusal;
use crate::shadow::Shadow;
use crate::source::ModelSource;
use crate::thread::{Readiness, Running, lock};
use folder::Folder;
use remote::{OpenError, Remote};
use storage::{Storage, Version};

/// How long those who hold a model that makes room for another may go on with it.
const ROOM_TIME: Duration = Duration::from_secs(30);

/// How long a list of names will do to tell that there is no model that is asked for.
const NAMES_TIME: Duration = Duration::from_secs(1);

/// Most models that are loaded at once of their own accord; they are copied side by side and opened one after the other.
const MAX_LOADS: usize = 4;

/// A repository that is served. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Repository {
    shared: Arc<Shared>,
}

struct Shared {
    config: RepositoryConfig,
    storage: Box<dyn Storage>,
    server: ServerConfig,
    models: Models,
    metrics: Arc<Metrics>,
    health: HealthReporter,
    loaded: tokio::sync::Mutex<BTreeMap<String, Loaded>>,
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    known: tokio::sync::Mutex<Option<(Instant, BTreeSet<String>)>>,
    states: Mutex<BTreeMap<String, BTreeMap<u64, State>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

type Loaded = BTreeMap<u64, (Version, Model)>;

/// Versions that are here, with what is opened of them.
type Here = BTreeMap<u64, (Version, PathBuf)>;

/// How it stands with a version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It takes requests.
    Ready,
    /// It is being opened.
    Loading,
    /// It finishes what it has.
    Unloading,
    /// It takes none.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// A line of the index: a version, or a model of which none was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) version: Option<u64>,
    pub(crate) state: State,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Repository {
    /// A repository of which nothing is loaded yet. `models` get what will be.
    ///
    /// # Errors
    /// The settings of a store, or the folder for copies from it.
    pub(crate) fn open(
        config: RepositoryConfig,
        server: &ServerConfig,
        models: &Models,
        metrics: &Arc<Metrics>,
        health: &HealthReporter,
    ) -> Result<Repository, ServeError> {
        let storage = open_storage(&config)?;
        models.set_aliases(config.aliases());
        let on_demand = config.load_on_demand;
        let shared = Shared {
            config,
            storage,
            server: server.clone(),
            models: models.clone(),
            metrics: Arc::clone(metrics),
            health: health.clone(),
            loaded: tokio::sync::Mutex::default(),
            turns: Mutex::default(),
            known: tokio::sync::Mutex::default(),
            states: Mutex::default(),
            threads: Mutex::default(),
        };
        let repository = Repository { shared: Arc::new(shared) };
        if on_demand {
            models.load_on_demand(Arc::new(Loader(Arc::downgrade(&repository.shared))));
        }
        Ok(repository)
    }

    /// Loads what is to be loaded at the start. What cannot be is reported and left out.
    pub(crate) async fn begin(&self) -> io::Result<()> {
        let found = self.names().await?;
        let wanted = self.shared.config.load.clone().unwrap_or(found);
        // Why one is not loaded has been logged, and is in the index.
        stream::iter(wanted).for_each_concurrent(MAX_LOADS, |name| async move { drop(self.load(&name).await) }).await;
        Ok(())
    }

    /// Loads and unloads what came and went, for as long as the repository is polled.
    pub(crate) async fn poll(self) {
        let mut failed: BTreeMap<String, BTreeMap<u64, Version>> = BTreeMap::new();
        let mut ticks = tokio::time::interval(self.shared.config.poll_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if let Err(error) = self.look(&mut failed).await {
                tracing::warn!(repository = %self.shared.config.path.display(), %error, "the repository cannot be read");
            }
        }
    }

    async fn look(&self, failed: &mut BTreeMap<String, BTreeMap<u64, Version>>) -> io::Result<()> {
        let mut names = self.names().await?;
        if let Some(wanted) = &self.shared.config.load {
            names.retain(|name| wanted.contains(name));
        }
        let gone: Vec<String> = {
            let loaded = self.shared.loaded.lock().await;
            loaded.keys().filter(|name| !names.contains(*name)).cloned().collect()
        };
        for name in gone {
            let _ = self.unload(&name).await;
            self.shared.storage.tidy(&name, &BTreeMap::new()).await;
        }
        let mut changed = Vec::new();
        for name in names {
            match self.shared.storage.versions(&name).await {
                Ok(found) => {
                    let chosen = self.chosen(&name, found);
                    if !self.is_loaded(&name, &chosen).await && failed.get(&name) != Some(&chosen) {
                        changed.push((name, chosen));
                    }
                }
                Err(error) => tracing::warn!(model = name, %error, "the model's versions cannot be listed"),
            }
        }
        let loads = changed.into_iter().map(|(name, chosen)| async {
            let result = self.load(&name).await;
            (name, chosen, result)
        });
        let mut loads = stream::iter(loads).buffer_unordered(MAX_LOADS);
        while let Some((name, chosen, result)) = loads.next().await {
            match result {
                // Without its shadow.
                Ok(()) if !self.is_loaded(&name, &chosen).await => drop(failed.insert(name, chosen)),
                Ok(()) => drop(failed.remove(&name)),
                // It is tried again though nothing changes.
                Err(Refusal::Unreadable { .. }) => {}
                Err(_) => drop(failed.insert(name, chosen)),
            }
        }
        Ok(())
    }

    // Whether these versions of a model, and no others, are loaded as they were found.
    async fn is_loaded(&self, name: &str, chosen: &BTreeMap<u64, Version>) -> bool {
        let loaded = self.shared.loaded.lock().await;
        let versions = loaded.get(name).into_iter().flatten().map(|(number, (version, _))| (number, version));
        versions.eq(chosen)
    }

    /// Loads a model, or what changed of it. A caller that leaves does not break it off.
    pub(crate) async fn load(&self, name: &str) -> Result<(), Refusal> {
        let (repository, name) = (self.clone(), name.to_owned());
        let loading = tokio::spawn(async move {
            let result = repository.load_whole(&name).await;
            match &result {
                Ok(()) => tracing::info!(model = name, "loaded"),
                Err(refusal) => tracing::warn!(model = name, %refusal, "the model is not loaded"),
            }
            result
        });
        loading.await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// Lets go of a model: it takes no more requests, and ends when those that it has are answered. One that is not loaded
    /// is as it should be.
    pub(crate) async fn unload(&self, name: &str) -> Result<(), Refusal> {
        let was_loaded = {
            let mut loaded = self.shared.loaded.lock().await;
            self.let_go(&mut loaded, name).await.is_some()
        };
        if was_loaded {
            return Ok(());
        }
        let names = self.names().await.map_err(|error| unreadable(&error))?;
        if names.contains(name) { Ok(()) } else { Err(unknown(name, &names)) }
    }

    /// Every model of the repository, and every version of which something is known.
    pub(crate) async fn index(&self) -> Result<Vec<Entry>, Refusal> {
        let names = self.names().await.map_err(|error| unreadable(&error))?;
        let states = lock(&self.shared.states).clone();
        let mut entries = Vec::new();
        for name in names.iter().chain(states.keys().filter(|name| !names.contains(*name))) {
            match states.get(name) {
                Some(versions) if !versions.is_empty() => entries.extend(versions.iter().map(|(version, state)| {
                    Entry { name: name.clone(), version: Some(*version), state: state.clone() }
                })),
                _ => {
                    let state = State::Unavailable { reason: "it is not loaded".to_owned() };
                    entries.push(Entry { name: name.clone(), version: None, state });
                }
            }
        }
        Ok(entries)
    }

    /// The threads of all models that were ever loaded, to wait for.
    pub(crate) fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *lock(&self.shared.threads))
    }

    async fn load_whole(&self, name: &str) -> Result<(), Refusal> {
        let shared = &self.shared;
        let names = self.names().await.map_err(|error| unreadable(&error))?;
        if !names.contains(name) {
            return Err(unknown(name, &names));
        }
        // Those who load one model take turns, so that what was listed later is in use later.
        let turn = Arc::clone(lock(&shared.turns).entry(name.to_owned()).or_default());
        let _turn = turn.lock().await;
        let found = shared.storage.versions(name).await.map_err(|error| unreadable(&error))?;
        let chosen = self.chosen(name, found.clone());
        if chosen.is_empty() {
            return Err(cannot_load(name, "no version of it that the policy serves is there"));
        }
        self.check_budget(name, &chosen)?;
        let here = self.bring(name, chosen).await?;
        {
            let mut loaded = shared.loaded.lock().await;
            self.load_now(&mut loaded, name, here).await?;
        }
        shared.storage.tidy(name, &found).await;
        Ok(())
    }

    // Has versions on this machine, all or none.
    async fn bring(&self, name: &str, versions: BTreeMap<u64, Version>) -> Result<Here, Refusal> {
        let mut here = Here::new();
        for (number, version) in versions {
            let is_served = {
                let loaded = self.shared.loaded.lock().await;
                loaded.get(name).is_some_and(|versions| versions.contains_key(&number))
            };
            if !is_served {
                self.note(name, number, State::Loading);
            }
            match self.shared.storage.bring(name, number, &version).await {
                Ok(path) => drop(here.insert(number, (version, path))),
                Err(error) => {
                    let reason = format!("version {number} cannot be had: {error}");
                    if !is_served {
                        self.note(name, number, State::Unavailable { reason: reason.clone() });
                    }
                    return Err(Refusal::Unreadable { reason });
                }
            }
        }
        Ok(here)
    }

    async fn load_now(&self, loaded: &mut BTreeMap<String, Loaded>, name: &str, chosen: Here) -> Result<(), Refusal> {
        let shared = &self.shared;
        if shared.models.served(name).is_some() && !loaded.contains_key(name) {
            return Err(cannot_load(name, "a model of this name is served from outside the repository"));
        }
        let before = loaded.remove(name).unwrap_or_default();
        let (kept, replaced): (Loaded, Loaded) = before.into_iter().partition(|(number, (version, model))| {
            chosen.get(number).is_some_and(|(found, _)| found == version) && model.readiness().is_ready()
        });
        let new: Here = chosen.into_iter().filter(|(number, _)| !kept.contains_key(number)).collect();
        let kept_bytes: u64 = kept.values().map(|(version, _)| version.bytes).sum();
        self.make_room(loaded, kept_bytes, &new).await;
        let opened = match self.open_versions(name, new).await {
            Ok(opened) => opened,
            Err(refusal) => {
                let before: Loaded = kept.into_iter().chain(replaced).collect();
                if !before.is_empty() {
                    loaded.insert(name.to_owned(), before);
                }
                return Err(refusal);
            }
        };
        let now: Loaded = kept.into_iter().chain(opened).collect();
        let versions = now.values().map(|(_, model)| model.clone()).collect();
        let served = Served::new(versions, shared.config.weights(name));
        let served = match shared.config.shadow(name) {
            Some(ShadowConfig { version, share }) => {
                served.with_shadow(&Shadow::new(name, version.to_string(), share, &shared.metrics))
            }
            None => served,
        };
        shared.models.put(name, served);
        shared.health.set_service_status(name, ServingStatus::Serving).await;
        {
            let mut states = lock(&shared.states);
            let states = states.entry(name.to_owned()).or_default();
            states.retain(|number, _| now.contains_key(number) || replaced.contains_key(number));
            replaced.keys().for_each(|number| drop(states.insert(*number, State::Unloading)));
            now.keys().for_each(|number| drop(states.insert(*number, State::Ready)));
        }
        loaded.insert(name.to_owned(), now);
        Ok(())
    }

    // Opens versions, all or none.
    async fn open_versions(&self, name: &str, versions: Here) -> Result<Loaded, Refusal> {
        let shared = &self.shared;
        let mut loading = Vec::new();
        for (number, (version, path)) in versions {
            self.note(name, number, State::Loading);
            let path = ModelPath { name: Some(name.to_owned()), version: Some(number.to_string()), path };
            let (server, metrics) = (shared.server.clone(), Arc::clone(&shared.metrics));
            loading.push(async move {
                // Headers are read here, on a thread that may wait for a disk.
                let start = move || ModelSource::path(path).start(&server, metrics);
                let started = match tokio::task::spawn_blocking(start).await {
                    Ok(Ok(starting)) => starting.opened().await.map_err(|error| error.to_string()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("it stopped while it was being started".to_owned()),
                };
                (number, version, started)
            });
        }
        let mut opened = Loaded::new();
        let mut problem = None;
        for (number, version, started) in join_all(loading).await {
            match started {
                Ok(Running { model, thread }) => {
                    let mut threads = lock(&shared.threads);
                    threads.retain(|thread| !thread.is_finished());
                    threads.push(thread);
                    opened.insert(number, (version, model));
                }
                Err(reason) if self.is_shadow(name, number) => {
                    tracing::warn!(model = name, version = number, reason, "the shadow is not loaded");
                    self.note(name, number, State::Unavailable { reason });
                }
                Err(reason) => {
                    self.note(name, number, State::Unavailable { reason: reason.clone() });
                    problem.get_or_insert((number, reason));
                }
            }
        }
        if let Some((number, reason)) = problem {
            let reason = format!("version {number}: {reason}");
            for other in opened.keys() {
                self.note(name, *other, State::Unavailable { reason: format!("it is not served without {reason}") });
            }
            return Err(cannot_load(name, &reason));
        }
        for (number, (_, model)) in &opened {
            tokio::spawn(self.clone().watch(name.to_owned(), *number, model.readiness().clone()));
        }
        Ok(opened)
    }

    // Notes the end of a version. It must not hold the model, whose thread ends when nobody does.
    async fn watch(self, name: String, number: u64, readiness: Readiness) {
        readiness.ended().await;
        let is_current = {
            let loaded = self.shared.loaded.lock().await;
            let version = loaded.get(&name).and_then(|versions| versions.get(&number));
            version.map(|(_, model)| model.readiness().is_ready())
        };
        match is_current {
            Some(true) => {}
            Some(false) => {
                self.note(&name, number, State::Unavailable { reason: "it stopped".to_owned() });
                if self.is_shadow(&name, number) {
                    return;
                }
                self.shared.health.set_service_status(&name, ServingStatus::NotServing).await;
                self.shared.health.set_service_status("", ServingStatus::NotServing).await;
            }
            None => {
                let mut states = lock(&self.shared.states);
                if let Some(state) = states.get_mut(&name).and_then(|versions| versions.get_mut(&number))
                    && *state == State::Unloading
                {
                    *state = State::Unavailable { reason: "unloaded".to_owned() };
                }
            }
        }
    }

    // What was loaded of a model is in use no longer; its threads end when its requests do.
    async fn let_go(&self, loaded: &mut BTreeMap<String, Loaded>, name: &str) -> Option<Vec<Readiness>> {
        let versions = loaded.remove(name)?;
        self.shared.models.remove(name);
        versions.keys().for_each(|number| self.note(name, *number, State::Unloading));
        self.shared.health.set_service_status(name, ServingStatus::NotServing).await;
        tracing::info!(model = name, "unloaded");
        Some(versions.into_values().map(|(_, model)| model.readiness().clone()).collect())
    }

    // Whether a model fits at all, before anything of it is copied.
    fn check_budget(&self, name: &str, versions: &BTreeMap<u64, Version>) -> Result<(), Refusal> {
        let wanted = versions.values().map(|version| version.bytes).fold(0, u64::saturating_add);
        match self.shared.config.memory_budget {
            Some(budget) if wanted > budget => {
                let reason = format!("its files have {wanted} bytes, and all models together may have {budget}");
                Err(cannot_load(name, &reason))
            }
            _ => Ok(()),
        }
    }

    // Lets go of those least recently used until new versions of a model fit the budget.
    async fn make_room(&self, loaded: &mut BTreeMap<String, Loaded>, kept: u64, new: &Here) {
        let Some(budget) = self.shared.config.memory_budget else { return };
        let wanted = new.values().map(|(version, _)| version.bytes).fold(kept, u64::saturating_add);
        loop {
            let held: u64 = loaded.values().flat_map(BTreeMap::values).map(|(version, _)| version.bytes).sum();
            if held.saturating_add(wanted) <= budget {
                return;
            }
            let oldest = self.shared.models.least_recently_used(loaded.keys().map(String::as_str)).map(str::to_owned);
            let Some(oldest) = oldest else { return };
            let ending = self.let_go(loaded, &oldest).await.unwrap_or_default();
            let ended = join_all(ending.iter().map(Readiness::ended));
            let _ = tokio::time::timeout(ROOM_TIME, ended).await;
        }
    }

    fn is_shadow(&self, name: &str, number: u64) -> bool {
        self.shared.config.shadow(name).is_some_and(|shadow| shadow.version == number)
    }

    fn note(&self, name: &str, number: u64, state: State) {
        lock(&self.shared.states).entry(name.to_owned()).or_default().insert(number, state);
    }

    async fn names(&self) -> io::Result<BTreeSet<String>> {
        self.shared.storage.models().await
    }

    // Whether there is such a model, by a list that need not be new: whoever asks for what is not there costs one listing
    // among many.
    async fn has(&self, name: &str) -> io::Result<bool> {
        let mut known = self.shared.known.lock().await;
        let names = match known.take() {
            Some((listed, names)) if listed.elapsed() < NAMES_TIME => known.insert((listed, names)),
            _ => {
                let names = self.names().await?;
                known.insert((Instant::now(), names))
            }
        };
        Ok(names.1.contains(name))
    }

    // The versions of a model that are to be served.
    fn chosen(&self, name: &str, mut found: BTreeMap<u64, Version>) -> BTreeMap<u64, Version> {
        let chosen = self.shared.config.choose(name, &found.keys().copied().collect());
        found.retain(|number, _| chosen.contains(number));
        found
    }
}

fn open_storage(config: &RepositoryConfig) -> Result<Box<dyn Storage>, ServeError> {
    let Some(url) = config.url()? else { return Ok(Box::new(Folder::new(config.path.clone()))) };
    let remote = Remote::open(&url, &config.store, config.cache.as_deref()).map_err(|error| match error {
        OpenError::Options(problem) => ServeError::Config { key: "repository.store", problem },
        OpenError::Cache(error) => {
            ServeError::Config { key: "repository.cache", problem: format!("cannot be used: {error}") }
        }
    })?;
    Ok(Box::new(remote))
}

/// Loads from a repository for as long as that is served: its models must not keep it, as it has them.
struct Loader(Weak<Shared>);

impl OnDemand for Loader {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, Refusal>> {
        async move {
            let Some(shared) = self.0.upgrade() else { return Ok(false) };
            let repository = Repository { shared };
            let is_there = repository.has(name).await.map_err(|error| unreadable(&error))?;
            if is_there {
                repository.load(name).await?;
            }
            Ok(is_there)
        }
        .boxed()
    }
}

fn cannot_load(model: &str, reason: &str) -> Refusal {
    Refusal::CannotLoad { model: model.to_owned(), reason: reason.to_owned() }
}

fn unknown(name: &str, names: &BTreeSet<String>) -> Refusal {
    let name: String = name.chars().take(80).collect();
    let hint = match tidemill_data::nearest(&name, names.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => "the index of the repository lists what there is".to_owned(),
    };
    let message = format!("the repository has no model {name:?}; {hint}");
    Refusal::UnknownModel { name, message }
}

fn unreadable(error: &io::Error) -> Refusal {
    Refusal::Unreadable { reason: error.to_string() }
}
