//! API keys as their callers meet them, over a real socket: who is let in, to what, and how often.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

#[path = "support/http.rs"]
mod http;
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::{ask, ask_with_key, get};
use serde_json::Value;
use support::{Running, SERVING, by_length_source, start, texts};
use tempfile::TempDir;
use tidemill_proto::inference::{ModelMetadataRequest, ServerReadyRequest};
use tidemill_proto::v1::{ClassifyStreamRequest, classify_stream_response};
use tidemill_serve::{AdminConfig, NewKey, ServeError, ServerConfig, serve_models};
use tokio::net::TcpStream;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// A file of keys.
struct KeysFile {
    folder: TempDir,
    entries: Vec<String>,
}

impl KeysFile {
    fn new() -> KeysFile {
        KeysFile { folder: tempfile::tempdir().unwrap(), entries: Vec::new() }
    }

    /// Adds a key and gives it; `limits` are further lines of its entry.
    fn add(&mut self, name: &str, scopes: &[&str], limits: &str) -> String {
        let scopes: Vec<String> = scopes.iter().map(|scope| scope.to_string()).collect();
        let key = NewKey::random(name, &scopes).unwrap();
        self.entries.push(format!("{}{limits}\n", key.entry()));
        self.write();
        key.secret().to_owned()
    }

    fn write(&self) {
        std::fs::write(self.path(), self.entries.concat()).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys.toml")
    }

