//! What a hostile or broken client does to a server, over a real socket: it is told so or cut off, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

#[path = "support/http.rs"]
mod http;
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{ask, get, open, send};
use serde_json::Value;
use support::{by_length_source, listen, start, texts};
use tidemill_proto::inference::ModelInferRequest;
use tidemill_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tidemill_serve::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Request};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The frames that come until the connection ends: kind and payload.
async fn frames(stream: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        frames.push((head[3], payload));
    }
    frames
}

/// How long the server leaves a connection open on which nothing more is sent.
async fn closed_after(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the connection stays open");
    started.elapsed()
}

async fn is_healthy(address: SocketAddr) -> bool {
    get(address, "/healthz").await.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_reset_end_their_connection() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // :method POST, :scheme http, :path /, :authority x; then CANCEL.
    let headers = [0x83, 0x86, 0x84, 0x41, 0x01, b'x'];
    let mut flood = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for stream in (1..2_001).step_by(2) {
        flood.extend(frame(1, 0x4, stream, &headers));
        flood.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let _ = stream.write_all(&flood).await;
    let received = tokio::time::timeout(Duration::from_secs(10), frames(&mut stream)).await.expect("it is cut off");
    let goaway = received.iter().find(|(kind, _)| *kind == GOAWAY).expect("GOAWAY");
    assert_eq!(goaway.1[4..8], 11_u32.to_be_bytes(), "ENHANCE_YOUR_CALM");
    server.typed().classify(texts("length", &["tide"])).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_of_http2_are_told() {
    let config = ServerConfig { max_connection_streams: 7, max_header_bytes: 5_000, ..ServerConfig::default() };
    let server = listen(config, vec![by_length_source("length")]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let told = |id: u8| {
        let setting = settings.chunks(6).find(|setting| setting[..2] == [0, id])?;
        Some(u32::from_be_bytes(setting[2..].try_into().unwrap()))
    };
    assert_eq!((told(3), told(6)), (Some(7), Some(5_000)));
    // A frame beyond the bound that nobody has raised.
    stream.write_all(&frame(1, 0x4, 1, &[0; 20_000])).await.unwrap();
    let received = tokio::time::timeout(Duration::from_secs(10), frames(&mut stream)).await.expect("it is cut off");
    assert!(received.iter().any(|(kind, payload)| *kind == GOAWAY && payload[4..8] == 6_u32.to_be_bytes()));
    drop(stream);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_begin_is_closed() {
    let config = ServerConfig { max_opening_time: Duration::from_millis(300), ..ServerConfig::default() };
    let server = listen(config, vec![by_length_source("length")]).await;
    let beginnings: [&[u8]; 4] = [b"", b"GET / HT", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01"];
    for beginning in beginnings {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        assert!(closed_after(&mut stream).await < Duration::from_secs(3), "{beginning:?}");
    }
    // One byte at a time buys no more time.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let started = Instant::now();
    for byte in PREFACE {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    closed_after(&mut stream).await;
    assert!(started.elapsed() < Duration::from_secs(3));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_give_their_places_up() {
    let config =
        ServerConfig { max_opening_time: Duration::from_millis(200), max_connections: 4, ..ServerConfig::default() };
    let server = listen(config, vec![by_length_source("length")]).await;
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(tokio::time::timeout(Duration::from_secs(5), is_healthy(server.address)).await.expect("in its turn"));
    drop(silent);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_one_with_an_open_stream_is_not() {
    let config = ServerConfig { max_connection_idle: Duration::from_secs(1), ..ServerConfig::default() };
    let server = start(config, vec![by_length_source("length")]).await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = server.typed().classify_stream(messages).await.unwrap().into_inner();

    // Opened after the stream, and closed before it is used.
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    assert!(closed_after(&mut idle).await < Duration::from_secs(5));

    let message =
        tidemill_proto::v1::ClassifyStreamRequest { id: "a".into(), request: Some(texts("length", &["tide"])) };
    send.send(message).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().id, "a");
    drop((send, answers));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_in_is_given_up() {
    let config = ServerConfig { max_receive_time: Duration::from_millis(200), ..ServerConfig::default() };
    let server = listen(config, vec![by_length_source("length")]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head =
        "POST /v1/embeddings HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let started = Instant::now();
    let mut buffer = [0; 1024];
    while answer.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(5), "it is waited for");
        let _ = stream.write_all(b" ").await;
        if let Ok(Ok(read)) = tokio::time::timeout(Duration::from_millis(30), stream.read(&mut buffer)).await {
            assert_ne!(read, 0, "no answer");
            answer.extend(&buffer[..read]);
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    drop(stream);

    // The same over gRPC: a message that is announced and never comes.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let path = b"/tidemill.v1.TextClassification/Classify";
    let mut headers = vec![0x83, 0x86, 0x41, 0x01, b'x', 0x04, u8::try_from(path.len()).unwrap()];
    headers.extend(path);
    // content-type: application/grpc
    headers.extend([0x0f, 0x10, 16]);
    headers.extend(b"application/grpc");
    let flood = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(1, 0x4, 1, &headers), &frame(0, 0, 1, &[0, 0, 0, 0, 9])];
    stream.write_all(&flood.concat()).await.unwrap();
    let started = Instant::now();
    let mut head = [0; 9];
    loop {
        tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut head)).await.expect("an answer").unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == 1 {
            break;
        }
    }
    assert!(started.elapsed() < Duration::from_secs(3));
    drop(stream);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_read_gives_its_place_up() {
    let idle = Duration::from_secs(1);
    let config = ServerConfig { max_requests: 1, max_connection_idle: idle, ..ServerConfig::default() };
    let server = listen(config, vec![by_length_source("length")]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE of 0: nothing of the answer's body may be sent.
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut headers = vec![0x83, 0x86, 0x41, 0x01, b'x', 0x04, 14];
    headers.extend(b"/v1/embeddings");
    stream.write_all(&[PREFACE, &settings, &frame(1, 0x5, 1, &headers)].concat()).await.unwrap();
    let started = Instant::now();
    let body = r#"{"input": "tide"}"#;
    let mut was_full = false;
    loop {
        let answer = send(server.address, "/v1/embeddings", "application/json", body.as_bytes()).await;
        match answer.status {
            429 => was_full = true,
            // Let in, to be told that there is no model that embeds.
            400 if was_full => break,
            other => assert_eq!(other, 400),
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{was_full}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(closed_after(&mut stream).await < Duration::from_secs(5));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_in_both_protocols() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    let mut request = Request::new(texts("length", &["tide"]));
    request.metadata_mut().insert("x-long", "a".repeat(20_000).parse().unwrap());
    assert!(server.typed().classify(request).await.is_err());
    let stream = TcpStream::connect(server.address).await.unwrap();
    let long = format!("X-Long: {}\r\n", "a".repeat(20_000));
    assert_eq!(ask(stream, "GET /v1/models", &long, "").await.status, 431);
    let many: String = (0..200).map(|index| format!("X-{index}: a\r\n")).collect();
    let stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(ask(stream, "GET /v1/models", &many, "").await.status, 431);
    assert!(is_healthy(server.address).await);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_are_counted_before_they_are_looked_at() {
    let server =
        start(ServerConfig { max_tensors: 3, ..ServerConfig::default() }, vec![by_length_source("length")]).await;
    let input = InferInputTensor { name: "text".into(), datatype: "BYTES".into(), ..InferInputTensor::default() };
    let output = InferRequestedOutputTensor { name: "label".into(), ..InferRequestedOutputTensor::default() };
    let inputs = ModelInferRequest { inputs: vec![input; 4], ..ModelInferRequest::default() };
    let outputs = ModelInferRequest { outputs: vec![output; 4], ..ModelInferRequest::default() };
    let raw = ModelInferRequest { raw_input_contents: vec![Default::default(); 4], ..ModelInferRequest::default() };
    for (request, field) in [(inputs, "inputs"), (outputs, "outputs"), (raw, "raw_input_contents")] {
        let status = server.open().model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), format!("{field}: has 4 tensors; a request may hold 3"));
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_as_deep_as_it_may_be_and_nothing_is_unpacked() {
    let server = listen(ServerConfig::default(), vec![by_length_source("length")]).await;
    for path in ["/v1/chat/completions", "/v1/embeddings", "/rerank"] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{{\"a\": {}1{}}}", open.repeat(100_000), close.repeat(100_000));
            assert_eq!(send(server.address, path, "application/json", deep.as_bytes()).await.status, 400, "{path}");
        }
    }
    let stream = TcpStream::connect(server.address).await.unwrap();
    let answer = ask(stream, "POST /v1/embeddings", "Content-Encoding: gzip\r\n", "{}").await;
    assert_eq!(answer.status, 400);
    let error: Value = serde_json::from_str(&answer.body).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("Content-Encoding"));
    // A message that is larger than any that is read: only announced.
    let announced = open(server.address, "/v1/embeddings", "application/json", &vec![b' '; 5 << 20]).await;
    drop(announced);
    assert!(is_healthy(server.address).await);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_of_grpc_are_refused() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    for encoding in ["gzip", "deflate", "zstd"] {
        let mut request = Request::new(texts("length", &["tide"]));
        request.metadata_mut().insert("grpc-encoding", encoding.parse().unwrap());
        let status = server.typed().classify(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_s_name_is_never_a_path() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    let long = "../".repeat(100_000);
    for name in ["../length", "./length", "/etc/passwd", "length/../length", "length\0", "LENGTH", " length", &long] {
        let status = server.typed().classify(texts(name, &["tide"])).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{name:.40}");
        assert!(status.message().len() < 400, "{}", status.message().len());
    }
    for name in ["../../etc/passwd", "%2e%2e%2fetc%2fpasswd", "length%00", "..%5clength"] {
        assert_eq!(get(server.address, &format!("/v1/models/{name}")).await.status, 404, "{name}");
    }
    server.stop().await.unwrap();
}
