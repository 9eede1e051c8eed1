//! Models that take and give tensors, over a real socket: every datatype of the protocol, raw and typed, through the
//! identity model; opaque models and their bounds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{SERVING, start, texts};
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tidemill_proto::inference::{InferParameter, InferTensorContents, ModelInferRequest, ModelMetadataRequest};
use tidemill_proto::tensor::{Datatype, encode_bytes, encode_fp32};
use tidemill_serve::{ModelSource, ServeError, ServerConfig};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/opaque").join(name)
}

fn allowed() -> ServerConfig {
    ServerConfig { allow_code: true, ..ServerConfig::default() }
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.into(), ..Default::default() }
}

fn raw(model: &str, input: InferInputTensor, contents: Vec<u8>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.into(),
        id: "a7".into(),
        inputs: vec![input],
        raw_input_contents: vec![contents.into()],
        ..ModelInferRequest::default()
    }
}

fn typed(input: InferInputTensor, contents: InferTensorContents) -> ModelInferRequest {
    let input = InferInputTensor { contents: Some(contents), ..input };
    ModelInferRequest { model_name: "identity".into(), inputs: vec![input], ..ModelInferRequest::default() }
}

fn floats(values: &[f32]) -> Vec<u8> {
    encode_fp32(values.iter().copied(), values.len()).to_vec()
}

