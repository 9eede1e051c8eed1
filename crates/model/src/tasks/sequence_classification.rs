//! A label for a text, or for a pair of them: sentiment, topic, entailment.

use std::path::Path;

use serde_json::Value;

use super::text_model::TextModel;
use super::{TaskError, TaskOptions, largest, sigmoid, softmax};
use crate::checkpoint::Checkpoint;
use crate::encoders::HeadKind;

/// How a model's numbers become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Probabilities that sum to 1: one label holds.
    Softmax,
    /// A probability for each label on its own: several may hold.
    Sigmoid,
    /// The number itself: regression.
    Plain,
}

/// What a model says of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelScores {
    /// One a label, as the model gave them.
    pub logits: Vec<f32>,
    /// One a label, by the model's [`Scoring`].
    pub scores: Vec<f32>,
}

impl LabelScores {
    /// The label with the largest score; the first of equals.
    pub fn label(&self) -> usize {
        largest(&self.scores)
    }

    /// The `k` labels with the largest scores, largest first.
    pub fn top(&self, k: usize) -> Vec<(usize, f32)> {
        let mut ranked: Vec<(usize, f32)> = self.scores.iter().copied().enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.truncate(k);
        ranked
    }
}

/// A checkpoint that gives texts labels.
///
/// # Example
/// ```no_run
/// use tidemill_model::tasks::{SequenceClassifier, TaskOptions};
///
/// let folder = "models/distilbert-base-uncased-finetuned-sst-2-english";
/// let classifier = SequenceClassifier::open(folder.as_ref(), &TaskOptions::default())?;
/// let answers = classifier.classify(&["a good film"])?;
/// println!("{} {:?}", classifier.labels()[answers[0].label()], answers[0].scores);
/// # Ok::<(), tidemill_model::tasks::TaskError>(())
/// ```
pub struct SequenceClassifier {
    model: TextModel,
    labels: Vec<String>,
    scoring: Scoring,
}

impl SequenceClassifier {
    /// Opens the checkpoint in a folder.
    ///
    /// # Errors
    /// [`TaskError`] that names the file, key or tensor and says what to do.
    pub fn open(folder: &Path, options: &TaskOptions) -> Result<SequenceClassifier, TaskError> {
        SequenceClassifier::from_checkpoint(&Checkpoint::open(folder)?, options)
    }

    /// The same for one that is open.
    ///
    /// # Errors
    /// As [`SequenceClassifier::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &TaskOptions) -> Result<SequenceClassifier, TaskError> {
        let model = TextModel::open(checkpoint, Some(HeadKind::SequenceClassification), options)?;
        let labels = model.labels();
        // As the pipeline of `transformers` chooses.
        let scoring = match model.config().get("problem_type").and_then(Value::as_str) {
            Some("regression") => Scoring::Plain,
            Some("multi_label_classification") => Scoring::Sigmoid,
            _ if labels.len() == 1 => Scoring::Sigmoid,
            _ => Scoring::Softmax,
        };
        Ok(SequenceClassifier { model, labels, scoring })
    }

    /// The labels, in the order of the scores.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// How numbers become scores, by `problem_type`.
    pub fn scoring(&self) -> Scoring {
        self.scoring
    }

    /// One answer a text, in the order given. Texts that are too long are cut.
    ///
    /// # Errors
    /// [`TaskError`]; the classifier stays usable.
    pub fn classify(&self, texts: &[&str]) -> Result<Vec<LabelScores>, TaskError> {
        let inputs: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
        self.run(&inputs)
    }

    /// One answer a pair, in the order given. Of a pair that is too long the longer text is cut first.
    ///
    /// # Errors
    /// [`TaskError`]; the classifier stays usable.
    pub fn classify_pairs(&self, pairs: &[(&str, &str)]) -> Result<Vec<LabelScores>, TaskError> {
        let inputs: Vec<(&str, Option<&str>)> = pairs.iter().map(|(first, second)| (*first, Some(*second))).collect();
        self.run(&inputs)
    }

    fn run(&self, inputs: &[(&str, Option<&str>)]) -> Result<Vec<LabelScores>, TaskError> {
        let encoded = self.model.tokenizer.encode_many(inputs, self.model.max_length)?;
        let logits = self.model.scores_by_text(&encoded)?;
        Ok(logits.into_iter().map(|rows| self.scored(rows.into_iter().next().unwrap_or_default())).collect())
    }

    fn scored(&self, logits: Vec<f32>) -> LabelScores {
        let mut scores = logits.clone();
        match self.scoring {
            Scoring::Softmax => softmax(&mut scores),
            Scoring::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
            Scoring::Plain => {}
        }
        LabelScores { logits, scores }
    }
}

impl std::fmt::Debug for SequenceClassifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SequenceClassifier({})", self.labels.join(", "))
    }
}
