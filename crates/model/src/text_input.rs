//! One batch of token ids on its way into a model: the same rows flat, padded, or padded with time first, whichever the
//! architecture wants. Knows nothing of texts or tokenisers but the order of ids: hashed n-grams follow the token that
//! they belong to, and those before the first token belong to the whole text. An empty row becomes one padding token
//! where a row must have a token, and an empty bag where it need not.

use std::borrow::Cow;

use tch::{Device, Kind, Tensor};
use tidemill_data::TextBatch;

use crate::error::ModelError;

/// Token ids of a batch, and the tensors that architectures ask for.
///
/// # Example
/// ```
/// use tch::Device;
/// use tidemill_model::TextInput;
///
/// let input = TextInput::from_ids(&[&[5, 6, 7], &[8], &[]], 0, Device::Cpu)?;
/// assert_eq!((input.batch(), input.time()), (3, 3));
/// assert_eq!(Vec::<i64>::try_from(input.lengths()?)?, [3, 1, 1]);
/// assert_eq!(Vec::<i64>::try_from(input.padded()?.view(-1))?, [5, 6, 7, 8, 0, 0, 0, 0, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextInput {
    ids: Vec<i64>,
    offsets: Vec<usize>,
    /// Hashed n-grams of each token, where [`TextInput::tokens`] has parted them from the tokens.
    ngrams: Option<Ngrams>,
    pad_id: i64,
    time: usize,
    device: Device,
}

/// Token `i` has the n-grams `ids[bounds[i]..bounds[i + 1]]`.
#[derive(Clone, Debug)]
struct Ngrams {
    ids: Vec<i64>,
    bounds: Vec<usize>,
}

/// The order of axes in which a layer reads tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[batch, time]`, with at least this many positions: for a window that is wider than every text.
    BatchFirst(i64),
    /// `[time, batch]`, as recurrent layers read.
    TimeFirst,
}

/// What [`TextInput::bags`] gives: for each position of a layout, the ids of its token and of the token's n-grams.
pub(crate) struct Bags {
    /// Flat ids.
    pub(crate) ids: Tensor,
    /// `[positions + 1]`.
    pub(crate) bounds: Tensor,
    /// One over the square root of each bag's size, `[positions, 1]`.
    pub(crate) scale: Tensor,
    /// The two sizes of the layout.
    pub(crate) shape: [i64; 2],
}

impl TextInput {
    /// A loader's batch.
    ///
    /// # Errors
    /// [`ModelError::Input`] when the batch is empty or its offsets do not rise from 0 to the number of ids.
    pub fn new(batch: &TextBatch, pad_id: i64, device: Device) -> Result<TextInput, ModelError> {
        TextInput::from_flat(batch.ids.clone(), batch.offsets.clone(), pad_id, device)
    }

    /// Rows of ids, one each text.
    ///
    /// # Errors
    /// [`ModelError::Input`] when there is no row.
    pub fn from_ids(rows: &[&[u32]], pad_id: i64, device: Device) -> Result<TextInput, ModelError> {
        let mut ids = Vec::with_capacity(rows.iter().map(|row| row.len()).sum());
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        offsets.push(0);
        for row in rows {
            ids.extend(row.iter().map(|&id| i64::from(id)));
            offsets.push(ids.len());
        }
        TextInput::from_flat(ids, offsets, pad_id, device)
    }

    /// All ids in a run; row `i` is `ids[offsets[i]..offsets[i + 1]]`.
    ///
    /// # Errors
    /// [`ModelError::Input`] when there is no row or the offsets do not rise from 0 to the number of ids.
    pub fn from_flat(ids: Vec<i64>, offsets: Vec<usize>, pad_id: i64, device: Device) -> Result<TextInput, ModelError> {
        if offsets.len() < 2 {
            return Err(ModelError::Input("a batch needs at least one text".to_string()));
        }
        let rising = offsets.is_sorted();
        if !rising || offsets.first() != Some(&0) || offsets.last() != Some(&ids.len()) {
            return Err(ModelError::Input(format!(
                "a batch's offsets must rise from 0 to its {} token ids",
                ids.len()
            )));
        }
        let longest = offsets.windows(2).map(row_length).max().unwrap_or_default();
        Ok(TextInput { ids, offsets, ngrams: None, pad_id, time: longest.max(1), device })
    }

