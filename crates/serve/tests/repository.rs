//! A repository as its callers and its operator meet it: models are loaded, switched and let go of while others ask.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(dead_code)]

#[path = "support/packages.rs"]
mod packages;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use packages::write_package;
use support::{NOT_SERVING, Running, SERVING, by_length_source, start, texts};
use tidemill_proto::inference::{
    ModelMetadataRequest, ModelReadyRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
};
use tidemill_serve::{
    AdminConfig, ModelSource, RepositoryConfig, RepositoryMode, RepositoryModelConfig, ServerConfig, VersionPolicy,
};
use tonic::{Code, Status};

fn put(root: &Path, name: &str, version: u64) {
    write_package(&root.join(name).join(version.to_string()), name, version).unwrap();
}

fn repository(root: &Path) -> RepositoryConfig {
    RepositoryConfig { path: root.to_owned(), ..RepositoryConfig::default() }
}

async fn serve(repository: RepositoryConfig, sources: Vec<ModelSource>) -> Running {
    let admin = AdminConfig { enabled: true, address: None };
    let config = ServerConfig { repository: Some(repository), admin, threads: Some(1), ..ServerConfig::default() };
    start(config, sources).await
}

async fn version(server: &Running, model: &str) -> Result<String, Status> {
    Ok(server.typed().classify(texts(model, &["a good film"])).await?.into_inner().model_version)
}

async fn load(server: &Running, model: &str) -> Result<(), Status> {
    let request = RepositoryModelLoadRequest { model_name: model.into(), ..RepositoryModelLoadRequest::default() };
    server.open().repository_model_load(request).await.map(drop)
}

async fn unload(server: &Running, model: &str) -> Result<(), Status> {
    let request = RepositoryModelUnloadRequest { model_name: model.into(), ..RepositoryModelUnloadRequest::default() };
    server.open().repository_model_unload(request).await.map(drop)
}

/// Name, version and state.
async fn index(server: &Running) -> Vec<(String, String, String)> {
    let index = server.open().repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    index.models.into_iter().map(|model| (model.name, model.version, model.state)).collect()
}

fn line(name: &str, version: &str, state: &str) -> (String, String, String) {
    (name.to_owned(), version.to_owned(), state.to_owned())
}

