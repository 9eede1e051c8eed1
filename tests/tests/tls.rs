//! TLS and mutual TLS from the caller's side: the program's commands and the client crate against a server that speaks it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use futures::{StreamExt as _, stream};
use tidemill_client::v1::classify_stream_response::Outcome;
use tidemill_client::v1::{ClassifyRequest, ClassifyStreamRequest};
use tidemill_client::{Client, ClientError, ClientOptions, RetryPolicy, Tls};
use tidemill_tests::certificates::Authority;
use tidemill_tests::{Server, reviews, small_recipe, tidemill};

/// A folder with a trained package, and a server of it that wants callers' certificates. `ca.pem` is the authority of all
/// certificates, `mine.pem` a caller's.
fn served() -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("reviews.tsv", &reviews(120));
    write("recipe.toml", &small_recipe(""));
    tidemill(folder.path(), &["train", "recipe.toml", "--output", "run"]).success();
    let authority = Authority::new();
    write("ca.pem", &authority.pem());
    write("other-ca.pem", &Authority::new().pem());
    for (name, host) in [("server", "localhost"), ("mine", "caller")] {
        let identity = authority.sign(host);
        write(&format!("{name}.pem"), &identity.certificate);
        write(&format!("{name}-key.pem"), &identity.key);
    }
    let tls = ["--tls-certificate", "server.pem", "--tls-key", "server-key.pem", "--tls-client-ca", "ca.pem"];
    let server = Server::start(folder.path(), &[&["run/package"], &tls[..]].concat());
    (folder, server)
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_the_client_speak_it() {
    let (folder, server) = served();
    let folder = folder.path();
    let address = format!("https://{}", server.address.replace("127.0.0.1", "localhost"));
    let mine = ["--ca", "ca.pem", "--tls-certificate", "mine.pem", "--tls-key", "mine-key.pem"];
    let run = |command: &[&str], tls: &[&str]| tidemill(folder, &[command, tls].concat());

    assert_eq!(run(&["health", &address], &mine).success().stdout, "ready\n");
    let predicted = run(&["predict", "--address", &address, "a dull plot"], &mine).success().stdout;
    assert!(predicted.contains("a dull plot"), "{predicted}");
    let short = ["bench", &address, "--requests", "20", "--warm-up", "0", "--json"];
    assert_eq!(run(&short, &mine).success().json()["runs"][0]["answered"], 20);

    // Whom the caller does not believe, and who does not believe the caller.
    let elsewhere = [&mine[..], &["--server-name", "elsewhere"]].concat();
    for tls in [vec!["--ca", "other-ca.pem"], vec!["--ca", "ca.pem"], elsewhere] {
        let refused = run(&["health", &address], &tls);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{tls:?}: {}", refused.stderr);
    }
    let unnamed = run(&["health", &address], &[]);
    assert!(unnamed.code == 2 && unnamed.stderr.contains("--ca FILE"), "{}", unnamed.stderr);
    let wrong = run(&["health", &address], &["--ca", "mine-key.pem"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("mine-key.pem"), "{}", wrong.stderr);

    let tls = Tls::trusting(&read(folder, "ca.pem")).unwrap();
    let tls = tls.with_identity(&read(folder, "mine.pem"), &read(folder, "mine-key.pem")).unwrap();
    let options = ClientOptions { tls: Some(tls), retry: RetryPolicy::NEVER, ..ClientOptions::default() };
    // By its number, and for the name that its certificate has.
    let named = options.tls.clone().map(|tls| tls.with_server_name("localhost").unwrap());
    let client = Client::connect(&server.address, ClientOptions { tls: named, ..options.clone() }).await.unwrap();
    let request = |id: &str, texts: &[&str]| ClassifyStreamRequest {
        id: id.to_owned(),
        request: Some(ClassifyRequest {
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            ..ClassifyRequest::default()
        }),
    };
    let requests =
        [request("1", &["a dull plot"]), request("2", &[]), request("3", &["a superb cast", "an awful score"])];
    let answers: Vec<_> = client.classify_stream(stream::iter(requests)).await.unwrap().collect().await;
    let told: Vec<_> = answers
        .into_iter()
        .map(|answer| {
            let answer = answer.unwrap();
            let found = match answer.outcome.unwrap() {
                Outcome::Response(response) => Ok(response.classifications.len()),
                Outcome::Error(status) => Err(status.code),
            };
            (answer.id, found)
        })
        .collect();
    assert_eq!(told, [("1".to_owned(), Ok(1)), ("2".to_owned(), Err(3)), ("3".to_owned(), Ok(2))]);

    let error = Client::connect(&server.address, options).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { reason, .. } if reason.contains("not valid for")), "{error}");
}

#[test]
fn health_is_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["echo=builtin:identity"]);
    assert_eq!(tidemill(folder.path(), &["health", &server.address, "--json"]).success().json()["ready"], true);
    let address = server.address.clone();
    drop(server);
    let gone = tidemill(folder.path(), &["health", &address]);
    assert!(gone.code == 1 && gone.stderr.contains("no server answers"), "{}", gone.stderr);
}