    async fn serve(&self) -> Running {
        let config = ServerConfig { keys: Some(self.path()), ..ServerConfig::default() };
        start(config, vec![by_length_source("length"), by_length_source("other")]).await
    }
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

async fn classify(server: &Running, key: &str, model: &str) -> Result<(), Status> {
    server.typed().classify(with_key(texts(model, &["tide"]), key)).await.map(drop)
}

fn names(list: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(list).unwrap();
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_there_are_probes_alone() {
    let mut file = KeysFile::new();
    let key = file.add("team", &["infer:*"], "");
    let server = file.serve().await;

    let status = server.typed().classify(texts("length", &["tide"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(classify(&server, "tm_unknown", "length").await.unwrap_err().code(), Code::Unauthenticated);
    classify(&server, &key, "length").await.unwrap();
    let mut request = Request::new(texts("length", &["tide"]));
    request.metadata_mut().insert("x-api-key", key.parse().unwrap());
    server.typed().classify(request).await.unwrap();

    assert_eq!(server.health("").await.unwrap(), SERVING);
    assert!(server.open().server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(server.address, path).await.status, 200, "{path}");
    }
    for path in ["/metrics", "/v1/models", "/v1/models/length", "/nothing"] {
        let answer = get(server.address, path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        let error: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(error["error"]["code"], "invalid_api_key");
    }
    let body = r#"{"model": "length", "input": "tide"}"#;
    assert_eq!(ask_with_key(server.address, "", "POST /v1/embeddings", body).await.status, 401);
    // Let in, to be told that this model does not embed.
    assert_eq!(ask_with_key(server.address, &key, "POST /v1/embeddings", body).await.status, 400);
    let stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(ask(stream, "GET /v1/models", &format!("X-Api-Key: {key}\r\n"), "").await.status, 200);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_does_what_its_scopes_say_and_sees_no_more() {
    let mut file = KeysFile::new();
    let narrow = file.add("narrow", &["infer:length"], "");
    let wide = file.add("wide", &["infer:*"], "");
    let measuring = file.add("prometheus", &["metrics"], "");
    let server = file.serve().await;
    let address = server.address;

    classify(&server, &narrow, "length").await.unwrap();
    // It is the only model that this key has.
    classify(&server, &narrow, "").await.unwrap();
    let hidden = classify(&server, &narrow, "other").await.unwrap_err();
    let absent = classify(&server, &narrow, "othre").await.unwrap_err();
    assert_eq!((hidden.code(), absent.code()), (Code::PermissionDenied, Code::PermissionDenied));
    assert_eq!(hidden.message().replace("other", "othre"), absent.message());
    classify(&server, &wide, "other").await.unwrap();
    assert_eq!(classify(&server, &wide, "othre").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(classify(&server, &measuring, "length").await.unwrap_err().code(), Code::PermissionDenied);

    let metadata = ModelMetadataRequest { name: "other".into(), ..ModelMetadataRequest::default() };
    let status = server.open().model_metadata(with_key(metadata, &narrow)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    assert_eq!(names(&ask_with_key(address, &narrow, "GET /v1/models", "").await.body), ["length"]);
    assert_eq!(names(&ask_with_key(address, &wide, "GET /v1/models", "").await.body), ["length", "other"]);
    assert_eq!(ask_with_key(address, &narrow, "GET /v1/models/other", "").await.status, 403);
    assert_eq!(ask_with_key(address, &measuring, "GET /metrics", "").await.status, 200);
    let refused = ask_with_key(address, &wide, "GET /metrics", "").await;
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("permission_denied"), "{}", refused.body);
    let body = r#"{"model": "other", "input": "tide"}"#;
    assert_eq!(ask_with_key(address, &narrow, "POST /v1/embeddings", body).await.status, 403);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_no_more_requests_than_it_may_and_is_told_when_to_come_back() {
    let mut file = KeysFile::new();
    let slow = file.add("slow", &["infer:*"], "requests_per_second = 0.2\nburst = 2");
    let free = file.add("free", &["infer:*"], "");
    let server = file.serve().await;
    classify(&server, &slow, "length").await.unwrap();
    classify(&server, &slow, "length").await.unwrap();
    let status = classify(&server, &slow, "length").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(retry > Duration::from_secs(3) && retry <= Duration::from_secs(5), "{retry:?}");
    let answer = ask_with_key(server.address, &slow, "GET /v1/models", "").await;
    assert_eq!(answer.status, 429);
    assert!(answer.head.contains("retry-after: 5"), "{}", answer.head);
    for _ in 0..5 {
        classify(&server, &free, "length").await.unwrap();
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_no_more_requests_open_than_it_may() {
    let mut file = KeysFile::new();
    let key = file.add("one", &["infer:*"], "max_concurrent = 1");
    let server = file.serve().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(receive);
    let open = server.typed().classify_stream(with_key(messages, &key)).await.unwrap();
    let status = classify(&server, &key, "length").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    drop((open, send));
    let started = Instant::now();
    while classify(&server, &key, "length").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(5), "the place did not come back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing() {
    let mut file = KeysFile::new();
    let old = file.add("old", &["infer:*"], "");
    let server = file.serve().await;

    let (send, receive) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut open = server.typed().classify_stream(with_key(messages, &old)).await.unwrap().into_inner();
    let message = || ClassifyStreamRequest { id: "1".into(), request: Some(texts("length", &["tide"])) };
    send.send(message()).await.unwrap();
    let answer = open.message().await.unwrap().unwrap();
    assert!(matches!(answer.outcome, Some(classify_stream_response::Outcome::Response(_))), "{answer:?}");

    std::fs::write(file.path(), "[[keys]]\nname = \"half\"").unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    classify(&server, &old, "length").await.unwrap();

    file.entries.clear();
    let new = file.add("new", &["infer:*"], "");
    let started = Instant::now();
    while classify(&server, &new, "length").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(5), "the file was not read again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(classify(&server, &old, "length").await.unwrap_err().code(), Code::Unauthenticated);
    // A stream does not outlive its key.
    send.send(message()).await.unwrap();
    assert_eq!(open.message().await.unwrap_err().code(), Code::Unauthenticated);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_is_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    for (content, says) in [(None, "no such file"), (Some(""), "no key"), (Some("[[keys]]\nname = 3"), "name")] {
        let path = folder.path().join("keys.toml");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let config = ServerConfig { keys: Some(path), ..ServerConfig::default() };
        let config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..config };
        let never = std::future::pending();
        let error = serve_models(config, vec![by_length_source("length")], never, |_| panic!("it started")).await;
        let message = match error.unwrap_err() {
            error @ ServeError::Keys(_) => error.to_string(),
            other => panic!("{other}"),
        };
        assert!(message.contains("keys.toml") && message.contains(says), "{message}");
    }
}

const LOAD: &str = "POST /v2/repository/models/length/load";

#[tokio::test(flavor = "multi_thread")]
async fn management_is_off_until_it_is_switched_on_and_then_needs_its_scope() {
    let mut file = KeysFile::new();
    let admin = file.add("admin", &["admin"], "");
    let team = file.add("team", &["infer:*", "metrics"], "");
    let off = file.serve().await;
    let refused = ask_with_key(off.address, &admin, LOAD, "{}").await;
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("admin.enabled"), "{}", refused.body);
    off.stop().await.unwrap();

    let admin_config = AdminConfig { enabled: true, address: None };
    let config = ServerConfig { keys: Some(file.path()), admin: admin_config, ..ServerConfig::default() };
    let on = start(config, vec![by_length_source("length")]).await;
    // Past the gate, on a server that has no repository.
    let answered = ask_with_key(on.address, &admin, LOAD, "{}").await;
    assert_eq!(answered.status, 400);
    assert!(answered.body.contains("repository"), "{}", answered.body);
    let refused = ask_with_key(on.address, &team, LOAD, "{}").await;
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("scope"), "{}", refused.body);
    assert_eq!(ask_with_key(on.address, "", LOAD, "{}").await.status, 401);
    assert_eq!(classify(&on, &admin, "length").await.unwrap_err().code(), Code::PermissionDenied);
    on.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn management_may_have_an_address_of_its_own() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let managed = free.local_addr().unwrap();
    drop(free);
    let admin = AdminConfig { enabled: true, address: Some(managed) };
    let server = start(ServerConfig { admin, ..ServerConfig::default() }, vec![by_length_source("length")]).await;
    assert_eq!(ask_with_key(server.address, "", LOAD, "{}").await.status, 403);
    assert_eq!(ask_with_key(managed, "", LOAD, "{}").await.status, 400);
    assert_eq!(get(managed, "/readyz").await.status, 200);
    assert_eq!(ask_with_key(managed, "", "POST /v1/embeddings", "{}").await.status, 403);
    assert_eq!(ask_with_key(server.address, "", "POST /v1/embeddings", "{}").await.status, 400);
    server.stop().await.unwrap();
}
