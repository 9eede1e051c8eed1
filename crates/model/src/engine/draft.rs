//! What is guessed to follow the sequences that answer, before the model is asked: by looking their last tokens up in
//! themselves, else by a draft model, a smaller decoder with a cache of its own (Leviathan et al. 2023, "Fast Inference from
//! Transformers via Speculative Decoding"). Guesses take neither memory nor room in a step from what is known. Knows nothing
//! of how they are checked: the next step does that.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::blocks::Blocks;
use super::group::Sequence;
use super::{Engine, EngineConfig, RequestId, allocate};
use crate::decoders::{Decoder, LayerCache, SequenceStep, Step};
use crate::error::ModelError;
use crate::generation::{DraftLength, PromptLookup};

/// How many tokens a draft model's first draft has; what follows depends on how it did.
const FIRST_DRAFT: usize = 4;

/// Which sequence: its request, and which of the answers it is.
type Key = (RequestId, usize);

/// A sequence that is to be continued.
pub(super) struct Wanted<'a> {
    key: Key,
    tokens: &'a [u32],
    /// Most tokens of the draft.
    most: usize,
}

/// A draft model with what it has read of the sequences that answer.
pub(super) struct Drafter {
    model: Box<dyn Decoder>,
    caches: Vec<LayerCache>,
    blocks: Blocks,
    config: EngineConfig,
    device: Device,
    /// Tokens that it knows.
    vocabulary: usize,
    /// Tokens that both models know; no other is drafted.
    common: usize,
    longest: usize,
    followed: BTreeMap<Key, Followed>,
}

/// A sequence as the draft model has it: the tokens that are known, and all but the last of the draft after them.
struct Followed {
    sequence: Sequence,
    length: DraftLength,
}

impl Drafter {
    /// For an engine of this configuration whose model has `vocabulary` tokens.
    pub(super) fn new(
        model: Box<dyn Decoder>,
        config: EngineConfig,
        vocabulary: usize,
        device: Device,
    ) -> Result<Drafter, ModelError> {
        let shape = model.shape();
        let blocks = Blocks::new(config.cache_tokens / config.block_size, config.block_size);
        let own = usize::try_from(shape.vocabulary).unwrap_or_default();
        let positions = usize::try_from(shape.positions).unwrap_or_default();
        Ok(Drafter {
            caches: allocate(&shape, &config, device)?,
            longest: positions.min(blocks.total() * config.block_size),
            blocks,
            config,
            device,
            vocabulary: own,
            common: own.min(vocabulary),
            followed: BTreeMap::new(),
            model,
        })
    }

    /// Drafts what follows each sequence, the likeliest token each time, all sequences together. A draft is empty where there
    /// is no room, or the model has not read the sequence yet: of long ones it reads as much as one step runs. Sequences that
    /// are not wanted are forgotten.
    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, ModelError> {
        self.forget_others(wanted);
        let mut drafts = vec![Vec::new(); wanted.len()];
        let mut budget = self.config.step_tokens;
        // Sequences by their places in `wanted`, how many tokens of each are run, and how many are drafted.
        let mut runs: Vec<(usize, usize, usize)> = Vec::new();
        for (place, want) in wanted.iter().enumerate() {
            if let Some((remaining, most)) = self.follow(want).filter(|_| budget > 0) {
                let count = remaining.min(budget);
                budget -= count;
                runs.push((place, count, most));
            }
        }
        while !runs.is_empty() {
            let chosen = self.run(wanted, &runs)?;
            let mut next = Vec::with_capacity(runs.len());
            for ((place, count, most), token) in runs.into_iter().zip(chosen) {
                let key = wanted.get(place).map(|want| want.key);
                let followed = key.and_then(|key| self.followed.get_mut(&key));
                let (Some(Followed { sequence, .. }), Some(draft)) = (followed, drafts.get_mut(place)) else {
                    continue;
                };
                sequence.cached += count;
                if sequence.remaining() > 0 {
                    continue;
                }
                if draft.is_empty() {
                    sequence.name_full_blocks(&mut self.blocks);
                }
                draft.push(token);
                sequence.guessed.push(token);
                if draft.len() < most {
                    sequence.tokens.push(token);
                    next.push((place, 1, most));
                }
            }
            runs = next;
        }
        Ok(drafts)
    }

    fn forget_others(&mut self, wanted: &[Wanted]) {
        let blocks = &mut self.blocks;
        self.followed.retain(|key, followed| {
            let kept = wanted.iter().any(|want| want.key == *key);
            if !kept {
                followed.sequence.leave_blocks(blocks);
            }
            kept
        });
    }

    /// Goes along with a sequence: learns from what came of the last draft, and takes the memory for the next. Gives how many
    /// tokens are still to be read, and how many to be drafted; nothing where it cannot be.
    fn follow(&mut self, want: &Wanted) -> Option<(usize, usize)> {
        let most = want.most.min(self.longest.saturating_sub(want.tokens.len()));
        if most == 0 {
            return None;
        }
        let Followed { sequence, length } = self.followed.entry(want.key).or_insert_with(|| Followed {
            sequence: Sequence::new(Vec::new()),
            length: DraftLength::new(FIRST_DRAFT, self.config.draft_tokens),
        });
        let alike = |(one, other): &(&u32, &u32)| one == other;
        let guessed = std::mem::take(&mut sequence.guessed);
        let known = (sequence.tokens.len() + 1).saturating_sub(guessed.len());
        let stood = want.tokens.iter().skip(known).zip(&guessed).take_while(alike).count();
        length.learn(guessed.len(), stood);

        let same = sequence.tokens.iter().zip(want.tokens).take_while(alike).count();
        sequence.cached = sequence.cached.min(same).min(want.tokens.len().saturating_sub(1));
        sequence.tokens.clear();
        sequence.tokens.extend_from_slice(want.tokens);
        if sequence.blocks.is_empty() && self.config.share_prefixes {
            sequence.find_prefix(&mut self.blocks);
        }
        if sequence.tokens.iter().skip(sequence.cached).any(|token| *token as usize >= self.vocabulary) {
            return None;
        }
        let most = most.min(length.tokens());
        while sequence.blocks.len() < self.blocks.needed(want.tokens.len() + most) {
            let Some(block) = self.blocks.take() else {
                sequence.leave_blocks(&mut self.blocks);
                return None;
            };
            sequence.blocks.push(block);
        }
        Some((sequence.remaining(), most))
    }

