//! Checkpoints of encoders behind the server: what comes over the wire is what `transformers` says of the same texts, and
//! what cannot be is answered with a sentence.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

#[path = "support/checkpoints.rs"]
mod checkpoints;
#[path = "support/http.rs"]
mod http;
mod support;

use std::path::Path;

use checkpoints::{Fixture, numbers, strings};
use http::post;
use serde_json::json;
use support::{Running, start};
use tidemill_model::tasks::{AnswerOptions, Question, QuestionAnswerer, TaskOptions};
use tidemill_proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use tidemill_proto::tensor::{decode_bytes, decode_fp32, encode_bytes};
use tidemill_proto::v1::embedding_client::EmbeddingClient;
use tidemill_proto::v1::entities_client::EntitiesClient;
use tidemill_proto::v1::{ClassifyRequest, EmbedRequest, FindEntitiesRequest, RerankRequest};
use tidemill_serve::{CheckpointPrecision, ModelPath, ModelSource, ServerConfig, serve};
use tonic::Code;

const TOLERANCE: f32 = 3e-5;

fn config() -> ServerConfig {
    ServerConfig { precision: Some(CheckpointPrecision::Float32), threads: Some(1), ..ServerConfig::default() }
}

fn source(name: &str, folder: &Path) -> ModelSource {
    ModelSource::path(ModelPath { name: Some(name.to_string()), version: None, path: folder.to_path_buf() })
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= TOLERANCE, "{what}: {a} and {b}");
    }
}

