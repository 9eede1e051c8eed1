//! OpenAI's interface and reranking over a real socket, from the stored checkpoints of the model library's tests: whole
//! and streamed answers, many callers at once, callers who leave, and what is said of requests that are wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

#[path = "support/checkpoints.rs"]
mod checkpoints;
#[path = "support/http.rs"]
mod http;
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use checkpoints::{Fixture, numbers};
use http::{events, get, measured, open, post, send};
use serde_json::{Value, json};
use support::{Running, start};
use tempfile::TempDir;
use tidemill_serve::{CheckpointPrecision, ModelPath, ModelSource, ServerConfig};
use tokio::io::AsyncReadExt as _;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// ChatML; a conversation that begins with "loop" makes it work without end, and a system's word is refused.
const TEMPLATE: &str = "{%- if messages[0].content == 'loop' %}{% for i in range(99999) %}{% for j in range(99999) %}\
    {{ j }}{% endfor %}{% endfor %}{% endif -%}{% for message in messages %}{% if message.role == 'system' %}\
    {{ raise_exception('no system prompts here') }}{% endif %}<|im_start|>{{ message.role }}: {{ message.content }}\
    <|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}";

/// The stored Qwen 2 with a chat template, and a context of so many tokens.
fn chat_checkpoint(context: usize) -> TempDir {
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/checkpoints/qwen2");
    let folder = tempfile::tempdir().unwrap();
    for file in ["generation_config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(stored.join(file), folder.path().join(file)).unwrap();
    }
    for (file, key, value) in [
        ("config.json", "max_position_embeddings", json!(context)),
        ("tokenizer_config.json", "chat_template", json!(TEMPLATE)),
    ] {
        let mut fields: Value = serde_json::from_slice(&std::fs::read(stored.join(file)).unwrap()).unwrap();
        fields[key] = value;
        std::fs::write(folder.path().join(file), fields.to_string()).unwrap();
    }
    folder
}

fn source(name: &str, folder: &TempDir) -> ModelSource {
    ModelSource::path(ModelPath { name: Some(name.to_string()), version: None, path: folder.path().to_path_buf() })
}

/// A server of the models `chat`, `embedder` and `reranker`, and their folders.
async fn serve(config: ServerConfig, context: usize) -> (Running, [TempDir; 3]) {
    let bert = Fixture::open("bert");
    let folders = [
        chat_checkpoint(context),
        bert.checkpoint("BertModel", None, None),
        bert.checkpoint("BertForSequenceClassification", Some("sequence"), Some(&["relevant"])),
    ];
    let sources = ["chat", "embedder", "reranker"].iter().zip(&folders).map(|(name, folder)| source(name, folder));
    let config = ServerConfig { precision: Some(CheckpointPrecision::Float32), threads: Some(1), ..config };
    (start(config, sources.collect()).await, folders)
}

/// Greedy, as long as it may be.
fn chat(text: &str, max_tokens: usize) -> Value {
    let messages = json!([{"role": "user", "content": text}]);
    json!({"model": "chat", "messages": messages, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true})
}

