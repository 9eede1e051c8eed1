//! Which task a checkpoint of an encoder is for, as its own files say.

use serde_json::Value;

use crate::checkpoint::{Checkpoint, SentenceModuleKind};
use crate::encoders::labels;

/// What an encoder was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderTask {
    /// Texts to vectors: [`Embedder`](super::Embedder).
    Embedding,
    /// Documents by a query: [`Reranker`](super::Reranker).
    Reranking,
    /// Labels for texts: [`SequenceClassifier`](super::SequenceClassifier).
    SequenceClassification,
    /// Entities in texts: [`TokenClassifier`](super::TokenClassifier).
    TokenClassification,
    /// Answers out of documents: [`QuestionAnswerer`](super::QuestionAnswerer).
    QuestionAnswering,
}

impl EncoderTask {
    /// The task of a checkpoint: embedding where `modules.json` has a pooling, else what the class in `architectures` of
    /// `config.json` is for. A class without a head, or one that guesses words, embeds. A classifier of one label ranks.
    pub fn of(checkpoint: &Checkpoint) -> EncoderTask {
        let about = checkpoint.sentence_transformer();
        let pools = |kind: &SentenceModuleKind| matches!(kind, SentenceModuleKind::Pooling(_));
        if about.is_some_and(|about| about.modules.iter().any(|module| pools(&module.kind))) {
            return EncoderTask::Embedding;
        }
        let config = checkpoint.config();
        let class = config.get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str);
        let class = class.unwrap_or_default();
        if class.ends_with("ForSequenceClassification") {
            return match labels(config).len() {
                1 => EncoderTask::Reranking,
                _ => EncoderTask::SequenceClassification,
            };
        }
        match class {
            class if class.ends_with("ForTokenClassification") => EncoderTask::TokenClassification,
            class if class.ends_with("ForQuestionAnswering") => EncoderTask::QuestionAnswering,
            _ => EncoderTask::Embedding,
        }
    }
}
