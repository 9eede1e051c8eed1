//! The tokens of several texts, one text after another. Owns their bounds and positions; knows nothing of what a model
//! makes of them.

use tch::{Device, Tensor};

use crate::error::ModelError;

/// The tokens of one text, or of a pair that the tokeniser has joined.
#[derive(Clone, Copy, Debug)]
pub struct TokenRow<'a> {
    /// Special tokens included.
    pub ids: &'a [u32],
    /// Which of a pair each token belongs to; all the first where absent.
    pub type_ids: Option<&'a [u32]>,
}

impl<'a> TokenRow<'a> {
    /// One text.
    pub fn of(ids: &'a [u32]) -> TokenRow<'a> {
        TokenRow { ids, type_ids: None }
    }
}

/// A batch without padding: text `t` has the rows `bounds()[t] .. bounds()[t + 1]`.
#[derive(Debug)]
pub struct FlatBatch {
    /// On the host, for positions.
    numbers: Vec<i64>,
    /// `[tokens]`
    ids: Tensor,
    /// `[tokens]`
    type_ids: Tensor,
    bounds: Vec<i64>,
    device: Device,
}

impl FlatBatch {
    /// Lays texts one after another.
    ///
    /// # Errors
    /// [`ModelError::Input`] when there is no text, a text has no token, or types and tokens differ in number.
    pub fn new(rows: &[TokenRow<'_>], device: Device) -> Result<FlatBatch, ModelError> {
        if rows.is_empty() {
            return Err(ModelError::Input("a batch needs at least one text".to_string()));
        }
        let tokens = rows.iter().map(|row| row.ids.len()).sum();
        let (mut numbers, mut types) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let mut bounds = Vec::with_capacity(rows.len() + 1);
        bounds.push(0);
        for (index, row) in rows.iter().enumerate() {
            if row.ids.is_empty() {
                return Err(ModelError::Input(format!("text {index} of {} has no token", rows.len())));
            }
            numbers.extend(row.ids.iter().map(|&id| i64::from(id)));
            match row.type_ids {
                None => types.resize(numbers.len(), 0),
                Some(of_row) if of_row.len() == row.ids.len() => types.extend(of_row.iter().map(|&id| i64::from(id))),
                Some(of_row) => {
                    let (types, ids) = (of_row.len(), row.ids.len());
                    return Err(ModelError::Input(format!("text {index} has {types} token types for {ids} tokens")));
                }
            }
            bounds.push(numbers.len() as i64);
        }
        Ok(FlatBatch {
            ids: Tensor::f_from_slice(&numbers)?.f_to_device(device)?,
            type_ids: Tensor::f_from_slice(&types)?.f_to_device(device)?,
            numbers,
            bounds,
            device,
        })
    }

    /// How many texts.
    pub fn texts(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Where texts begin and end: one more than there are texts.
    pub fn bounds(&self) -> &[i64] {
        &self.bounds
    }

    /// Tokens of the longest text.
    pub fn longest(&self) -> i64 {
        self.lengths().max().unwrap_or_default()
    }

    /// Token ids, `[tokens]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// Token types, `[tokens]`.
    pub fn type_ids(&self) -> &Tensor {
        &self.type_ids
    }

    /// Each token's place in its text, from 0, `[tokens]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn positions(&self) -> Result<Tensor, ModelError> {
        let positions: Vec<i64> = self.lengths().flat_map(|length| 0..length).collect();
        Ok(Tensor::f_from_slice(&positions)?.f_to_device(self.device)?)
    }

    /// Places as RoBERTa counts them: `padding + 1` is the first, and a padding token in a text has the place `padding`
    /// and is not counted, `[tokens]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn positions_after(&self, padding: i64) -> Result<Tensor, ModelError> {
        let mut positions = Vec::with_capacity(self.numbers.len());
        let mut numbers = self.numbers.iter();
        for length in self.lengths() {
            let mut place = padding;
            positions.extend(numbers.by_ref().take(length as usize).map(|&id| {
                place += i64::from(id != padding);
                if id == padding { padding } else { place }
            }));
        }
        Ok(Tensor::f_from_slice(&positions)?.f_to_device(self.device)?)
    }

    fn lengths(&self) -> impl Iterator<Item = i64> {
        self.bounds.windows(2).map(|pair| match pair {
            [start, end] => end - start,
            _ => 0,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor).unwrap()
    }

    #[test]
    fn texts_lie_one_after_another() {
        let pair = TokenRow { ids: &[7, 8], type_ids: Some(&[0, 1]) };
        let batch = FlatBatch::new(&[TokenRow::of(&[4, 5, 6]), pair], Device::Cpu).unwrap();
        assert_eq!((batch.texts(), batch.longest(), batch.bounds()), (2, 3, &[0, 3, 5][..]));
        assert_eq!(numbers(batch.ids()), [4, 5, 6, 7, 8]);
        assert_eq!(numbers(batch.type_ids()), [0, 0, 0, 0, 1]);
        assert_eq!(numbers(&batch.positions().unwrap()), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn padding_within_a_text_is_not_counted() {
        let batch = FlatBatch::new(&[TokenRow::of(&[0, 1, 5]), TokenRow::of(&[9])], Device::Cpu).unwrap();
        assert_eq!(numbers(&batch.positions_after(1).unwrap()), [2, 1, 3, 2]);
    }

    #[test]
    fn what_has_no_tokens_is_refused() {
        for rows in [&[][..], &[TokenRow::of(&[])], &[TokenRow { ids: &[1], type_ids: Some(&[]) }]] {
            assert!(matches!(FlatBatch::new(rows, Device::Cpu), Err(ModelError::Input(_))));
        }
    }
}
