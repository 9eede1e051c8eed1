//! The texts that an encoder reads together, in one flat run without padding, and what is kept of them: the keys and values
//! of every decoder layer's cross attention, computed once.

use tch::{Device, Tensor};

use super::EncoderDecoderShape;
use crate::error::ModelError;
use crate::layers::PositionTable;

/// Sources laid out one after another.
#[derive(Debug)]
pub struct Sources<'a> {
    tokens: &'a [&'a [u32]],
    lengths: Vec<i64>,
    ids: Tensor,
}

impl<'a> Sources<'a> {
    /// Checks the sources and lays them out.
    ///
    /// # Errors
    /// [`ModelError::Input`] when there is none, or one is empty, too long, or holds a token that the model does not have.
    pub fn new(
        tokens: &'a [&'a [u32]],
        shape: &EncoderDecoderShape,
        device: Device,
    ) -> Result<Sources<'a>, ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::Input("there is no source to encode".to_string()));
        }
        for (i, source) in tokens.iter().enumerate() {
            shape.check_source(source).map_err(|error| match error {
                ModelError::Input(problem) => ModelError::Input(format!("source {i}: {problem}")),
                other => other,
            })?;
        }
        let lengths = tokens.iter().map(|source| source.len() as i64).collect();
        let ids: Vec<i64> = tokens.iter().copied().flatten().map(|&id| i64::from(id)).collect();
        Ok(Sources { tokens, lengths, ids: Tensor::f_from_slice(&ids)?.f_to_device(device)? })
    }

    /// Each source's length.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// The length of the longest.
    pub fn longest(&self) -> i64 {
        self.lengths.iter().copied().max().unwrap_or_default()
    }

    /// The vectors of the tokens' positions, `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn positions(&self, table: &PositionTable) -> Result<Tensor, ModelError> {
        let mut places = Vec::new();
        for source in self.tokens {
            table.places(source, 0, &mut places);
        }
        table.rows(&places)
    }

    /// Token ids, `[tokens]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// Runs `attend` on each run of neighbours of equal length, whose rows of `flat` `[tokens, …]` it gets as
    /// `[sources, length, …]`, and joins what comes out, `[tokens, …]`.
    ///
    /// # Errors
    /// What `attend` says.
    pub fn by_length(
        &self,
        flat: &Tensor,
        mut attend: impl FnMut(&Tensor, i64) -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let (mut start, mut outputs) = (0, Vec::new());
        for run in self.lengths.chunk_by(|a, b| a == b) {
            let (count, length) = (run.len() as i64, run.first().copied().unwrap_or_default());
            let rows = flat.f_narrow(0, start, count * length)?.f_unflatten(0, [count, length])?;
            outputs.push(attend(&rows, length)?.f_flatten(0, 1)?);
            start += count * length;
        }
        match outputs.as_slice() {
            [only] => Ok(only.shallow_clone()),
            several => Ok(Tensor::f_cat(several, 0)?),
        }
    }

    /// A memory of these sources: `layers` gives for each decoder layer the keys and values of the flat run,
    /// `[tokens, 2, heads, head_dim]`.
    ///
    /// # Errors
    /// What `layers` says.
    pub fn memory(&self, layers: impl Iterator<Item = Result<Tensor, ModelError>>) -> Result<Memory, ModelError> {
        let (count, longest) = (self.lengths.len() as i64, self.longest());
        let device = self.ids.device();
        let padded = self.lengths.iter().any(|&length| length != longest);
        let (mut rows, mut hidden) = (Vec::new(), Vec::new());
        for (i, &length) in (0..).zip(&self.lengths) {
            rows.extend(i * longest..i * longest + length);
            hidden.extend((0..longest).map(|at| if at < length { 0.0_f32 } else { f32::NEG_INFINITY }));
        }
        let rows = Tensor::f_from_slice(&rows)?.f_to_device(device)?;
        let layer = |flat: Result<Tensor, ModelError>| -> Result<KeysValues, ModelError> {
            let mut flat = flat?;
            if padded {
                let mut size = flat.size();
                if let Some(tokens) = size.first_mut() {
                    *tokens = count * longest;
                }
                // Zeros, and not whatever memory holds: a weight of 0 times a NaN would be a NaN.
                let mut spread = Tensor::f_zeros(&size, (flat.kind(), device))?;
                flat = spread.f_index_copy_(0, &rows, &flat)?;
            }
            let both = flat.f_unflatten(0, [count, longest])?; // [sources, longest, 2, heads, head_dim]
            let part = |i: i64| -> Result<Tensor, ModelError> {
                Ok(both.f_select(2, i)?.f_transpose(1, 2)?.f_contiguous()?) // [sources, heads, longest, head_dim]
            };
            Ok(KeysValues { keys: part(0)?, values: part(1)? })
        };
        let mask = || -> Result<Tensor, ModelError> {
            Ok(Tensor::f_from_slice(&hidden)?.f_view([count, 1, 1, longest])?.f_to_device(device)?)
        };
        Ok(Memory {
            layers: layers.map(layer).collect::<Result<_, _>>()?,
            mask: padded.then(mask).transpose()?,
            lengths: self.lengths.clone(),
        })
    }
}