async fn embedder(fixture: &Fixture) -> (tempfile::TempDir, Running) {
    let folder = fixture.checkpoint("BertModel", None, None);
    let server = start(config(), vec![source("embedder", folder.path())]).await;
    (folder, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded_over_both_protocols() {
    let fixture = Fixture::open("bert");
    let (_folder, server) = embedder(&fixture).await;
    let answers = fixture.answers("embedding");
    let (texts, expected) = (strings(&answers["texts"]), answers["mean"].as_array().unwrap());

    let mut client = EmbeddingClient::new(server.channel.clone());
    let request = EmbedRequest { texts: texts.clone(), truncate: true, ..EmbedRequest::default() };
    let answer = client.embed(request.clone()).await.unwrap().into_inner();
    assert_eq!((answer.model.as_str(), answer.model_version.as_str()), ("embedder", "1"));
    assert!(answer.tokens > 40 && answer.tokens < 160, "{}", answer.tokens);
    for (vector, expected) in answer.embeddings.iter().zip(expected) {
        assert_near(&vector.values, &numbers(expected), "over gRPC");
    }
    let cut = client.embed(EmbedRequest { dimensions: 4, ..request.clone() }).await.unwrap().into_inner();
    let (cut, whole) = (&cut.embeddings[0].values, &answer.embeddings[0].values);
    let length = whole[..4].iter().map(|value| value * value).sum::<f32>().sqrt();
    assert_near(cut, &whole[..4].iter().map(|value| value / length).collect::<Vec<_>>(), "cut");

    let fields = json!({"model": "embedder", "input": texts, "truncate": true});
    let (status, body) = post(server.address, "/v1/embeddings", fields).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["usage"]["prompt_tokens"], answer.tokens);
    for (object, expected) in body["data"].as_array().unwrap().iter().zip(expected) {
        assert_near(&numbers(&object["embedding"]), &numbers(expected), "over HTTP");
    }

    let infer = ModelInferRequest {
        model_name: "embedder".into(),
        inputs: vec![InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![1],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![encode_bytes(&texts[..1]).unwrap()],
        ..ModelInferRequest::default()
    };
    let raw = server.open().model_infer(infer).await.unwrap().into_inner();
    let width = numbers(&expected[0]).len();
    assert_eq!(raw.outputs[0].shape, [1, width as i64]);
    assert_near(&decode_fp32(&raw.raw_output_contents[0], width).unwrap(), &numbers(&expected[0]), "as tensors");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_embedded_is_refused_with_a_sentence() {
    let fixture = Fixture::open("bert");
    let (_folder, server) = embedder(&fixture).await;
    let texts = strings(&fixture.answers("embedding")["texts"]);
    let mut client = EmbeddingClient::new(server.channel.clone());
    // The last text is longer than the model's 40 tokens.
    let status = client.embed(EmbedRequest { texts: texts.clone(), ..EmbedRequest::default() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("texts[3]") && status.message().contains("more than 40 tokens"), "{status:?}");
    assert!(!status.message().contains("London"), "a message must not repeat a text: {status:?}");

    let (status, body) = post(server.address, "/v1/embeddings", json!({"model": "", "input": texts})).await;
    assert_eq!((status, body["error"]["param"].as_str()), (400, Some("input[3]")), "{body}");
    let (status, body) = post(server.address, "/v1/embeddings", json!({"input": [[5, 9999]]})).await;
    assert_eq!(status, 400, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("the token 9999 is not one of the model's 60"), "{message}");

    // Tokens are framed as a text's are.
    let (_, body) = post(server.address, "/v1/embeddings", json!({"input": [[5, 6]]})).await;
    assert_eq!(body["usage"]["prompt_tokens"], 4, "{body}");

    let request = RerankRequest { model: "embedder".into(), texts, ..RerankRequest::default() };
    let status = client.rerank(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("scores texts by a query"), "{status:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_its_own_vector_whatever_runs_beside_it() {
    let fixture = Fixture::open("bert");
    let (_folder, server) = embedder(&fixture).await;
    let words = ["the", "film", "is", "in", "a", "good", "house"];
    let text = |index: usize| (0..=index % 17).map(|at| words[(index + at) % 7]).collect::<Vec<_>>().join(" ");
    let embed = |text: String| {
        let mut client = EmbeddingClient::new(server.channel.clone());
        let request = EmbedRequest { texts: vec![text], ..EmbedRequest::default() };
        async move { client.embed(request).await.unwrap().into_inner().embeddings.remove(0).values }
    };
    let mut alone = Vec::new();
    for index in 0..119 {
        alone.push(embed(text(index)).await);
    }
    let together: Vec<_> = (0..119).map(|index| tokio::spawn(embed(text(index)))).collect();
    for (index, (together, alone)) in together.into_iter().zip(&alone).enumerate() {
        assert_near(&together.await.unwrap(), alone, &format!("text {index}"));
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_of_one_label_ranks_texts() {
    let fixture = Fixture::open("bert");
    let folder = fixture.checkpoint("BertForSequenceClassification", Some("sequence"), Some(&["relevant"]));
    let server = start(config(), vec![source("reranker", folder.path())]).await;
    let answers = fixture.answers("sequence");
    let pair = strings(&answers["pairs"][0]);
    let logit = numbers(&answers["pair_logits"][0])[0];
    let texts = vec!["the film".to_string(), pair[1].clone(), String::new()];

    let mut client = EmbeddingClient::new(server.channel.clone());
    let request =
        RerankRequest { query: pair[0].clone(), texts: texts.clone(), raw_scores: true, ..RerankRequest::default() };
    let raw = client.rerank(request.clone()).await.unwrap().into_inner();
    assert!(raw.ranking.len() == 3 && raw.ranking.windows(2).all(|pair| pair[0].score >= pair[1].score));
    let second = raw.ranking.iter().find(|ranked| ranked.index == 1).unwrap();
    assert_near(&[second.score], &[logit], "raw");
    let top = client.rerank(RerankRequest { top_k: 1, raw_scores: false, ..request }).await.unwrap().into_inner();
    assert_eq!((top.ranking.len(), top.ranking[0].index), (1, raw.ranking[0].index));
    assert_near(&[top.ranking[0].score], &[1.0 / (1.0 + (-raw.ranking[0].score).exp())], "between 0 and 1");

    let fields = json!({"query": pair[0], "texts": texts, "raw_scores": true, "return_text": true});
    let (status, body) = post(server.address, "/v1/rerank", fields).await;
    assert_eq!(status, 200, "{body}");
    for (rank, ranked) in body.as_array().unwrap().iter().zip(&raw.ranking) {
        assert_eq!(rank["index"], ranked.index);
        assert_eq!(rank["text"], texts[ranked.index as usize]);
        assert_near(&[rank["score"].as_f64().unwrap() as f32], &[ranked.score], "over HTTP");
    }
    let long = json!({"query": "the ".repeat(60), "texts": ["a"]});
    let (status, body) = post(server.address, "/rerank", long.clone()).await;
    assert_eq!((status, body["error_type"].as_str()), (400, Some("Validation")), "{body}");
    assert!(body["error"].as_str().unwrap().contains("more than 40 tokens"), "{body}");
    let mut cut = long;
    cut["truncate"] = json!(true);
    assert_eq!(post(server.address, "/rerank", cut).await.0, 200);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_classified_and_entities_found() {
    let fixture = Fixture::open("roberta");
    let classifier = fixture.checkpoint("RobertaForSequenceClassification", Some("sequence"), None);
    let tagger = fixture.checkpoint("RobertaForTokenClassification", Some("token"), None);
    let sources = vec![source("labels", classifier.path()), source("names", tagger.path())];
    let server = start(config(), sources).await;

    let answers = fixture.answers("sequence");
    let texts = strings(&answers["texts"]);
    let request = ClassifyRequest { texts: texts.clone(), ..ClassifyRequest::default() };
    let answer = server.typed().classify(request).await.unwrap().into_inner();
    assert_eq!(answer.model, "labels");
    let names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"];
    for (text, expected) in answer.classifications.iter().zip(answers["scores"].as_array().unwrap()) {
        let expected = numbers(expected);
        for label in &text.labels {
            let place = names.iter().position(|name| *name == label.label).unwrap();
            assert_near(&[label.probability], &[expected[place]], &label.label);
        }
    }

    let mut client = EntitiesClient::new(server.channel.clone());
    let request = FindEntitiesRequest { texts: texts.clone(), ..FindEntitiesRequest::default() };
    let found = client.find(request.clone()).await.unwrap().into_inner();
    let expected = fixture.answers("token")["simple"].as_array().unwrap();
    for ((found, expected), text) in found.texts.iter().zip(expected).zip(&texts) {
        let expected = expected.as_array().unwrap();
        assert_eq!(found.entities.len(), expected.len(), "{text}");
        for (entity, expected) in found.entities.iter().zip(expected) {
            assert_eq!(entity.label, expected[0].as_str().unwrap());
            assert_near(&[entity.score], &[expected[1].as_f64().unwrap() as f32], &entity.label);
            assert_eq!((json!(entity.start), json!(entity.end)), (expected[2].clone(), expected[3].clone()));
            let (start, end) = (entity.start as usize, entity.end as usize);
            assert_eq!(entity.text, text.chars().skip(start).take(end - start).collect::<String>());
        }
    }
    let status = client.find(FindEntitiesRequest { min_score: 2.0, ..request }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_out_of_documents() {
    let fixture = Fixture::open("bert");
    let folder = fixture.checkpoint("BertForQuestionAnswering", Some("question"), Some(&["0", "1"]));
    let asked = [("where does it stand", "the mill stands by the sea"), ("who built it", "monks built it long ago")];
    let questions = asked.map(|(question, document)| Question { question, document });
    let answerer = QuestionAnswerer::open(folder.path(), &TaskOptions::default()).unwrap();
    let expected = answerer.answer(&questions, &AnswerOptions::default()).unwrap();

    let server = start(config(), vec![source("answerer", folder.path())]).await;
    let input = |name: &str, count: i64| InferInputTensor {
        name: name.into(),
        datatype: "BYTES".into(),
        shape: vec![count],
        ..InferInputTensor::default()
    };
    let raw = |texts: &[&str]| encode_bytes(texts.iter().copied()).unwrap();
    let mut request = ModelInferRequest {
        model_name: "answerer".into(),
        inputs: vec![input("question", 2), input("text", 2)],
        raw_input_contents: vec![raw(&asked.map(|(question, _)| question)), raw(&asked.map(|(_, document)| document))],
        ..ModelInferRequest::default()
    };
    let answer = server.open().model_infer(request.clone()).await.unwrap().into_inner();
    let texts = decode_bytes(&answer.raw_output_contents[0], 2).unwrap();
    let scores = decode_fp32(&answer.raw_output_contents[1], 2).unwrap();
    for (i, answers) in expected.iter().enumerate() {
        assert_eq!(texts[i], answers[0].text.as_bytes());
        assert_near(&scores[i..=i], &[answers[0].score], "score");
    }
    let long = "who ".repeat(600);
    request.raw_input_contents[0] = raw(&["who", &long]);
    let status = server.open().model_infer(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("text[1]: a question of "), "{}", status.message());
    request.inputs[0].shape = vec![1];
    request.raw_input_contents[0] = raw(&["who"]);
    let status = server.open().model_infer(request).await.unwrap_err();
    assert!(status.message().contains("1 questions for 2 texts"), "{}", status.message());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_served_stops_the_start() {
    let fixture = Fixture::open("bert");
    let refused = async |folder: &Path, precision| {
        let config = ServerConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            packages: vec![ModelPath { name: None, version: None, path: folder.to_path_buf() }],
            precision,
            ..ServerConfig::default()
        };
        let never = |_| panic!("it is not ready");
        serve(config, std::future::pending(), never).await.unwrap_err().to_string()
    };
    let headless = fixture.checkpoint("BertForTokenClassification", None, None);
    assert!(refused(headless.path(), None).await.contains("classifier.weight"));
    let embedder = fixture.checkpoint("BertModel", None, None);
    let message = refused(embedder.path(), Some(CheckpointPrecision::Int8)).await;
    assert!(message.contains("float32 or bfloat16"), "{message}");
    std::fs::write(embedder.path().join("tokenizer.json"), "{}").unwrap();
    assert!(refused(embedder.path(), None).await.contains("tokenizer.json"));
}
