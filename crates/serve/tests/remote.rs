//! A repository in an object store, over a server that speaks S3: what is copied, what is not, and what a store that fails
//! or lies may not do.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(dead_code)]

#[path = "support/packages.rs"]
mod packages;
#[path = "support/s3.rs"]
mod s3;
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use packages::write_package;
use s3::{KEY, S3, SECRET};
use support::{Running, SERVING, start, texts};
use tempfile::TempDir;
use tidemill_proto::inference::{RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest};
use tidemill_serve::{AdminConfig, RepositoryConfig, RepositoryMode, ServerConfig, serve_models};
use tonic::{Code, Status};

fn put(s3: &S3, name: &str, version: u64) {
    let beside = s3.models().join(".new");
    write_package(&beside, name, version).unwrap();
    std::fs::create_dir_all(s3.models().join(name)).unwrap();
    std::fs::rename(beside, s3.models().join(name).join(version.to_string())).unwrap();
}

fn server_config(repository: RepositoryConfig) -> ServerConfig {
    let admin = AdminConfig { enabled: true, address: None };
    ServerConfig { repository: Some(repository), admin, threads: Some(1), ..ServerConfig::default() }
}

async fn serve(repository: RepositoryConfig) -> Running {
    start(server_config(repository), Vec::new()).await
}

async fn version(server: &Running, model: &str) -> Result<String, Status> {
    Ok(server.typed().classify(texts(model, &["a good film"])).await?.into_inner().model_version)
}

async fn load(server: &Running, model: &str) -> Result<(), Status> {
    let request = RepositoryModelLoadRequest { model_name: model.into(), ..RepositoryModelLoadRequest::default() };
    server.open().repository_model_load(request).await.map(drop)
}

async fn state(server: &Running, model: &str, version: &str) -> Option<(String, String)> {
    let index = server.open().repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    let found = index.models.into_iter().find(|line| line.name == model && line.version == version)?;
    Some((found.state, found.reason))
}

async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    for _ in 0..2000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(condition().await, "it did not happen within twenty seconds");
}

/// The objects that were asked for since the last time, by the ends of their keys.
fn asked(s3: &S3) -> BTreeSet<String> {
    let asked = std::mem::take(&mut s3.behaviour().asked);
    asked.into_iter().map(|key| key.trim_start_matches("models/").to_owned()).collect()
}

/// Every file and folder below one.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_copied_once_and_served_from_the_copy() {
    let (s3, cache) = (S3::start().await, tempfile::tempdir().unwrap());
    put(&s3, "films", 1);
    put(&s3, "films", 2);
    put(&s3, "books", 1);
    let server = serve(s3.repository(SECRET, &cache)).await;
    assert_eq!(version(&server, "films").await.unwrap(), "2");
    assert_eq!(version(&server, "books").await.unwrap(), "1");
    let copied = asked(&s3);
    assert!(copied.contains("films/2/model.safetensors") && copied.contains("books/1/tidemill.toml"), "{copied:?}");
    assert!(!copied.iter().any(|key| key.starts_with("films/1")), "version 1 is not served: {copied:?}");

    let unload = RepositoryModelUnloadRequest { model_name: "books".into(), ..RepositoryModelUnloadRequest::default() };
    server.open().repository_model_unload(unload).await.unwrap();
    assert_eq!(version(&server, "books").await.unwrap_err().code(), Code::NotFound);
    load(&server, "books").await.unwrap();
    assert_eq!(version(&server, "books").await.unwrap(), "1");
    assert_eq!(asked(&s3), BTreeSet::new());

    // Of a version that changed, what changed.
    std::fs::write(s3.models().join("films/2/README.md"), "Films.").unwrap();
    load(&server, "films").await.unwrap();
    assert_eq!(asked(&s3), BTreeSet::from(["films/2/README.md".to_owned()]));
    assert_eq!(load(&server, "fims").await.unwrap_err().code(), Code::NotFound);
    server.stop().await.unwrap();

    // Another server with the same cache.
    let server = serve(s3.repository(SECRET, &cache)).await;
    assert_eq!(version(&server, "films").await.unwrap(), "2");
    assert_eq!(asked(&s3), BTreeSet::new());
    server.stop().await.unwrap();
}

