//! TorchScript modules behind the operator's leave, and the built-in identity model, as their users meet them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

use tidemill_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::inference::{ModelInferRequest, ModelInferResponse};
use tidemill_proto::tensor::{decode_fp32, encode_fp32};
use tidemill_tests::{Server, repository, tidemill};
use tonic::Status;

fn fixtures() -> std::path::PathBuf {
    repository().join("crates/model/tests/fixtures/opaque")
}

async fn infer(server: &Server, model: &str, shape: [i64; 2], values: &[f32]) -> Result<ModelInferResponse, Status> {
    let x = InferInputTensor { name: "x".into(), datatype: "FP32".into(), shape: shape.into(), ..Default::default() };
    let request = ModelInferRequest {
        model_name: model.into(),
        inputs: vec![x],
        raw_input_contents: vec![encode_fp32(values.iter().copied(), values.len())],
        ..Default::default()
    };
    let mut client = GrpcInferenceServiceClient::new(server.channel().await);
    client.model_infer(request).await.map(|answer| answer.into_inner())
}

#[test]
fn a_file_that_runs_code_is_refused_without_leave() {
    for file in ["linear.pt", "absent.pt2"] {
        let refused = tidemill(&fixtures(), &["serve", "--address", "127.0.0.1:0", file]);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        for part in [file, "runs code of its own", "--allow-code"] {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
    }
}

#[tokio::test]
async fn with_leave_it_answers_beside_the_identity_model() {
    let folder = tempfile::tempdir().unwrap();
    let linear = fixtures().join("linear.pt");
    let config = format!("packages = [{:?}, \"echo=builtin:identity\"]\nallow_code = true\n", linear.display());
    std::fs::write(folder.path().join("server.toml"), config).unwrap();
    for arguments in
        [&["--config", "server.toml"][..], &["--allow-code", &linear.display().to_string(), "echo=builtin:identity"]]
    {
        let server = Server::start(folder.path(), arguments);
        let answer = infer(&server, "linear", [1, 3], &[1.0, 2.0, 3.0]).await.unwrap();
        assert_eq!((answer.outputs[0].name.as_str(), answer.model_version.as_str()), ("y", "2"));
        assert_eq!(decode_fp32(&answer.raw_output_contents[0], 2).unwrap(), [-1.75, 4.5]);
        let answer = infer(&server, "echo", [1, 2], &[1.0, 2.0]).await.unwrap();
        assert_eq!(decode_fp32(&answer.raw_output_contents[0], 2).unwrap(), [1.0, 2.0]);
    }
}

#[test]
fn a_built_in_model_that_is_not_there_is_named() {
    let refused = tidemill(Path::new("."), &["serve", "--address", "127.0.0.1:0", "builtin:nothing"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("builtin:identity"), "{}", refused.stderr);
}
