//! Shadow traffic as callers and their operator meet it: nobody gets its answers, and what came of them is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code)]

#[path = "support/http.rs"]
mod http;
#[path = "support/packages.rs"]
mod packages;
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use packages::{TEXTS, write_package};
use support::{Running, SERVING, start, texts};
use tidemill_proto::inference::ModelStatisticsRequest;
use tidemill_proto::v1::ClassifyRequest;
use tidemill_serve::{RepositoryConfig, RepositoryModelConfig, ServerConfig, ShadowConfig};

fn put(root: &Path, version: u64, seed: u64) {
    write_package(&root.join("films").join(version.to_string()), "films", seed).unwrap();
}

async fn serve(root: &Path, share: f64) -> Running {
    let films = RepositoryModelConfig { shadow: Some(ShadowConfig { version: 2, share }), ..Default::default() };
    let repository = RepositoryConfig {
        path: root.to_owned(),
        models: BTreeMap::from([("films".to_owned(), films)]),
        ..RepositoryConfig::default()
    };
    start(ServerConfig { repository: Some(repository), threads: Some(1), ..ServerConfig::default() }, Vec::new()).await
}

/// The version that answered, and the most probable labels.
async fn classify(server: &Running, version: &str) -> (String, Vec<String>) {
    let request = ClassifyRequest { model_version: version.to_owned(), ..texts("films", &TEXTS) };
    let answer = server.typed().classify(request).await.unwrap().into_inner();
    (answer.model_version, answer.classifications.into_iter().map(|text| text.labels[0].label.clone()).collect())
}

async fn count(server: &Running, outcome: &str) -> u64 {
    let name = format!("tidemill_shadow_requests_total{{model=\"films\",version=\"2\",outcome=\"{outcome}\"}} ");
    let metrics = http::get(server.address, "/metrics").await.body;
    metrics.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap().parse().unwrap()
}

/// Requests that were compared, once as many as there should be were, and how many of them agreed.
async fn compared(server: &Running, expected: u64) -> u64 {
    for _ in 0..500 {
        let (agreed, differed) = (count(server, "agreed").await, count(server, "differed").await);
        if agreed + differed == expected {
            return agreed;
        }
        assert!(agreed + differed < expected, "{agreed} and {differed}, not {expected}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{expected} requests are not compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_answers_and_the_shadow_is_compared_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), 1, 1);
    put(folder.path(), 2, 1);
    let server = serve(folder.path(), 1.0).await;
    for _ in 0..20 {
        assert_eq!(classify(&server, "").await.0, "1");
    }
    assert_eq!(compared(&server, 20).await, 20);
    let request = ModelStatisticsRequest { name: "films".into(), version: "2".into() };
    let statistics = server.open().model_statistics(request).await.unwrap().into_inner();
    assert_eq!(statistics.model_stats[0].inference_stats.as_ref().unwrap().success.as_ref().unwrap().count, 20);
    // By its number it is asked as any other, and no shadow of itself.
    assert_eq!(classify(&server, "2").await.0, "2");
    assert_eq!(classify(&server, "1").await.0, "1");
    assert_eq!(compared(&server, 20).await, 20);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_weights_agree_where_their_labels_do_and_a_share_is_a_share() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), 1, 1);
    put(folder.path(), 2, 9);
    let server = serve(folder.path(), 0.5).await;
    let is_same = classify(&server, "1").await.1 == classify(&server, "2").await.1;
    for _ in 0..60 {
        assert_eq!(classify(&server, "").await.0, "1");
    }
    let mut asked = 0;
    for _ in 0..500 {
        asked = count(&server, "agreed").await + count(&server, "differed").await;
        if asked >= 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Half of 60; that fewer than ten or more than fifty are asked has a probability below one in ten million.
    assert!((10..=50).contains(&asked), "{asked}");
    assert!(!is_same, "the two seeds were chosen to differ");
    assert_eq!(count(&server, "agreed").await, 0);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_shadow_takes_nothing_down() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), 1, 1);
    put(folder.path(), 2, 1);
    std::fs::write(folder.path().join("films/2/model.safetensors"), b"cut").unwrap();
    let server = serve(folder.path(), 1.0).await;
    assert_eq!(classify(&server, "").await.0, "1");
    assert_eq!(server.health("films").await.unwrap(), SERVING);
    assert_eq!(http::get(server.address, "/readyz").await.status, 200);
    server.stop().await.unwrap();
}
