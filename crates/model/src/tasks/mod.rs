//! What checkpoints are for, one file a task: typed inputs to typed outputs over a loaded model. Encoders answer a batch of
//! texts at a time, each task with the head that it needs; what generates is in [`generation`] and [`text_to_text`]. Knows
//! nothing of sockets; answers do not depend on what else is in the batch, but for rounding.

mod embedding;
mod fill_mask;
pub mod generation;
pub mod perplexity;
mod question_answering;
mod reranking;
mod sequence_classification;
mod task;
mod text_model;
mod text_preparation;
pub mod text_to_text;
mod token_classification;

use tch::{Device, Kind};
use tidemill_data::TokenizeError;
use tidemill_torch::Precision;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::{ModelError, WeightsError};

pub use embedding::{Embedder, EmbeddingOptions, EmbeddingPooling, EmbeddingPreparation};
pub use fill_mask::{Filling, MaskFiller};
pub use question_answering::{Answer, AnswerOptions, Question, QuestionAnswerer};
pub use reranking::{RankedDocument, Reranker};
pub use sequence_classification::{LabelScores, Scoring, SequenceClassifier};
pub use task::EncoderTask;
pub use text_preparation::{TextPreparation, TooLong};
pub use token_classification::{Aggregation, Entity, TokenClassifier};

/// How a checkpoint is opened for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskOptions {
    /// Where the model runs. Default the CPU.
    pub device: Device,
    /// What weights and products are: [`Kind::Float`] (default) or [`Kind::BFloat16`], which takes half the memory and
    /// about half the time where the processor has it.
    pub kind: Kind,
    /// Tokens that are kept of a text; never more than the model takes. Default what the checkpoint says.
    pub max_length: Option<usize>,
    /// Tokens that run together. Default 1024: enough that products are large, little enough that what lies between them
    /// stays in the cache and memory is bounded whatever the request.
    pub tokens_a_pass: usize,
}

impl Default for TaskOptions {
    fn default() -> TaskOptions {
        TaskOptions { device: Device::Cpu, kind: Kind::Float, max_length: None, tokens_a_pass: 1024 }
    }
}

impl TaskOptions {
    /// The default in the precision that was asked for, else in the one that the checkpoint's weights are stored in;
    /// float16 is widened.
    ///
    /// # Errors
    /// [`TaskError`] when it is neither float32 nor bfloat16, or the weights cannot be opened.
    pub fn for_checkpoint(checkpoint: &Checkpoint, precision: Option<Precision>) -> Result<TaskOptions, TaskError> {
        let kind = match precision {
            Some(Precision::Float32) => Kind::Float,
            Some(Precision::BFloat16) => Kind::BFloat16,
            Some(other) => {
                let problem = format!("an encoder runs in float32 or bfloat16, not in {other:?}");
                return Err(TaskError::Input(problem));
            }
            None => {
                let source = checkpoint.source()?;
                let all_bfloat = source.names().iter().all(|name| source.kind(name) == Some(Kind::BFloat16));
                if all_bfloat { Kind::BFloat16 } else { Kind::Float }
            }
        };
        Ok(TaskOptions { kind, ..TaskOptions::default() })
    }

    /// The default in bfloat16.
    pub fn bfloat16() -> TaskOptions {
        TaskOptions { kind: Kind::BFloat16, ..TaskOptions::default() }
    }
}

/// Why a checkpoint could not be opened for a task, or texts not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    /// The model cannot be built, or refused a batch; then it is unharmed.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// The tokeniser cannot be used, or failed on a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),

    /// What was asked makes no sense for this checkpoint or task.
    #[error("{0}")]
    Input(String),

    /// The model gave numbers that are not finite.
    #[error(
        "the model gave numbers that are not finite for text {index} of {count}; its weights are damaged or its training \
         diverged"
    )]
    NotFinite {
        /// The text's place among those that were asked about, from 0.
        index: usize,
        /// How many were asked about.
        count: usize,
    },
}

impl From<tch::TchError> for TaskError {
    fn from(error: tch::TchError) -> TaskError {
        TaskError::Model(error.into())
    }
}

impl From<WeightsError> for TaskError {
    fn from(error: WeightsError) -> TaskError {
        TaskError::Model(error.into())
    }
}

/// `exp(x) / Σ exp`, in place.
fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The largest number's place; the first of equals, 0 of none.
fn largest(numbers: &[f32]) -> usize {
    let places = 0..numbers.len();
    let number = |place: usize| numbers.get(place).copied().unwrap_or(f32::NEG_INFINITY);
    places.rev().max_by(|&a, &b| f32::total_cmp(&number(a), &number(b))).unwrap_or(0)
}
