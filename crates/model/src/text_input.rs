//! One batch of token ids on its way into a model: the same rows flat, padded, or padded with time first, whichever the
//! architecture wants. Knows nothing of texts or tokenisers. An empty row becomes one padding token where a row must
//! have a token, and an empty bag where it need not.

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
    pad_id: i64,
    time: usize,
    device: Device,
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
        Ok(TextInput { ids, offsets, pad_id, time: longest.max(1), device })
    }

    /// The same texts, none longer than `longest` tokens; what is beyond is left out.
    pub fn cut(&self, longest: i64) -> Cow<'_, TextInput> {
        let longest = usize::try_from(longest).unwrap_or(1).max(1);
        if self.time <= longest {
            return Cow::Borrowed(self);
        }
        let mut ids = Vec::with_capacity(self.ids.len());
        let mut offsets = vec![0];
        for pair in self.offsets.windows(2) {
            ids.extend(self.row(pair).iter().take(longest));
            offsets.push(ids.len());
        }
        Cow::Owned(TextInput { ids, offsets, pad_id: self.pad_id, time: longest, device: self.device })
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
    fn offsets_that_lie_are_refused() {
        for offsets in [vec![], vec![0], vec![0, 3], vec![1, 2], vec![0, 2, 1, 2]] {
            assert!(TextInput::from_flat(vec![1, 2], offsets, 0, Device::Cpu).is_err());
        }
    }
}