    /// The same texts as sequences of tokens, which are the ids below `tokens`; the hashed n-grams among them are kept
    /// aside with the token that they follow, and those of the whole text are left out.
    pub fn tokens(&self, tokens: i64) -> Cow<'_, TextInput> {
        if self.ids.iter().all(|&id| id < tokens) {
            return Cow::Borrowed(self);
        }
        let mut ids = Vec::new();
        let mut offsets = vec![0];
        let mut ngrams = Ngrams { ids: Vec::new(), bounds: Vec::new() };
        let mut longest = 1;
        for pair in self.offsets.windows(2) {
            let first = ids.len();
            for &id in self.row(pair) {
                if id < tokens {
                    ids.push(id);
                    ngrams.bounds.push(ngrams.ids.len());
                } else if ids.len() > first {
                    ngrams.ids.push(id);
                }
            }
            longest = longest.max(ids.len() - first);
            offsets.push(ids.len());
        }
        ngrams.bounds.push(ngrams.ids.len());
        let (pad_id, device) = (self.pad_id, self.device);
        Cow::Owned(TextInput { ids, offsets, ngrams: Some(ngrams), pad_id, time: longest, device })
    }

    /// The ids of every position with its n-grams, for a sum by bag; nothing where no token has n-grams.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub(crate) fn bags(&self, layout: Layout) -> Result<Option<Bags>, ModelError> {
        let Some(ngrams) = &self.ngrams else {
            return Ok(None);
        };
        let rows = self.offsets.len() - 1;
        let (time, shape) = match layout {
            Layout::BatchFirst(least) => {
                let time = self.time.max(usize::try_from(least).unwrap_or_default());
                (time, [rows as i64, time as i64])
            }
            Layout::TimeFirst => (self.time, [self.time as i64, rows as i64]),
        };
        let mut ids = Vec::with_capacity(ngrams.ids.len() + rows * time);
        let mut bounds = Vec::with_capacity(rows * time + 1);
        let mut scale = Vec::with_capacity(rows * time);
        bounds.push(0);
        for position in 0..rows * time {
            let (row, at) = match layout {
                Layout::BatchFirst(_) => (position / time, position % time),
                Layout::TimeFirst => (position % rows, position / rows),
            };
            let token = self.offsets.get(row).zip(self.offsets.get(row + 1));
            let token = token.map(|(start, end)| (start + at, *end)).filter(|(token, end)| token < end);
            match token {
                None => ids.push(self.pad_id),
                Some((token, _)) => {
                    ids.extend(self.ids.get(token));
                    if let [start, end] = ngrams.bounds.get(token..token + 2).unwrap_or_default() {
                        ids.extend_from_slice(ngrams.ids.get(*start..*end).unwrap_or_default());
                    }
                }
            }
            let before = bounds.last().copied().unwrap_or_default();
            scale.push(1.0 / ((ids.len() as i64 - before).max(1) as f32).sqrt());
            bounds.push(ids.len() as i64);
        }
        Ok(Some(Bags {
            ids: Tensor::f_from_slice(&ids)?.f_to_device(self.device)?,
            bounds: Tensor::f_from_slice(&bounds)?.f_to_device(self.device)?,
            scale: Tensor::f_from_slice(&scale)?.f_unsqueeze(1)?.f_to_device(self.device)?,
            shape,
        }))
    }

    /// Padded ids in a layout.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn laid_out(&self, layout: Layout) -> Result<Tensor, ModelError> {
        match layout {
            Layout::BatchFirst(least) => self.padded_to(least),
            Layout::TimeFirst => self.padded_time_first(),
        }
    }

    /// The same texts, none longer than `longest` tokens; what is beyond is left out.
    pub fn cut(&self, longest: i64) -> Cow<'_, TextInput> {
        let longest = usize::try_from(longest).unwrap_or(1).max(1);
        if self.time <= longest {
            return Cow::Borrowed(self);
        }
        let mut cut = TextInput { ids: Vec::new(), offsets: vec![0], time: longest, ..self.clone() };
        let mut kept = Ngrams { ids: Vec::new(), bounds: vec![0] };
        for pair in self.offsets.windows(2) {
            let first = pair.first().copied().unwrap_or_default();
            let row = self.row(pair);
            let row = row.get(..longest).unwrap_or(row);
            cut.ids.extend_from_slice(row);
            cut.offsets.push(cut.ids.len());
            for token in first..first + row.len() {
                if let Some(ngrams) = &self.ngrams
                    && let [start, end] = ngrams.bounds.get(token..token + 2).unwrap_or_default()
                {
                    kept.ids.extend_from_slice(ngrams.ids.get(*start..*end).unwrap_or_default());
                }
                kept.bounds.push(kept.ids.len());
            }
        }
        cut.ngrams = self.ngrams.is_some().then_some(kept);
        Cow::Owned(cut)
    }

    /// How many texts.
    pub fn batch(&self) -> i64 {
        self.offsets.len() as i64 - 1
    }

    /// Tokens of the longest text, at least 1.
    pub fn time(&self) -> i64 {
        self.time as i64
    }

    /// The device that tensors are made on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether any text is shorter than the longest: only then is a mask worth its cost.
    pub fn has_padding(&self) -> bool {
        self.offsets.windows(2).any(|pair| row_length(pair).max(1) < self.time)
    }

    /// All ids in a run `[tokens]` and the rows' bounds `[batch + 1]`, for [`crate::layers::EmbeddingBag`]. An empty
    /// text is an empty bag.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn flat(&self) -> Result<(Tensor, Tensor), ModelError> {
        let offsets: Vec<i64> = self.offsets.iter().map(|&offset| offset as i64).collect();
        let ids = Tensor::f_from_slice(&self.ids)?.f_to_device(self.device)?;
        Ok((ids, Tensor::f_from_slice(&offsets)?.f_to_device(self.device)?))
    }

    /// Padded ids, `[batch, time]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn padded(&self) -> Result<Tensor, ModelError> {
        self.padded_to(0)
    }

    /// Padded ids, `[batch, max(time, least)]`: for a window that is wider than every text.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn padded_to(&self, least: i64) -> Result<Tensor, ModelError> {
        let time = self.time.max(usize::try_from(least).unwrap_or_default());
        let rows = self.offsets.len() - 1;
        let mut padded = vec![self.pad_id; rows * time];
        for (row, pair) in padded.chunks_exact_mut(time).zip(self.offsets.windows(2)) {
            let ids = self.row(pair);
            for (slot, id) in row.iter_mut().zip(ids) {
                *slot = *id;
            }
        }
        let padded = Tensor::f_from_slice(&padded)?.f_view([rows as i64, time as i64])?;
        Ok(padded.f_to_device(self.device)?)
    }

    /// Padded ids with time first, `[time, batch]`, as recurrent layers read them.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn padded_time_first(&self) -> Result<Tensor, ModelError> {
        let rows = self.offsets.len() - 1;
        let mut padded = vec![self.pad_id; rows * self.time];
        for (column, pair) in self.offsets.windows(2).enumerate() {
            let slots = padded.iter_mut().skip(column).step_by(rows);
            for (slot, id) in slots.zip(self.row(pair)) {
                *slot = *id;
            }
        }
        let padded = Tensor::f_from_slice(&padded)?.f_view([self.time as i64, rows as i64])?;
        Ok(padded.f_to_device(self.device)?)
    }

    /// Tokens of each text, `[batch]`, at least 1.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn lengths(&self) -> Result<Tensor, ModelError> {
        let lengths: Vec<i64> = self.offsets.windows(2).map(|pair| row_length(pair).max(1) as i64).collect();
        Ok(Tensor::f_from_slice(&lengths)?.f_to_device(self.device)?)
    }

    /// Lengths where they are needed: nothing when no text is padded.
    ///
    /// # Errors
    /// As [`TextInput::lengths`].
    pub fn lengths_if_padded(&self) -> Result<Option<Tensor>, ModelError> {
        self.has_padding().then(|| self.lengths()).transpose()
    }

    /// True where there is a token, `[batch, time]`; nothing when no text is padded.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn mask(&self) -> Result<Option<Tensor>, ModelError> {
        let Some(lengths) = self.lengths_if_padded()? else {
            return Ok(None);
        };
        let positions = Tensor::f_arange(self.time(), (Kind::Int64, self.device))?;
        Ok(Some(positions.f_unsqueeze(0)?.f_lt_tensor(&lengths.f_unsqueeze(1)?)?))
    }

    fn row(&self, pair: &[usize]) -> &[i64] {
        match pair {
            [start, end] => self.ids.get(*start..*end).unwrap_or_default(),
            _ => &[],
        }
    }
}

