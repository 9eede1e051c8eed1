//! A label for every token of a text, and the entities that tokens make up: names, places, parts of speech.

use std::path::Path;

use tidemill_data::EncodedText;

use super::text_model::TextModel;
use super::{TaskError, TaskOptions, largest, softmax};
use crate::checkpoint::Checkpoint;
use crate::encoders::HeadKind;

/// How tokens become entities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// Every token on its own, with its label as the model has it.
    None,
    /// Neighbours of one kind together: `B-` begins an entity, `I-` continues one; the score is the tokens' mean. As
    /// "simple" in `transformers`.
    #[default]
    Simple,
}

/// A part of a text with a label.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Its kind, without `B-` or `I-` where tokens were grouped.
    pub label: String,
    /// The probability of the label.
    pub score: f32,
    /// Its first character (a Unicode scalar value).
    pub start: usize,
    /// One past its last character.
    pub end: usize,
    /// The part itself.
    pub text: String,
}

/// A checkpoint that gives tokens labels.
///
/// # Example
/// ```no_run
/// use tidemill_model::tasks::{Aggregation, TaskOptions, TokenClassifier};
///
/// let tagger = TokenClassifier::open("models/bert-base-NER".as_ref(), &TaskOptions::default())?;
/// for entity in &tagger.entities(&["Ada lived in London"], Aggregation::Simple)?[0] {
///     println!("{} {}..{} {}", entity.label, entity.start, entity.end, entity.text);
/// }
/// # Ok::<(), tidemill_model::tasks::TaskError>(())
/// ```
pub struct TokenClassifier {
    model: TextModel,
    labels: Vec<String>,
}

/// What stands outside every entity.
const OUTSIDE: &str = "O";

impl TokenClassifier {
    /// Opens the checkpoint in a folder.
    ///
    /// # Errors
    /// [`TaskError`] that names the file, key or tensor and says what to do.
    pub fn open(folder: &Path, options: &TaskOptions) -> Result<TokenClassifier, TaskError> {
        TokenClassifier::from_checkpoint(&Checkpoint::open(folder)?, options)
    }

    /// The same for one that is open.
    ///
    /// # Errors
    /// As [`TokenClassifier::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &TaskOptions) -> Result<TokenClassifier, TaskError> {
        let model = TextModel::open(checkpoint, Some(HeadKind::TokenClassification), options)?;
        Ok(TokenClassifier { labels: model.labels(), model })
    }

    /// The labels of tokens, `O` for those outside every entity.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The entities of each text, in the order given and left to right. Texts that are too long are cut.
    ///
    /// # Errors
    /// [`TaskError`]; the classifier stays usable.
    pub fn entities(&self, texts: &[&str], aggregation: Aggregation) -> Result<Vec<Vec<Entity>>, TaskError> {
        let inputs: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
        let encoded = self.model.tokenizer.encode_many(&inputs, self.model.max_length)?;
        let scores = self.model.scores_by_text(&encoded)?;
        let all = texts.iter().zip(&encoded).zip(scores);
        Ok(all.map(|((text, encoded), scores)| self.of_text(text, encoded, scores, aggregation)).collect())
    }

    fn of_text(
        &self,
        text: &str,
        encoded: &EncodedText,
        scores: Vec<Vec<f32>>,
        aggregation: Aggregation,
    ) -> Vec<Entity> {
        let tokens = encoded.tokens.iter().zip(scores).filter(|(token, _)| token.text.is_some());
        let tagged = tokens.map(|(token, mut scores)| {
            softmax(&mut scores);
            let best = largest(&scores);
            Tagged {
                label: self.labels.get(best).map_or("", String::as_str),
                score: scores.get(best).copied().unwrap_or_default(),
                start: token.start,
                end: token.end,
            }
        });
        let groups = match aggregation {
            Aggregation::None => tagged.map(|tagged| (tagged.label, vec![tagged])).collect(),
            Aggregation::Simple => grouped(tagged),
        };
        let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let entities = groups.into_iter().filter(|(label, _)| *label != OUTSIDE).filter_map(|(label, tokens)| {
            let (first, last) = (tokens.first()?, tokens.last()?);
            let part = text.get(*bytes.get(first.start)?..*bytes.get(last.end)?)?;
            let score = tokens.iter().map(|token| token.score).sum::<f32>() / tokens.len() as f32;
            let (label, text) = (label.to_string(), part.to_string());
            Some(Entity { label, score, start: first.start, end: last.end, text })
        });
        entities.collect()
    }
}

impl std::fmt::Debug for TokenClassifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TokenClassifier({})", self.labels.join(", "))
    }
}

#[derive(Clone, Copy)]
struct Tagged<'a> {
    label: &'a str,
    score: f32,
    start: usize,
    end: usize,
}

/// Whether a label begins an entity, and of which kind.
fn parted(label: &str) -> (bool, &str) {
    match label.split_at_checked(2) {
        Some(("B-", kind)) => (true, kind),
        Some(("I-", kind)) => (false, kind),
        _ => (false, label),
    }
}

fn grouped<'a>(tokens: impl Iterator<Item = Tagged<'a>>) -> Vec<(&'a str, Vec<Tagged<'a>>)> {
    let mut groups: Vec<(&str, Vec<Tagged<'_>>)> = Vec::new();
    for token in tokens {
        let (begins, kind) = parted(token.label);
        match groups.last_mut().filter(|(last, _)| !begins && *last == kind) {
            Some((_, group)) => group.push(token),
            None => groups.push((kind, vec![token])),
        }
    }
    groups
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_begin_starts_a_new_entity_and_an_inside_continues_one() {
        let labels = ["B-PER", "I-PER", "B-PER", "O", "O", "I-LOC", "I-ORG", "DATE", "DATE"];
        let tokens = labels.iter().enumerate();
        let tokens = tokens.map(|(at, label)| Tagged { label, score: 1.0, start: at, end: at + 1 });
        let groups: Vec<(&str, usize)> = grouped(tokens).iter().map(|(kind, group)| (*kind, group.len())).collect();
        assert_eq!(groups, [("PER", 2), ("PER", 1), ("O", 2), ("LOC", 1), ("ORG", 1), ("DATE", 2)]);
    }
}