fn with(mut body: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// The chunks of a stream that ended well.
async fn chunks(address: SocketAddr, path: &str, body: Value) -> Vec<Value> {
    let mut events = events(address, path, with(body, json!({"stream": true}))).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{events:?}");
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn streamed_content(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_listed() {
    let (server, _folders) = serve(ServerConfig::default(), 160).await;
    let list: Value = serde_json::from_str(&get(server.address, "/v1/models").await.body).unwrap();
    assert_eq!(list["object"], "list");
    let told = |model: &Value| (model["id"].clone(), model["object"].clone(), model.get("max_model_len").cloned());
    let models: Vec<_> = list["data"].as_array().unwrap().iter().map(told).collect();
    let expected = [("chat", Some(160)), ("embedder", None), ("reranker", None)];
    let expected = expected.map(|(name, context)| (json!(name), json!("model"), context.map(|context| json!(context))));
    assert_eq!(models, expected);
    let one: Value = serde_json::from_str(&get(server.address, "/v1/models/embedder").await.body).unwrap();
    assert_eq!(one, list["data"][1]);

    for (path, status, code) in [
        ("/v1/models/char", 404, "model_not_found"),
        ("/v1/tides", 404, "not_found"),
        (CHAT, 405, "method_not_allowed"),
    ] {
        let answer = get(server.address, path).await;
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, body["error"]["code"].as_str()), (status, Some(code)), "{path}: {body}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_answered_whole_and_streamed() {
    let (server, _folders) = serve(ServerConfig::default(), 160).await;
    let body = chat("The tide turns the mill.", 20);
    let (status, whole) = post(server.address, CHAT, body.clone()).await;
    assert_eq!(status, 200, "{whole}");
    assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-") && whole["created"].as_u64() > Some(1_600_000_000));
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("chat")));
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["index"], &choice["finish_reason"], &choice["logprobs"]),
        (&json!(0), &json!("length"), &json!(null))
    );
    assert_eq!(choice["message"]["role"], "assistant");
    let usage = &whole["usage"];
    let prompt_tokens = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!((&usage["completion_tokens"], &usage["total_tokens"]), (&json!(20), &json!(prompt_tokens + 20)));

    // The template's words written out by the caller are the same prompt.
    let prompt = "<|im_start|>user: The tide turns the mill.<|im_end|><|im_start|>assistant: ";
    let written = with(body.clone(), json!({"prompt": prompt}));
    let (_, written) = post(server.address, COMPLETIONS, written).await;
    assert_eq!(written["choices"][0]["text"], choice["message"]["content"]);
    assert_eq!(written["usage"]["prompt_tokens"], usage["prompt_tokens"]);
    // It was read before: its whole blocks are found, but for its last token, which is always run.
    let cached = |usage: &Value| usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached(usage), 0, "{usage}");
    assert_eq!(cached(&written["usage"]), (prompt_tokens - 1) / 32 * 32, "{written}");
    assert!(prompt_tokens > 32, "the prompt has less than a block");

    let counted = with(body.clone(), json!({"stream_options": {"include_usage": true}}));
    let chunks_with_usage = chunks(server.address, CHAT, counted).await;
    let (last, chunks_of_text) = chunks_with_usage.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &usage["total_tokens"]));
    assert_eq!(streamed_content(chunks_of_text), content(&whole));
    assert!(chunks_of_text.len() > 5, "{} chunks", chunks_of_text.len());
    assert_eq!(chunks_of_text[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks_of_text[1..].iter().all(|chunk| chunk["choices"][0]["delta"].get("role").is_none()));
    for chunk in chunks_of_text {
        assert_eq!((&chunk["id"], &chunk["object"]), (&last["id"], &json!("chat.completion.chunk")));
        assert_eq!((chunk.get("usage"), &chunk["choices"][0]["index"]), (Some(&json!(null)), &json!(0)));
    }
    let finishes: Vec<&Value> = chunks_of_text.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    let (end, before) = finishes.split_last().unwrap();
    assert_eq!(**end, "length");
    assert!(before.iter().all(|finish| finish.is_null()), "{finishes:?}");

    let plain = chunks(server.address, CHAT, body).await;
    assert!(plain.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"][0].is_object()));
    assert_eq!(streamed_content(&plain), content(&whole));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_take_texts_and_tokens_and_keep_their_order() {
    let (server, _folders) = serve(ServerConfig::default(), 160).await;
    let ask =
        |fields: Value| with(json!({"model": "chat", "temperature": 0, "ignore_eos": true, "max_tokens": 9}), fields);
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert!(choices.iter().enumerate().all(|(at, choice)| choice["index"] == at), "{answer}");
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    let mut alone = Vec::new();
    for prompt in ["The tide", "A mill"] {
        let (_, answer) = post(server.address, COMPLETIONS, ask(json!({"prompt": prompt}))).await;
        assert!(
            answer["id"].as_str().unwrap().starts_with("cmpl-") && answer["object"] == "text_completion",
            "{answer}"
        );
        alone.extend(texts(&answer));
    }
    assert_ne!(alone[0], alone[1]);
    let both = ask(json!({"prompt": ["The tide", "A mill"], "n": 2}));
    let (_, answer) = post(server.address, COMPLETIONS, both.clone()).await;
    let [tide, mill] = [&alone[0], &alone[1]];
    assert_eq!(texts(&answer).iter().collect::<Vec<_>>(), [tide, tide, mill, mill]);
    assert_eq!(answer["usage"]["completion_tokens"], 4 * 9);

    let streamed =
        chunks(server.address, COMPLETIONS, with(both, json!({"stream_options": {"include_usage": true}}))).await;
    let (last, pieces) = streamed.split_last().unwrap();
    assert_eq!((&last["usage"], &last["choices"]), (&answer["usage"], &json!([])));
    for (index, text) in texts(&answer).iter().enumerate() {
        let of_it = pieces.iter().map(|piece| &piece["choices"][0]).filter(|choice| choice["index"] == index);
        assert_eq!(of_it.filter_map(|choice| choice["text"].as_str()).collect::<String>(), *text);
    }
    assert_eq!(pieces.iter().filter(|piece| piece["choices"][0]["finish_reason"] == "length").count(), 4);

    let (_, answer) = post(server.address, COMPLETIONS, ask(json!({"prompt": "The tide", "echo": true}))).await;
    assert_eq!(texts(&answer), [format!("The tide{tide}")]);
    let (_, answer) =
        post(server.address, COMPLETIONS, ask(json!({"prompt": [[51, 260, 265], [72]], "logprobs": 2}))).await;
    assert_eq!((texts(&answer).len(), &answer["usage"]["prompt_tokens"]), (2, &json!(4)));
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 9);
    // Greedy: what was chosen is what is likeliest.
    for (chosen, top) in numbers(&logprobs["token_logprobs"]).iter().zip(logprobs["top_logprobs"].as_array().unwrap()) {
        assert!(top.as_object().unwrap().values().all(|value| value.as_f64().unwrap() as f32 <= *chosen), "{logprobs}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_at_once_are_answered_as_each_alone() {
    let (server, _folders) = serve(ServerConfig::default(), 160).await;
    let address = server.address;
    let words = ["tide", "mill", "wheel", "stone", "water", "flour", "noon"];
    let text = |index: usize| (0..=index % 9).map(|at| words[(index + at * at) % 7]).collect::<Vec<_>>().join(" ");
    let body = |index: usize| chat(&format!("{index}: {}", text(index)), 16 + index % 8);
    let mut alone = Vec::new();
    for index in 0..32 {
        alone.push(content(&post(address, CHAT, body(index)).await.1));
    }
    let different: BTreeSet<&String> = alone.iter().collect();
    assert!(different.len() > 16, "the model says too much of the same: {different:?}");

    let together: Vec<_> = (0..32)
        .map(|index| {
            let body = body(index);
            tokio::spawn(async move {
                match index % 2 {
                    0 => content(&post(address, CHAT, body).await.1),
                    _ => streamed_content(&chunks(address, CHAT, body).await),
                }
            })
        })
        .collect();
    for (index, (together, alone)) in together.into_iter().zip(&alone).enumerate() {
        assert_eq!(together.await.unwrap(), *alone, "chat {index}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_a_caller_who_has_left_stops() {
    let (server, _folders) = serve(ServerConfig::default(), 4096).await;
    let long = json!({"n": 8, "temperature": 1.0});
    let requests = [
        (CHAT, with(chat("The tide", 3500), json!({"n": 8, "temperature": 1.0, "stream": true}))),
        (CHAT, with(chat("The tide", 3500), long.clone())),
        (COMPLETIONS, with(chat("", 3500), json!({"prompt": ["a", "b", "c", "d"], "n": 2, "temperature": 1.0}))),
    ];
    for (index, (path, body)) in requests.into_iter().enumerate() {
        let is_streamed = body["stream"] == true;
        let mut stream = open(server.address, path, "application/json", body.to_string().as_bytes()).await;
        if is_streamed {
            let mut read = String::new();
            while !read.contains("data: {") {
                let mut bytes = [0; 512];
                let count = stream.read(&mut bytes).await.unwrap();
                assert!(count > 0, "{read}");
                read.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }
        until(server.address, |running| running > 0.0).await;
        drop(stream);
        until(server.address, |running| running == 0.0).await;
        let written = measured(server.address, "tidemill_generated_tokens_total{").await;
        assert!(written < (index + 1) as f64 * 8.0 * 1500.0, "{written} tokens were written");
        assert_eq!(measured(server.address, "tidemill_open_requests").await, 0.0);
    }
    // Nobody is in the way of the next.
    assert_eq!(post(server.address, CHAT, chat("The tide", 3)).await.0, 200);
    server.stop().await.unwrap();
}

async fn until(address: SocketAddr, holds: impl Fn(f64) -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds(measured(address, "tidemill_sequences_running{").await) {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_the_interfaces_shape() {
    let (server, _folders) = serve(ServerConfig::default(), 160).await;
    let one = |fields: Value| with(chat("my secret", 4), fields);
    let prompt = |fields: Value| with(json!({"model": "chat", "max_tokens": 4}), fields);
    let contradiction = json!({
        "type": "object", "required": ["n"], "additionalProperties": false,
        "properties": {"n": {"type": "integer", "minimum": 5, "maximum": 3}},
    });
    let response_format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": contradiction}});
    let tool = json!([{"type": "function", "function": {"name": "tide", "parameters": contradiction}}]);
    let long = "my secret tide ".repeat(60);
    let too_long = Some("context_length_exceeded");
    let cases = [
        (CHAT, one(json!({"model": "char"})), 404, Some("model_not_found"), Some("model"), "did you mean \"chat\"?"),
        (CHAT, one(json!({"model": "embedder"})), 400, None, Some("model"), "embedder"),
        ("/v1/embeddings", json!({"model": "chat", "input": "a"}), 400, None, Some("model"), "chat"),
        (CHAT, json!({"model": "chat"}), 400, None, Some("messages"), "is missing"),
        (CHAT, one(json!({"messages": "my secret"})), 400, None, Some("messages"), "must be a list"),
        (CHAT, one(json!({"messages": []})), 400, None, Some("messages"), "at least one message"),
        (CHAT, one(json!({"messages": [{"role": "user", "content": 3}]})), 400, None, Some("messages[0].content"), ""),
        (CHAT, one(json!({"max_tokens": "my secret"})), 400, None, Some("max_tokens"), "a whole number"),
        (CHAT, one(json!({"temperature": -1})), 400, None, Some("temperature"), ""),
        (CHAT, one(json!({"top_p": 2})), 400, None, Some("top_p"), ""),
        (CHAT, one(json!({"n": 0})), 400, None, Some("n"), ""),
        (CHAT, one(json!({"n": 1000})), 400, None, Some("n"), ""),
        (CHAT, one(json!({"stop": 3})), 400, None, Some("stop"), ""),
        (CHAT, one(json!({"stream": "yes"})), 400, None, Some("stream"), "true or false"),
        (CHAT, one(json!({"logit_bias": {"tide": 1}})), 400, None, Some("logit_bias"), ""),
        (CHAT, one(json!({"logit_bias": {"99999": 1}})), 400, None, Some("logit_bias"), ""),
        (CHAT, one(json!({"functions": []})), 400, None, Some("functions"), "use tools"),
        (CHAT, one(json!({"messages": [{"role": "user", "content": long}]})), 400, too_long, None, "160"),
        (COMPLETIONS, prompt(json!({"prompt": long})), 400, too_long, None, "160"),
        (COMPLETIONS, prompt(json!({"prompt": vec![7; 161]})), 400, too_long, None, "160"),
        (COMPLETIONS, prompt(json!({"prompt": ["a", long], "stream": true})), 400, too_long, None, "160"),
        (COMPLETIONS, prompt(json!({"prompt": [9999]})), 400, None, Some("prompt"), "9999"),
        (COMPLETIONS, prompt(json!({})), 400, None, Some("prompt"), "is missing"),
        (COMPLETIONS, prompt(json!({"prompt": "a", "suffix": "b"})), 400, None, Some("suffix"), "not supported"),
        (CHAT, one(json!({"response_format": response_format})), 400, None, Some("response_format"), "JSON schema"),
        (CHAT, one(json!({"response_format": {"type": "xml"}})), 400, None, Some("response_format.type"), ""),
        (CHAT, one(json!({"guided_json": contradiction})), 400, None, Some("guided_json"), "JSON schema"),
        (COMPLETIONS, prompt(json!({"prompt": "a", "guided_regex": "("})), 400, None, Some("guided_regex"), ""),
        (CHAT, one(json!({"structured_outputs": {"regex": "("}})), 400, None, Some("structured_outputs"), ""),
        (CHAT, one(json!({"tools": tool, "tool_choice": "required"})), 400, None, Some("tools"), "JSON schema"),
        ("/v1/embeddings", json!({"model": "embedder", "input": [1.5]}), 400, None, Some("input"), "whole numbers"),
        (
            "/v1/embeddings",
            json!({"model": "embedder", "input": "a", "dimensions": 9999}),
            400,
            None,
            Some("dimensions"),
            "",
        ),
        ("/v1/embeddings", json!({"model": "none", "input": "a"}), 404, Some("model_not_found"), Some("model"), ""),
    ];
    for (path, body, status, code, param, part) in cases {
        let (found, answer) = post(server.address, path, body.clone()).await;
        let error = &answer["error"];
        let message = error["message"].as_str().unwrap_or_else(|| panic!("{body}: {answer}"));
        assert_eq!((found, error["code"].as_str(), error["param"].as_str()), (status, code, param), "{body}: {answer}");
        assert_eq!(error["type"], "invalid_request_error", "{body}: {answer}");
        assert!(message.contains(part) && !message.contains("secret"), "{body}: {message}");
    }

    for (kind, body) in [
        ("application/json", "{\"model\": "),
        ("application/json", "[1]"),
        ("text/plain", "{}"),
        ("application/json", ""),
    ] {
        let answer = send(server.address, CHAT, kind, body.as_bytes()).await;
        let refused: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, refused["error"]["param"].as_str()), (400, Some("body")), "{body}: {refused}");
    }
    let (status, answer) =
        post(server.address, "/v1/rerank", json!({"model": "none", "query": "a", "texts": []})).await;
    assert_eq!((status, answer["error_type"].as_str()), (404, Some("NotFound")), "{answer}");
    let (status, answer) = post(server.address, "/v1/rerank", json!({"texts": ["a"]})).await;
    assert_eq!((status, answer["error_type"].as_str()), (400, Some("Validation")), "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("query"), "{answer}");

    // What is not known is passed over, as OpenAI's clients send more with every version.
    let (status, answer) = post(server.address, CHAT, one(json!({"store": true, "user": "a", "top_k": null}))).await;
    assert_eq!(status, 200, "{answer}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_works_too_long_or_refuses_is_the_callers_error() {
    let (server, _folders) = serve(ServerConfig::default(), 160).await;
    for (role, text, part) in
        [("user", "loop", "too much work"), ("system", "Speak like a miller.", "no system prompts here")]
    {
        let body = with(chat("", 4), json!({"messages": [{"role": role, "content": text}]}));
        let (status, answer) = post(server.address, CHAT, body).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some("messages")), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{answer}");
    }
    assert_eq!(post(server.address, CHAT, chat("The tide", 4)).await.0, 200);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_bound_is_not_read() {
    let (server, _folders) = serve(ServerConfig { max_message_bytes: 4096, ..ServerConfig::default() }, 160).await;
    for (path, place) in
        [(CHAT, "code"), (COMPLETIONS, "code"), ("/v1/embeddings", "code"), ("/v1/rerank", "error_type")]
    {
        for size in [4097, 3 << 20] {
            let (status, answer) =
                post(server.address, path, json!({"model": "chat", "prompt": "a".repeat(size)})).await;
            assert_eq!(status, 413, "{path}: {answer}");
            let said = if place == "code" { &answer["error"]["code"] } else { &answer[place] };
            assert!(["request_too_large", "Validation"].contains(&said.as_str().unwrap()), "{answer}");
        }
    }
    assert_eq!(post(server.address, CHAT, chat("The tide", 4)).await.0, 200);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_come_in_either_form() {
    let (server, _folders) = serve(ServerConfig::default(), 160).await;
    let embed = async |fields: Value| {
        let (status, answer) = post(server.address, "/v1/embeddings", with(json!({"model": "embedder"}), fields)).await;
        assert_eq!(
            (status, &answer["object"], &answer["model"]),
            (200, &json!("list"), &json!("embedder")),
            "{answer}"
        );
        answer
    };
    let plain = embed(json!({"input": ["the film", "a house"]})).await;
    let usage = &plain["usage"];
    assert!(usage["prompt_tokens"].as_u64() > Some(4) && usage["prompt_tokens"] == usage["total_tokens"], "{usage}");
    let encoded = embed(json!({"input": ["the film", "a house"], "encoding_format": "base64"})).await;
    for index in 0..2 {
        let (plain, encoded) = (&plain["data"][index], &encoded["data"][index]);
        assert_eq!((&plain["index"], &plain["object"]), (&json!(index), &json!("embedding")));
        let bytes = STANDARD.decode(encoded["embedding"].as_str().unwrap()).unwrap();
        let values: Vec<f32> = bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(values, numbers(&plain["embedding"]));
    }
    let one = embed(json!({"input": "the film", "dimensions": 8})).await;
    let vector = numbers(&one["data"][0]["embedding"]);
    let length: f32 = vector.iter().map(|value| value * value).sum();
    assert!(vector.len() == 8 && (length - 1.0).abs() < 1e-5, "{vector:?}");

    let body = json!({"model": "reranker", "query": "the film", "texts": ["a house", "the film", "good"]});
    let (status, ranks) = post(server.address, "/v1/rerank", body).await;
    assert_eq!(status, 200, "{ranks}");
    let ranks = ranks.as_array().unwrap();
    let scores: Vec<f64> = ranks.iter().map(|rank| rank["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
    let indices: BTreeSet<u64> = ranks.iter().map(|rank| rank["index"].as_u64().unwrap()).collect();
    assert!(indices == BTreeSet::from([0, 1, 2]) && ranks.iter().all(|rank| rank.get("text").is_none()), "{ranks:?}");
    server.stop().await.unwrap();
}