fn polled(repository: RepositoryConfig) -> RepositoryConfig {
    RepositoryConfig { mode: RepositoryMode::Poll, poll_interval: Duration::from_millis(50), ..repository }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_store_is_followed() {
    let (s3, cache) = (S3::start().await, tempfile::tempdir().unwrap());
    put(&s3, "films", 1);
    put(&s3, "books", 1);
    let server = serve(polled(s3.repository(SECRET, &cache))).await;
    assert_eq!(version(&server, "films").await.unwrap(), "1");
    put(&s3, "films", 2);
    until(|| async { version(&server, "films").await.unwrap() == "2" }).await;
    std::fs::remove_dir_all(s3.models().join("books")).unwrap();
    until(|| async { version(&server, "books").await.is_err() }).await;
    std::fs::remove_dir_all(s3.models().join("films/2")).unwrap();
    until(|| async { version(&server, "films").await.unwrap() == "1" }).await;
    // What the store has no more is not kept.
    until(|| async { !below(cache.path()).iter().any(|path| path.to_string_lossy().contains("/films/2-")) }).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_breaks_off_changes_nothing_and_goes_on_later() {
    let (s3, cache) = (S3::start().await, tempfile::tempdir().unwrap());
    put(&s3, "films", 1);
    let server = serve(s3.repository(SECRET, &cache)).await;
    put(&s3, "films", 2);
    s3.behaviour().cut = Some("films/2/model.safetensors".to_owned());
    let status = load(&server, "films").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(version(&server, "films").await.unwrap(), "1");
    let (state, reason) = state(&server, "films", "2").await.unwrap();
    assert_eq!(state, "UNAVAILABLE", "{reason}");
    for path in below(cache.path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.starts_with("2-") && !name.starts_with('.'), "{}", path.display());
    }
    s3.behaviour().cut = None;
    asked(&s3);
    load(&server, "films").await.unwrap();
    assert_eq!(version(&server, "films").await.unwrap(), "2");
    assert!(asked(&s3).contains("films/2/model.safetensors"));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_leave_the_folder_are_refused_and_cost_no_other_model_anything() {
    let (s3, cache) = (S3::start().await, tempfile::tempdir().unwrap());
    put(&s3, "films", 1);
    put(&s3, "books", 1);
    for wrong in ["models/films/2/../../../escaped", "models/films/2/a\\b", "models/films/2//escaped"] {
        s3.behaviour().lists = Some(wrong.to_owned());
        let server = serve(s3.repository(SECRET, &cache)).await;
        let status = load(&server, "films").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{wrong}: {status:?}");
        assert_eq!(version(&server, "books").await.unwrap(), "1");
        assert!(!below(cache.path()).iter().any(|path| path.ends_with("escaped")), "{wrong}");
        server.stop().await.unwrap();
    }
    // With the same name and no tricks it is asked for, so that the above failed for its name.
    s3.behaviour().lists = Some("models/films/2/plain".to_owned());
    let server = serve(s3.repository(SECRET, &cache)).await;
    load(&server, "films").await.unwrap_err();
    assert!(asked(&s3).contains("films/2/plain"));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_said_without_them() {
    let (s3, cache) = (S3::start().await, tempfile::tempdir().unwrap());
    put(&s3, "films", 1);
    let refused = |repository: RepositoryConfig| async move {
        let config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..server_config(repository) };
        let shown = format!("{config:?}");
        let error = serve_models(config, Vec::new(), std::future::pending(), |_| ()).await.unwrap_err();
        (error.to_string(), shown)
    };
    let (sentence, shown) = refused(s3.repository("a-wrong-secret", &cache)).await;
    assert!(sentence.contains("s3://bucket/models") && sentence.contains("SignatureDoesNotMatch"), "{sentence}");
    for text in [sentence, shown] {
        assert!(!text.contains("a-wrong-secret") && !text.contains(KEY), "{text}");
    }
    let mut elsewhere = s3.repository(SECRET, &cache);
    elsewhere.path = "s3://elsewhere/models".into();
    let (sentence, _) = refused(elsewhere).await;
    assert!(sentence.contains("NoSuchBucket"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_takes_nothing_away() {
    let (s3, cache) = (S3::start().await, tempfile::tempdir().unwrap());
    put(&s3, "films", 1);
    let server = serve(polled(s3.repository(SECRET, &cache))).await;
    s3.behaviour().is_gone = true;
    let status = load(&server, "films").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("503"), "{status:?}");
    // It has been polled in vain meanwhile.
    assert_eq!(version(&server, "films").await.unwrap(), "1");
    assert_eq!((server.health("films").await.unwrap(), server.health("").await.unwrap()), (SERVING, SERVING));
    put(&s3, "films", 2);
    s3.behaviour().is_gone = false;
    until(|| async { version(&server, "films").await.unwrap() == "2" }).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_budget_is_not_copied() {
    let (s3, cache): (S3, TempDir) = (S3::start().await, tempfile::tempdir().unwrap());
    put(&s3, "films", 1);
    let config = RepositoryConfig { memory_budget: Some(100), ..s3.repository(SECRET, &cache) };
    let server = serve(config).await;
    let status = load(&server, "films").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert_eq!(asked(&s3), BTreeSet::new());
    server.stop().await.unwrap();
}