fn field(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violation = status.get_details_bad_request().expect("a BadRequest").field_violations[0].clone();
    (violation.field, violation.description)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_model_gives_back_every_datatype_raw() {
    let server = start(ServerConfig::default(), vec![ModelSource::path("builtin:identity")]).await;
    let mut client = server.open();
    for datatype in Datatype::ALL {
        for shape in [vec![], vec![3], vec![2, 0], vec![1, 3]] {
            let count = shape.iter().product::<i64>() as usize;
            let contents = match datatype.size() {
                Some(size) => vec![1; count * size],
                None => encode_bytes(vec!["tide"; count]).unwrap().to_vec(),
            };
            let request = raw("identity", input("x", datatype.name(), &shape), contents.clone());
            let answer = client.model_infer(request).await.unwrap().into_inner();
            let output = &answer.outputs[0];
            assert_eq!((output.name.as_str(), output.datatype.as_str()), ("y", datatype.name()));
            assert_eq!((&output.shape, answer.id.as_str()), (&shape, "a7"));
            assert_eq!(answer.raw_output_contents, [contents]);
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_model_gives_back_typed_contents_and_parameters() {
    let server = start(ServerConfig::default(), vec![ModelSource::path("builtin:identity")]).await;
    let mut client = server.open();
    assert_eq!(server.health("identity").await.unwrap(), SERVING);
    let none = InferTensorContents::default;
    let cases = [
        ("BOOL", InferTensorContents { bool_contents: vec![true, false], ..none() }),
        ("INT8", InferTensorContents { int_contents: vec![-128, 127], ..none() }),
        ("INT16", InferTensorContents { int_contents: vec![-32768, 5], ..none() }),
        ("INT32", InferTensorContents { int_contents: vec![i32::MIN, 5], ..none() }),
        ("INT64", InferTensorContents { int64_contents: vec![i64::MIN, 5], ..none() }),
        ("UINT8", InferTensorContents { uint_contents: vec![255, 5], ..none() }),
        ("UINT16", InferTensorContents { uint_contents: vec![65535, 5], ..none() }),
        ("UINT32", InferTensorContents { uint_contents: vec![u32::MAX, 5], ..none() }),
        ("UINT64", InferTensorContents { uint64_contents: vec![u64::MAX, 5], ..none() }),
        ("FP32", InferTensorContents { fp32_contents: vec![0.5, -1.0], ..none() }),
        ("FP64", InferTensorContents { fp64_contents: vec![0.5, -1.0], ..none() }),
        ("BYTES", InferTensorContents { bytes_contents: vec!["tide".into(), "".into()], ..none() }),
    ];
    let parameter = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(7)) };
    for (datatype, contents) in cases {
        let mut request = typed(input("x", datatype, &[2]), contents.clone());
        request.parameters.insert("rank".into(), parameter.clone());
        let answer = client.model_infer(request).await.unwrap().into_inner();
        assert_eq!(answer.outputs[0].contents, Some(contents), "{datatype}");
        assert_eq!(answer.parameters["rank"], parameter);
        assert!(answer.raw_output_contents.is_empty());
    }
    // A tensor without elements needs no contents.
    let request = ModelInferRequest { inputs: vec![input("x", "INT32", &[0])], ..ModelInferRequest::default() };
    assert_eq!(client.model_infer(request).await.unwrap().into_inner().outputs[0].shape, [0]);

    let metadata = ModelMetadataRequest { name: "identity".into(), version: String::new() };
    let metadata = client.model_metadata(metadata).await.unwrap().into_inner();
    assert_eq!((metadata.inputs[0].name.as_str(), metadata.outputs[0].name.as_str()), ("x", "y"));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_that_are_wrong_are_refused_with_their_names() {
    let server = start(ServerConfig::default(), vec![ModelSource::path("builtin:identity")]).await;
    let mut client = server.open();
    let contents = InferTensorContents { fp32_contents: vec![1.0], ..Default::default() };
    let mut both = raw("identity", input("x", "FP32", &[1]), vec![0; 4]);
    both.inputs[0].contents = Some(contents.clone());
    let mut shared = raw("identity", input("x", "FP32", &[1]), vec![0; 4]);
    shared.inputs[0].parameters.insert("shared_memory_region".into(), InferParameter::default());
    let mut many = raw("identity", input("x", "FP32", &[0]), vec![]);
    many.inputs = vec![input("x", "FP32", &[0]); 65];
    let mut two = raw("identity", input("x", "FP32", &[0]), vec![]);
    two.inputs = vec![input("x", "FP32", &[0]); 2];
    let mut other = raw("identity", input("x", "FP32", &[1]), vec![0; 4]);
    other.outputs = vec![InferRequestedOutputTensor { name: "z".into(), ..Default::default() }];
    let cases = [
        (raw("identity", input("x", "FP31", &[1]), vec![0; 4]), "inputs[0].datatype", "FP31"),
        (raw("identity", input("x", "FP32", &[2]), vec![0; 4]), "raw_input_contents[0]", "8 bytes"),
        (raw("identity", input("x", "FP32", &[-1]), vec![0; 4]), "inputs[0].shape", "below zero"),
        (raw("identity", input("x", "FP32", &[i64::MAX, 4]), vec![0; 4]), "inputs[0].shape", "too many"),
        (raw("identity", input("x", "FP32", &[1; 33]), vec![0; 4]), "inputs[0].shape", "33 dimensions"),
        (raw("identity", input("x", "BYTES", &[1]), vec![9, 0, 0, 0]), "raw_input_contents[0]", "element 0"),
        (typed(input("x", "BF16", &[1]), contents.clone()), "inputs[0].contents", "raw_input_contents"),
        (typed(input("x", "INT32", &[1]), contents.clone()), "inputs[0].contents", "int_contents alone"),
        (typed(input("x", "FP32", &[2]), contents), "inputs[0].contents", "2 elements"),
        (both, "inputs[0].contents", "send one of them"),
        (shared, "inputs[0].parameters", "shared_memory_region"),
        (many, "inputs", "65 tensors"),
        (two, "raw_input_contents", "send one for each"),
        (other, "outputs[0].name", "it gives y"),
        (raw("identity", input("text", "FP32", &[1]), vec![0; 4]), "inputs[0].name", "it takes x"),
    ];
    for (request, wanted, part) in cases {
        let (field, problem) = field(&client.model_infer(request).await.unwrap_err());
        assert!(field == wanted && problem.contains(part), "{field}: {problem}; {wanted}: {part}");
    }
    let status = server.typed().classify(texts("identity", &["a"])).await.unwrap_err();
    assert!(field(&status).1.contains("gives tensors back; a model that classifies texts is needed"), "{status:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_models_answer_by_their_signatures() {
    let sources = ["linear.pt", "pair.pt", "echo.pt"].map(|name| ModelSource::path(fixture(name).as_path()));
    let server = start(allowed(), sources.into()).await;
    let mut client = server.open();

    let metadata = ModelMetadataRequest { name: "linear".into(), version: String::new() };
    let metadata = client.model_metadata(metadata).await.unwrap().into_inner();
    let (x, y) = (&metadata.inputs[0], &metadata.outputs[0]);
    assert_eq!((x.name.as_str(), x.datatype.as_str(), x.shape.as_slice()), ("x", "FP32", &[-1, 3][..]));
    assert_eq!((y.name.as_str(), y.datatype.as_str(), y.shape.as_slice()), ("y", "FP32", &[-1, 2][..]));
    assert_eq!((metadata.versions[0].as_str(), metadata.platform.as_str()), ("2", "pytorch_torchscript"));

    let request = raw("linear", input("x", "FP32", &[1, 3]), floats(&[1.0, 2.0, 3.0]));
    let answer = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!((answer.id.as_str(), answer.outputs[0].shape.as_slice()), ("a7", &[1, 2][..]));
    assert_eq!(answer.raw_output_contents, [floats(&[-1.75, 4.5])]);

    // Two inputs, a dictionary out, one output asked for, typed.
    let contents = |values: &[f32]| Some(InferTensorContents { fp32_contents: values.to_vec(), ..Default::default() });
    let mut right = input("right", "FP32", &[]);
    right.contents = contents(&[1.0]);
    let mut left = input("left", "FP32", &[2]);
    left.contents = contents(&[3.0, 5.0]);
    let wanted = |name: &str| vec![InferRequestedOutputTensor { name: name.into(), ..Default::default() }];
    let pair = ModelInferRequest {
        model_name: "pair".into(),
        inputs: vec![right, left],
        outputs: wanted("difference"),
        ..ModelInferRequest::default()
    };
    let answer = client.model_infer(pair.clone()).await.unwrap().into_inner();
    assert_eq!(answer.outputs.len(), 1);
    assert_eq!(answer.outputs[0].contents, contents(&[2.0, 4.0]));
    let status = client.model_infer(ModelInferRequest { outputs: wanted("z"), ..pair }).await.unwrap_err();
    assert!(field(&status).1.contains("sum and difference"), "{status:?}");

    for datatype in Datatype::ALL {
        let (shape, contents) = ([2, 1], vec![1; 2 * datatype.size().unwrap_or(4)]);
        let request = raw("echo", input("x", datatype.name(), &shape), contents.clone());
        let answer = client.model_infer(request).await;
        if datatype == Datatype::Bytes {
            assert_eq!(field(&answer.unwrap_err()).0, "raw_input_contents[0]");
            continue;
        }
        let answer = answer.unwrap().into_inner();
        assert_eq!(
            (answer.outputs[0].datatype.as_str(), &answer.raw_output_contents[0][..]),
            (datatype.name(), &contents[..])
        );
    }

    for (request, part) in [
        (raw("linear", input("x", "FP32", &[9, 3]), floats(&[0.0; 27])), "9 rows"),
        (raw("linear", input("x", "FP64", &[1, 3]), vec![0; 24]), "the model's is FP32"),
        (raw("linear", input("z", "FP32", &[1, 3]), vec![0; 12]), "it takes x"),
    ] {
        let status = client.model_infer(request).await.unwrap_err();
        assert!(field(&status).1.contains(part), "{status:?}");
    }
    let status = server.typed().classify(texts("linear", &["a"])).await.unwrap_err();
    assert!(field(&status).1.contains("takes and gives tensors"), "{status:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_together_runs_together_and_comes_back_apart() {
    let config = ServerConfig { max_delay: Duration::from_secs(20), ..allowed() };
    let server = start(config, vec![ModelSource::path(fixture("linear.pt").as_path())]).await;
    // Eight rows fill a batch, so that the delay is not waited out.
    let calls = (0..8).map(|row| {
        let mut client = server.open();
        let row = row as f32;
        let request = raw("linear", input("x", "FP32", &[1, 3]), floats(&[row, 0.0, 0.0]));
        async move { (row, client.model_infer(request).await.unwrap().into_inner()) }
    });
    let answers = tokio::time::timeout(Duration::from_secs(15), futures::future::join_all(calls)).await.unwrap();
    for (row, answer) in answers {
        assert_eq!(answer.raw_output_contents, [floats(&[row + 0.25, -1.0])]);
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leave_nothing_is_opened() {
    let config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    let sources = vec![ModelSource::path(fixture("linear.pt").as_path())];
    let error = tidemill_serve::serve_models(config, sources, std::future::pending(), |_| ()).await.unwrap_err();
    assert!(matches!(error, ServeError::CodeNotAllowed { .. }), "{error}");
    assert!(error.to_string().contains("allow_code = true"), "{error}");
}
