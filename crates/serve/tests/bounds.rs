//! The server under stress, over a real socket: full, late, abandoned, broken, and told to stop.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use support::{NOT_SERVING, SERVING, by_length, by_length_source, info, start, texts};
use tidemill_proto::inference::{ModelReadyRequest, ServerReadyRequest};
use tidemill_proto::v1::text_classification_client::TextClassificationClient;
use tidemill_proto::v1::{ClassifyRequest, ClassifyStreamRequest};
use tidemill_serve::{ModelSource, ServerConfig};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// A model that works on a batch only when the test lets it, and notes what it was given.
struct Stepped {
    go: mpsc::Sender<()>,
    seen: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Stepped {
    fn source(name: &str) -> (Stepped, ModelSource) {
        let (go, wait) = mpsc::channel();
        let seen: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let source = ModelSource::classifier(info(name), move || {
            Ok(move |texts: &[&str]| {
                noted.lock().unwrap().push(texts.iter().map(|text| text.to_string()).collect());
                wait.recv()?;
                by_length(texts)
            })
        });
        (Stepped { go, seen }, source)
    }

    async fn wait_for_batches(&self, count: usize) {
        let started = Instant::now();
        while self.seen.lock().unwrap().len() < count {
            assert!(started.elapsed() < Duration::from_secs(10), "the model was not called");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Calls again for as long as the server has no room.
async fn persist(mut client: TextClassificationClient<Channel>, request: ClassifyRequest) {
    while let Err(status) = client.classify(request.clone()).await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Asks until the server is as full as the test has made it, and gives the refusal.
async fn refusal_when_full(mut client: TextClassificationClient<Channel>, request: ClassifyRequest) -> Status {
    loop {
        let mut request = Request::new(request.clone());
        request.set_timeout(Duration::from_millis(100));
        let status = client.classify(request).await.unwrap_err();
        if !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
            return status;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_longer_than_a_batch_is_run_in_parts_and_answered_whole() {
    let (model, source) = Stepped::source("stepped");
    let config = ServerConfig { max_batch_size: 4, ..ServerConfig::default() };
    let server = start(config, vec![source]).await;
    for _ in 0..3 {
        model.go.send(()).unwrap();
    }
    let words = ["t", "u", "longer", "v", "w", "x", "y", "z", "longest"];
    let answer = server.typed().classify(texts("stepped", &words)).await.unwrap().into_inner();
    assert_eq!(answer.classifications.len(), 9);
    for (word, classification) in words.iter().zip(&answer.classifications) {
        let expected = if word.len() < 5 { "short" } else { "long" };
        assert_eq!(classification.labels[0].label, expected, "{word}");
    }
    let sizes: Vec<usize> = model.seen.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 4, 1]);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn late_and_cancelled_requests_never_reach_the_model() {
    let (model, source) = Stepped::source("stepped");
    let server = start(ServerConfig::default(), vec![source]).await;
    let mut client = server.typed();
    let first = tokio::spawn(async move { client.classify(texts("stepped", &["first"])).await });
    model.wait_for_batches(1).await;

    let mut late = Request::new(texts("stepped", &["late"]));
    late.set_timeout(Duration::from_millis(80));
    let started = Instant::now();
    let status = server.typed().classify(late).await.unwrap_err();
    // tonic's client keeps the deadline too, and calls it CANCELLED when it is the first to notice.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    assert!(started.elapsed() < Duration::from_secs(5));

    let mut client = server.typed();
    let left = tokio::spawn(async move { client.classify(texts("stepped", &["left"])).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    left.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;

    let mut client = server.typed();
    let last = tokio::spawn(async move { client.classify(texts("stepped", &["last"])).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    model.go.send(()).unwrap();
    model.go.send(()).unwrap();
    first.await.unwrap().unwrap();
    last.await.unwrap().unwrap();
    assert_eq!(*model.seen.lock().unwrap(), [["first"], ["last"]]);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_s_own_limit_on_a_request_is_a_deadline() {
    let (model, source) = Stepped::source("stepped");
    let limit = Duration::from_millis(60);
    let config = ServerConfig { max_request_time: limit, ..ServerConfig::default() };
    let server = start(config, vec![source]).await;
    let started = Instant::now();
    let status = server.typed().classify(texts("stepped", &["a"])).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(started.elapsed() >= limit);
    model.go.send(()).unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_bounds_the_server_refuses_at_once() {
    let (model, source) = Stepped::source("stepped");
    let config = ServerConfig {
        max_texts: 2,
        max_queue: 2,
        max_requests: 3,
        max_message_bytes: 1000,
        ..ServerConfig::default()
    };
    let server = start(config, vec![source]).await;
    let call = |words: &'static [&'static str]| {
        let client = server.typed();
        tokio::spawn(persist(client, texts("stepped", words)))
    };
    let running = call(&["running"]);
    model.wait_for_batches(1).await;
    let waiting = call(&["waiting"]);
    let status = refusal_when_full(server.typed(), texts("stepped", &["a", "b"])).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("queue"), "{}", status.message());
    assert!(status.get_details_retry_info().is_some());

    let second = call(&["second"]);
    let started = Instant::now();
    loop {
        let status = refusal_when_full(server.typed(), texts("stepped", &["a", "b"])).await;
        assert_eq!(status.code(), Code::ResourceExhausted);
        if status.message().contains("open requests") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{}", status.message());
    }
    // Probes still pass.
    assert_eq!(server.health("").await.unwrap(), SERVING);

    for _ in 0..9 {
        model.go.send(()).unwrap();
    }
    for call in [running, waiting, second] {
        call.await.unwrap();
    }
    let long = "x".repeat(2000);
    let status = server.typed().classify(texts("stepped", &[&long])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let request = ClassifyStreamRequest { id: "long".to_owned(), request: Some(texts("stepped", &[&long])) };
    let mut answers = server.typed().classify_stream(tokio_stream::iter([request])).await.unwrap().into_inner();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_hangs_nobody_and_shows_in_health() {
    let panicking = ModelSource::classifier(info("fragile"), || {
        Ok(|texts: &[&str]| {
            assert!(texts != ["break"], "as the test wants it");
            by_length(texts)
        })
    });
    let server = start(ServerConfig::default(), vec![panicking, by_length_source("sound")]).await;
    assert_eq!(server.health("fragile").await.unwrap(), SERVING);
    server.typed().classify(texts("fragile", &["fine"])).await.unwrap();

    let status = server.typed().classify(texts("fragile", &["break"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    let status = server.typed().classify(texts("fragile", &["fine"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);

    let started = Instant::now();
    while server.health("fragile").await.unwrap() != NOT_SERVING || server.health("").await.unwrap() != NOT_SERVING {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.health("sound").await.unwrap(), SERVING);
    let mut open = server.open();
    assert!(!open.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let ready = |name: &str| ModelReadyRequest { name: name.into(), version: String::new() };
    assert!(!open.model_ready(ready("fragile")).await.unwrap().into_inner().ready);
    assert!(open.model_ready(ready("sound")).await.unwrap().into_inner().ready);
    assert!(!open.model_ready(ready("nothing")).await.unwrap().into_inner().ready);
    server.typed().classify(texts("sound", &["fine"])).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_does_not_cost_its_neighbours() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let source = ModelSource::classifier(info("picky"), move || {
        Ok(move |texts: &[&str]| {
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(200));
            }
            if texts.contains(&"bad") { Err("not this one".into()) } else { by_length(texts) }
        })
    });
    let server = start(ServerConfig::default(), vec![source]).await;
    let call = |name: &'static str| {
        let mut client = server.typed();
        tokio::spawn(async move { client.classify(texts("picky", &[name])).await })
    };
    let first = call("first");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (good, bad) = (call("good"), call("bad"));
    first.await.unwrap().unwrap();
    good.await.unwrap().unwrap();
    let status = bad.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("not this one"), "{}", status.message());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_was_accepted_and_nothing_else() {
    let (model, source) = Stepped::source("stepped");
    let mut server = start(ServerConfig::default(), vec![source]).await;
    let mut client = server.typed();
    let accepted = tokio::spawn(async move { client.classify(texts("stepped", &["accepted"])).await });
    // An open stream does not keep the server from ending.
    let (_sender, requests) = tokio::sync::mpsc::channel::<ClassifyStreamRequest>(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut idle = server.typed().classify_stream(requests).await.unwrap().into_inner();
    model.wait_for_batches(1).await;

    server.stop.take().unwrap().send(()).unwrap();
    let status = idle.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let started = Instant::now();
    while tokio::net::TcpStream::connect(server.address).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(10), "it still accepts connections");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!server.ended.is_finished());
    model.go.send(()).unwrap();
    accepted.await.unwrap().unwrap();
    server.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_never_answered_holds_the_server_for_its_grace_alone() {
    let source = ModelSource::classifier(info("slow"), || {
        Ok(|texts: &[&str]| {
            std::thread::sleep(Duration::from_secs(2));
            by_length(texts)
        })
    });
    let config = ServerConfig { grace: Duration::from_millis(100), ..ServerConfig::default() };
    let server = start(config, vec![source]).await;
    let mut client = server.typed();
    let call = tokio::spawn(async move { client.classify(texts("slow", &["a"])).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    server.stop().await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    call.abort();
}