fn row_length(pair: &[usize]) -> usize {
    match pair {
        [start, end] => end - start,
        _ => 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn input(rows: &[&[u32]]) -> TextInput {
        TextInput::from_ids(rows, 0, Device::Cpu).unwrap()
    }

    #[test]
    fn time_first_is_the_transpose() {
        let input = input(&[&[1, 2, 3], &[4], &[5, 6]]);
        let transposed = input.padded().unwrap().transpose(0, 1).contiguous();
        assert_eq!(input.padded_time_first().unwrap(), transposed);
        assert_eq!(input.padded_to(5).unwrap().size(), [3, 5]);
    }

    #[test]
    fn no_mask_without_padding_and_one_token_at_least() {
        assert!(input(&[&[1, 2], &[3, 4]]).mask().unwrap().is_none());
        let padded = input(&[&[], &[3, 4]]);
        let mask: Vec<bool> = Vec::try_from(padded.mask().unwrap().unwrap().view(-1)).unwrap();
        assert_eq!(mask, [true, false, true, true]);
        assert!(input(&[&[]]).mask().unwrap().is_none());
        assert_eq!(input(&[&[]]).padded().unwrap().size(), [1, 1]);
    }

    #[test]
    fn cutting_keeps_the_first_tokens() {
        let cut = input(&[&[1, 2, 3], &[4]]).cut(2).into_owned();
        assert_eq!((cut.time(), cut.batch()), (2, 2));
        assert_eq!(Vec::<i64>::try_from(cut.padded().unwrap().view(-1)).unwrap(), [1, 2, 4, 0]);
    }

    #[test]
    fn ngrams_stay_with_the_token_they_follow() {
        // Tokens are below 10. Row 0: a text n-gram, token 1 with two n-grams, token 2; row 1: token 3 with one.
        let input = input(&[&[50, 1, 11, 12, 2], &[3, 13]]);
        let tokens = input.tokens(10);
        assert_eq!((tokens.time(), tokens.batch()), (2, 2));
        assert_eq!(Vec::<i64>::try_from(tokens.padded().unwrap().view(-1)).unwrap(), [1, 2, 3, 0]);
        let bags = tokens.bags(Layout::BatchFirst(0)).unwrap().unwrap();
        assert_eq!(Vec::<i64>::try_from(bags.ids).unwrap(), [1, 11, 12, 2, 3, 13, 0]);
        assert_eq!(Vec::<i64>::try_from(bags.bounds).unwrap(), [0, 3, 4, 6, 7]);
        let bags = tokens.bags(Layout::TimeFirst).unwrap().unwrap();
        assert_eq!(Vec::<i64>::try_from(bags.ids).unwrap(), [1, 11, 12, 3, 13, 2, 0]);
        let cut = tokens.cut(1);
        let bags = cut.bags(Layout::BatchFirst(0)).unwrap().unwrap();
        assert_eq!(Vec::<i64>::try_from(bags.ids).unwrap(), [1, 11, 12, 3, 13]);
        assert!(input.tokens(60).bags(Layout::TimeFirst).unwrap().is_none(), "all of them tokens");
    }

    #[test]
    fn offsets_that_lie_are_refused() {
        for offsets in [vec![], vec![0], vec![0, 3], vec![1, 2], vec![0, 2, 1, 2]] {
            assert!(TextInput::from_flat(vec![1, 2], offsets, 0, Device::Cpu).is_err());
        }
    }
}
