//! Triton's extensions of the Open Inference Protocol, and the protocol over HTTP, as clients meet them.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(dead_code)]

#[path = "support/http.rs"]
mod http;
mod support;

use std::os::unix::fs::FileExt as _;

use futures::StreamExt as _;
use http::{get, post, send};
use serde_json::{Value, json};
use support::{Running, by_length_source, raw_infer, start};
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::model_infer_request::InferRequestedOutputTensor;
use tidemill_proto::inference::{
    DataType, InferParameter, InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelStatisticsRequest,
    ServerMetadataRequest, SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryUnregisterRequest,
};
use tidemill_proto::tensor::{decode_fp32, encode_bytes};
use tidemill_serve::{AdminConfig, ServerConfig};
use tonic::Code;

fn request(id: &str, texts: &[&str]) -> ModelInferRequest {
    ModelInferRequest { id: id.into(), ..raw_infer("length", texts) }
}

async fn served(config: ServerConfig) -> Running {
    start(config, vec![by_length_source("length")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_says_how_it_is_configured_and_what_it_has_done() {
    let server = served(ServerConfig::default()).await;
    let mut client = server.open();
    let asked = ModelConfigRequest { name: "length".into(), version: String::new() };
    let config = client.model_config(asked).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.input[0].name.as_str(), config.input[0].data_type()), ("text", DataType::TypeString));
    assert_eq!((config.output[0].dims.as_slice(), config.max_batch_size), ([-1, 2].as_slice(), 0));

    client.model_infer(request("", &["a", "b", "c"])).await.unwrap();
    let mut wrong = request("", &["a"]);
    wrong.raw_input_contents.clear();
    client.model_infer(wrong).await.unwrap_err();
    let statistics = client.model_statistics(ModelStatisticsRequest::default()).await.unwrap().into_inner();
    let model = &statistics.model_stats[0];
    assert_eq!((model.name.as_str(), model.inference_count, model.execution_count), ("length", 3, 1));
    assert_eq!(model.batch_stats[0].batch_size, 3);
    let requests = model.inference_stats.as_ref().unwrap();
    let (success, compute) = (requests.success.unwrap(), requests.compute_infer.unwrap());
    assert_eq!(requests.compute_input.unwrap().count, compute.count);
    assert!(success.count == 1 && success.ns >= compute.ns && compute.ns > 0, "{requests:?}");
    let unknown = ModelStatisticsRequest { name: "lenght".into(), version: String::new() };
    assert_eq!(client.model_statistics(unknown).await.unwrap_err().code(), Code::NotFound);
    let extensions = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner().extensions;
    assert!(extensions.iter().any(|extension| extension == "statistics"));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_each_request_in_order_and_outlives_an_error() {
    let server = served(ServerConfig::default()).await;
    let mut wrong = request("b", &["x"]);
    wrong.model_name = "lenght".into();
    let messages = vec![request("a", &["tide"]), wrong, request("c", &["tidemill"])];
    let answers = server.open().model_stream_infer(tokio_stream::iter(messages)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
    let ids: Vec<&str> = answers.iter().map(|answer| answer.infer_response.as_ref().unwrap().id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert!(answers[0].error_message.is_empty() && answers[2].error_message.is_empty());
    assert!(answers[1].error_message.contains("length"), "{}", answers[1].error_message);
    let last = answers[2].infer_response.as_ref().unwrap();
    assert_eq!(decode_fp32(&last.raw_output_contents[0], 2).unwrap(), [0.1, 0.9]);
    let is_final = &last.parameters["triton_final_response"].parameter_choice;
    assert_eq!(is_final, &Some(ParameterChoice::BoolParam(true)));
    server.stop().await.unwrap();
}

fn in_region(region: &str, offset: i64, size: usize) -> std::collections::BTreeMap<String, InferParameter> {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    std::collections::BTreeMap::from([
        ("shared_memory_region".to_owned(), parameter(ParameterChoice::StringParam(region.to_owned()))),
        ("shared_memory_offset".to_owned(), parameter(ParameterChoice::Int64Param(offset))),
        ("shared_memory_byte_size".to_owned(), parameter(ParameterChoice::Int64Param(size as i64))),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_travel_in_shared_memory_where_the_operator_allows_it() {
    let key = format!("/tidemill-test-{}", std::process::id());
    let path = format!("/dev/shm{key}");
    let object = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    object.set_len(256).unwrap();
    let register = |offset, byte_size| SystemSharedMemoryRegisterRequest {
        name: "tensors".into(),
        key: key.clone(),
        offset,
        byte_size,
    };
    let refusing = served(ServerConfig::default()).await;
    let status = refusing.open().system_shared_memory_register(register(0, 256)).await.unwrap_err();
    assert!(status.message().contains("shared_memory = true"), "{}", status.message());
    refusing.stop().await.unwrap();

    let server = served(ServerConfig { shared_memory: true, ..ServerConfig::default() }).await;
    let mut client = server.open();
    for key in ["../etc/passwd", "/a/b", "", "/", "/.hidden", "/not-there"] {
        let request = SystemSharedMemoryRegisterRequest { key: key.into(), ..register(0, 1) };
        let status = client.system_shared_memory_register(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{key}");
    }
    assert!(client.system_shared_memory_register(register(8, 249)).await.is_err());
    client.system_shared_memory_register(register(8, 248)).await.unwrap();
    assert!(client.system_shared_memory_register(register(8, 248)).await.is_err(), "registered twice");
    let regions = client.system_shared_memory_status(SystemSharedMemoryStatusRequest::default()).await.unwrap();
    assert_eq!(regions.into_inner().regions["tensors"].byte_size, 248);

    let raw = encode_bytes(["tide", "tidemill"]).unwrap();
    object.write_all_at(&raw, 8 + 16).unwrap();
    let mut asking = request("", &["", ""]);
    asking.raw_input_contents.clear();
    asking.inputs[0].parameters = in_region("tensors", 16, raw.len());
    let output =
        |size| InferRequestedOutputTensor { name: "probabilities".into(), parameters: in_region("tensors", 128, size) };
    asking.outputs = vec![output(16)];
    let answer = client.model_infer(asking.clone()).await.unwrap().into_inner();
    assert!(answer.raw_output_contents.len() == 1 && answer.raw_output_contents[0].is_empty());
    assert_eq!(answer.outputs[0].shape, [2, 2]);
    let mut written = [0; 16];
    object.read_exact_at(&mut written, 8 + 128).unwrap();
    assert_eq!(decode_fp32(&written, 4).unwrap(), [0.75, 0.25, 0.1, 0.9]);

    let mut typed = request("", &["a"]);
    typed.raw_input_contents.clear();
    typed.inputs[0].contents =
        Some(InferTensorContents { bytes_contents: vec!["a".into()], ..InferTensorContents::default() });
    typed.outputs = vec![output(16)];
    assert!(client.model_infer(typed).await.unwrap_err().message().contains("raw_input_contents"));

    asking.outputs = vec![output(15)];
    assert!(client.model_infer(asking.clone()).await.unwrap_err().message().contains("16 bytes"));
    asking.outputs.clear();
    asking.inputs[0].parameters = in_region("tensors", 240, raw.len());
    assert!(client.model_infer(asking.clone()).await.unwrap_err().message().contains("beyond"));
    asking.inputs[0].parameters = in_region("other", 0, raw.len());
    let status = client.model_infer(asking.clone()).await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("\"other\"")), (Code::NotFound, true), "{status:?}");
    // An object that is cut off after it was registered is an error, and the server lives.
    object.set_len(10).unwrap();
    asking.inputs[0].parameters = in_region("tensors", 16, raw.len());
    assert!(client.model_infer(asking.clone()).await.unwrap_err().message().contains("cannot be read"));
    client.system_shared_memory_unregister(SystemSharedMemoryUnregisterRequest::default()).await.unwrap();
    client.model_infer(request("", &["a"])).await.unwrap();
    std::fs::remove_file(path).unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_spoken_over_http_in_json_and_in_bytes() {
    let admin = AdminConfig { enabled: true, address: None };
    let server = served(ServerConfig { admin, ..ServerConfig::default() }).await;
    let address = server.address;
    let json = async |path: &str| -> (u16, Value) {
        let answer = get(address, path).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
    };
    assert_eq!(get(address, "/v2/health/live").await.status, 200);
    assert_eq!(get(address, "/v2/health/ready").await.status, 200);
    assert_eq!(get(address, "/v2/models/length/ready").await.status, 200);
    assert_eq!(json("/v2/health/ready").await.1, json!({"ready": true}));
    assert_eq!(json("/v2/models/length/ready").await.1, json!({"name": "length", "ready": true}));
    for (path, status) in [("/v2/models/lenght/ready", 400), ("/v2/nothing", 404), ("/v2/models/length/infer", 405)] {
        let (found, body) = json(path).await;
        assert!(found == status && body["error"].is_string(), "{path}: {found} {body}");
    }
    assert_eq!(json("/v2").await.1["name"], "tidemill");
    let (status, model) = json("/v2/models/length/versions/3").await;
    assert_eq!((status, &model["inputs"][0]["name"]), (200, &json!("text")));
    assert_eq!(json("/v2/models/length/config").await.1["input"][0]["data_type"], "TYPE_STRING");
    let (status, unknown) = json("/v2/models/lenght").await;
    assert!(status == 404 && unknown["error"].as_str().unwrap().contains("length"), "{unknown}");

    let path = "/v2/models/length/infer";
    let text = json!({"name": "text", "shape": [2], "datatype": "BYTES", "data": ["tide", "tidemill"]});
    let (status, answer) = post(address, path, json!({"id": "7", "inputs": [text]})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["outputs"][0]["data"], json!([0.75, 0.25, 0.1, 0.9]));
    assert_eq!((&answer["outputs"][1]["data"], &answer["id"]), (&json!(["short", "long"]), &json!("7")));
    for (body, problem) in [
        (json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [1]}]}), "inputs[0].data[0]"),
        (
            json!({"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}]}),
            "raw_input_contents[0]",
        ),
        (json!({"inputs": []}), "text"),
    ] {
        let (status, answer) = post(address, path, body).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == 400 && error.contains(problem), "{status} {error}");
    }
    let page = "text/plain\r\nOrigin: https://elsewhere.example";
    for path in [path, "/v2/repository/models/length/unload"] {
        let answer = send(address, path, page, b"{}").await;
        assert!(answer.status == 400 && answer.body.contains("Content-Type"), "{}", answer.body);
    }
    let deep = "[".repeat(1000);
    let deep = send(address, path, "application/json", format!("{{\"inputs\": {deep}").as_bytes()).await;
    assert_eq!(deep.status, 400);

    let raw = encode_bytes(["tidemill"]).unwrap();
    let header = json!({
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": raw.len()}}],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": true}}],
    });
    let header = header.to_string();
    let length = format!("application/octet-stream\r\nInference-Header-Content-Length: {}", header.len());
    let answer = http::send_bytes(address, path, &length, &[header.as_bytes(), &raw].concat()).await;
    let head = String::from_utf8_lossy(&answer.0).into_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("inference-header-content-length: ")).unwrap();
    let (described, bytes) = answer.1.split_at(length.trim().parse().unwrap());
    let described: Value = serde_json::from_slice(described).unwrap();
    assert_eq!(described["outputs"][0]["parameters"]["binary_data_size"], 8);
    assert_eq!(decode_fp32(bytes, 2).unwrap(), [0.1, 0.9]);

    let (_, statistics) = json("/v2/models/length/stats").await;
    assert_eq!(statistics["model_stats"][0]["inference_count"], 3);
    assert_eq!(post(address, "/v2/repository/index", json!({})).await.1[0]["state"], "READY");
    server.stop().await.unwrap();
}
