//! Streams of requests, against the servers of `calls.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use support::{Failing, Plan, classify};
use tidemill_client::v1::ClassifyStreamRequest;
use tidemill_client::{Client, ClientError, ClientOptions, Code};
use tokio::sync::mpsc::{Receiver, channel};
use tonic::Status;

fn request(id: &str) -> ClassifyStreamRequest {
    ClassifyStreamRequest { id: id.to_owned(), request: Some(classify()) }
}

fn received(receiver: Receiver<ClassifyStreamRequest>) -> impl Stream<Item = ClassifyStreamRequest> + Send {
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|request| (request, receiver)))
}

async fn client(plan: Plan) -> (Client, Failing) {
    let server = Failing::start(plan).await;
    (Client::connect(&server.address, ClientOptions::default()).await.unwrap(), server)
}

#[tokio::test]
async fn requests_are_answered_while_the_stream_is_written_and_it_ends_with_them() {
    let (client, server) = client(Plan::refuse(0, || Status::ok(""))).await;
    let (sender, receiver) = channel(1);
    let mut answers = client.classify_stream(received(receiver)).await.unwrap();
    for id in ["a", "b", "c"] {
        sender.send(request(id)).await.unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap().id, id);
    }
    drop(sender);
    assert!(answers.next().await.is_none());
    assert_eq!(server.seen()[0]["x-request-id"].len(), 32);
}

#[tokio::test]
async fn a_stream_of_requests_is_sent_once() {
    let (client, server) = client(Plan::refuse(1, || Status::unavailable("starting"))).await;
    let error = client.classify_stream(stream::iter([request("a")])).await.unwrap_err();
    assert_eq!((error.code(), error.tries(), server.seen().len()), (Code::Unavailable, 1, 1));
}

#[tokio::test]
async fn what_breaks_a_stream_of_requests_off_is_its_last_answer() {
    let (client, _server) = client(Plan { breaks_off: true, ..Plan::refuse(0, || Status::ok("")) }).await;
    let requests = stream::iter([request("a"), request("b")]).chain(stream::pending());
    let mut answers = client.classify_stream(requests).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().id, "a");
    assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_stream_of_requests_ends_at_its_deadline() {
    let (client, _server) = client(Plan::refuse(0, || Status::ok(""))).await;
    let requests = stream::iter([request("a")]).chain(stream::pending());
    let mut answers = client.with_deadline(Duration::from_millis(200)).classify_stream(requests).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().id, "a");
    let error = answers.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::DeadlineExceeded { .. }), "{error}");
}

#[tokio::test]
async fn dropping_the_answers_gives_the_requests_up() {
    let (client, _server) = client(Plan::refuse(0, || Status::ok(""))).await;
    let held = Arc::new(());
    let requests = stream::iter([request("a")]).chain(stream::pending()).map({
        let held = Arc::clone(&held);
        move |request| {
            let _ = &held;
            request
        }
    });
    let mut answers = client.classify_stream(requests).await.unwrap();
    answers.next().await.unwrap().unwrap();
    assert_eq!(Arc::strong_count(&held), 2);
    drop(answers);
    let given_up = async {
        while Arc::strong_count(&held) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), given_up).await.expect("the call is cancelled");
}
