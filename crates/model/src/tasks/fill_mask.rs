//! Words for the gaps in a text: what the model was trained to guess.

use std::path::Path;

use tch::Tensor;
use tidemill_data::EncodedText;

use super::text_model::{TextModel, check_finite, row_of, rows_of};
use super::{TaskError, TaskOptions, softmax};
use crate::checkpoint::{Checkpoint, SpecialToken};
use crate::encoders::HeadKind;
use crate::layers::flat::TokenRow;

/// A word for a gap.
#[derive(Clone, Debug, PartialEq)]
pub struct Filling {
    /// The token.
    pub id: u32,
    /// Its text.
    pub token: String,
    /// Its probability.
    pub score: f32,
    /// The text with this gap filled; others stay.
    pub text: String,
}

/// A checkpoint that guesses words.
///
/// # Example
/// ```no_run
/// use tidemill_model::tasks::{MaskFiller, TaskOptions};
///
/// let filler = MaskFiller::open("models/bert-base-uncased".as_ref(), &TaskOptions::default())?;
/// let gaps = &filler.fill(&["Paris is the [MASK] of France."], 3)?[0];
/// println!("{} {:.3}", gaps[0][0].token, gaps[0][0].score);
/// # Ok::<(), tidemill_model::tasks::TaskError>(())
/// ```
pub struct MaskFiller {
    model: TextModel,
    mask: SpecialToken,
}

impl MaskFiller {
    /// Opens the checkpoint in a folder.
    ///
    /// # Errors
    /// [`TaskError`] that names the file, key or tensor and says what to do.
    pub fn open(folder: &Path, options: &TaskOptions) -> Result<MaskFiller, TaskError> {
        MaskFiller::from_checkpoint(&Checkpoint::open(folder)?, options)
    }

    /// The same for one that is open.
    ///
    /// # Errors
    /// As [`MaskFiller::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &TaskOptions) -> Result<MaskFiller, TaskError> {
        let model = TextModel::open(checkpoint, Some(HeadKind::MaskedLanguageModel), options)?;
        let mask = model.mask.clone().ok_or_else(|| {
            TaskError::Input(format!(
                "{}: no file says which token stands for a gap; tokenizer_config.json should have \"mask_token\"",
                checkpoint.path().display()
            ))
        })?;
        Ok(MaskFiller { model, mask })
    }

    /// How a gap is written: `[MASK]`, `<mask>`.
    pub fn mask(&self) -> &str {
        &self.mask.text
    }

    /// For each text, for each gap in it from left to right, the `top` likeliest words, likeliest first.
    ///
    /// # Errors
    /// [`TaskError::Input`] for a text without a gap (also when it is so long that the gap was cut off).
    pub fn fill(&self, texts: &[&str], top: usize) -> Result<Vec<Vec<Vec<Filling>>>, TaskError> {
        let inputs: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
        let encoded = self.model.tokenizer.encode_many(&inputs, self.model.max_length)?;
        for (index, text) in encoded.iter().enumerate() {
            if !text.ids.contains(&self.mask.id) {
                let (mask, count, longest) = (self.mask(), texts.len(), self.model.max_length);
                let problem = format!("text {index} of {count} has no {mask} among its first {longest} tokens");
                return Err(TaskError::Input(problem));
            }
        }
        let rows: Vec<TokenRow<'_>> = encoded.iter().map(row_of).collect();
        let mut filled = vec![Vec::new(); texts.len()];
        self.model.each_pass(&rows, |pass| {
            let (mut places, mut owners) = (Vec::new(), Vec::new());
            for (&text, start) in pass.texts.iter().zip(pass.batch.bounds()) {
                for place in encoded.get(text).into_iter().flat_map(|encoded| self.gaps(encoded)) {
                    places.push(start + place as i64);
                    owners.push(text);
                }
            }
            let places = Tensor::f_from_slice(&places)?.f_to_device(self.model.model.device())?;
            let scores = self.model.model.scores(&pass.hidden.f_index_select(0, &places)?, pass.batch)?;
            for (&text, scores) in owners.iter().zip(rows_of(&scores)?) {
                check_finite(&scores, text, texts.len())?;
                if let (Some(gaps), Some(source)) = (filled.get_mut(text), texts.get(text)) {
                    let gap = gaps.len();
                    gaps.push(self.best(source, gap, scores, top)?);
                }
            }
            Ok(())
        })?;
        Ok(filled)
    }

    fn gaps<'a>(&'a self, text: &'a EncodedText) -> impl Iterator<Item = usize> + 'a {
        text.ids.iter().enumerate().filter(|(_, id)| **id == self.mask.id).map(|(place, _)| place)
    }

    fn best(&self, text: &str, gap: usize, mut scores: Vec<f32>, top: usize) -> Result<Vec<Filling>, TaskError> {
        softmax(&mut scores);
        let mut ranked: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.truncate(top);
        let filling = |(id, score): (usize, f32)| {
            let id = u32::try_from(id).unwrap_or_default();
            let token = self.model.tokenizer.decode(&[id])?;
            // A special token has no text of its own, but its name.
            let token = if token.is_empty() { self.model.tokenizer.token(id).unwrap_or_default() } else { token };
            Ok(Filling { text: filled(text, self.mask(), gap, token.trim()), id, token, score })
        };
        ranked.into_iter().map(filling).collect()
    }
}

impl std::fmt::Debug for MaskFiller {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "MaskFiller({:?})", self.model.model)
    }
}

/// The text with its gap number `gap` filled.
fn filled(text: &str, mask: &str, gap: usize, token: &str) -> String {
    match text.match_indices(mask).nth(gap) {
        Some((at, _)) => {
            let (before, after) = (text.get(..at), text.get(at + mask.len()..));
            [before.unwrap_or_default(), token, after.unwrap_or_default()].concat()
        }
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gap_is_filled_and_the_others_stay() {
        assert_eq!(filled("a [MASK] b [MASK]", "[MASK]", 1, "c"), "a [MASK] b c");
        assert_eq!(filled("a [MASK]", "[MASK]", 1, "c"), "a [MASK]");
    }
}