    /// Runs tokens of sequences; gives the likeliest token after each.
    fn run(&self, wanted: &[Wanted], runs: &[(usize, usize, usize)]) -> Result<Vec<u32>, ModelError> {
        let sequences = runs.iter().filter_map(|(place, count, _)| {
            let Followed { sequence, .. } = self.followed.get(&wanted.get(*place)?.key)?;
            let tokens = sequence.tokens.get(sequence.cached..sequence.cached + count)?;
            let length = sequence.tokens.len();
            Some(SequenceStep { tokens, cached: sequence.cached, length, blocks: &sequence.blocks })
        });
        let step = Step::new(&sequences.collect::<Vec<_>>(), self.config.block_size, self.device)?;
        let hidden = self.model.forward(&step, &self.caches)?; // [tokens, width]
        let last: Vec<i64> = (0..runs.len()).filter_map(|run| step.queries(run).last()).map(|row| row as i64).collect();
        let hidden = hidden.f_index_select(0, &Tensor::f_from_slice(&last)?.f_to_device(self.device)?)?;
        let logits = self.model.logits(&hidden)?.f_narrow(1, 0, self.common as i64)?;
        let likeliest = logits.f_argmax(1, false)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Int64)?;
        let likeliest = Vec::<i64>::try_from(&likeliest)?;
        Ok(likeliest.into_iter().filter_map(|token| u32::try_from(token).ok()).collect())
    }
}

impl Engine {
    /// Guesses what follows every sequence that answers.
    ///
    /// # Errors
    /// When the draft model fails.
    pub(super) fn guess(&mut self) -> Result<(), ModelError> {
        let lookup = self.config.lookup;
        let drafted = self.drafter.as_ref().map(|_| self.config.draft_tokens);
        let Some(most) = lookup.map(|lookup| lookup.tokens).max(drafted) else { return Ok(()) };
        let room = self.room_to_guess(most);
        let (longest, short) = (self.longest, self.short_contexts);
        let mut answering: Vec<(RequestId, &mut Sequence, usize)> = Vec::new();
        for group in self.running.iter_mut().filter(|group| group.beams.is_none()) {
            for sequence in &mut group.sequences {
                sequence.guessed.clear();
                let Some(sampler) = sequence.sampler.as_ref().filter(|_| !sequence.finished) else { continue };
                let tokens = group.request.sampling.max_tokens.unwrap_or(usize::MAX);
                let mut left = (longest.saturating_sub(sequence.tokens.len()))
                    .min(tokens.saturating_sub(sampler.generated()))
                    .saturating_sub(1);
                if let Some(short) = short.filter(|_| !sequence.long) {
                    // A guess is read as what is known is: it ends where long contexts begin.
                    left = left.min(short.saturating_sub(sequence.tokens.len()));
                }
                let room = if sequence.remaining() == 1 { room.min(left) } else { 0 };
                answering.push((group.id, sequence, room));
            }
        }
        if let Some(lookup) = lookup {
            for (_, sequence, room) in &mut answering {
                sequence.guessed = PromptLookup { tokens: lookup.tokens.min(*room), ..lookup }.draft(&sequence.tokens);
            }
        }
        let Some(drafter) = &mut self.drafter else { return Ok(()) };
        let wanted = answering.iter().map(|(id, sequence, room)| Wanted {
            key: (*id, sequence.sample),
            tokens: &sequence.tokens,
            most: if sequence.guessed.is_empty() { *room } else { 0 },
        });
        let drafts = drafter.draft(&wanted.collect::<Vec<_>>())?;
        for ((_, sequence, _), draft) in answering.into_iter().zip(drafts) {
            if !draft.is_empty() {
                sequence.guessed = draft;
            }
        }
        Ok(())
    }

    /// How many tokens may be guessed for each sequence, at most `most`: a step has room for all that answer, and when memory
    /// is short nothing is guessed and what guesses had taken is given back.
    fn room_to_guess(&mut self, most: usize) -> usize {
        let unfinished =
            || self.running.iter().flat_map(|group| &group.sequences).filter(|sequence| !sequence.finished);
        let answering = unfinished().filter(|sequence| sequence.remaining() == 1).count();
        let room = (self.config.step_tokens / answering.max(1)).saturating_sub(1).min(most);
        // One block more, for a shared one that has to be copied.
        let wanted: usize = unfinished().map(|sequence| 1 + self.blocks.needed(sequence.remaining() + room)).sum();
        if wanted <= self.blocks.available() {
            return room;
        }
        for sequence in self.running.iter_mut().flat_map(|group| &mut group.sequences) {
            let needed = self.blocks.needed(sequence.tokens.len()).min(sequence.blocks.len());
            sequence.blocks.drain(needed..).rev().for_each(|block| self.blocks.leave(block));
        }
        0
    }
}
