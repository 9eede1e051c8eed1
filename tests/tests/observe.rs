//! What an operator sees of a request from outside: its id in the answer and in the log, its span in the caller's trace,
//! and its place among the metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tidemill_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::inference::{InferTensorContents, ModelInferRequest};
use tidemill_tests::{Server, checkpoint, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that passes spans on.
struct Collector(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let of_resources = request.into_inner().resource_spans.into_iter();
        let spans = of_resources.flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans);
        spans.for_each(|span| drop(self.0.send(span)));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (String, mpsc::UnboundedReceiver<Span>) {
    let (send, spans) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(Collector(send));
    let served = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
    (format!("http://{address}"), spans)
}

fn texts(model: &str) -> ModelInferRequest {
    let contents = InferTensorContents { bytes_contents: vec!["The tide".into()], ..Default::default() };
    let input = InferInputTensor {
        name: "text".into(),
        datatype: "BYTES".into(),
        shape: vec![1],
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { model_name: model.into(), inputs: vec![input], ..Default::default() }
}

async fn get(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_found_again_in_the_log_the_trace_and_the_metrics() {
    let (endpoint, mut spans) = collector().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("server.toml"), format!("[traces]\nendpoint = \"{endpoint}\"\n")).unwrap();
    let model = format!("writer={}", checkpoint("qwen2"));
    let arguments = ["serve", "--json", "--address", "127.0.0.1:0", "--config", "server.toml", &model];
    let log = folder.path().join("log");
    let mut command = start(folder.path(), &arguments);
    command.env("RUST_LOG", "tidemill_serve=debug").stderr(Stdio::from(fs::File::create(&log).unwrap()));
    let server = Server::of(&mut command);

    let mut client = GrpcInferenceServiceClient::new(server.channel().await);
    let mut request = Request::new(texts("writer"));
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-01").parse().unwrap());
    request.metadata_mut().insert("x-request-id", "order-66".parse().unwrap());
    let answer = client.model_infer(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "order-66");
    let place = answer.metadata().get("traceresponse").unwrap().to_str().unwrap().to_owned();
    assert!(place.starts_with(&format!("00-{TRACE}-")) && place.ends_with("-01"), "{place}");

    let refused = client.model_infer(texts("writer2")).await.unwrap_err();
    assert_eq!(refused.metadata().get("x-request-id").unwrap().len(), 32, "one of the server's own");

    let metrics = get(&server.address, "/metrics").await;
    for line in [
        "tidemill_model_requests_total{model=\"writer\",version=\"1\",status=\"OK\"} 1",
        "tidemill_model_request_seconds_count{model=\"writer\",version=\"1\"} 1",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let memory = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tidemill_model_memory_bytes{model=\"writer\",version=\"1\"} "));
    assert!(memory.unwrap().parse::<f64>().unwrap() > 1000.0, "{memory:?}");

    // What is not sent yet is sent when the server stops.
    server.terminate();
    assert_eq!(server.wait(Duration::from_secs(20)), Some(0));
    let mut of_trace = Vec::new();
    while let Ok(Some(span)) = tokio::time::timeout(Duration::from_secs(5), spans.recv()).await {
        if hex(&span.trace_id) == TRACE {
            of_trace.push(span);
            break;
        }
    }
    let [span] = of_trace.as_slice() else { panic!("no span came of the caller's trace") };
    assert_eq!(
        (span.name.as_str(), hex(&span.parent_span_id).as_str()),
        ("inference.GRPCInferenceService/ModelInfer", PARENT)
    );
    assert_eq!(hex(&span.span_id), place.split('-').nth(2).unwrap());
    assert!(span.events.iter().any(|event| event.name == "first piece"), "{:?}", span.events);

    let mut text = String::new();
    fs::File::open(log).unwrap().read_to_string(&mut text).unwrap();
    assert!(span.attributes.iter().any(|attribute| attribute.key == "outcome"), "{:?}", span.attributes);
    let ended = text.lines().find(|line| line.contains("order-66") && line.contains("\"ended\"")).expect("in the log");
    assert!(ended.contains(TRACE) && ended.contains("\"outcome\":\"ok\""), "{ended}");
    assert!(!text.contains("The tide"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
