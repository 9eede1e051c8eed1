//! Any bytes as the body of a request to a server in this process, over a real socket: its first byte chooses what is
//! asked, the rest is the body; for gRPC with its frame, so that frames are fuzzed too. The models are a small decoder and
//! the identity model.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use h2::client::SendRequest;
use http::Request;
use libfuzzer_sys::fuzz_target;
use prost::bytes::Bytes;
use tidemill_serve::{ModelSource, ServerConfig, serve_models};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const GRPC: [&str; 14] = [
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelConfig",
    "/tidemill.v1.Generation/Generate",
    "/tidemill.v1.Generation/GenerateStream",
    "/tidemill.v1.Chat/Complete",
    "/tidemill.v1.Chat/CompleteStream",
    "/tidemill.v1.TextClassification/ClassifyStream",
    "/tidemill.v1.Embedding/Embed",
    "/tidemill.v1.Entities/Find",
    "/tidemill.v1.TextToText/Translate",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];
const JSON: [&str; 6] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/models/echo/infer",
    "/v2/models/chat/infer",
];

struct Served {
    runtime: Runtime,
    client: SendRequest<Bytes>,
}

fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let runtime = Runtime::new().expect("threads");
        let client = runtime.block_on(async {
            let (tell, told) = oneshot::channel();
            tokio::spawn(async move {
                let config = ServerConfig {
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                    max_generation_time: Duration::from_secs(1),
                    threads: Some(1),
                    ..ServerConfig::default()
                };
                let decoder =
                    concat!("chat=", env!("CARGO_MANIFEST_DIR"), "/../crates/model/tests/fixtures/checkpoints/qwen2");
                let sources = [decoder, "echo=builtin:identity"].map(ModelSource::path).into();
                let ready = |address| {
                    let _ = tell.send(address);
                };
                serve_models(config, sources, std::future::pending(), ready).await.expect("it serves");
            });
            let socket = tokio::net::TcpStream::connect(told.await.expect("it listens")).await.expect("a connection");
            let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
            tokio::spawn(connection);
            client
        });
        Served { runtime, client }
    })
}

async fn ask(client: &SendRequest<Bytes>, path: &str, content_type: &str, body: &[u8]) -> Result<(), h2::Error> {
    let request = Request::post(format!("http://localhost{path}")).header("content-type", content_type);
    let request = request.header("te", "trailers").body(()).expect("a request");
    let (answer, mut sending) = client.clone().ready().await?.send_request(request, false)?;
    sending.send_data(Bytes::copy_from_slice(body), true)?;
    let mut body = answer.await?.into_body();
    while let Some(chunk) = body.data().await {
        body.flow_control().release_capacity(chunk?.len())?;
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, body)) = bytes.split_first() else {
        return;
    };
    let place = usize::from(first) % (GRPC.len() + JSON.len());
    let (path, content_type) = match GRPC.get(place) {
        Some(path) => (path, "application/grpc"),
        None => (&JSON[place - GRPC.len()], "application/json"),
    };
    let Served { runtime, client } = served();
    let answered = runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), ask(client, path, content_type, body)).await });
    answered.expect("an answer in time").expect("an answer");
});
