//! Summaries and translations over a real socket, from the stored checkpoints of the model library's tests: what they
//! answer, how they refuse, and what a server does for callers who leave.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

#[path = "support/http.rs"]
mod http;
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{events, measured, post};
use serde_json::json;
use support::{Running, start};
use tidemill_model::tasks::generation::GeneratorOptions;
use tidemill_model::tasks::text_to_text::{TextToText, TextToTextOptions};
use tidemill_proto::inference::InferParameter;
use tidemill_proto::inference::ModelInferRequest;
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::tensor::{decode_bytes, encode_bytes};
use tidemill_proto::v1::generation_client::GenerationClient;
use tidemill_proto::v1::text_to_text_client::TextToTextClient;
use tidemill_proto::v1::{self, GenerateRequest, SummariseRequest, TranslateRequest, generate_request};
use tidemill_serve::{ModelSource, ServerConfig};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/checkpoints").join(name)
}

async fn serve(names: &[&str], config: ServerConfig) -> Running {
    start(config, names.iter().map(|name| ModelSource::path(checkpoint(name))).collect()).await
}

fn rewriter(server: &Running) -> TextToTextClient<Channel> {
    TextToTextClient::new(server.channel.clone())
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

/// What the library says by itself.
fn expected(name: &str, texts: &[&str], languages: Option<[&str; 2]>, options: &TextToTextOptions) -> Vec<String> {
    let mut model = TextToText::open(&checkpoint(name), &GeneratorOptions::default()).unwrap();
    let answers = match languages {
        None => model.summarise(texts, options),
        Some([source, target]) => model.translate(texts, source, target, options),
    };
    answers.unwrap().into_iter().map(|answer| answer.text).collect()
}

fn violated_field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    status.get_details_bad_request().expect("a BadRequest").field_violations[0].field.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_summarised_and_translated_in_order() {
    let server = serve(&["bart", "m2m_100"], ServerConfig::default()).await;
    let texts = ["The tide comes in twice a day.", "A mill", "It turns the wheel, and the wheel turns the stones."];
    let options = v1::TextToTextOptions { max_tokens: 12, beams: 3, truncate: false };
    let library = TextToTextOptions { max_tokens: Some(12), beams: Some(3), ..TextToTextOptions::default() };

    let request = SummariseRequest {
        model: "bart".into(),
        texts: owned(&texts),
        options: Some(options),
        ..SummariseRequest::default()
    };
    let answer = rewriter(&server).summarise(request).await.unwrap().into_inner();
    assert_eq!(answer.texts, expected("bart", &texts, None, &library));
    assert_eq!((answer.model.as_str(), answer.model_version.as_str()), ("bart", "1"));
    assert!(answer.prompt_tokens > 30 && answer.completion_tokens > 3, "{answer:?}");

    let request = TranslateRequest {
        model: "m2m_100".into(),
        texts: owned(&texts),
        source_language: "de_DE".into(),
        target_language: "en".into(),
        options: Some(options),
        ..TranslateRequest::default()
    };
    let answer = rewriter(&server).translate(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.texts, expected("m2m_100", &texts, Some(["de_DE", "en_XX"]), &library));
    let other = TranslateRequest { target_language: "ja_XX".into(), ..request };
    assert_ne!(rewriter(&server).translate(other).await.unwrap().into_inner().texts, answer.texts);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let server = serve(&["m2m_100"], ServerConfig::default()).await;
    let long = "The tide comes in twice a day. ".repeat(20);
    let request = |texts: &[&str]| TranslateRequest {
        texts: owned(texts),
        target_language: "de_DE".into(),
        options: Some(v1::TextToTextOptions { max_tokens: 3, ..v1::TextToTextOptions::default() }),
        ..TranslateRequest::default()
    };
    let refusal = async |request| rewriter(&server).translate(request).await.unwrap_err();
    assert_eq!(violated_field(&refusal(request(&["a", ""])).await), "texts[1]");
    let status = refusal(request(&["a", &long])).await;
    assert_eq!(violated_field(&status), "texts[1]");
    assert!(status.message().contains("the model reads at most 96"), "{status:?}");
    let wrong = TranslateRequest { target_language: "de_DF".into(), ..request(&["a"]) };
    let status = refusal(wrong).await;
    assert_eq!(violated_field(&status), "target_language");
    assert!(status.message().contains("did you mean \"de_DE\"?"), "{status:?}");
    let wrong = TranslateRequest { source_language: "xx".into(), ..request(&["a"]) };
    assert_eq!(violated_field(&refusal(wrong).await), "source_language");
    let many = v1::TextToTextOptions { beams: 65, ..v1::TextToTextOptions::default() };
    let wrong = TranslateRequest { options: Some(many), ..request(&["a"]) };
    assert_eq!(violated_field(&refusal(wrong).await), "options.beams");

    let options = v1::TextToTextOptions { max_tokens: 3, truncate: true, ..v1::TextToTextOptions::default() };
    let cut = TranslateRequest { options: Some(options), ..request(&[&long]) };
    assert_eq!(rewriter(&server).translate(cut).await.unwrap().into_inner().prompt_tokens, 96);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_services_take_its_prompt_as_the_text_to_read() {
    let server = serve(&["bart"], ServerConfig::default()).await;
    let mut client = GenerationClient::new(server.channel.clone());
    let sampling = v1::Sampling { max_tokens: Some(10), temperature: Some(0.0), ..v1::Sampling::default() };
    let request = GenerateRequest {
        input: Some(generate_request::Input::Prompt("The tide".into())),
        sampling: Some(sampling),
        ..GenerateRequest::default()
    };
    let whole = client.generate(request.clone()).await.unwrap().into_inner();
    let options = TextToTextOptions { max_tokens: Some(10), beams: Some(1), ..TextToTextOptions::default() };
    let [text] = expected("bart", &["The tide"], None, &options).try_into().unwrap();
    assert_eq!(whole.answers[0].text, text);

    let mut stream = client.generate_stream(request).await.unwrap().into_inner();
    let (mut pieces, mut streamed) = (0, String::new());
    while let Some(piece) = stream.next().await {
        let piece = piece.unwrap();
        pieces += usize::from(!piece.text.is_empty());
        streamed += &piece.text;
    }
    assert_eq!(streamed, text);
    assert!(pieces > 2, "{pieces}");

    let body = json!({"model": "bart", "prompt": "The tide", "max_tokens": 10, "temperature": 0});
    let (status, answer) = post(server.address, "/v1/completions", body).await;
    assert_eq!((status, answer["choices"][0]["text"].as_str()), (200, Some(text.as_str())), "{answer}");
    let body = json!({
        "model": "bart", "prompt": "The tide", "max_tokens": 10, "temperature": 0.7, "seed": 3, "stream": true,
    });
    let chunks = events(server.address, "/v1/completions", body).await;
    assert!(chunks.len() > 3 && chunks.last().is_some_and(|last| last == "[DONE]"), "{chunks:?}");
    let chat = json!({"model": "bart", "messages": [{"role": "user", "content": "Hello"}]});
    let (status, answer) = post(server.address, "/v1/chat/completions", chat).await;
    assert_eq!(status, 400);
    assert!(answer["error"]["message"].as_str().unwrap().contains("no chat template"), "{answer}");

    let choice = Some(ParameterChoice::Int64Param(10));
    let request = ModelInferRequest {
        model_name: "bart".into(),
        inputs: vec![InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![1],
            ..InferInputTensor::default()
        }],
        parameters: [("max_tokens".to_string(), InferParameter { parameter_choice: choice })].into(),
        raw_input_contents: vec![encode_bytes(["The tide"]).unwrap()],
        ..ModelInferRequest::default()
    };
    let answer = server.open().model_infer(request).await.unwrap().into_inner();
    let bytes = answer.raw_output_contents.first().cloned().unwrap_or_default();
    assert_eq!(decode_bytes(&bytes, 1).unwrap(), [text.as_bytes()]);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_a_caller_who_has_left_stops() {
    let server = serve(&["t5"], ServerConfig::default()).await;
    let sampling =
        v1::Sampling { max_tokens: Some(500), ignore_end: true, answers: Some(8), ..v1::Sampling::default() };
    let request = GenerateRequest {
        input: Some(generate_request::Input::Prompt("The tide".into())),
        sampling: Some(sampling),
        ..GenerateRequest::default()
    };
    let mut stream = GenerationClient::new(server.channel.clone()).generate_stream(request).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    assert!(measured(server.address, "tidemill_sequences_running{").await > 0.0);
    drop(stream);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while measured(server.address, "tidemill_sequences_running{").await > 0.0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let written = measured(server.address, "tidemill_generated_tokens_total{").await;
    assert!(written < 8.0 * 250.0, "{written} tokens were written");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_line_is_said_at_once() {
    let config = ServerConfig { max_sequences: 1, max_waiting: 1, ..ServerConfig::default() };
    let server = serve(&["t5"], config).await;
    let sampling = v1::Sampling { max_tokens: Some(500), ignore_end: true, ..v1::Sampling::default() };
    let request = GenerateRequest {
        input: Some(generate_request::Input::Prompt("The tide".into())),
        sampling: Some(sampling),
        ..GenerateRequest::default()
    };
    let mut client = GenerationClient::new(server.channel.clone());
    let mut first = client.generate_stream(request.clone()).await.unwrap().into_inner();
    first.next().await.unwrap().unwrap();
    let second = client.generate_stream(request).await.unwrap();
    let wanted = SummariseRequest { texts: owned(&["a"]), ..SummariseRequest::default() };
    let status = rewriter(&server).summarise(wanted).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    drop((first, second));
    server.stop().await.unwrap();
}
