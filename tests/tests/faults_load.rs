//! Load that a server was not made for: one model at work without a pause beside one that must answer soon, and twenty
//! times as many requests as can be answered.
//!
//! `TIDEMILL_OVERLOAD_SECONDS` sets how long the latter lasts, 6 by default.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tidemill_proto::v1::ClassifyRequest;
use tidemill_proto::v1::text_classification_client::TextClassificationClient;
use tidemill_tests::{JSON, Server, Wire, lengthened, small_recipe, train_sentiment, within};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

/// What measures time has the machine to itself.
static ALONE: Mutex<()> = Mutex::const_new(());

const SOON: Duration = Duration::from_secs(10);

fn request(texts: usize) -> ClassifyRequest {
    let text = "What a wonderful cast and a superb ending".to_owned();
    ClassifyRequest { model: "sentiment".into(), texts: vec![text; texts], ..ClassifyRequest::default() }
}

async fn classify(channel: Channel, texts: usize) -> Result<(), Code> {
    let mut client = TextClassificationClient::new(channel);
    timeout(SOON, client.classify(request(texts)))
        .await
        .expect("an answer in time")
        .map(drop)
        .map_err(|status| status.code())
}

fn quantile(times: &mut [Duration], quantile: f64) -> Duration {
    times.sort();
    times[((times.len() - 1) as f64 * quantile).round() as usize]
}

/// The 99th percentile of how long 16 texts take, asked for two hundred times a second.
async fn p99_of_the_fast_one(channel: &Channel) -> Duration {
    let mut ticks = interval(Duration::from_millis(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = JoinSet::new();
    for _ in 0..300 {
        ticks.tick().await;
        let channel = channel.clone();
        calls.spawn(async move {
            let started = Instant::now();
            classify(channel, 16).await.unwrap();
            started.elapsed()
        });
    }
    quantile(&mut calls.join_all().await, 0.99)
}

/// Callers who ask for one answer of thousands of tokens after the other, until they are dropped.
async fn busy(server: &Server) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let wire = Wire::open(&server.address).await;
        let body = json!({"model": "chat", "prompt": "The tide", "max_tokens": 8000, "ignore_eos": true}).to_string();
        callers.spawn(async move {
            loop {
                let answer = wire.ask("/v1/completions", JSON, body.clone().into_bytes().into()).await.unwrap();
                assert_eq!(answer.status, 200);
            }
        });
    }
    within(SOON, "the slow model is at work", || server.metric("tidemill_sequences_running") == 4.0);
    callers
}

/// A processor kept as busy as a slow model keeps it, by nobody whom the server knows, until it is dropped.
struct OtherProgram(Arc<AtomicBool>);

impl OtherProgram {
    fn start() -> OtherProgram {
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        OtherProgram(ends)
    }
}

impl Drop for OtherProgram {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a slow model takes from a fast one is a processor, which any program would, and nothing of the server: neither its
/// line nor its threads. So the fast one's own time is that beside another program, however few processors there are.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_model_keeps_no_fast_one_waiting() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    train_sentiment(folder.path(), 120, &small_recipe(""));
    lengthened("qwen2", &folder.path().join("chat"), 8192);
    let server = Server::start(folder.path(), &["--threads", "1", "run/package", "chat"]);
    let channel = server.channel().await;
    p99_of_the_fast_one(&channel).await;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // Medians of rounds that take turns: other programs' work on the machine comes and goes.
    loop {
        server.until_zero("tidemill_sequences_running", SOON);
        let other = OtherProgram::start();
        alone.push(p99_of_the_fast_one(&channel).await);
        drop(other);
        let mut slow = busy(&server).await;
        beside.push(p99_of_the_fast_one(&channel).await);
        assert!(slow.try_join_next().is_none(), "the slow model's callers are answered");
        drop(slow);
        let ratio = quantile(&mut beside, 0.5).as_secs_f64() / quantile(&mut alone, 0.5).as_secs_f64();
        println!("p99 beside a slow model {beside:?}, alone {alone:?}: {ratio:.2} times");
        if alone.len() >= 3 && ratio <= 1.5 {
            return;
        }
        assert!(alone.len() < 9, "p99 beside a slow model {beside:?}, alone {alone:?}: {ratio:.2} times");
    }
}

/// Texts in a request of the overload.
const TEXTS: usize = 256;

/// Answers a second to as many callers as keep the model busy.
async fn peak(channel: &Channel) -> f64 {
    let (started, time) = (Instant::now(), Duration::from_secs(2));
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let channel = channel.clone();
        callers.spawn(async move {
            let mut answered = 0;
            while started.elapsed() < time {
                classify(channel.clone(), TEXTS).await.unwrap();
                answered += 1;
            }
            answered
        });
    }
    callers.join_all().await.iter().sum::<i32>() as f64 / started.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_times_the_capacity_costs_neither_goodput_nor_memory() {
    let _alone = ALONE.lock().await;
    let seconds = std::env::var("TIDEMILL_OVERLOAD_SECONDS").map_or(6, |seconds| seconds.parse::<u64>().unwrap());
    let folder = tempfile::tempdir().unwrap();
    // A wide model, so that a request costs it much and the wire little.
    train_sentiment(folder.path(), 120, &small_recipe("").replace("= 16\nfilters = 8", "= 64\nfilters = 1024"));
    let server = Server::start(folder.path(), &["--threads", "1", "run/package"]);
    let mut channels = Vec::new();
    for _ in 0..4 {
        channels.push(server.channel().await);
    }
    peak(&channels[0]).await;
    let before = peak(&channels[0]).await;

    let (started, time) = (Instant::now(), Duration::from_secs(seconds));
    let mut ticks = interval(Duration::from_secs_f64(1.0 / (20.0 * before)));
    let mut calls = JoinSet::new();
    let mut resident = None;
    for turn in 0.. {
        ticks.tick().await;
        if started.elapsed() > time {
            break;
        }
        if resident.is_none() && started.elapsed() > time / 4 {
            resident = Some(server.resident());
        }
        let channel = channels[turn % channels.len()].clone();
        calls.spawn(async move {
            let sent = Instant::now();
            (classify(channel, TEXTS).await, sent.elapsed())
        });
    }
    let sent = calls.len() as f64 / time.as_secs_f64();
    let resident = (resident.unwrap() as f64, server.resident() as f64);
    let (mut answered, mut refused) = (0, Vec::new());
    for (outcome, took) in calls.join_all().await {
        match outcome {
            Ok(()) => answered += 1,
            Err(code) => {
                assert_eq!(code, Code::ResourceExhausted);
                refused.push(took);
            }
        }
    }
    sleep(Duration::from_millis(200)).await;
    let goodput = f64::from(answered) / time.as_secs_f64();
    let after = peak(&channels[0]).await;
    let (median, p99) = (quantile(&mut refused, 0.5), quantile(&mut refused, 0.99));
    println!(
        "peak {before:.1} and {after:.1}/s; sent {sent:.1}/s, answered {goodput:.1}/s; refused in {median:?}, p99 {p99:?}; \
         resident {resident:?}"
    );
    assert!(sent > 15.0 * before, "only {sent:.1} a second could be sent, and the peak is {before:.1}");
    assert!(goodput > 0.9 * before.min(after), "{goodput:.1} a second, and the peak is {before:.1} and {after:.1}");
    assert!(median < Duration::from_millis(10), "refused in {median:?}, p99 {p99:?}");
    assert!(resident.1 < resident.0 * 1.05, "{resident:?} bytes");
}
