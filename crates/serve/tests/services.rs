//! The services as their callers meet them, over a real socket: what they answer, and how they refuse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

mod support;

use std::collections::HashMap;

use support::{Outcomes, by_length_source, info, raw_infer, start, texts};
use tidemill_proto::inference::model_infer_request::InferRequestedOutputTensor;
use tidemill_proto::inference::{ModelInferRequest, ModelMetadataRequest};
use tidemill_proto::tensor::{bytes_contents, decode_bytes, decode_fp32, encode_bytes, find_tensor};
use tidemill_proto::v1::classify_stream_response::Outcome;
use tidemill_proto::v1::{ClassifyRequest, ClassifyStreamRequest};
use tidemill_serve::{ModelSource, ServeError, ServerConfig, serve_models};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn violated_field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().expect("a BadRequest");
    details.field_violations[0].field.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_classification_answers_in_order_and_ranks() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    let answer = server.typed().classify(texts("", &["tide", "tidemill"])).await.unwrap().into_inner();
    assert_eq!((answer.model.as_str(), answer.model_version.as_str()), ("length", "3"));
    let first: Vec<(&str, f32)> =
        answer.classifications[0].labels.iter().map(|l| (l.label.as_str(), l.probability)).collect();
    assert_eq!(first, [("short", 0.75), ("long", 0.25)]);
    assert_eq!(answer.classifications[1].labels[0].label, "long");

    let top = ClassifyRequest { top_k: 1, ..texts("length", &["tide"]) };
    let answer = server.typed().classify(top).await.unwrap().into_inner();
    assert_eq!(answer.classifications[0].labels.len(), 1);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_inference_protocol_answers_raw_and_typed() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    let mut client = server.open();

    let metadata = ModelMetadataRequest { name: "length".into(), version: String::new() };
    let metadata = client.model_metadata(metadata).await.unwrap().into_inner();
    assert_eq!(find_tensor(&metadata, "text").unwrap().shape, [-1]);
    assert_eq!(find_tensor(&metadata, "probabilities").unwrap().shape, [-1, 2]);

    let answer = client.model_infer(raw_infer("length", &["tide", "tidemill"])).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!((answer.id.as_str(), answer.model_version.as_str()), ("a7", "3"));
    assert_eq!(answer.outputs[0].shape, [2, 2]);
    assert_eq!(answer.outputs[1].shape, [2]);
    let probabilities = decode_fp32(&answer.raw_output_contents[0], 4).unwrap();
    assert_eq!(probabilities, [0.75, 0.25, 0.1, 0.9]);
    let labels = decode_bytes(&answer.raw_output_contents[1], 2).unwrap();
    assert_eq!(labels, [b"short".as_slice(), b"long"]);

    // Typed contents, shape [n, 1], one output asked for.
    let mut request = raw_infer("length", &["tidemill"]);
    request.raw_input_contents.clear();
    request.inputs[0].shape = vec![1, 1];
    request.inputs[0].contents = Some(bytes_contents(vec!["tidemill".into()]));
    request.outputs = vec![InferRequestedOutputTensor { name: "label".into(), ..Default::default() }];
    let answer = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.outputs.len(), 1);
    assert!(answer.raw_output_contents.is_empty());
    assert_eq!(answer.outputs[0].contents.as_ref().unwrap().bytes_contents, ["long"]);

    // A tensor without elements is one.
    let answer = client.model_infer(raw_infer("length", &[])).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].shape, [0, 2]);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_by_field() {
    let config = ServerConfig { max_texts: 3, max_text_bytes: 10, ..ServerConfig::default() };
    let server = start(config, vec![by_length_source("length")]).await;
    let mut typed = server.typed();
    let mut refused = async |request| violated_field(&typed.classify(request).await.unwrap_err());
    assert_eq!(refused(texts("length", &[])).await, "texts");
    assert_eq!(refused(texts("length", &["a", "b", "c", "d"])).await, "texts");
    assert_eq!(refused(texts("length", &["a", "more than ten"])).await, "texts[1]");

    let mut open = server.open();
    let mut refused = async |change: fn(&mut ModelInferRequest)| {
        let mut request = raw_infer("length", &["tide"]);
        change(&mut request);
        violated_field(&open.model_infer(request).await.unwrap_err())
    };
    assert_eq!(refused(|r| r.inputs.clear()).await, "inputs");
    assert_eq!(refused(|r| r.inputs[0].name = "texts".into()).await, "inputs[0].name");
    assert_eq!(refused(|r| r.inputs[0].datatype = "FP32".into()).await, "inputs[0].datatype");
    assert_eq!(refused(|r| r.inputs[0].datatype = "STRING".into()).await, "inputs[0].datatype");
    assert_eq!(refused(|r| r.inputs[0].shape = vec![1, 2]).await, "inputs[0].shape");
    assert_eq!(refused(|r| r.inputs[0].shape = vec![-1]).await, "inputs[0].shape");
    assert_eq!(refused(|r| r.inputs[0].shape = vec![i64::MAX, i64::MAX]).await, "inputs[0].shape");
    assert_eq!(refused(|r| r.inputs[0].shape = vec![2]).await, "raw_input_contents[0]");
    assert_eq!(refused(|r| r.raw_input_contents.push("".into())).await, "raw_input_contents");
    assert_eq!(refused(|r| r.raw_input_contents[0] = "\x09\0\0\0tide".into()).await, "raw_input_contents[0]");
    assert_eq!(
        refused(|r| r.raw_input_contents[0] = encode_bytes([b"\xff"]).unwrap()).await,
        "raw_input_contents[0]: text 0"
    );
    assert_eq!(
        refused(|r| {
            r.outputs = vec![InferRequestedOutputTensor { name: "logits".into(), ..Default::default() }];
        })
        .await,
        "outputs[0].name"
    );
    assert_eq!(
        refused(|r| {
            r.inputs[0].parameters.insert("shared_memory_region".into(), Default::default());
        })
        .await,
        "inputs[0].parameters"
    );
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_models_are_answered_with_the_nearest() {
    let sources = vec![by_length_source("length"), by_length_source("sentiment")];
    let server = start(ServerConfig::default(), sources).await;
    let status = server.typed().classify(texts("sentimnet", &["a"])).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("\"sentiment\""), "{}", status.message());

    let other = ClassifyRequest { model_version: "4".into(), ..texts("length", &["a"]) };
    let status = server.typed().classify(other).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("\"3\""), "{}", status.message());

    assert_eq!(violated_field(&server.typed().classify(texts("", &["a"])).await.unwrap_err()), "model");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_answer_in_order_and_outlive_an_error() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    let message = |id: usize, request| ClassifyStreamRequest { id: id.to_string(), request };
    let requests: Vec<ClassifyStreamRequest> =
        (0..100).map(|id| message(id, (id != 50).then(|| texts("length", &["tide"])))).collect();
    let mut answers = server.typed().classify_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    for id in 0..100 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.id, id.to_string());
        match answer.outcome.unwrap() {
            Outcome::Response(response) => assert_eq!(response.classifications.len(), 1),
            Outcome::Error(error) => {
                assert_eq!((id, error.code), (50, Code::InvalidArgument as i32));
                assert_eq!(error.details.len(), 1);
            }
        }
    }
    assert!(answers.message().await.unwrap().is_none());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let running = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    let config = ServerConfig { address: running.address, ..ServerConfig::default() };
    let never = |_| panic!("it is not ready");
    let result = serve_models(config, vec![by_length_source("other")], std::future::pending(), never).await;
    let message = result.unwrap_err().to_string();
    assert!(message.contains(&running.address.to_string()), "{message}");
    running.stop().await.unwrap();

    let config = || ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..Default::default() };
    let twice = vec![by_length_source("twin"), by_length_source("twin")];
    let result = serve_models(config(), twice, std::future::pending(), never).await;
    assert!(matches!(result, Err(ServeError::DuplicateModel { name, .. }) if name == "twin"));

    let failing =
        ModelSource::classifier(info("broken"), || Err::<fn(&[&str]) -> Outcomes, _>("its weights are missing".into()));
    let result = serve_models(config(), vec![failing], std::future::pending(), never).await;
    let message = result.unwrap_err().to_string();
    assert!(message.contains("broken") && message.contains("weights"), "{message}");

    let config = ServerConfig { packages: vec!["/nonexistent/package".into()], ..config() };
    let result = tidemill_serve::serve(config, std::future::pending(), never).await;
    let message = result.unwrap_err().to_string();
    assert!(message.contains("/nonexistent/package"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_are_all_answered_rightly() {
    let server = start(ServerConfig::default(), vec![by_length_source("length")]).await;
    let calls: Vec<_> = (0..400)
        .map(|index| {
            let mut client = server.typed();
            let text = "x".repeat(index % 10);
            tokio::spawn(async move {
                let answer = client.classify(texts("length", &[&text])).await.unwrap().into_inner();
                (text.len(), answer.classifications[0].labels[0].label.clone())
            })
        })
        .collect();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for call in calls {
        let (length, label) = call.await.unwrap();
        assert_eq!(label, if length < 5 { "short" } else { "long" });
        *counts.entry(label).or_default() += 1;
    }
    assert_eq!(counts["short"], 200);
    server.stop().await.unwrap();
}
