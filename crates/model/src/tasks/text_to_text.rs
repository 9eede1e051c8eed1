//! Summaries and translations over a checkpoint of an encoder-decoder: texts in, texts out. What is put around a text, and
//! how its answer begins, is in `source_format.rs`; answers are written by a [`Generator`], whose [`Prepared`] requests
//! these are. Knows nothing of sockets.

pub(crate) mod languages;
pub(crate) mod source_format;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::generation::{Generator, GeneratorError, GeneratorOptions, PrepareError, Prepared, Usage};
use crate::engine::{Refused, Turn};
use crate::error::ModelError;

/// A text to be summarised or translated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextToTextInput {
    /// The text.
    pub text: String,
    /// What is wanted.
    pub purpose: Purpose,
    /// Most tokens of the answer. Absent: as the checkpoint says.
    pub max_tokens: Option<usize>,
    /// Beams of the search, 1 for greedy. Absent: as the checkpoint says.
    pub beams: Option<usize>,
    /// Whether a text longer than the model reads is cut off; otherwise it is refused.
    pub truncate: bool,
    /// When it is let in, beside others that wait.
    pub turn: Turn,
}

/// What a text-to-text model is used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A summary.
    #[default]
    Summary,
    /// A translation. An empty language is the checkpoint's own, where it has one.
    Translation {
        /// The text's language, as the checkpoint names it: `eng_Latn`, `en_XX`, `en`.
        source: String,
        /// The answer's.
        target: String,
    },
}

/// How a library user's texts are answered.
#[derive(Clone, Debug, Default)]
pub struct TextToTextOptions {
    /// Most tokens of an answer. Absent: as the checkpoint says.
    pub max_tokens: Option<usize>,
    /// Beams of the search, 1 for greedy. Absent: as the checkpoint says.
    pub beams: Option<usize>,
    /// Whether texts longer than the model reads are cut off; otherwise they are refused.
    pub truncate: bool,
    /// Set by another thread, it ends the work by the next token.
    pub cancelled: Option<Arc<AtomicBool>>,
}

/// Why texts were not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextToTextError {
    /// A text, an option or a language is wrong.
    #[error("text {index}: {problem}")]
    Input {
        /// Which text, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        problem: PrepareError,
    },
    /// A text that the model can never answer with so many beams or tokens.
    #[error("text {index}: {problem}")]
    Refused {
        /// Which text, from 0.
        index: usize,
        /// Why.
        #[source]
        problem: Refused,
    },
    /// The answer to a text could not be finished.
    #[error("text {index}: {problem}")]
    Failed {
        /// Which text, from 0.
        index: usize,
        /// What went wrong.
        problem: String,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// [`TextToTextOptions::cancelled`] was set.
    #[error("cancelled")]
    Cancelled,
}

/// A text that was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenText {
    /// The text.
    pub text: String,
    /// What it took.
    pub usage: Usage,
}

/// A checkpoint that summarises or translates.
///
/// ```no_run
/// use tidemill_model::tasks::generation::GeneratorOptions;
/// use tidemill_model::tasks::text_to_text::{TextToText, TextToTextOptions};
///
/// let mut translator = TextToText::open("nllb-200-distilled-600M".as_ref(), &GeneratorOptions::default())?;
/// let texts = ["The tide comes in.", "The mill turns."];
/// let options = TextToTextOptions { beams: Some(4), ..TextToTextOptions::default() };
/// for answer in translator.translate(&texts, "eng_Latn", "deu_Latn", &options)? {
///     println!("{}", answer.text);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TextToText {
    generator: Generator,
}

impl TextToText {
    /// Opens a checkpoint.
    ///
    /// # Errors
    /// [`GeneratorError`] that names the file, key or tensor that is wrong, and when it is no encoder-decoder's.
    pub fn open(path: &Path, options: &GeneratorOptions) -> Result<TextToText, GeneratorError> {
        let generator = Generator::open(path, options)?;
        match generator.preparation().is_text_to_text() {
            true => Ok(TextToText { generator }),
            false => Err(GeneratorError::NotTextToText),
        }
    }

    /// A summary of each text, in their order.
    ///
    /// # Errors
    /// [`TextToTextError`] that names the text. All texts are checked before the first is read.
    pub fn summarise(
        &mut self,
        texts: &[&str],
        options: &TextToTextOptions,
    ) -> Result<Vec<WrittenText>, TextToTextError> {
        self.answer(texts, &Purpose::Summary, options)
    }

    /// A translation of each text, in their order. Languages are named as the checkpoint names them; an empty one is its
    /// own, where it has one.
    ///
    /// # Errors
    /// As [`TextToText::summarise`].
    pub fn translate(
        &mut self,
        texts: &[&str],
        source_language: &str,
        target_language: &str,
        options: &TextToTextOptions,
    ) -> Result<Vec<WrittenText>, TextToTextError> {
        let purpose = Purpose::Translation { source: source_language.to_string(), target: target_language.to_string() };
        self.answer(texts, &purpose, options)
    }

    fn answer(
        &mut self,
        texts: &[&str],
        purpose: &Purpose,
        options: &TextToTextOptions,
    ) -> Result<Vec<WrittenText>, TextToTextError> {
        let preparation = self.generator.preparation();
        let prepare = |(index, text): (usize, &&str)| {
            let input = TextToTextInput {
                text: (*text).to_string(),
                purpose: purpose.clone(),
                max_tokens: options.max_tokens,
                beams: options.beams,
                truncate: options.truncate,
                turn: Turn::default(),
            };
            let prepared = preparation.prepare_text_to_text(&input);
            prepared.map(|prepared| (index, prepared)).map_err(|problem| TextToTextError::Input { index, problem })
        };
        let mut waiting = texts.iter().enumerate().map(prepare).collect::<Result<Vec<_>, _>>()?;
        // Texts of one length are read together, with the least padding.
        waiting.sort_by_key(|(_, prepared)| prepared.prompt_tokens());
        let answers = self.run(waiting.into(), texts.len(), options);
        if answers.is_err() {
            self.generator.cancel_all();
        }
        answers
    }

    fn run(
        &mut self,
        mut waiting: VecDeque<(usize, Prepared)>,
        count: usize,
        options: &TextToTextOptions,
    ) -> Result<Vec<WrittenText>, TextToTextError> {
        let mut answers = vec![WrittenText::default(); count];
        let mut places = BTreeMap::new();
        loop {
            while self.generator.has_room()
                && let Some((index, prepared)) = waiting.pop_front()
            {
                let submitted = self.generator.submit(prepared);
                let id = submitted.map_err(|problem| TextToTextError::Refused { index, problem })?;
                places.insert(id, index);
            }
            if self.generator.is_idle() {
                return Ok(answers);
            }
            if options.cancelled.as_ref().is_some_and(|cancelled| cancelled.load(Ordering::Relaxed)) {
                return Err(TextToTextError::Cancelled);
            }
            for output in self.generator.step()? {
                let Some(&index) = places.get(&output.request) else { continue };
                if let Some(problem) = output.problem {
                    return Err(TextToTextError::Failed { index, problem });
                }
                if let Some(answer) = answers.get_mut(index) {
                    answer.text.push_str(&output.text);
                    answer.usage = output.usage.unwrap_or(answer.usage);
                }
            }
        }
    }
}
