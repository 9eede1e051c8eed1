//! The services: wire messages in, checked; models called; wire messages out. One file a service. None knows how models
//! are loaded, batched or run.

pub(crate) mod open_inference;
pub(crate) mod text_classification;
mod text_tensors;

use crate::admission::Deadline;
use crate::config::ServerConfig;
use crate::model::{Classified, Model};
use crate::refusal::Refusal;

/// The bounds on the texts of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextLimits {
    /// Most texts.
    pub(crate) max_texts: usize,
    /// Most bytes of a text.
    pub(crate) max_text_bytes: usize,
}

impl TextLimits {
    pub(crate) fn new(config: &ServerConfig) -> TextLimits {
        TextLimits { max_texts: config.max_texts, max_text_bytes: config.max_text_bytes }
    }

    fn check_count(&self, count: usize, field: &str) -> Result<(), Refusal> {
        if count <= self.max_texts {
            return Ok(());
        }
        let max = self.max_texts;
        Err(Refusal::invalid(field, format!("has {count} texts; a request may hold {max}")))
    }

    fn check_length(&self, bytes: usize, field: impl FnOnce() -> String) -> Result<(), Refusal> {
        if bytes <= self.max_text_bytes {
            return Ok(());
        }
        let max = self.max_text_bytes;
        Err(Refusal::invalid(field(), format!("has {bytes} bytes; a text may have {max}")))
    }
}

/// Runs checked texts and logs what it took, never what they say.
async fn classify(
    method: &'static str,
    model: &Model,
    texts: Vec<String>,
    deadline: Deadline,
) -> Result<Classified, Refusal> {
    let count = texts.len();
    let name = model.info().name.as_str();
    let result = model.classify(texts, deadline.0).await;
    match &result {
        Ok(classified) => tracing::debug!(
            method,
            model = name,
            texts = count,
            batch_size = classified.batch_size,
            queue_us = micros(classified.waited),
            compute_us = micros(classified.computed),
            status = "OK",
        ),
        Err(refusal @ (Refusal::Failed { .. } | Refusal::Stopped { .. })) => {
            tracing::warn!(method, model = name, texts = count, status = ?refusal.code(), %refusal);
        }
        Err(refusal) => {
            tracing::debug!(method, model = name, texts = count, status = ?refusal.code(), %refusal);
        }
    }
    result
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The index of the most probable label, the first of equal ones.
fn most_probable(probabilities: &[f32]) -> usize {
    let mut best = 0;
    let mut best_probability = f32::NEG_INFINITY;
    for (index, &probability) in probabilities.iter().enumerate() {
        if probability > best_probability {
            (best, best_probability) = (index, probability);
        }
    }
    best
}
