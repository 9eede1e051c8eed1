//! A repository at a URL, as a user of the program has it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::{Duration, Instant};

use tidemill_proto::v1::generation_client::GenerationClient;
use tidemill_proto::v1::{GenerateRequest, Sampling, generate_request};
use tidemill_tests::{Server, checkpoint, start, tidemill};
use tonic::transport::Channel;

fn put(models: &Path, version: &str) {
    let target = models.join("chat").join(version);
    std::fs::create_dir_all(&target).unwrap();
    for entry in std::fs::read_dir(checkpoint("qwen2")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
    }
}

async fn version(channel: &Channel) -> String {
    let request = GenerateRequest {
        input: Some(generate_request::Input::Prompt("The tide".to_owned())),
        sampling: Some(Sampling { max_tokens: Some(4), ..Sampling::default() }),
        ..GenerateRequest::default()
    };
    GenerationClient::new(channel.clone()).generate(request).await.unwrap().into_inner().model_version
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_at_a_file_url_is_copied_to_the_users_cache_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (models, cache) = (folder.path().join("models"), folder.path().join("cache"));
    put(&models, "1");
    let toml =
        format!("[repository]\npath = \"file://{}\"\nmode = \"poll\"\npoll_interval = \"100ms\"\n", models.display());
    std::fs::write(folder.path().join("server.toml"), toml).unwrap();
    let mut command = start(folder.path(), &["serve", "--json", "--address", "127.0.0.1:0", "--config", "server.toml"]);
    let server = Server::of(command.env("XDG_CACHE_HOME", &cache));
    let channel = server.channel().await;
    assert_eq!(version(&channel).await, "1");
    assert!(cache.join("tidemill/repositories").is_dir());

    put(&folder.path().join("new"), "2");
    std::fs::rename(folder.path().join("new/chat/2"), models.join("chat/2")).unwrap();
    let began = Instant::now();
    while version(&channel).await != "2" {
        assert!(began.elapsed() < Duration::from_secs(60), "version 2 is not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.terminate();
    assert_eq!(server.wait(Duration::from_secs(30)), Some(0));
}

#[test]
fn a_url_that_is_no_place_is_refused_without_what_it_hides() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["s3://id:hidden@bucket/models", "ftp://hidden/models"] {
        let finished = tidemill(folder.path(), &["serve", "--repository", url, "--address", "127.0.0.1:0"]);
        assert_eq!(finished.code, 2, "{}", finished.stderr);
        let said = finished.stderr;
        assert!(said.contains("repository.path") && !said.contains("hidden"), "{said}");
    }
}
