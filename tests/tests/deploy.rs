//! What `docs/deploy` ships is true: its configurations start a server, its commands are the program's, and its dashboard and
//! alerts name what a server measures and `docs/SERVING.md` explains.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::Path;

use tidemill_proto::v1::generation_client::GenerationClient;
use tidemill_proto::v1::{GenerateRequest, Sampling, generate_request};
use tidemill_tests::certificates::Authority;
use tidemill_tests::{Server, checkpoint, repository, tidemill};

fn shipped(file: &str) -> String {
    std::fs::read_to_string(repository().join("docs").join(file)).unwrap()
}

/// Starts a server on a configuration whose places are a test's, and asks whether it is ready.
fn starts(configuration: &str, places: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    let identity = authority.sign("localhost");
    for (name, text) in [("ca.pem", authority.pem()), ("cert.pem", identity.certificate), ("key.pem", identity.key)] {
        std::fs::write(path(name), text).unwrap();
    }
    std::fs::write(path("keys.toml"), tidemill(folder.path(), &["key", "new", "team"]).success().stdout).unwrap();
    copy(checkpoint("qwen2").as_ref(), &path("models/chat/1"));
    let mut written = configuration.to_owned();
    for (place, here) in places {
        assert!(written.contains(place), "{place} is not in the configuration");
        written = written.replace(place, here);
    }
    std::fs::write(path("server.toml"), written).unwrap();
    let server = Server::start(folder.path(), &["--config", "server.toml"]);
    let address = format!("https://{}", server.address.replace("127.0.0.1", "localhost"));
    tidemill(folder.path(), &["health", &address, "--ca", "ca.pem"]).success();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn the_sample_configuration_starts_a_server() {
    let places = [("/var/lib/tidemill/models", "models"), ("127.0.0.1:8081", "127.0.0.1:0")];
    starts(&shipped("deploy/server.toml"), &places);
}

#[test]
fn the_configuration_in_the_manifest_starts_a_server() {
    let manifest = shipped("deploy/kubernetes.yaml");
    let (_, rest) = manifest.split_once("  server.toml: |\n").unwrap();
    let lines: Vec<&str> =
        rest.lines().map_while(|line| line.strip_prefix("    ").or(line.is_empty().then_some(""))).collect();
    let places = [
        ("/etc/tidemill/keys/keys.toml", "keys.toml"),
        ("/etc/tidemill/tls/tls.crt", "cert.pem"),
        ("/etc/tidemill/tls/tls.key", "key.pem"),
        ("\"/models\"", "\"models\""),
    ];
    starts(&lines.join("\n"), &places);
}

/// The words of a list as JSON and YAML write it in one line.
fn words(list: &str) -> Vec<String> {
    let list = list.trim().trim_start_matches('[').trim_end_matches(']');
    list.split(", ").map(|word| word.trim_matches('"').to_owned()).collect()
}

#[test]
fn every_command_is_the_programs_own() {
    let mut commands: Vec<(&str, Vec<String>)> = Vec::new();
    for line in shipped("deploy/tidemill.service").lines() {
        if let Some(command) = line.strip_prefix("ExecStart=/usr/local/bin/tidemill ") {
            commands.push(("tidemill.service", command.split_whitespace().map(str::to_owned).collect()));
        }
    }
    for line in shipped("deploy/Dockerfile").lines() {
        if let Some((_, health)) = line.split_once("CMD [\"tidemill\", ") {
            commands.push(("Dockerfile", words(health)));
        } else if let Some(command) = line.strip_prefix("CMD ") {
            commands.push(("Dockerfile", words(command)));
        }
    }
    for file in ["kubernetes.yaml", "kserve.yaml"] {
        for line in shipped(&format!("deploy/{file}")).lines() {
            if let Some(arguments) = line.trim().strip_prefix("args: ") {
                commands.push((file, words(arguments)));
            }
        }
    }
    let files: Vec<&str> = commands.iter().map(|(file, _)| *file).collect();
    let expected = ["tidemill.service", "Dockerfile", "Dockerfile", "kubernetes.yaml", "kserve.yaml", "kserve.yaml"];
    assert_eq!(files, expected);
    for (file, command) in commands {
        // What comes before it is read first: an option that is not there is an error.
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let read = tidemill(Path::new("."), &arguments);
        assert_eq!(read.code, 0, "{file}: {command:?}: {}", read.stderr);
    }
}

/// The metrics that a text names, as the server declares them: a histogram without its endings.
fn named(text: &str, declared: &BTreeSet<String>) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_word(c)).filter(|word| word.contains('_'));
    let metrics = words.filter(|word| word.starts_with("tidemill_") || word.starts_with("process_"));
    let base = |word: &str| {
        let endings = ["_bucket", "_sum", "_count"];
        let histogram =
            endings.iter().find_map(|ending| word.strip_suffix(ending).filter(|base| declared.contains(*base)));
        histogram.unwrap_or(word).to_owned()
    };
    metrics.map(base).collect()
}

/// The queries of a dashboard.
fn queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if ["expr", "definition"].contains(&name.as_str()) => found.push(text.to_owned()),
                    _ => queries(field, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

/// What a server declares at `/metrics` after it has answered and refused.
async fn declared() -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[&checkpoint("qwen2")]);
    let request = |top_p| GenerateRequest {
        input: Some(generate_request::Input::Prompt("The tide".to_owned())),
        sampling: Some(Sampling { max_tokens: Some(4), top_p: Some(top_p), ..Sampling::default() }),
        ..GenerateRequest::default()
    };
    let mut client = GenerationClient::new(server.channel().await);
    client.generate(request(1.0)).await.unwrap();
    client.generate(request(2.0)).await.unwrap_err();
    let mut socket = std::net::TcpStream::connect(&server.address).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let names = answer.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_name_what_a_server_measures_and_the_manual_explains() {
    let declared = declared().await;
    let dashboard: serde_json::Value = serde_json::from_str(&shipped("deploy/grafana.json")).unwrap();
    let mut shown = Vec::new();
    queries(&dashboard, &mut shown);
    let alerts = shipped("deploy/prometheus.yaml");
    let explained = named(&shipped("SERVING.md"), &declared);
    for (file, text) in [("grafana.json", shown.join("\n")), ("prometheus.yaml", alerts)] {
        let metrics = named(&text, &declared);
        assert!(metrics.len() > 5, "{file}: {metrics:?}");
        let unknown: Vec<_> = metrics.difference(&declared).collect();
        assert!(unknown.is_empty(), "{file} names what no server measures: {unknown:?}");
        let unexplained: Vec<_> = metrics.difference(&explained).collect();
        assert!(unexplained.is_empty(), "{file} names what docs/SERVING.md does not explain: {unexplained:?}");
    }
}
