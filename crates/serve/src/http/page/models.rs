//! `GET /tidemill/models`: what is served, as the page needs to know it: what each model is for, its versions, and how it
//! stands with each. Of the models that the caller's key may use.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Extension, State};
use serde::Serialize;

use crate::admitted::Admitted;
use crate::http::Http;
use crate::keys::Caller;
use crate::model::Model;
use crate::repository;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(in crate::http) struct Listing {
    server_version: &'static str,
    /// Whether every model takes requests, and the server new ones.
    ready: bool,
    may: May,
    models: Vec<Listed>,
}

/// What the caller's key may do.
#[derive(Debug, Serialize)]
struct May {
    infer: bool,
    metrics: bool,
    admin: bool,
}

impl May {
    fn of(caller: &Caller) -> May {
        May { infer: caller.may_infer(), metrics: caller.may_measure(), admin: caller.may_manage() }
    }
}

#[derive(Debug, Default, Serialize)]
struct Listed {
    name: String,
    /// What it is for; not known of a model that is not loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    /// Of a model that generates: whether it has a template for conversations.
    #[serde(skip_serializing_if = "Option::is_none")]
    chat: Option<bool>,
    /// The oldest first; none of a model that is not loaded.
    versions: Vec<Version>,
}

#[derive(Debug, Serialize)]
struct Version {
    version: String,
    /// `ready`, `loading`, `unloading` or `unavailable`.
    state: &'static str,
}

impl Listed {
    // The newest version is the last to be added, and says what the model is.
    fn add(&mut self, model: &Model) {
        let info = model.info();
        self.task = Some(model.task());
        self.labels = info.labels.clone();
        if let Model::Generator(generator) = model {
            self.chat = Some(generator.has_chat_template());
        }
        let state = if model.readiness().is_ready() { "ready" } else { "unavailable" };
        self.versions.push(Version { version: info.version.clone(), state });
    }

    // What the repository knows of a version beyond those that are served.
    fn add_entry(&mut self, entry: &repository::Entry) {
        let Some(version) = entry.version.map(|number| number.to_string()) else { return };
        if self.versions.iter().any(|known| known.version == version) {
            return;
        }
        let state = match entry.state {
            repository::State::Ready => "ready",
            repository::State::Loading => "loading",
            repository::State::Unloading => "unloading",
            repository::State::Unavailable { .. } => "unavailable",
        };
        self.versions.push(Version { version, state });
    }
}

pub(in crate::http) async fn list(State(http): State<Http>, Extension(admitted): Extension<Admitted>) -> Json<Listing> {
    let (base, caller) = (&http.base, &admitted.caller);
    let entries = match &base.repository {
        // A folder that cannot be read is in the log, and what is served of it is served on.
        Some(repository) => repository.index().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let mut listed: BTreeMap<String, Listed> = BTreeMap::new();
    let mut of_name = |name: &str, add: &dyn Fn(&mut Listed)| {
        let new = || Listed { name: name.to_owned(), ..Listed::default() };
        add(listed.entry(name.to_owned()).or_insert_with(new));
    };
    for model in base.models.of(caller).all() {
        of_name(&model.info().name, &|listed| listed.add(&model));
    }
    for entry in entries.iter().filter(|entry| caller.may_use(&entry.name)) {
        of_name(&entry.name, &|listed| listed.add_entry(entry));
    }
    let mut models: Vec<Listed> = listed.into_values().collect();
    for model in &mut models {
        model.versions.sort_by_key(|version| version.version.parse::<u64>().ok());
    }
    let ready = !base.is_shut() && base.models.all_ready();
    Json(Listing { server_version: env!("CARGO_PKG_VERSION"), ready, may: May::of(caller), models })
}
