//! A real package behind the server: what comes over the wire is what its pipeline says in process.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/packages.rs"]
mod packages;

use std::path::Path;

use packages::{TEXTS, write_package};
use tidemill_model::{Pipeline, PipelineOptions};
use tidemill_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tidemill_proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use tidemill_proto::tensor::{decode_bytes, decode_fp32, encode_bytes};
use tidemill_proto::v1::ClassifyRequest;
use tidemill_proto::v1::text_classification_client::TextClassificationClient;
use tidemill_serve::{ServerConfig, serve};
use tokio::sync::oneshot;

fn config(folders: &[&Path]) -> ServerConfig {
    ServerConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        packages: folders.iter().map(|folder| (*folder).into()).collect(),
        threads: Some(1),
        ..ServerConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_services_say_what_the_pipeline_says() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("sentiment");
    write_package(&folder, "sentiment", 7).unwrap();
    let expected: Vec<Vec<f32>> = Pipeline::open(&folder, &PipelineOptions::default())
        .unwrap()
        .classify(&TEXTS)
        .unwrap()
        .into_iter()
        .map(|classification| classification.probabilities)
        .collect();

    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, listening) = oneshot::channel();
    let config = config(&[&folder]);
    let server = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        serve(config, shutdown, |address| tell.send(address).unwrap()).await
    });
    let address = format!("http://{}", listening.await.unwrap());

    let mut typed = TextClassificationClient::connect(address.clone()).await.unwrap();
    let request = ClassifyRequest {
        model: "sentiment".into(),
        texts: TEXTS.map(str::to_owned).to_vec(),
        ..ClassifyRequest::default()
    };
    let answer = typed.classify(request).await.unwrap().into_inner();
    assert_eq!(answer.model_version, "2");
    for (classification, row) in answer.classifications.iter().zip(&expected) {
        for label in &classification.labels {
            let names = ["negative", "neutral", "positive"];
            let index = names.iter().position(|name| *name == label.label).unwrap();
            assert!((label.probability - row[index]).abs() < 1e-6);
        }
    }

    let mut open = GrpcInferenceServiceClient::connect(address).await.unwrap();
    let request = ModelInferRequest {
        model_name: "sentiment".into(),
        inputs: vec![InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![4, 1],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![encode_bytes(TEXTS).unwrap()],
        ..ModelInferRequest::default()
    };
    let answer = open.model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].shape, [4, 3]);
    let probabilities = decode_fp32(&answer.raw_output_contents[0], 12).unwrap();
    for (found, expected) in probabilities.iter().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 1e-6);
    }
    let labels = decode_bytes(&answer.raw_output_contents[1], 4).unwrap();
    for (label, classification) in labels.iter().zip(&answer_labels(&expected)) {
        assert_eq!(*label, classification.as_bytes());
    }

    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

fn answer_labels(rows: &[Vec<f32>]) -> Vec<&'static str> {
    let best = |row: &Vec<f32>| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter().position(|value| *value == largest).unwrap()
    };
    rows.iter().map(|row| ["negative", "neutral", "positive"][best(row)]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_package_and_a_name_used_twice_stop_the_start() {
    let temporary = tempfile::tempdir().unwrap();
    let (one, two) = (temporary.path().join("one"), temporary.path().join("two"));
    write_package(&one, "sentiment", 7).unwrap();
    write_package(&two, "sentiment", 7).unwrap();
    let never = |_| unreachable!("it is not ready");

    let result = serve(config(&[&one, &two]), std::future::pending(), never).await;
    let message = result.unwrap_err().to_string();
    assert!(message.contains("sentiment") && message.contains("two"), "{message}");

    let weights = two.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let result = serve(config(&[&two]), std::future::pending(), never).await;
    let message = result.unwrap_err().to_string();
    assert!(message.contains("model.safetensors"), "{message}");
}
