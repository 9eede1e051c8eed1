//! The tokens of one step, as tensors: those of all sequences in one run, where each goes in the cache, and what it sees.

use std::ops::Range;

use tch::{Device, Tensor};
use tidemill_torch::decode::AttentionBatch;

use crate::error::ModelError;

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct SequenceStep<'a> {
    /// Its new tokens, at least one.
    pub tokens: &'a [u32],
    /// How many tokens the cache holds of it already.
    pub cached: usize,
    /// How many tokens it has in all, those that later steps run included: by it [`Decoder::short_contexts`] decides.
    ///
    /// [`Decoder::short_contexts`]: super::Decoder::short_contexts
    pub length: usize,
    /// Its blocks of the cache in order, enough for all its tokens.
    pub blocks: &'a [u32],
}

/// The tokens of one step.
#[derive(Debug)]
pub struct Step {
    ids: Tensor,
    positions: Tensor,
    slots: Tensor,
    attention: AttentionBatch,
    contexts: Vec<i64>,
    lengths: Vec<i64>,
    starts: Vec<usize>,
}

impl Step {
    /// Lays the sequences out one after another.
    ///
    /// # Errors
    /// [`ModelError::Input`] when there is no token, or blocks are too few.
    pub fn new(sequences: &[SequenceStep], block_size: usize, device: Device) -> Result<Step, ModelError> {
        let (mut ids, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let (mut contexts, mut lengths, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        let widest = sequences.iter().map(|sequence| sequence.blocks.len()).max().unwrap_or_default();
        let mut tables = vec![0_i64; sequences.len() * widest];
        for (sequence, table) in sequences.iter().zip(tables.chunks_mut(widest.max(1))) {
            for (offset, &token) in sequence.tokens.iter().enumerate() {
                let position = sequence.cached + offset;
                let block = sequence.blocks.get(position / block_size);
                let block = block.ok_or_else(|| ModelError::Input("a sequence has too few blocks".to_string()))?;
                ids.push(i64::from(token));
                positions.push(position as i64);
                slots.push(i64::from(*block) * block_size as i64 + (position % block_size) as i64);
            }
            for (slot, block) in table.iter_mut().zip(sequence.blocks) {
                *slot = i64::from(*block);
            }
            contexts.push((sequence.cached + sequence.tokens.len()) as i64);
            lengths.push(sequence.length as i64);
            starts.push(ids.len());
        }
        if ids.is_empty() {
            return Err(ModelError::Input("a step needs at least one token".to_string()));
        }
        let tensor = |numbers: &[i64]| Tensor::f_from_slice(numbers)?.f_to_device(device);
        let rises: Vec<i64> = starts.iter().map(|&start| start as i64).collect();
        Ok(Step {
            ids: tensor(&ids)?,
            positions: tensor(&positions)?,
            slots: tensor(&slots)?,
            attention: AttentionBatch {
                block_tables: tensor(&tables)?.f_view([sequences.len() as i64, -1])?,
                query_starts: tensor(&rises)?,
                contexts: tensor(&contexts)?,
            },
            contexts,
            lengths,
            starts,
        })
    }

    /// Token ids, `[tokens]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// Each token's position in its sequence, `[tokens]`.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// Each token's place in the cache, `[tokens]`.
    pub fn slots(&self) -> &Tensor {
        &self.slots
    }

    /// What each token sees.
    pub fn attention(&self) -> &AttentionBatch {
        &self.attention
    }

    /// Each sequence's length after this step.
    pub fn contexts(&self) -> &[i64] {
        &self.contexts
    }

    /// Each sequence's length with the tokens that later steps run.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// The rows of a sequence's tokens in this step.
    pub fn queries(&self, sequence: usize) -> Range<usize> {
        match self.starts.get(sequence..sequence + 2) {
            Some([start, end]) => *start..*end,
            _ => 0..0,
        }
    }
}
