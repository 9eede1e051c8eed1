//! Documents by how well each answers a query: a cross-encoder reads both together.

use std::path::Path;

use super::{SequenceClassifier, TaskError, TaskOptions, sigmoid};
use crate::checkpoint::Checkpoint;

/// A document's place in the order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankedDocument {
    /// Which document, from 0 in the order given.
    pub index: usize,
    /// The model's number; larger is better.
    pub logit: f32,
    /// The number between 0 and 1.
    pub score: f32,
}

/// A checkpoint with one output for a pair of texts.
#[derive(Debug)]
pub struct Reranker {
    classifier: SequenceClassifier,
}

impl Reranker {
    /// Opens the checkpoint in a folder.
    ///
    /// # Errors
    /// [`TaskError`] that names the file, key or tensor; [`TaskError::Input`] when the model has several labels.
    pub fn open(folder: &Path, options: &TaskOptions) -> Result<Reranker, TaskError> {
        Reranker::from_checkpoint(&Checkpoint::open(folder)?, options)
    }

    /// The same for one that is open.
    ///
    /// # Errors
    /// As [`Reranker::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &TaskOptions) -> Result<Reranker, TaskError> {
        let classifier = SequenceClassifier::from_checkpoint(checkpoint, options)?;
        match classifier.labels().len() {
            1 => Ok(Reranker { classifier }),
            count => Err(TaskError::Input(format!(
                "{}: the model has {count} labels, and a reranker has one output; classify pairs with it instead",
                checkpoint.path().display()
            ))),
        }
    }

    /// Every document, the best first; equal ones stay in the order given.
    ///
    /// # Errors
    /// [`TaskError`]; the reranker stays usable.
    pub fn rerank(&self, query: &str, documents: &[&str]) -> Result<Vec<RankedDocument>, TaskError> {
        let pairs: Vec<(&str, &str)> = documents.iter().map(|document| (query, *document)).collect();
        let answers = self.classifier.classify_pairs(&pairs)?;
        let ranked = answers.iter().enumerate().map(|(index, answer)| {
            let logit = answer.logits.first().copied().unwrap_or_default();
            RankedDocument { index, logit, score: sigmoid(logit) }
        });
        let mut ranked: Vec<RankedDocument> = ranked.collect();
        ranked.sort_by(|a, b| b.logit.total_cmp(&a.logit));
        Ok(ranked)
    }
}
