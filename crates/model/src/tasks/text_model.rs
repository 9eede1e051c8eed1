//! What all tasks share: a checkpoint's tokeniser, encoder and head, and running many texts through them in passes of a
//! bounded number of tokens.

use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};
use tidemill_data::{EncodedText, PretrainedTokenizer};

use super::{TaskError, TaskOptions};
use crate::checkpoint::{Checkpoint, SpecialToken};
use crate::encoders::{EncoderModel, HeadKind, labels};
use crate::error::ModelError;
use crate::layers::flat::{FlatBatch, TokenRow};

pub(super) struct TextModel {
    pub(super) tokenizer: PretrainedTokenizer,
    pub(super) model: EncoderModel,
    /// Tokens that are kept of a text.
    pub(super) max_length: usize,
    /// The token that stands for a word to be guessed.
    pub(super) mask: Option<SpecialToken>,
    config: Map<String, Value>,
    tokens_a_pass: usize,
}

/// One pass: some of the texts and what the encoder made of their tokens.
pub(super) struct Pass<'a> {
    /// The texts' places among all.
    pub(super) texts: &'a [usize],
    pub(super) batch: &'a FlatBatch,
    /// `[tokens, width]`
    pub(super) hidden: &'a Tensor,
}

impl TextModel {
    pub(super) fn open(
        checkpoint: &Checkpoint,
        head: Option<HeadKind>,
        options: &TaskOptions,
    ) -> Result<TextModel, TaskError> {
        let config = checkpoint.config();
        let origin = checkpoint.path().join("tokenizer.json").display().to_string();
        let tokenizer = PretrainedTokenizer::load(&checkpoint.tokenizer_json()?, &origin)?;
        let model = EncoderModel::open(checkpoint.source()?, config, head, options.device, options.kind)?;
        let (ids, rows) = (tokenizer.vocabulary() as i64, model.shape().vocabulary);
        if ids > rows {
            let path = checkpoint.path().display();
            return Err(TaskError::Input(format!(
                "{path}: the tokeniser gives ids up to {}, and the model has vectors for {rows}; they do not belong together",
                ids - 1
            )));
        }
        let stated = checkpoint.sentence_transformer().and_then(|about| about.max_seq_length);
        let stated = options.max_length.or(stated).or(checkpoint.model_max_length());
        let longest = usize::try_from(model.shape().longest).unwrap_or(1);
        Ok(TextModel {
            max_length: stated.map_or(longest, |stated| stated.min(longest)),
            mask: checkpoint.special_tokens().mask.clone(),
            config: config.clone(),
            tokens_a_pass: options.tokens_a_pass.max(1),
            tokenizer,
            model,
        })
    }

    pub(super) fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    pub(super) fn labels(&self) -> Vec<String> {
        labels(&self.config)
    }

    /// Runs all rows through the encoder, those of like length together.
    pub(super) fn each_pass(
        &self,
        rows: &[TokenRow<'_>],
        mut each: impl FnMut(Pass<'_>) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        for texts in passes(&lengths, self.tokens_a_pass) {
            let picked: Vec<TokenRow<'_>> = texts.iter().filter_map(|&text| rows.get(text)).copied().collect();
            let batch = FlatBatch::new(&picked, self.model.device())?;
            let hidden = self.model.forward(&batch)?;
            each(Pass { texts: &texts, batch: &batch, hidden: &hidden })?;
        }
        Ok(())
    }

    /// The head's scores of texts that are encoded with their offsets: one list a text of one list a row.
    pub(super) fn scores_by_text(&self, texts: &[EncodedText]) -> Result<Vec<Vec<Vec<f32>>>, TaskError> {
        let rows: Vec<TokenRow<'_>> = texts.iter().map(row_of).collect();
        let mut all = vec![Vec::new(); texts.len()];
        self.each_pass(&rows, |pass| {
            let scores = self.model.scores(pass.hidden, pass.batch)?;
            let by_row = rows_of(&scores)?;
            // A head on whole texts gives one row a text, others one a token.
            let of_tokens = scores.size().first() == pass.batch.bounds().last();
            let mut by_row = by_row.into_iter();
            for (pair, &text) in pass.batch.bounds().windows(2).zip(pass.texts) {
                let count = match pair {
                    [start, end] if of_tokens => (end - start) as usize,
                    _ => 1,
                };
                let scores: Vec<Vec<f32>> = by_row.by_ref().take(count).collect();
                check_finite(scores.iter().flatten(), text, texts.len())?;
                if let Some(place) = all.get_mut(text) {
                    *place = scores;
                }
            }
            Ok(())
        })?;
        Ok(all)
    }
}

pub(super) fn row_of(text: &EncodedText) -> TokenRow<'_> {
    TokenRow { ids: &text.ids, type_ids: Some(&text.type_ids) }
}

/// A matrix's rows as lists, wherever it is.
pub(super) fn rows_of(matrix: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let width = usize::try_from(matrix.size().last().copied().unwrap_or_default()).unwrap_or_default();
    let matrix = matrix.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut numbers = vec![0.0_f32; matrix.numel()];
    matrix.f_copy_data(&mut numbers, matrix.numel())?;
    Ok(numbers.chunks_exact(width.max(1)).map(<[f32]>::to_vec).collect())
}

pub(super) fn check_finite<'a>(
    numbers: impl IntoIterator<Item = &'a f32>,
    index: usize,
    count: usize,
) -> Result<(), TaskError> {
    match numbers.into_iter().all(|number| number.is_finite()) {
        true => Ok(()),
        false => Err(TaskError::NotFinite { index, count }),
    }
}

/// Places of texts, by length, in passes of about equally many tokens and at most `budget`; a longer text runs alone.
fn passes(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let total: usize = lengths.iter().sum();
    let share = total.div_ceil(total.div_ceil(budget).max(1));
    let length = |text: usize| lengths.get(text).copied().unwrap_or_default();
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| length(text));
    let mut passes: Vec<Vec<usize>> = Vec::new();
    let mut tokens = budget;
    for text in order {
        match passes.last_mut().filter(|_| tokens < share && tokens + length(text) <= budget) {
            Some(pass) => pass.push(text),
            None => {
                passes.push(vec![text]);
                tokens = 0;
            }
        }
        tokens += length(text);
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_hold_every_text_once_within_the_budget() {
        let lengths = [5, 1, 9, 3, 40, 2, 2, 7];
        let passes = passes(&lengths, 12);
        let mut seen = passes.concat();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7]);
        for pass in &passes {
            let tokens: usize = pass.iter().map(|&text| lengths[text]).sum();
            assert!(pass.len() == 1 || tokens <= 12, "{pass:?}");
        }
        assert!(super::passes(&[], 12).is_empty());
        assert_eq!(super::passes(&[6; 4], 14).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }
}
