//! A valid request of everything that the server answers: what the malformed ones are made of.

use prost::Message;
use serde_json::{Value, json};
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tidemill_proto::inference::{
    InferParameter, InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelMetadataRequest,
    ModelReadyRequest, ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest, SystemSharedMemoryRegisterRequest, SystemSharedMemoryUnregisterRequest,
};
use tidemill_proto::v1;

/// A request's path, its head beyond the content type, and its body: for gRPC one message without its frame.
pub(crate) struct Valid {
    pub(crate) path: String,
    pub(crate) head: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Grpc(Vec<u8>),
    Json(Value),
    /// JSON with a tensor's bytes after it.
    Binary {
        json: Value,
        tensor: Vec<u8>,
    },
}

fn grpc(service: &str, method: &str, message: &impl Message) -> Valid {
    Valid { path: format!("/{service}/{method}"), head: Vec::new(), body: Body::Grpc(message.encode_to_vec()) }
}

fn http(path: &str, body: Value) -> Valid {
    Valid { path: path.to_owned(), head: Vec::new(), body: Body::Json(body) }
}

pub(crate) fn all() -> Vec<Valid> {
    [open_inference(), typed(), beside_models(), openai(), open_inference_over_http()].into_iter().flatten().collect()
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

fn infer(model: &str, input: InferInputTensor, raw: Vec<Vec<u8>>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.into(),
        id: "7".into(),
        inputs: vec![input],
        raw_input_contents: raw.into_iter().map(Into::into).collect(),
        ..ModelInferRequest::default()
    }
}

fn open_inference() -> Vec<Valid> {
    let service = "inference.GRPCInferenceService";
    let text = InferInputTensor { name: "text".into(), datatype: "BYTES".into(), shape: vec![2], ..Default::default() };
    let raw = infer("sentiment", text.clone(), vec![b"\x04\0\0\0tide\x04\0\0\0mill".to_vec()]);
    let label = InferRequestedOutputTensor { name: "label".into(), ..Default::default() };
    let raw = ModelInferRequest { outputs: vec![label], ..raw };
    let contents =
        InferTensorContents { bytes_contents: vec!["tide".into(), "mill".into()], ..InferTensorContents::default() };
    let typed = infer("encoder", InferInputTensor { contents: Some(contents), ..text.clone() }, Vec::new());
    let numbers = InferTensorContents { fp32_contents: vec![1.0, -2.0, 0.5, 3.0], ..Default::default() };
    let x = InferInputTensor {
        name: "x".into(),
        datatype: "FP32".into(),
        shape: vec![2, 2],
        contents: Some(numbers),
        ..Default::default()
    };
    let echo = infer("echo", x, Vec::new());
    let one = InferInputTensor { shape: vec![1], ..text };
    let mut generate = infer("chat", one, vec![b"\x04\0\0\0tide".to_vec()]);
    generate.parameters.insert("max_tokens".into(), parameter(ParameterChoice::Int64Param(2)));
    generate.parameters.insert("stop".into(), parameter(ParameterChoice::StringParam("x".into())));
    generate.parameters.insert("temperature".into(), parameter(ParameterChoice::DoubleParam(0.5)));
    let (name, version) = ("sentiment".to_owned(), "1".to_owned());
    let region = SystemSharedMemoryRegisterRequest { name: "r".into(), key: "/r".into(), offset: 8, byte_size: 64 };
    let mut requests: Vec<Valid> = [raw, typed, echo, generate]
        .iter()
        .flat_map(|request| ["ModelInfer", "ModelStreamInfer"].map(|method| grpc(service, method, request)))
        .collect();
    requests.extend([
        grpc(service, "ModelReady", &ModelReadyRequest { name: name.clone(), version: version.clone() }),
        grpc(service, "ModelMetadata", &ModelMetadataRequest { name: name.clone(), version: version.clone() }),
        grpc(service, "ModelConfig", &ModelConfigRequest { name: name.clone(), version: version.clone() }),
        grpc(service, "ModelStatistics", &ModelStatisticsRequest { name: name.clone(), version }),
        grpc(service, "RepositoryIndex", &RepositoryIndexRequest { ready: true, ..Default::default() }),
        grpc(
            service,
            "RepositoryModelLoad",
            &RepositoryModelLoadRequest { model_name: "x".into(), ..Default::default() },
        ),
        grpc(
            service,
            "RepositoryModelUnload",
            &RepositoryModelUnloadRequest { model_name: "x".into(), ..Default::default() },
        ),
        grpc(service, "SystemSharedMemoryRegister", &region),
        grpc(service, "SystemSharedMemoryUnregister", &SystemSharedMemoryUnregisterRequest { name: "r".into() }),
    ]);
    requests
}