/// The keys and values of one layer, `[rows, heads, positions, head_dim]`.
#[derive(Debug)]
pub(super) struct KeysValues {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

impl KeysValues {
    /// These rows, in this order.
    pub(super) fn select(&self, rows: &Tensor) -> Result<KeysValues, ModelError> {
        Ok(KeysValues { keys: self.keys.f_index_select(0, rows)?, values: self.values.f_index_select(0, rows)? })
    }
}

/// What a decoder reads of sources that were encoded together.
#[derive(Debug)]
pub struct Memory {
    /// One a decoder layer, `[sources, heads, longest, head_dim]`.
    pub(super) layers: Vec<KeysValues>,
    /// 0 where a source has a token and -∞ elsewhere, `[sources, 1, 1, longest]`; nothing when all are equally long.
    pub(super) mask: Option<Tensor>,
    lengths: Vec<i64>,
}

impl Memory {
    /// Of sources that are all as long as the keys.
    #[cfg(test)]
    pub(super) fn of(layers: Vec<KeysValues>, lengths: Vec<i64>) -> Memory {
        Memory { layers, mask: None, lengths }
    }

    /// How many sources there are.
    pub fn sources(&self) -> usize {
        self.lengths.len()
    }

    /// Each source's length.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    pub(super) fn device(&self) -> Device {
        self.layers.first().map_or(Device::Cpu, |layer| layer.keys.device())
    }

    /// These sources alone, in this order.
    pub(super) fn select(&self, sources: &[usize]) -> Result<Memory, ModelError> {
        let lengths: Vec<i64> = sources.iter().filter_map(|&source| self.lengths.get(source)).copied().collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let rows = index(sources, self.device())?;
        let shorter = |all: KeysValues| -> Result<KeysValues, ModelError> {
            let part = |all: &Tensor| all.f_narrow(2, 0, longest);
            Ok(KeysValues { keys: part(&all.keys)?, values: part(&all.values)? })
        };
        let layers = self.layers.iter().map(|layer| shorter(layer.select(&rows)?)).collect::<Result<_, _>>()?;
        let padded = self.mask.as_ref().filter(|_| lengths.iter().any(|&length| length != longest));
        let mask = padded.map(|mask| mask.f_index_select(0, &rows)?.f_narrow(3, 0, longest)).transpose()?;
        Ok(Memory { layers, mask, lengths })
    }
}

/// Places as a tensor of indices.
pub(super) fn index(places: &[usize], device: Device) -> Result<Tensor, ModelError> {
    let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
    Ok(Tensor::f_from_slice(&places)?.f_to_device(device)?)
}
