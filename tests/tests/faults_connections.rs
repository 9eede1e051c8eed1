//! What connections and their clients do to a running server: thousands of streams that are dropped, clients that are
//! killed, more connections than there are file descriptors, readers that do not read. Afterwards it answers as before.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tidemill_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::inference::{InferParameter, ModelInferRequest};
use tidemill_tests::{GRPC, JSON, Server, Wire, framed, lengthened, program, start, tidemill, within};
use tonic::transport::Channel;

const SOON: Duration = Duration::from_secs(10);
const OPEN: &str = "tidemill_open_requests";

fn echo_request() -> ModelInferRequest {
    let x = InferInputTensor { name: "x".into(), datatype: "UINT8".into(), shape: vec![4], ..Default::default() };
    let raw = vec![b"tide".as_slice().into()];
    ModelInferRequest { model_name: "echo".into(), inputs: vec![x], raw_input_contents: raw, ..Default::default() }
}

async fn echoes(channel: &Channel) {
    let mut client = GrpcInferenceServiceClient::new(channel.clone());
    let answer = tokio::time::timeout(SOON, client.model_infer(echo_request())).await;
    let answer = answer.expect("an answer in time").unwrap();
    assert_eq!(answer.into_inner().raw_output_contents, [b"tide".as_slice()]);
}

/// A connection with streams open on it, each of which has been answered once.
async fn with_streams(
    address: &str,
    count: usize,
) -> (Wire, Vec<(h2::RecvStream, h2::SendStream<prost::bytes::Bytes>)>) {
    let wire = Wire::open(address).await;
    let mut streams = Vec::new();
    for _ in 0..count {
        let path = "/inference.GRPCInferenceService/ModelStreamInfer";
        streams.push(wire.begin(path, GRPC, framed(&echo_request()), false).await.unwrap());
    }
    let mut answered = Vec::new();
    for stream in streams {
        let (_, mut body, sending) = stream.head().await.unwrap();
        assert!(!body.data().await.expect("an answer").unwrap().is_empty());
        answered.push((body, sending));
    }
    (wire, answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_that_are_dropped_leave_nothing_behind() {
    const CONNECTIONS: usize = 40;
    const STREAMS: usize = 250;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("server.toml"), "max_requests = 12000").unwrap();
    let server = Server::start(folder.path(), &["--config", "server.toml", "echo=builtin:identity"]);
    let channel = server.channel().await;
    let mut resident = Vec::new();
    for _ in 0..3 {
        let opening: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let address = server.address.clone();
                tokio::spawn(async move { with_streams(&address, STREAMS).await })
            })
            .collect();
        let mut open = Vec::new();
        for connection in opening {
            open.push(tokio::time::timeout(3 * SOON, connection).await.expect("they are served").unwrap());
        }
        assert_eq!(server.metric(OPEN), 10_000.0);
        echoes(&channel).await;
        // Half of the clients reset every stream, the others are gone with their connections.
        for (index, (wire, streams)) in open.into_iter().enumerate() {
            if index % 2 == 0 {
                drop(streams);
                tokio::task::yield_now().await;
            }
            drop(wire);
        }
        server.until_zero(OPEN, SOON);
        echoes(&channel).await;
        resident.push(server.resident());
    }
    // What the allocator keeps of the first times serves the next, give or take.
    assert!(resident[2] as f64 <= resident[0].max(resident[1]) as f64 * 1.1, "{resident:?}");
    // And an idle server gives it back.
    let most = resident.iter().copied().max().unwrap_or_default();
    within(3 * SOON, "memory is given back", || server.resident() < most / 2);
    within(SOON, "the connections are closed", || server.open_files() < CONNECTIONS);
}

/// A client of its own process, which is killed when it has that many requests open.
fn kill_in_the_middle(server: &Server, model: &[&str], open: f64) {
    let arguments = ["bench", &server.address, "--concurrency", "12", "--duration", "60", "--warm-up", "0", "--model"];
    let mut command = start(Path::new("/"), &[&arguments[..], model].concat());
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    within(3 * SOON, "requests are open", || server.metric(OPEN) >= open);
    client.kill().unwrap();
    client.wait().unwrap();
    server.until_zero(OPEN, SOON);
}

