//! Answers that stand in a document: the spans that a model thinks the likeliest, found in windows over the document so
//! that it may be of any length.

use std::path::Path;
use std::sync::Arc;

use tidemill_data::EncodedText;

use super::text_model::TextModel;
use super::{TaskError, TaskOptions, TextPreparation};
use crate::checkpoint::Checkpoint;
use crate::encoders::HeadKind;

/// A question about a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// What is asked.
    pub question: &'a str,
    /// Where the answer stands.
    pub document: &'a str,
}

/// A span of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The span itself; empty for "the document does not say".
    pub text: String,
    /// The probability that it begins where it does times that it ends where it does.
    pub score: f32,
    /// Its first character (a Unicode scalar value) in the document.
    pub start: usize,
    /// One past its last character.
    pub end: usize,
}

/// How answers are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerOptions {
    /// Answers a question, the best first. Default 1.
    pub top: usize,
    /// The longest answer in tokens. Default 15.
    pub longest_answer: usize,
    /// Tokens of a window, the question and special ones included; never more than the model takes. Default 384.
    pub window: usize,
    /// Tokens that neighbouring windows share, at most half a window. Default 128.
    pub stride: usize,
    /// Whether "the document does not say" is an answer. Default no.
    pub may_be_unanswered: bool,
}

impl Default for AnswerOptions {
    fn default() -> AnswerOptions {
        AnswerOptions { top: 1, longest_answer: 15, window: 384, stride: 128, may_be_unanswered: false }
    }
}

/// A checkpoint that finds answers.
///
/// # Example
/// ```no_run
/// use tidemill_model::tasks::{AnswerOptions, Question, QuestionAnswerer, TaskOptions};
///
/// let folder = "models/distilbert-base-cased-distilled-squad";
/// let answerer = QuestionAnswerer::open(folder.as_ref(), &TaskOptions::default())?;
/// let question = Question { question: "Where did she live?", document: "Ada was born and lived in London." };
/// println!("{}", answerer.answer(&[question], &AnswerOptions::default())?[0][0].text);
/// # Ok::<(), tidemill_model::tasks::TaskError>(())
/// ```
pub struct QuestionAnswerer {
    model: TextModel,
}

impl QuestionAnswerer {
    /// Opens the checkpoint in a folder.
    ///
    /// # Errors
    /// [`TaskError`] that names the file, key or tensor and says what to do.
    pub fn open(folder: &Path, options: &TaskOptions) -> Result<QuestionAnswerer, TaskError> {
        QuestionAnswerer::from_checkpoint(&Checkpoint::open(folder)?, options)
    }

    /// The same for one that is open.
    ///
    /// # Errors
    /// As [`QuestionAnswerer::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &TaskOptions) -> Result<QuestionAnswerer, TaskError> {
        Ok(QuestionAnswerer { model: TextModel::open(checkpoint, Some(HeadKind::QuestionAnswering), options)? })
    }

    /// The tokeniser's side, for threads that are not the model's.
    pub fn preparation(&self) -> Arc<TextPreparation> {
        Arc::clone(&self.model.preparation)
    }

    /// The best answers to each question, best first. A document without a token has none.
    ///
    /// # Errors
    /// [`TaskError`]; a question that leaves no room for a window of its document is one.
    pub fn answer(&self, questions: &[Question<'_>], options: &AnswerOptions) -> Result<Vec<Vec<Answer>>, TaskError> {
        let windows = questions.iter().map(|question| self.model.preparation.windows(*question, options));
        let windows: Vec<Vec<EncodedText>> = windows.collect::<Result<_, _>>()?;
        let read: Vec<(&str, &[EncodedText])> =
            questions.iter().zip(&windows).map(|(asked, windows)| (asked.document, windows.as_slice())).collect();
        self.answer_windows(&read, options)
    }

    /// The same for documents with the windows that [`TextPreparation::windows`] has made of them and their questions.
    ///
    /// # Errors
    /// [`TaskError::Model`] when the model fails.
    pub fn answer_windows(
        &self,
        read: &[(&str, &[EncodedText])],
        options: &AnswerOptions,
    ) -> Result<Vec<Vec<Answer>>, TaskError> {
        let all: Vec<&EncodedText> = read.iter().flat_map(|(_, windows)| *windows).collect();
        let mut scores = self.model.scores_by_text(&all)?.into_iter();
        let answers = read.iter().map(|(document, windows)| {
            let mut found = Found::default();
            for (window, scores) in windows.iter().zip(scores.by_ref()) {
                found.look(window, &scores, options);
            }
            found.answers(document, options)
        });
        Ok(answers.collect())
    }
}

