//! The guarded server as its operator meets it: keys made and taken back, a configuration read again, an address that is
//! not open by mistake, and what systemd is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use tidemill_proto::v1::ClassifyRequest;
use tidemill_proto::v1::text_classification_client::TextClassificationClient;
use tidemill_tests::{Server, reviews, small_recipe, start, tidemill};
use tonic::{Code, Request};

/// A folder with a trained package in `run/package`.
fn trained() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reviews.tsv"), reviews(120)).unwrap();
    std::fs::write(folder.path().join("recipe.toml"), small_recipe("")).unwrap();
    tidemill(folder.path(), &["train", "recipe.toml", "--output", "run"]).success();
    folder
}

/// A key, and the entry of the file that knows it.
fn new_key(folder: &Path, arguments: &[&str]) -> (String, String) {
    let mut all = vec!["key", "new", "--json"];
    all.extend(arguments);
    let made = tidemill(folder, &all).success().json();
    (made["key"].as_str().unwrap().to_owned(), made["entry"].as_str().unwrap().to_owned())
}

async fn classify(server: &Server, key: &str, texts: usize) -> Code {
    let message = ClassifyRequest { texts: vec!["a dull plot".to_owned(); texts], ..ClassifyRequest::default() };
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    match TextClassificationClient::new(server.channel().await).classify(request).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// The next message to the supervisor that is not about being alive.
fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    loop {
        let read = socket.recv(&mut buffer).expect("the supervisor is told");
        let message = String::from_utf8_lossy(&buffer[..read]).into_owned();
        if message != "WATCHDOG=1" {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_bounds_are_read_again_at_sighup_and_the_supervisor_is_told() {
    let folder = trained();
    let path = |name: &str| folder.path().join(name);
    let (key, entry) = new_key(folder.path(), &["team", "--scope", "infer:sentiment"]);
    std::fs::write(path("keys.toml"), &entry).unwrap();
    std::fs::write(path("server.toml"), "keys = \"keys.toml\"\nmax_texts = 8\n").unwrap();
    let socket = UnixDatagram::bind(path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();

    let arguments = ["serve", "--json", "--address", "127.0.0.1:0", "--config", "server.toml", "run/package"];
    let mut command = start(folder.path(), &arguments);
    command.env("NOTIFY_SOCKET", path("notify")).env("WATCHDOG_USEC", "400000").env("RUST_LOG", "debug");
    let server = Server::of(command.stderr(File::create(path("log")).unwrap()));
    assert_eq!(told(&socket), "READY=1");
    assert_eq!(classify(&server, &key, 3).await, Code::Ok);
    assert_eq!(classify(&server, "tm_other", 3).await, Code::Unauthenticated);

    // Alive, and again.
    let mut buffer = [0; 64];
    for _ in 0..2 {
        let read = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"WATCHDOG=1");
    }

    let (next, entry) = new_key(folder.path(), &["next"]);
    std::fs::write(path("keys.toml"), &entry).unwrap();
    std::fs::write(path("server.toml"), "keys = \"keys.toml\"\nmax_texts = 2\nmax_batch_size = 5\n").unwrap();
    server.hang_up();
    assert!(told(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(&socket), "READY=1");
    assert_eq!(classify(&server, &key, 1).await, Code::Unauthenticated);
    assert_eq!(classify(&server, &next, 1).await, Code::Ok);
    assert_eq!(classify(&server, &next, 3).await, Code::InvalidArgument);

    // What is wrong changes nothing.
    std::fs::write(path("server.toml"), "max_textz = 9").unwrap();
    server.hang_up();
    assert!(told(&socket).starts_with("RELOADING=1"));
    assert_eq!(told(&socket), "READY=1");
    assert_eq!(classify(&server, &next, 2).await, Code::Ok);

    server.terminate();
    assert_eq!(told(&socket), "STOPPING=1");
    assert_eq!(server.wait(Duration::from_secs(30)), Some(0));
    let log = std::fs::read_to_string(path("log")).unwrap();
    assert!(log.contains("max_batch_size") && log.contains("need a restart"), "{log}");
    assert!(log.contains("max_textz"), "{log}");
    let hash = entry.split('"').nth(3).unwrap();
    for secret in [&key, &next, hash, "dull plot"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn an_address_that_others_reach_is_not_open_by_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let refused = tidemill(folder.path(), &["serve", "--address", "0.0.0.0:0", "absent"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--allow-anyone") && refused.stderr.contains("keys"), "{}", refused.stderr);
    // It goes as far as opening the model.
    let allowed = tidemill(folder.path(), &["serve", "--address", "0.0.0.0:0", "--allow-anyone", "absent"]);
    assert!(allowed.stderr.contains("absent"), "{}", allowed.stderr);
}

#[test]
fn a_key_is_printed_once_and_its_file_holds_no_more_than_a_hash() {
    let folder = tempfile::tempdir().unwrap();
    let made = tidemill(folder.path(), &["key", "new", "team", "--scope", "metrics", "--scope", "infer:a b"]).success();
    let key = made.stderr.split_whitespace().find(|word| word.starts_with("tm_")).expect("the key").to_owned();
    assert_eq!(key.len(), 3 + 43, "256 bits");
    assert!(made.stdout.starts_with("[[keys]]\nname = \"team\"\nhash = \""), "{}", made.stdout);
    assert!(made.stdout.contains("scopes = [\"metrics\", \"infer:a b\"]"), "{}", made.stdout);
    assert!(!made.stdout.contains(&key));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is stored");
    let wrong = tidemill(folder.path(), &["key", "new", "team", "--scope", "root"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("root") && wrong.stderr.contains("infer:MODEL"), "{}", wrong.stderr);
}
