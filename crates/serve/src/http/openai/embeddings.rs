//! `/v1/embeddings`: a vector for every text, as numbers or as base64 of little-endian float32.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::errors::Refused;
use super::prompts;
use crate::admitted::Admitted;
use crate::http::{Http, body};
use crate::model::EmbedderHandle;
use crate::refusal::Refusal;
use crate::services::embedding;

#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(default)]
    model: String,
    input: Option<Value>,
    encoding_format: Option<String>,
    dimensions: Option<usize>,
    /// As vLLM and Text Embeddings Inference have it: cut off what is too long.
    truncate: Option<bool>,
}

#[derive(Debug, Serialize)]
struct List {
    object: &'static str,
    data: Vec<EmbeddingObject>,
    model: String,
    usage: UsageObject,
}

#[derive(Debug, Serialize)]
struct EmbeddingObject {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize)]
struct UsageObject {
    prompt_tokens: usize,
    total_tokens: usize,
}

pub(in crate::http) async fn embed(State(http): State<Http>, request: Request<Body>) -> Result<Response, Refused> {
    let admitted: Admitted = request.extensions().get().cloned().unwrap_or_default();
    let base = &http.base;
    let fields: Fields = body::fields(&body::read(request, base.max_message_bytes).await?)?;
    let model = &base.models.of(&admitted.caller).find::<EmbedderHandle>(&fields.model, "", "model").await?;
    let as_base64 = match fields.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => Err(Refusal::invalid("encoding_format", "must be \"float\" or \"base64\""))?,
    };
    let texts = prompts::read(fields.input, "input", base.limits())?;
    let truncate = fields.truncate.unwrap_or(false);
    let embedded =
        embedding::embed("/v1/embeddings", model, texts, truncate, fields.dimensions, "input", &admitted).await?;
    let vector = |vector: Vec<f32>| if as_base64 { Vector::Base64(encoded(&vector)) } else { Vector::Numbers(vector) };
    let data = embedded.answers.into_iter().map(vector).enumerate();
    let data = data.map(|(index, embedding)| EmbeddingObject { object: "embedding", index, embedding });
    let usage = UsageObject { prompt_tokens: embedded.tokens, total_tokens: embedded.tokens };
    let list = List { object: "list", data: data.collect(), model: model.info().name.clone(), usage };
    Ok(Json(list).into_response())
}

fn encoded(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}