impl TextPreparation {
    /// A question with each part of its document that fits beside it, as [`AnswerOptions`] says.
    ///
    /// # Errors
    /// [`TaskError::Tokenizer`] when the tokeniser fails, or the question leaves no room.
    pub fn windows(&self, asked: Question<'_>, options: &AnswerOptions) -> Result<Vec<EncodedText>, TaskError> {
        let window = options.window.min(self.max_length());
        let stride = options.stride.min(window / 2);
        Ok(self.tokenizer.windows(asked.question, asked.document, window, stride)?)
    }
}

impl std::fmt::Debug for QuestionAnswerer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "QuestionAnswerer({:?})", self.model.model)
    }
}

/// What the windows of one document have shown so far.
#[derive(Default)]
struct Found {
    spans: Vec<Span>,
    /// The least that a window gives to "it does not say".
    unanswered: Option<f32>,
}

#[derive(Clone, Copy)]
struct Span {
    score: f32,
    start: usize,
    end: usize,
}

impl Found {
    fn look(&mut self, window: &EncodedText, scores: &[Vec<f32>], options: &AnswerOptions) {
        let seen: Vec<bool> = window.tokens.iter().map(|token| token.text == Some(1)).collect();
        // The first token stands for "it does not say" and takes its share of the probability.
        let probabilities = |which: usize| {
            let of_token = |at: usize| scores.get(at).and_then(|scores| scores.get(which)).copied();
            let counts = |at: usize| at == 0 || seen.get(at) == Some(&true);
            let mut shares: Vec<f32> =
                (0..seen.len()).map(|at| of_token(at).filter(|_| counts(at)).unwrap_or(f32::NEG_INFINITY)).collect();
            super::softmax(&mut shares);
            shares
        };
        let (starts, ends) = (probabilities(0), probabilities(1));
        let none = starts.first().zip(ends.first()).map(|(start, end)| start * end);
        self.unanswered = self.unanswered.into_iter().chain(none).reduce(f32::min);
        let mut spans = Vec::new();
        for (first, start) in starts.iter().enumerate().filter(|(at, _)| seen.get(*at) == Some(&true)) {
            let reach = ends.iter().enumerate().skip(first).take(options.longest_answer.max(1));
            for (last, end) in reach.filter(|(at, _)| seen.get(*at) == Some(&true)) {
                spans.push((start * end, first, last));
            }
        }
        spans.sort_by(|a, b| b.0.total_cmp(&a.0));
        let whole = spans.into_iter().filter_map(|(score, first, last)| {
            let (start, end) = (word_of(window, first)?.0, word_of(window, last)?.1);
            // A token may stand for white space alone, of which its tokeniser keeps nothing.
            (start < end).then_some(Span { score, start, end })
        });
        self.spans.extend(whole.take(options.top.max(1)));
    }

    fn answers(mut self, document: &str, options: &AnswerOptions) -> Vec<Answer> {
        if let Some(score) = self.unanswered.filter(|_| options.may_be_unanswered) {
            self.spans.push(Span { score, start: 0, end: 0 });
        }
        self.spans.sort_by(|a, b| b.score.total_cmp(&a.score));
        let bytes: Vec<usize> = document.char_indices().map(|(at, _)| at).chain([document.len()]).collect();
        let mut answers: Vec<Answer> = Vec::new();
        for Span { score, start, end } in self.spans {
            // Windows that overlap find the same span; the better sight of it counts.
            if answers.len() >= options.top || answers.iter().any(|known| (known.start, known.end) == (start, end)) {
                continue;
            }
            let place = bytes.get(start).zip(bytes.get(end));
            if let Some(text) = place.and_then(|(&start, &end)| document.get(start..end)) {
                answers.push(Answer { text: text.to_string(), score, start, end });
            }
        }
        answers
    }
}

/// The characters of the whole word that a token is a part of, as far as the window has it.
fn word_of(window: &EncodedText, at: usize) -> Option<(usize, usize)> {
    let token = window.tokens.get(at)?;
    let same = |other: &&tidemill_data::TextToken| other.text == token.text && other.word == token.word;
    if token.word.is_none() {
        return Some((token.start, token.end));
    }
    let before = window.tokens.get(..=at)?.iter().rev().take_while(same).last()?;
    let after = window.tokens.get(at..)?.iter().take_while(same).last()?;
    Some((before.start, after.end))
}
