//! Calls against servers in this process that fail on purpose and count what reaches them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use support::{Failing, Plan, chat, classify};
use tidemill_client::{Client, ClientError, ClientOptions, Code, RetryPolicy};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

fn options() -> ClientOptions {
    let retry = RetryPolicy { first_pause: Duration::from_millis(4), ..RetryPolicy::default() };
    ClientOptions { retry, ..ClientOptions::default() }
}

fn full(pause: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(pause));
    Status::with_error_details(Code::ResourceExhausted, "full", details)
}

#[tokio::test]
async fn what_may_pass_is_tried_again_under_one_id_until_it_is_answered() {
    let server = Failing::start(Plan::refuse(2, || Status::unavailable("starting"))).await;
    let options = ClientOptions { api_key: Some("k-1".into()), ..options() };
    let client = Client::connect(&server.address, options).await.unwrap();
    let answer = client.classify(classify()).await.unwrap();
    assert_eq!(answer.model, "m");
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    let header = |name: &str| seen.iter().map(|head| head.get(name).cloned()).collect::<Vec<_>>();
    assert_eq!(header("authorization"), vec![Some("Bearer k-1".to_owned()); 3]);
    assert_eq!(header("grpc-previous-rpc-attempts"), [None, Some("1".to_owned()), Some("2".to_owned())]);
    let ids = header("x-request-id");
    assert!(ids[0].as_ref().is_some_and(|id| id.len() == 32) && ids.iter().all(|id| *id == ids[0]), "{ids:?}");

    client.with_request_id("mine").unwrap().classify(classify()).await.unwrap();
    assert_eq!(server.seen()[3]["x-request-id"], "mine");
}

#[tokio::test]
async fn tries_are_counted_and_other_codes_are_final() {
    let server = Failing::start(Plan::refuse(9, || Status::unavailable("starting"))).await;
    let client = Client::connect(&server.address, options()).await.unwrap();
    let error = client.classify(classify()).await.unwrap_err();
    assert_eq!((error.code(), error.tries(), server.seen().len()), (Code::Unavailable, 4, 4));
    assert!(error.to_string().contains("starting") && error.to_string().contains("4 tries"), "{error}");

    for status in [|| Status::invalid_argument("x"), || Status::internal("x"), || Status::resource_exhausted("large")] {
        let server = Failing::start(Plan::refuse(9, status)).await;
        let client = Client::connect(&server.address, options()).await.unwrap();
        let error = client.classify(classify()).await.unwrap_err();
        assert_eq!((error.code(), server.seen().len()), (status().code(), 1));
    }
}

#[tokio::test]
async fn a_full_server_is_asked_again_when_it_said() {
    let pause = Duration::from_millis(120);
    let server = Failing::start(Plan::refuse(1, move || full(pause))).await;
    let client = Client::connect(&server.address, options()).await.unwrap();
    let started = Instant::now();
    client.classify(classify()).await.unwrap();
    assert!(started.elapsed() >= pause, "{:?}", started.elapsed());
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn nothing_is_tried_again_beyond_the_deadline() {
    let server = Failing::start(Plan::refuse(9, || full(Duration::from_secs(5)))).await;
    let client = Client::connect(&server.address, options()).await.unwrap();
    let started = Instant::now();
    let error = client.with_deadline(Duration::from_secs(2)).classify(classify()).await.unwrap_err();
    assert_eq!((error.code(), server.seen().len()), (Code::ResourceExhausted, 1), "the last word of the server");
    assert!(started.elapsed() < Duration::from_secs(1), "a pause that ends too late is not begun");
}

#[tokio::test]
async fn one_deadline_is_kept_over_all_tries_and_told_to_the_server() {
    let slow = Plan { delay: Duration::from_millis(80), ..Plan::refuse(9, || Status::unavailable("starting")) };
    let server = Failing::start(slow).await;
    let client = Client::connect(&server.address, options()).await.unwrap();
    let started = Instant::now();
    let error = client.with_deadline(Duration::from_millis(200)).classify(classify()).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(matches!(error, ClientError::DeadlineExceeded { tries: 3, .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
    let left: Vec<u64> = server.seen().iter().map(|head| micros(&head["grpc-timeout"])).collect();
    assert!(left[0] <= 200_000 && left.windows(2).all(|two| two[1] + 79_000 < two[0]), "{left:?}");
}

/// A `grpc-timeout` in microseconds.
fn micros(timeout: &str) -> u64 {
    let (count, unit) = timeout.split_at(timeout.len() - 1);
    let count: u64 = count.parse().unwrap();
    match unit {
        "n" => count / 1000,
        "u" => count,
        "m" => count * 1000,
        _ => panic!("{timeout}"),
    }
}

#[tokio::test]
async fn pieces_come_as_they_are_written() {
    let server = Failing::start(Plan::refuse(1, || Status::unavailable("starting"))).await;
    let client = Client::connect(&server.address, options()).await.unwrap();
    let pieces = client.chat_stream(chat()).await.unwrap();
    let words: Vec<String> = pieces.map(|piece| piece.unwrap().content).collect().await;
    assert_eq!(words, ["one ", "two ", "three"]);
    assert_eq!(server.seen().len(), 2, "before its first message a stream is tried again");
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_not_begun_again() {
    let plan = Plan { breaks_off: true, ..Plan::refuse(0, || Status::ok("")) };
    let server = Failing::start(plan).await;
    let client = Client::connect(&server.address, options()).await.unwrap();
    let mut pieces = client.chat_stream(chat()).await.unwrap();
    assert_eq!(pieces.next().await.unwrap().unwrap().content, "one ");
    let error = pieces.next().await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.tries()), (Code::Unavailable, 1));
    assert!(pieces.next().await.is_none());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let plan = Plan { delay: Duration::from_millis(300), ..Plan::refuse(0, || Status::ok("")) };
    let server = Failing::start(plan).await;
    let client = Client::connect(&server.address, options()).await.unwrap();
    let mut pieces = client.with_deadline(Duration::from_millis(450)).chat_stream(chat()).await.unwrap();
    let mut count = 0;
    let error = loop {
        match pieces.next().await.unwrap() {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((count, error.code()), (1, Code::DeadlineExceeded), "{error}");
}

#[tokio::test]
async fn the_pool_bounds_what_is_open_and_waiting_counts() {
    let plan = Plan { delay: Duration::from_millis(300), ..Plan::refuse(0, || Status::ok("")) };
    let server = Failing::start(plan).await;
    let options = ClientOptions { max_open: 2, connections: 2, ..options() };
    let client = Client::connect(&server.address, options).await.unwrap();
    let held: Vec<_> = (0..2)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { client.classify(classify()).await }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = client.with_deadline(Duration::from_millis(50)).classify(classify()).await.unwrap_err();
    assert!(matches!(error, ClientError::DeadlineExceeded { tries: 0, .. }), "{error}");
    assert_eq!(server.seen().len(), 2);
    assert_eq!(server.connections(), 2, "calls take turns");
    for call in held {
        call.await.unwrap().unwrap();
    }
    client.classify(classify()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_anew() {
    let server = Failing::start(Plan { drop_connections: 1, ..Plan::refuse(0, || Status::ok("")) }).await;
    let client = Client::lazy(&server.address, options()).unwrap();
    client.classify(classify()).await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn no_server_is_a_sentence() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = Client::connect(&free, options()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("no server answers at {free}: ")), "{error}");
    let error = Client::lazy(&free, options()).unwrap().classify(classify()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}
