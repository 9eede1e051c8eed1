//! Loads on a tonic server in this process that echoes, is slow, or fails, as a test wants it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use tidemill_load::{Arrivals, Connections, Length, Load, Requests, Spacing, Stopper, drive, never, plot};
use tidemill_proto::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use tidemill_proto::inference::*;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Answers after `delay`; from request `stalls.0` on it answers nothing until `stalls.1` has passed.
#[derive(Clone, Default)]
struct Echo {
    delay: Duration,
    fails_every: usize,
    stall: Option<(usize, Duration)>,
    seen: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    until: Arc<std::sync::OnceLock<Instant>>,
}

#[tonic::async_trait]
impl GrpcInferenceService for Echo {
    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let count = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(open, Ordering::Relaxed);
        if let Some((from, pause)) = self.stall
            && count >= from
        {
            let until = *self.until.get_or_init(|| Instant::now() + pause);
            tokio::time::sleep_until(until.into()).await;
        }
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        // Never where it is 0.
        if count.is_multiple_of(self.fails_every) {
            return Err(Status::resource_exhausted("full"));
        }
        let raw_output_contents = request.into_inner().raw_input_contents;
        Ok(Response::new(ModelInferResponse { raw_output_contents, ..ModelInferResponse::default() }))
    }
}

async fn start(echo: &Echo) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = GrpcInferenceServiceServer::new(echo.clone()).max_decoding_message_size(64 << 20);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn requests(bytes: usize) -> Requests {
    let raw = ModelInferRequest { raw_input_contents: vec![Bytes::from(vec![7; bytes])], ..Default::default() };
    Requests::of(&[raw]).unwrap()
}

fn load(arrivals: Arrivals, length: Length) -> Load {
    Load { arrivals, length, warm_up: Duration::ZERO, ..Load::for_time(Duration::from_secs(1)) }
}

fn closed(concurrency: usize) -> Arrivals {
    Arrivals::Closed { concurrency }
}

#[tokio::test]
async fn as_many_requests_as_wanted_and_as_many_open_as_callers() {
    let echo = Echo { delay: Duration::from_millis(5), fails_every: 10, ..Echo::default() };
    let connections = Connections::open(&start(&echo).await, 2, None).await.unwrap();
    let load = load(closed(4), Length::Requests(60));
    let measured = drive(&connections, &requests(1000), &load, never()).await.unwrap();
    assert_eq!((measured.answered(), measured.failed()), (54, 6));
    assert_eq!(measured.errors()["RESOURCE_EXHAUSTED"], 6);
    assert_eq!((echo.seen.load(Ordering::Relaxed), echo.most.load(Ordering::Relaxed)), (60, 4));
    assert!(measured.latency(0.5) >= Duration::from_millis(5) && measured.latency(1.0) < Duration::from_secs(5));
    assert!(measured.latency(0.5) <= measured.latency(0.99));
    let svg = plot(&[("4 callers".to_owned(), 4.0, &measured)], "concurrency").unwrap();
    assert!(svg.contains("<svg") && svg.contains("4 callers") && svg.contains("99.99 %"));
}

#[tokio::test]
async fn megabytes_pass_by_the_windows() {
    let connections = Connections::open(&start(&Echo::default()).await, 1, None).await.unwrap();
    let load = load(closed(8), Length::Requests(24));
    let measured = drive(&connections, &requests(6 << 20), &load, never()).await.unwrap();
    assert_eq!((measured.answered(), measured.failed()), (24, 0), "{:?}", measured.errors());
    assert!(measured.received_bytes() > 24 * (6 << 20));
}

#[tokio::test]
async fn a_stall_is_charged_for_all_who_were_due_in_it() {
    // One request every 5 ms; from the 20th on nobody is answered for 400 ms, so about 80 requests wait: 200 ms on
    // average. A generator that waited for its answers would have counted one.
    let echo = Echo { stall: Some((20, Duration::from_millis(400))), ..Echo::default() };
    let connections = Connections::open(&start(&echo).await, 1, None).await.unwrap();
    let arrivals = Arrivals::Open { rate: 200.0, spacing: Spacing::Constant };
    let measured = drive(&connections, &requests(10), &load(arrivals, Length::Requests(100)), never()).await.unwrap();
    assert_eq!((measured.answered(), measured.failed()), (100, 0));
    assert!(measured.latency(0.5) > Duration::from_millis(100), "{:?}", measured.latency(0.5));
    assert!(measured.latency(0.1) < Duration::from_millis(100), "{:?}", measured.latency(0.1));
    assert!(measured.lateness(0.5).unwrap() < Duration::from_millis(50));
}

#[tokio::test]
async fn an_open_loop_is_bounded_and_says_what_it_did_not_send() {
    let echo = Echo { delay: Duration::from_millis(300), ..Echo::default() };
    let connections = Connections::open(&start(&echo).await, 1, None).await.unwrap();
    let arrivals = Arrivals::Open { rate: 500.0, spacing: Spacing::Poisson };
    let load = Load { max_open: 3, ..load(arrivals, Length::Requests(50)) };
    let measured = drive(&connections, &requests(10), &load, never()).await.unwrap();
    assert_eq!(echo.most.load(Ordering::Relaxed), 3);
    assert_eq!(measured.answered() + measured.errors()["UNSENT"], 50);
}

#[tokio::test]
async fn late_answers_are_errors_and_the_word_ends_it() {
    let echo = Echo { delay: Duration::from_secs(30), ..Echo::default() };
    let connections = Connections::open(&start(&echo).await, 1, None).await.unwrap();
    let short = Load { deadline: Duration::from_millis(40), ..load(closed(2), Length::Requests(4)) };
    let measured = drive(&connections, &requests(10), &short, never()).await.unwrap();
    assert_eq!((measured.answered(), measured.errors()["DEADLINE_EXCEEDED"]), (0, 4));

    let (stopper, stop) = Stopper::new();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stopper.stop();
    });
    let started = Instant::now();
    let measured = drive(&connections, &requests(10), &load(closed(2), Length::Time(Duration::from_secs(20))), stop)
        .await
        .unwrap();
    assert!(measured.stopped && started.elapsed() < Duration::from_secs(5));
    assert_eq!(measured.errors()["UNFINISHED"], 2);
}

#[tokio::test]
async fn a_server_that_goes_away_is_counted_and_no_one_there_is_an_error() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = Connections::open(&free, 1, None).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("no server answers at {free}")), "{error}");

    // Streams are not this server's.
    let connections = Connections::open(&start(&Echo::default()).await, 1, None).await.unwrap();
    let load = Load { streams: true, ..load(closed(1), Length::Requests(2)) };
    let measured = drive(&connections, &requests(10), &load, never()).await.unwrap();
    assert_eq!(measured.errors()["UNIMPLEMENTED"], 2);
}