#[test]
fn clients_that_are_killed_leave_their_places_to_others() {
    let folder = tempfile::tempdir().unwrap();
    lengthened("qwen2", &folder.path().join("chat"), 4096);
    std::fs::write(folder.path().join("server.toml"), "max_requests = 12\nmax_waiting = 12").unwrap();
    let server = Server::start(folder.path(), &["--config", "server.toml", "chat", "echo=builtin:identity"]);
    for _ in 0..3 {
        kill_in_the_middle(&server, &["chat"], 12.0);
        within(SOON, "nothing is generated for nobody", || server.metric("tidemill_sequences_running") == 0.0);
        kill_in_the_middle(&server, &["echo", "--shape", "x:262144"], 1.0);
        kill_in_the_middle(&server, &["echo", "--streams"], 12.0);
    }
    // Every place is there.
    let arguments = ["bench", &server.address, "--model", "echo", "--concurrency", "12", "--requests", "240", "--json"];
    let run = &tidemill(folder.path(), &[&arguments[..], &["--warm-up", "0"]].concat()).success().json()["runs"][0];
    assert_eq!((run["answered"].as_u64(), run["errors"].as_object().unwrap().len()), (Some(240), 0), "{run}");
    let body = json!({"model": "chat", "prompt": "The tide", "max_tokens": 8, "ignore_eos": true});
    let answer = server.post("/v1/completions", &body);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"completion_tokens\":8"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_file_descriptors_a_server_neither_dies_nor_spins_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).arg(program());
    command.args(["serve", "--json", "--address", "127.0.0.1:0", "echo=builtin:identity"]).env_remove("RUST_LOG");
    let server = Server::of(command.stderr(File::create(&log).unwrap()));
    let channel = server.channel().await;
    for _ in 0..2 {
        // Fewer than the system lets wait to be accepted.
        let connections: Vec<TcpStream> = (0..120).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
        within(SOON, "they use every descriptor", || server.open_files() >= 60);
        let (began, used, told) = (Instant::now(), server.processor_time(), std::fs::metadata(&log).unwrap().len());
        while began.elapsed() < Duration::from_secs(2) {
            echoes(&channel).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let used = server.processor_time() - used;
        assert!(used < Duration::from_millis(500), "{used:?} of the processor for nothing");
        let told = std::fs::metadata(&log).unwrap().len() - told;
        assert!(told < 20_000, "{told} bytes of log in two seconds");
        drop(connections);
        within(SOON, "they are closed", || server.open_files() < 40);
        echoes(&server.channel().await).await;
    }
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("cannot accept a connection"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_requests_sent_ahead_on_a_stream_are_all_answered() {
    const REQUESTS: usize = 5000;
    let folder = tempfile::tempdir().unwrap();
    lengthened("qwen2", &folder.path().join("chat"), 160);
    let server = Server::start(folder.path(), &["--threads", "1", "chat"]);
    let text = InferInputTensor { name: "text".into(), datatype: "BYTES".into(), shape: vec![1], ..Default::default() };
    let raw = vec![b"\x04\0\0\0tide".as_slice().into()];
    let mut request = ModelInferRequest {
        model_name: "chat".into(),
        inputs: vec![text],
        raw_input_contents: raw,
        ..Default::default()
    };
    let one = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(1)) };
    request.parameters.insert("max_tokens".into(), one);
    let wire = Wire::open(&server.address).await;
    // Each in a frame of its own, long before the model has room for it.
    let path = "/inference.GRPCInferenceService/ModelStreamInfer";
    let mut stream = wire.begin(path, GRPC, framed(&request), false).await.unwrap();
    for sent in 1..REQUESTS {
        stream.sending.send_data(framed(&request), sent + 1 == REQUESTS).unwrap();
    }
    let answer = tokio::time::timeout(3 * SOON, stream.answer()).await.expect("answers in time").unwrap();
    assert_eq!(answer.grpc_status, Some(0));
    let last = b"triton_final_response";
    assert_eq!(answer.body.windows(last.len()).filter(|window| window == last).count(), REQUESTS);
}

fn completion(tokens: usize, stream: bool) -> serde_json::Value {
    json!({"model": "chat", "prompt": "The tide", "max_tokens": tokens, "ignore_eos": true, "stream": stream})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_cut_off_and_costs_no_other_anything() {
    let folder = tempfile::tempdir().unwrap();
    lengthened("qwen2", &folder.path().join("chat"), 8192);
    let config = "max_stream_backlog = 2000\nmax_connection_idle = \"2s\"\n";
    std::fs::write(folder.path().join("server.toml"), config).unwrap();
    let server = Server::start(folder.path(), &["--config", "server.toml", "chat"]);
    // Of each answer 64 bytes may come, and none is read.
    let wire = Wire::with_window(&server.address, 64).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        let bytes = completion(8000, true).to_string().into_bytes();
        let stream = wire.begin("/v1/completions", JSON, bytes.into(), true).await.unwrap();
        unread.push(stream.head().await.unwrap());
    }
    within(3 * SOON, "nothing is generated for them", || server.metric("tidemill_sequences_running") == 0.0);
    let generated = server.metric("tidemill_generated_tokens_total");
    assert!(generated < 8.0 * 4000.0, "{generated} tokens, of which at most 2,000 may wait for each reader");
    let answer = server.post("/v1/completions", &completion(200, false));
    assert!(answer.contains("\"completion_tokens\":200"), "{answer}");
    server.until_zero(OPEN, SOON);
    drop(unread);
}
