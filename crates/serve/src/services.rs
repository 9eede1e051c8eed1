//! The services: wire messages in, checked; models called; wire messages out. One file a service. None knows how models
//! are loaded, batched or run. What gRPC and HTTP both do stands here or beside the gRPC service.

mod chat;
mod contents;
pub(crate) mod embedding;
mod entities;
pub(crate) mod generation;
mod opaque;
pub(crate) mod open_inference;
mod stream;
mod tensors;
mod text_classification;
mod text_to_text;

use std::time::Duration;

use tidemill_proto::FILE_DESCRIPTOR_SET;
use tidemill_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use tidemill_proto::v1::chat_server::ChatServer;
use tidemill_proto::v1::embedding_server::EmbeddingServer;
use tidemill_proto::v1::entities_server::EntitiesServer;
use tidemill_proto::v1::generation_server::GenerationServer;
use tidemill_proto::v1::text_classification_server::TextClassificationServer;
use tidemill_proto::v1::text_to_text_server::TextToTextServer;
use tokio::sync::watch;
use tonic::Request;
use tonic::service::Routes;

use crate::admitted::Admitted;
use crate::batch::{Answered, BatchHandle, Input};
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::limits::{Bounds, Limits};
use crate::models::Models;
use crate::refusal::Refusal;
use crate::repository::Repository;
use crate::trace;
use open_inference::Regions;

/// The full names of the inference services, as health knows them.
pub(crate) const NAMES: [&str; 7] = [
    tidemill_proto::inference::grpc_inference_service_server::SERVICE_NAME,
    tidemill_proto::v1::chat_server::SERVICE_NAME,
    tidemill_proto::v1::embedding_server::SERVICE_NAME,
    tidemill_proto::v1::entities_server::SERVICE_NAME,
    tidemill_proto::v1::generation_server::SERVICE_NAME,
    tidemill_proto::v1::text_classification_server::SERVICE_NAME,
    tidemill_proto::v1::text_to_text_server::SERVICE_NAME,
];

/// Every gRPC service but health.
pub(crate) fn routes(base: Base) -> Result<Routes, ServeError> {
    let size = base.max_message_bytes;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(TextClassificationServer::new(base.clone()).max_decoding_message_size(size))
        .add_service(ChatServer::new(base.clone()).max_decoding_message_size(size))
        .add_service(EmbeddingServer::new(base.clone()).max_decoding_message_size(size))
        .add_service(EntitiesServer::new(base.clone()).max_decoding_message_size(size))
        .add_service(GenerationServer::new(base.clone()).max_decoding_message_size(size))
        .add_service(TextToTextServer::new(base.clone()).max_decoding_message_size(size))
        .add_service(GrpcInferenceServiceServer::new(base).max_decoding_message_size(size))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

/// What every service has: the models, and the bounds on what is asked of them. Each service is a trait that this has.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) models: Models,
    pub(crate) repository: Option<Repository>,
    limits: Limits,
    pub(crate) max_message_bytes: usize,
    regions: Regions,
    max_under_way: usize,
    max_idle: Duration,
    shut: watch::Receiver<bool>,
}

impl Base {
    pub(crate) fn new(
        config: &ServerConfig,
        models: &Models,
        repository: Option<&Repository>,
        limits: Limits,
        shut: watch::Receiver<bool>,
    ) -> Base {
        Base {
            models: models.clone(),
            repository: repository.cloned(),
            limits,
            max_message_bytes: config.max_message_bytes,
            regions: Regions::new(config.shared_memory),
            max_under_way: config.max_stream_requests,
            max_idle: config.max_stream_idle,
            shut,
        }
    }

    /// The bounds on the texts of a request.
    pub(crate) fn limits(&self) -> TextLimits {
        let Bounds { max_texts, max_text_bytes, max_tensors, .. } = self.limits.now();
        TextLimits { max_texts, max_text_bytes, max_tensors }
    }

    /// Whether the server takes no more requests.
    pub(crate) fn is_shut(&self) -> bool {
        *self.shut.borrow()
    }
}

/// The bounds on the texts of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextLimits {
    /// Most texts.
    pub(crate) max_texts: usize,
    /// Most bytes of a text.
    pub(crate) max_text_bytes: usize,
    /// Most tensors, where texts come as tensors.
    pub(crate) max_tensors: usize,
}

impl TextLimits {
    /// Checks texts: there is one at least, there are not too many, and none is too long.
    pub(crate) fn check(&self, texts: &[String], field: &str) -> Result<(), Refusal> {
        if texts.is_empty() {
            return Err(Refusal::invalid(field, "is empty; send at least one text"));
        }
        self.check_count(texts.len(), field)?;
        for (index, text) in texts.iter().enumerate() {
            self.check_length(text.len(), || format!("{field}[{index}]"))?;
        }
        Ok(())
    }

    pub(crate) fn check_count(&self, count: usize, field: &str) -> Result<(), Refusal> {
        if count <= self.max_texts {
            return Ok(());
        }
        let max = self.max_texts;
        Err(Refusal::invalid(field, format!("has {count} texts; a request may hold {max}")))
    }

    pub(crate) fn check_length(&self, bytes: usize, field: impl FnOnce() -> String) -> Result<(), Refusal> {
        if bytes <= self.max_text_bytes {
            return Ok(());
        }
        let max = self.max_text_bytes;
        Err(Refusal::invalid(field(), format!("has {bytes} bytes; a text may have {max}")))
    }
}

/// Has a model answer checked inputs and logs what it took, never what they say. `field` is what the request calls them.
pub(crate) async fn answer<I: Input + Clone, A: Send + Clone + 'static>(
    method: &'static str,
    model: &BatchHandle<I, A>,
    inputs: Vec<I>,
    field: &'static str,
    admitted: &Admitted,
) -> Result<Answered<A>, Refusal> {
    let count = inputs.len();
    let name = model.info().name.as_str();
    let shadow = model.shadow().map(|shadow| shadow.ask(&inputs, field, admitted));
    let result = model.answer(inputs, field, admitted).await;
    if let (Some(shadow), Ok(answered)) = (shadow, &result) {
        shadow.answered(&answered.answers);
    }
    match &result {
        Ok(answered) => {
            trace::note_stages(answered.waited, answered.computed);
            tracing::debug!(
                method,
                model = name,
                texts = count,
                tokens = answered.tokens,
                batch_size = answered.batch_size,
                queue_us = micros(answered.waited),
                compute_us = micros(answered.computed),
                status = "OK",
            );
        }
        Err(refusal @ (Refusal::Failed { .. } | Refusal::Stopped { .. })) => {
            tracing::warn!(method, model = name, texts = count, status = ?refusal.code(), %refusal);
        }
        Err(refusal) => {
            tracing::debug!(method, model = name, texts = count, status = ?refusal.code(), %refusal);
        }
    }
    result
}

/// What the gate said of a request.
fn admitted<T>(request: &Request<T>) -> Admitted {
    request.extensions().get().cloned().unwrap_or_default()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The index of the most probable label, the first of equal ones.
pub(crate) fn most_probable(probabilities: &[f32]) -> usize {
    let mut best = 0;
    let mut best_probability = f32::NEG_INFINITY;
    for (index, &probability) in probabilities.iter().enumerate() {
        if probability > best_probability {
            (best, best_probability) = (index, probability);
        }
    }
    best
}
