//! Fifty thousand malformed messages, over many short connections, to everything that the server answers: each has an
//! answer, nothing panics, and afterwards every model answers as before.
//!
//! `TIDEMILL_MALFORMED` sets how many there are; each depends on its number alone, which a failure names.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod valid;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidemill_tests::{Answer, Server, Wire, checkpoint, encoder, lengthened, small_recipe, train_sentiment};
use tokio::task::JoinSet;
use valid::{Body, Valid};

/// Callers at once, and how many messages each sends by a connection before it takes another.
const CALLERS: u64 = 8;
const A_CONNECTION: u64 = 50;

/// The whole of a malformed request: path, head and body.
struct Malformed {
    path: String,
    head: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn malformed(valid: &[Valid], number: u64) -> Malformed {
    let mut random = ChaCha8Rng::seed_from_u64(number);
    let Valid { path, head, body } = &valid[random.random_range(0..valid.len())];
    let other = match &valid[random.random_range(0..valid.len())].body {
        Body::Grpc(message) => message.clone(),
        Body::Json(json) | Body::Binary { json, .. } => json.to_string().into_bytes(),
    };
    let is_grpc = matches!(body, Body::Grpc(_));
    let body = match body {
        Body::Grpc(message) => {
            let message = damage::bytes(message, &other, &mut random);
            damage::framed(&message, &mut random)
        }
        Body::Json(json) if random.random_bool(0.7) => damage::value(json, &mut random).to_string().into_bytes(),
        Body::Json(json) => damage::bytes(json.to_string().as_bytes(), &other, &mut random),
        Body::Binary { json, tensor } if random.random_bool(0.7) => {
            // Of the same length in the head, whatever it has become.
            [damage::value(json, &mut random).to_string().as_bytes(), tensor].concat()
        }
        Body::Binary { json, tensor } => {
            damage::bytes(&[json.to_string().as_bytes(), tensor].concat(), &other, &mut random)
        }
    };
    let content_type = match random.random_range(0..100) {
        0 => "text/plain",
        _ if is_grpc => "application/grpc",
        _ => "application/json",
    };
    let mut head = head.clone();
    head.push(("content-type", content_type.to_owned()));
    Malformed { path: path.clone(), head, body }
}

async fn send(wire: &Wire, number: u64, request: Malformed) -> Answer {
    let Malformed { path, head, body } = request;
    let head: Vec<(&str, &str)> = head.iter().map(|(name, value)| (*name, value.as_str())).collect();
    match wire.ask(&path, &head, body.into()).await {
        Ok(answer) => answer,
        Err(error) => panic!("message {number} to {path} has no answer: {error}"),
    }
}

fn server(folder: &std::path::Path, log: &std::path::Path) -> Server {
    train_sentiment(folder, 120, &small_recipe(""));
    encoder(&folder.join("encoder"));
    lengthened("qwen2", &folder.join("chat"), 160);
    std::fs::create_dir(folder.join("models")).unwrap();
    // What is malformed may still be understood, and asked to take long.
    let config = "max_request_time = \"3s\"\nmax_generation_time = \"3s\"\nmax_stream_idle = \"3s\"\nshared_memory = true\n\
                  threads = 1\n[admin]\nenabled = true\n[repository]\npath = \"models\"\n";
    std::fs::write(folder.join("server.toml"), config).unwrap();
    let t5 = checkpoint("t5");
    let models = ["--config", "server.toml", "run/package", "encoder", "chat", &t5, "echo=builtin:identity"];
    Server::logged(folder, &models, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_malformed_messages_are_answered_without_a_panic() {
    let count = std::env::var("TIDEMILL_MALFORMED").map_or(50_000, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let server = server(folder.path(), &log);
    let valid = Arc::new(valid::all());
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (address, valid, next) = (server.address.clone(), Arc::clone(&valid), Arc::clone(&next));
        callers.spawn(async move {
            let mut answers: BTreeMap<(u16, Option<u16>), u64> = BTreeMap::new();
            loop {
                let first = next.fetch_add(A_CONNECTION, Ordering::Relaxed);
                if first >= count {
                    return answers;
                }
                let wire = Wire::open(&address).await;
                for number in first..first + A_CONNECTION {
                    let answer = send(&wire, number, malformed(&valid, number)).await;
                    *answers.entry((answer.status, answer.grpc_status)).or_default() += 1;
                }
            }
        });
    }
    let mut answers: BTreeMap<(u16, Option<u16>), u64> = BTreeMap::new();
    while let Some(caller) = callers.join_next().await {
        caller.unwrap().into_iter().for_each(|(answer, count)| *answers.entry(answer).or_default() += count);
    }
    println!("{answers:?}");
    // Most are refused; some are valid all the same.
    assert!(answers.len() >= 8, "{answers:?}");

    for request in valid.iter() {
        let (body, kind) = match &request.body {
            Body::Grpc(message) => {
                ([&[0], &(message.len() as u32).to_be_bytes()[..], message].concat(), "application/grpc")
            }
            Body::Json(json) => (json.to_string().into_bytes(), "application/json"),
            Body::Binary { json, tensor } => ([json.to_string().as_bytes(), tensor].concat(), "application/json"),
        };
        let head = request.head.iter().map(|(name, value)| (*name, value.as_str()));
        let head: Vec<(&str, &str)> = head.chain([("content-type", kind)]).collect();
        let answer = Wire::open(&server.address).await.ask(&request.path, &head, body.into()).await.unwrap();
        let is_internal = answer.grpc_status == Some(13) || answer.status == 500;
        assert!(!is_internal, "{}: {answer:?}", request.path);
    }
    is_well(server, &log);
}

#[test]
fn bytes_that_are_no_protocol_at_all_harm_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let server = Server::logged(folder.path(), &["echo=builtin:identity"], &log);
    let body = r#"{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]}"#;
    let http1 = format!(
        "POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nAccept: */*\r\n\r\n{body}",
        body.len()
    );
    // The preface, SETTINGS, and HEADERS and DATA of a stream.
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    http2.extend(b"\0\0\x0d\x01\x04\0\0\0\x01\x83\x86\x41\x01x\x04\x07/v2/abc\0\0\x04\0\x01\0\0\0\x01tide");
    for number in 0..1500 {
        let mut random = ChaCha8Rng::seed_from_u64(number);
        let (from, other) =
            if number % 2 == 0 { (http1.as_bytes(), &http2[..]) } else { (&http2[..], http1.as_bytes()) };
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // A server that has seen enough may close before it has read all.
        let _ = stream.write_all(&damage::bytes(from, other, &mut random));
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "connection {number} is not closed");
        }
    }
    assert!(server.get("/v2/health/live").starts_with("HTTP/1.1 200"));
    is_well(server, &log);
}

/// Ready, with nothing left open, without a panic so far, and able to end.
fn is_well(server: Server, log: &std::path::Path) {
    assert!(server.get("/readyz").starts_with("HTTP/1.1 200"));
    server.until_zero("tidemill_open_requests", Duration::from_secs(10));
    server.terminate();
    assert_eq!(server.wait(Duration::from_secs(30)), Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}