async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(condition().await, "it did not happen within ten seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_and_unloaded_on_request_and_a_bad_one_takes_no_other_down() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(root, "films", 1);
    put(root, "films", 2);
    put(root, "books", 1);
    put(root, "broken", 1);
    std::fs::write(root.join("broken/1/model.safetensors"), b"no weights").unwrap();
    let server = serve(repository(root), vec![by_length_source("length")]).await;

    assert_eq!(version(&server, "films").await.unwrap(), "2");
    assert_eq!(version(&server, "length").await.unwrap(), "3");
    let lines = [
        line("books", "1", "READY"),
        line("broken", "1", "UNAVAILABLE"),
        line("films", "2", "READY"),
        line("length", "3", "READY"),
    ];
    assert_eq!(index(&server).await, lines);
    let ready = RepositoryIndexRequest { ready: true, ..RepositoryIndexRequest::default() };
    let ready = server.open().repository_index(ready).await.unwrap().into_inner();
    assert_eq!(ready.models.len(), 3);
    assert_eq!(server.health("films").await.unwrap(), SERVING);

    unload(&server, "books").await.unwrap();
    unload(&server, "books").await.expect("it is not loaded, as it should be");
    assert_eq!(version(&server, "books").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(server.health("books").await.unwrap(), NOT_SERVING);
    until(|| async { index(&server).await.contains(&line("books", "1", "UNAVAILABLE")) }).await;
    let is_ready = ModelReadyRequest { name: "books".into(), version: String::new() };
    assert!(!server.open().model_ready(is_ready).await.unwrap().into_inner().ready);
    load(&server, "books").await.unwrap();
    assert_eq!(version(&server, "books").await.unwrap(), "1");
    assert_eq!((server.health("books").await.unwrap(), server.health("").await.unwrap()), (SERVING, SERVING));

    // What is not there, what cannot be opened, and names that would be paths.
    let status = load(&server, "broken").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("model.safetensors"), "{}", status.message());
    for name in ["", "fims", "..", ".", "films/1", "../films", "/etc", "films\0", "length"] {
        let status = load(&server, name).await.unwrap_err();
        assert!(matches!(status.code(), Code::NotFound | Code::FailedPrecondition), "{name:?}: {status:?}");
    }
    assert!(load(&server, "fims").await.unwrap_err().message().contains("films"));
    assert_eq!(unload(&server, "length").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(version(&server, "length").await.unwrap(), "3");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_switches_under_load_fail_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(root, "films", 1);
    let server = Arc::new(serve(repository(root), Vec::new()).await);
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (server, is_over) = (Arc::clone(&server), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut seen = BTreeSet::new();
                while !is_over.load(Ordering::Relaxed) {
                    seen.insert(version(&server, "films").await.unwrap());
                }
                seen
            })
        })
        .collect();
    let (old, spare) = (root.join("films"), root.join(".spare"));
    for switch in 0..200 {
        // The versions take turns, so that every load switches.
        let (from, to) = if switch % 2 == 0 { (1, 2) } else { (2, 1) };
        let next = old.join(to.to_string());
        if switch < 1 {
            put(root, "films", 2);
        } else {
            std::fs::rename(&spare, &next).unwrap();
        }
        let before = old.join(from.to_string());
        std::fs::rename(&before, &spare).unwrap();
        load(&server, "films").await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let mut seen = BTreeSet::new();
    for caller in callers {
        seen.extend(caller.await.unwrap());
    }
    assert_eq!(seen, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    Arc::into_inner(server).unwrap().stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_folder_is_followed_and_a_damaged_version_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(root, "films", 1);
    let config =
        RepositoryConfig { mode: RepositoryMode::Poll, poll_interval: Duration::from_millis(20), ..repository(root) };
    let server = serve(config, Vec::new()).await;
    assert_eq!(version(&server, "films").await.unwrap(), "1");

    write_package(&root.join(".new"), "films", 5).unwrap();
    std::fs::rename(root.join(".new"), root.join("films/2")).unwrap();
    until(|| async { version(&server, "films").await.unwrap() == "2" }).await;

    write_package(&root.join(".new"), "films", 6).unwrap();
    std::fs::write(root.join(".new/model.safetensors"), b"cut").unwrap();
    std::fs::rename(root.join(".new"), root.join("films/3")).unwrap();
    until(|| async { index(&server).await.contains(&line("films", "3", "UNAVAILABLE")) }).await;
    assert_eq!(version(&server, "films").await.unwrap(), "2");

    put(root, "books", 1);
    until(|| async { version(&server, "books").await.is_ok() }).await;
    std::fs::remove_dir_all(root.join("books")).unwrap();
    until(|| async { version(&server, "books").await.is_err() }).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_chosen_shared_out_and_called_by_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    (1..=3).for_each(|version| put(root, "films", version));
    let films = RepositoryModelConfig {
        versions: Some(VersionPolicy::All),
        weights: BTreeMap::from([(1, 1), (2, 1)]),
        ..RepositoryModelConfig::default()
    };
    let config = RepositoryConfig {
        models: BTreeMap::from([("films".to_owned(), films)]),
        aliases: BTreeMap::from([("best".to_owned(), "films/3".to_owned())]),
        ..repository(root)
    };
    let server = serve(config, Vec::new()).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..60 {
        *counts.entry(version(&server, "films").await.unwrap()).or_default() += 1;
    }
    // Half of them each; that one of them gets fewer than ten has a probability below one in ten million.
    assert!(counts.len() == 2 && counts["1"] >= 10 && counts["2"] >= 10, "{counts:?}");
    assert_eq!(version(&server, "best").await.unwrap(), "3");
    let metadata = ModelMetadataRequest { name: "films".into(), version: "3".into() };
    let metadata = server.open().model_metadata(metadata).await.unwrap().into_inner();
    assert_eq!(metadata.versions, ["1", "2", "3"]);
    let missing = ModelMetadataRequest { name: "films".into(), version: "7".into() };
    let status = server.open().model_metadata(missing).await.unwrap_err();
    assert!(status.message().contains("\"1\", \"2\", \"3\""), "{}", status.message());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_when_they_are_asked_for_and_the_least_used_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    ["a", "b", "c"].into_iter().for_each(|name| put(root, name, 1));
    let bytes = |name: &str| {
        let files = std::fs::read_dir(root.join(name).join("1")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let config = RepositoryConfig {
        load: Some(BTreeSet::new()),
        load_on_demand: true,
        memory_budget: Some(bytes("a") + bytes("b").max(bytes("c"))),
        ..repository(root)
    };
    let server = serve(config, Vec::new()).await;
    for name in ["a", "b", "a", "c"] {
        assert_eq!(version(&server, name).await.unwrap(), "1");
    }
    let states = index(&server).await;
    assert_eq!((states[0].2.as_str(), states[2].2.as_str()), ("READY", "READY"), "{states:?}");
    assert_eq!(states[1].2, "UNAVAILABLE", "{states:?}");
    assert_eq!(version(&server, "d").await.unwrap_err().code(), Code::NotFound);
    server.stop().await.unwrap();
}