fn typed() -> Vec<Valid> {
    let texts = || vec!["a tide".to_owned(), "mill".to_owned()];
    let classify = v1::ClassifyRequest { model: "sentiment".into(), texts: texts(), top_k: 1, ..Default::default() };
    let embed = v1::EmbedRequest { model: "encoder".into(), texts: texts(), truncate: true, ..Default::default() };
    let rerank = v1::RerankRequest { query: "tide".into(), texts: texts(), ..Default::default() };
    let find = v1::FindEntitiesRequest { texts: texts(), min_score: 0.5, ..Default::default() };
    let sampling = v1::Sampling { max_tokens: Some(2), temperature: Some(0.5), seed: Some(3), ..Default::default() };
    let generate = v1::GenerateRequest {
        model: "chat".into(),
        input: Some(v1::generate_request::Input::Prompt("The tide".into())),
        sampling: Some(sampling.clone()),
        ..Default::default()
    };
    let message = v1::ChatMessage { content: "tide?".into(), ..Default::default() };
    let chat = v1::ChatRequest {
        model: "chat".into(),
        messages: vec![message],
        sampling: Some(sampling),
        ..Default::default()
    };
    let options = Some(v1::TextToTextOptions { max_tokens: 2, ..Default::default() });
    let summarise = v1::SummariseRequest { texts: texts(), options, ..Default::default() };
    let translate = v1::TranslateRequest { texts: texts(), options, ..Default::default() };
    let id = || "a".to_owned();
    vec![
        grpc("tidemill.v1.TextClassification", "Classify", &classify),
        grpc(
            "tidemill.v1.TextClassification",
            "ClassifyStream",
            &v1::ClassifyStreamRequest { id: id(), request: Some(classify) },
        ),
        grpc("tidemill.v1.Embedding", "Embed", &embed),
        grpc("tidemill.v1.Embedding", "EmbedStream", &v1::EmbedStreamRequest { id: id(), request: Some(embed) }),
        grpc("tidemill.v1.Embedding", "Rerank", &rerank),
        grpc("tidemill.v1.Entities", "Find", &find),
        grpc("tidemill.v1.Entities", "FindStream", &v1::FindEntitiesStreamRequest { id: id(), request: Some(find) }),
        grpc("tidemill.v1.Generation", "Generate", &generate),
        grpc("tidemill.v1.Generation", "GenerateStream", &generate),
        grpc("tidemill.v1.Chat", "Complete", &chat),
        grpc("tidemill.v1.Chat", "CompleteStream", &chat),
        grpc("tidemill.v1.TextToText", "Summarise", &summarise),
        grpc("tidemill.v1.TextToText", "Translate", &translate),
    ]
}

/// Health and reflection, whose messages are a string in field 1 and in field 7.
fn beside_models() -> Vec<Valid> {
    let text = |field: u8, text: &str| {
        let length = u8::try_from(text.len()).expect("a short text");
        Body::Grpc([&[field << 3 | 2, length], text.as_bytes()].concat())
    };
    let beside = |path: &str, body| Valid { path: path.to_owned(), head: Vec::new(), body };
    vec![
        beside("/grpc.health.v1.Health/Check", text(1, "sentiment")),
        beside("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", text(7, "*")),
        beside("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", text(4, "tidemill.v1.Chat")),
        beside("/tidemill.v1.Nothing/Nothing", text(1, "x")),
    ]
}

fn openai() -> Vec<Valid> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    vec![
        http(
            "/v1/completions",
            json!({"model": "chat", "prompt": ["The tide", "A mill"], "max_tokens": 2, "temperature": 0.5, "n": 2,
                "logprobs": 2, "stop": ["x", "yz"], "logit_bias": {"5": -1.5}, "seed": 3, "top_k": 4}),
        ),
        http(
            "/v1/completions",
            json!({"model": "chat", "prompt": [5, 6, 7], "max_tokens": 2, "stream": true, "min_p": 0.1,
                "stream_options": {"include_usage": true}, "guided_regex": "[a-c]+d?"}),
        ),
        http(
            "/v1/chat/completions",
            json!({"model": "chat", "messages": [{"role": "system", "content": "Brief."},
                {"role": "user", "content": [{"type": "text", "text": "tide?"}]}], "max_tokens": 2, "top_logprobs": 2,
                "logprobs": true, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}),
        ),
        http(
            "/v1/chat/completions",
            json!({"model": "chat", "messages": [{"role": "user", "content": "tide?"}], "max_tokens": 2, "stream": true,
                "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}], "tool_choice": "auto"}),
        ),
        http(
            "/v1/embeddings",
            json!({"model": "encoder", "input": ["a tide", "mill"], "encoding_format": "base64", "dimensions": 8}),
        ),
        http("/v1/embeddings", json!({"model": "encoder", "input": [[5, 6], [7]]})),
        http("/rerank", json!({"query": "tide", "texts": ["a tide", "mill"], "raw_scores": true, "truncate": true})),
        http("/v1/rerank", json!({"query": "tide", "texts": ["a tide"], "return_text": true, "model": "x"})),
    ]
}

fn open_inference_over_http() -> Vec<Valid> {
    let text = json!({"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": ["tide", "mill"]});
    let output = json!({"name": "label", "parameters": {"binary_data": true}});
    let echo = "/v2/models/echo/infer";
    let json = json!({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "INT16",
        "parameters": {"binary_data_size": 8}}], "parameters": {"binary_data_output": true}});
    let binary = Valid {
        path: echo.to_owned(),
        head: vec![("inference-header-content-length", json.to_string().len().to_string())],
        body: Body::Binary { json, tensor: vec![1, 0, 2, 0, 3, 0, 4, 0] },
    };
    vec![
        binary,
        http("/v2/models/sentiment/infer", json!({"id": "7", "inputs": [text], "outputs": [output]})),
        http(
            "/v2/models/chat/versions/1/infer",
            json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["tide"]}],
                "parameters": {"max_tokens": 2, "temperature": 0.0}}),
        ),
        http(
            echo,
            json!({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [[1, 2.5], [-3e9, 4]]}]}),
        ),
        http(
            echo,
            json!({"inputs": [{"name": "x", "shape": [3], "datatype": "UINT64", "data": [1, 2, 18446744073709551615_u64]}]}),
        ),
        http("/v2/models/..%2f..%2fsentiment/infer", json!({"inputs": []})),
        http("/v2/repository/index", json!({"ready": true})),
        http("/v2/repository/models/x/load", json!({"parameters": {"config": "{}"}})),
        http("/v2/repository/models/x/unload", json!({"parameters": {"unload_dependents": true}})),
        http("/v2/systemsharedmemory/region/r/register", json!({"key": "/r", "offset": 0, "byte_size": 64})),
        http("/v2/systemsharedmemory/region/r/unregister", json!({})),
    ]
}
