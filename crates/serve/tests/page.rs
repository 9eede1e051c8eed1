//! The page as a browser is given it: files that everyone may have, under a strict policy, and a list of models that is its
//! reader's key's. What the page does in a browser, `cargo xtask conformance` asks.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

#[path = "support/http.rs"]
mod http;
#[path = "support/packages.rs"]
mod packages;
mod support;

use http::{Answer, ask, ask_with_key, get};
use serde_json::{Value, json};
use support::{Running, by_length_source, start};
use tidemill_serve::{ModelPath, ModelSource, NewKey, RepositoryConfig, ServerConfig};
use tokio::net::TcpStream;

const LIST: &str = "GET /tidemill/models";

/// What a header of an answer says.
fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let lines = answer.head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(own, _)| *own == name).map(|(_, value)| value).next().unwrap_or_default()
}

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

async fn ask_host(server: &Running, line: &str, host: &str) -> u16 {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let line = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    http::say(stream, &line).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_has_the_page_and_its_data_needs_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.toml");
    let key = |name: &str, scopes: &[&str]| {
        let scopes: Vec<String> = scopes.iter().map(|scope| scope.to_string()).collect();
        NewKey::random(name, &scopes).unwrap()
    };
    let all = [key("narrow", &["infer:length"]), key("wide", &["infer:*", "admin"]), key("measuring", &["metrics"])];
    std::fs::write(&keys, all.iter().map(|key| format!("{}\n", key.entry())).collect::<String>()).unwrap();
    let config = ServerConfig { keys: Some(keys), ..ServerConfig::default() };
    let server = start(config, vec![by_length_source("length"), by_length_source("secret-name")]).await;
    let address = server.address;

    let page = get(address, "/").await;
    assert_eq!((page.status, header(&page, "content-type")), (200, "text/html; charset=utf-8"));
    assert!(!page.body.contains("secret-name"), "{}", page.body);
    for path in ["/", "/page/page.js", "/page/page.css", "/page/icon.svg", "/page/tasks/generation.js"] {
        let file = get(address, path).await;
        assert_eq!(file.status, 200, "{path}");
        let policy = header(&file, "content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        for part in ["frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{path}: {policy}");
        assert_eq!(header(&file, "x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header(&file, "referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header(&file, "cache-control"), "no-cache", "{path}");
        let tag = header(&file, "etag");
        let stream = TcpStream::connect(address).await.unwrap();
        let again = ask(stream, &format!("GET {path}"), &format!("If-None-Match: {tag}\r\n"), "").await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
    }
    assert_eq!(get(address, "/page/nothing.js").await.status, 404);
    for path in ["//", "/page", "/tidemill/models"] {
        assert_eq!(get(address, path).await.status, 401, "{path}");
    }

    let [narrow, wide, measuring] = &all;
    let list = json(&ask_with_key(address, narrow.secret(), LIST, "").await);
    let version = json!([{"version": "3", "state": "ready"}]);
    let model =
        json!({"name": "length", "task": "text-classification", "labels": ["short", "long"], "versions": version});
    assert_eq!(list["models"], json!([model]));
    assert_eq!(list["may"], json!({"infer": true, "metrics": false, "admin": false}));
    assert_eq!(list["ready"], true);
    let list = json(&ask_with_key(address, wide.secret(), LIST, "").await);
    assert_eq!(list["models"].as_array().unwrap().len(), 2);
    assert_eq!(list["may"], json!({"infer": true, "metrics": false, "admin": true}));
    let list = json(&ask_with_key(address, measuring.secret(), LIST, "").await);
    assert_eq!(list["models"], json!([]));
    assert_eq!(list["may"], json!({"infer": false, "metrics": true, "admin": false}));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_says_what_models_are_for_and_how_it_stands_with_their_versions() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, version: u64| {
        packages::write_package(&folder.path().join(name).join(version.to_string()), name, version).unwrap();
    };
    for (name, version) in [("films", 9), ("films", 10), ("broken", 1), ("resting", 1)] {
        put(name, version);
    }
    std::fs::write(folder.path().join("broken/1/model.safetensors"), b"no weights").unwrap();
    let repository = RepositoryConfig {
        path: folder.path().to_owned(),
        load: Some(["films".to_owned(), "broken".to_owned()].into()),
        versions: tidemill_serve::VersionPolicy::All,
        ..RepositoryConfig::default()
    };
    let config = ServerConfig { repository: Some(repository), threads: Some(1), ..ServerConfig::default() };
    let server = start(config, vec![ModelSource::path(ModelPath::from("echo=builtin:identity"))]).await;

    let list = json(&get(server.address, "/tidemill/models").await);
    let said = |name: &str| {
        let mut models = list["models"].as_array().unwrap().iter();
        let model = models.find(|model| model["name"] == name).unwrap();
        let versions = model["versions"].as_array().unwrap().iter();
        let versions: Vec<String> =
            versions.map(|v| format!("{} {}", v["version"], v["state"]).replace('"', "")).collect();
        (model["task"].as_str().unwrap_or_default().to_owned(), versions.join(", "))
    };
    let expected = |task: &str, versions: &str| (task.to_owned(), versions.to_owned());
    assert_eq!(said("films"), expected("text-classification", "9 ready, 10 ready"));
    assert_eq!(said("broken"), expected("", "1 unavailable"));
    assert_eq!(said("resting"), expected("", ""));
    assert_eq!(said("echo"), expected("identity", "1 ready"));
    assert!(!list.to_string().contains(&folder.path().display().to_string()), "{list}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_keys_is_not_asked_by_a_name_that_any_site_could_have() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    for path in ["GET /", LIST, "GET /v1/models", "GET /metrics"] {
        for (host, status) in [("localhost:1", 200), ("127.0.0.1", 200), ("models", 200), ("site.example.com", 403)] {
            assert_eq!(ask_host(&server, path, host).await, status, "{path} of {host}");
        }
    }
    server.stop().await.unwrap();
    let config = ServerConfig { allow_anyone: true, ..ServerConfig::default() };
    let server = start(config, vec![by_length_source("length")]).await;
    assert_eq!(ask_host(&server, LIST, "site.example.com").await, 200);
    server.stop().await.unwrap();
}
