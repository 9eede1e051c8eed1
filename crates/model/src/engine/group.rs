//! What the engine works on: sequences of tokens, and groups of those that answer one request. Knows what is in the cache
//! and what is still to be run; not how it is run.

use super::blocks::{Block, Blocks, Content};
use super::{Request, RequestId};
use crate::generation::{BeamSearch, Chosen, Constraint, FinishReason, Sampler, SamplingConfig};

/// One sequence: a prompt and what has been generated after it.
pub(super) struct Sequence {
    /// Prompt and answer.
    pub(super) tokens: Vec<u32>,
    /// How many of them the cache holds.
    pub(super) cached: usize,
    /// Whether it is longer than the model's short contexts, and the cache holds it so.
    pub(super) long: bool,
    /// Where, in order.
    pub(super) blocks: Vec<Block>,
    /// What the full ones among them contain.
    pub(super) contents: Vec<Content>,
    /// Tokens that are guessed to follow, to be checked by the next step.
    pub(super) guessed: Vec<u32>,
    /// Chooses its next token; beams are chosen together.
    pub(super) sampler: Option<Sampler>,
    /// What it may say.
    pub(super) constraint: Option<Constraint>,
    /// Which of the request's answers it is.
    pub(super) sample: usize,
    pub(super) finished: bool,
}

impl Sequence {
    pub(super) fn new(tokens: Vec<u32>) -> Sequence {
        Sequence {
            tokens,
            cached: 0,
            long: false,
            blocks: Vec::new(),
            contents: Vec::new(),
            guessed: Vec::new(),
            sampler: None,
            constraint: None,
            sample: 0,
            finished: false,
        }
    }

    /// Tokens that are known and not yet in the cache.
    pub(super) fn remaining(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// Takes the blocks of others that begin as this sequence does; at least one token is left to run.
    pub(super) fn find_prefix(&mut self, blocks: &mut Blocks) {
        let size = blocks.size();
        let whole = self.tokens.len().saturating_sub(1) / size;
        let mut before = self.before_all();
        for tokens in self.tokens.chunks_exact(size).take(whole) {
            let content = Content::of(before, tokens);
            let Some(block) = blocks.find(content) else { break };
            self.blocks.push(block);
            self.contents.push(content);
            self.cached += size;
            before = Some(content);
        }
    }

    /// Becomes long when it has outgrown the short contexts: what the cache holds of it is of no use any more.
    pub(super) fn outgrow(&mut self, short_contexts: usize, blocks: &mut Blocks) {
        if !self.long && self.tokens.len() > short_contexts {
            self.leave_blocks(blocks);
            self.long = true;
        }
    }

    /// What its first block follows.
    fn before_all(&self) -> Option<Content> {
        self.long.then_some(Content::LONG)
    }

    /// Says what the blocks contain that the last step filled.
    pub(super) fn name_full_blocks(&mut self, blocks: &mut Blocks) {
        let size = blocks.size();
        while (self.contents.len() + 1) * size <= self.cached {
            let first = self.contents.len() * size;
            let Some(tokens) = self.tokens.get(first..first + size) else { break };
            let content = Content::of(self.contents.last().copied().or(self.before_all()), tokens);
            if let Some(block) = self.blocks.get(self.contents.len()) {
                blocks.name(*block, content);
            }
            self.contents.push(content);
        }
    }

    /// Chooses the next token from its scores, `[vocabulary]`, which are used up.
    pub(super) fn choose(&mut self, scores: &mut [f32]) -> Result<Chosen, String> {
        let Some(sampler) = &mut self.sampler else { return Err("the answer has no sampler".to_string()) };
        let allowed = match &mut self.constraint {
            Some(constraint) => Some(constraint.allowed().map_err(|error| error.to_string())?),
            None => None,
        };
        sampler.choose_allowed(scores, allowed).map_err(|error| error.to_string())
    }

    /// Takes the token that was chosen, and says whether the answer ends with it.
    pub(super) fn accept(
        &mut self,
        token: u32,
        sampling: &SamplingConfig,
        longest: usize,
    ) -> Result<Option<FinishReason>, String> {
        self.tokens.push(token);
        let Some(sampler) = self.sampler.as_mut() else { return Ok(Some(FinishReason::Error)) };
        sampler.accept(token);
        if sampler.ends(token) {
            let own = sampling.stop_token_ids.contains(&token);
            return Ok(Some(if own { FinishReason::StopToken(token) } else { FinishReason::Stop }));
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token).map_err(|error| error.to_string())?;
            if constraint.is_finished() {
                return Ok(Some(FinishReason::Stop));
            }
        }
        let full = sampling.max_tokens.is_some_and(|most| sampler.generated() >= most) || self.tokens.len() >= longest;
        Ok(full.then_some(FinishReason::Length))
    }

    /// Gives all its blocks back.
    pub(super) fn leave_blocks(&mut self, blocks: &mut Blocks) {
        self.blocks.drain(..).rev().for_each(|block| blocks.leave(block));
        self.contents.clear();
        self.guessed.clear();
        self.cached = 0;
    }

    /// Another that goes on from here, sharing the blocks.
    pub(super) fn fork(&self, blocks: &mut Blocks) -> Sequence {
        self.blocks.iter().for_each(|block| blocks.share(*block));
        Sequence {
            tokens: self.tokens.clone(),
            cached: self.cached,
            long: self.long,
            blocks: self.blocks.clone(),
            contents: self.contents.clone(),
            constraint: self.constraint.clone(),
            ..Sequence::new(Vec::new())
        }
    }
}

/// The sequences that answer one request.
pub(super) struct Group {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) sequences: Vec<Sequence>,
    pub(super) beams: Option<BeamSearch>,
    /// Whether it has had its turn, even if it lost its memory since.
    pub(super) started: bool,
}

impl Group {
    /// Waits with its prompt alone.
    pub(super) fn new(id: RequestId, request: Request) -> Group {
        let mut first = Sequence::new(request.prompt.clone());
        first.constraint = request.constraint.clone();
        Group { id, request, sequences: vec![first], beams: None, started: false }
    }

    /// How many sequences it will have.
    pub(super) fn width(&self) -> usize {
        self.request.sampling.beams.max(self.request.sampling.n).max(1)
    }

    pub(super) fn leave_blocks(&mut self, blocks: &mut Blocks) {
        self.sequences.iter_mut().for_each(|sequence| sequence.leave_blocks(blocks));
    }

    /// Whether the cache has nothing of an answer that others stand before. They begin alike: one reads the beginning, and
    /// those after it take it from the cache.
    pub(super) fn starts_again(&self, index: usize) -> bool {
        index > 0 && self.sequences.get(index).is_some_and(|sequence| sequence.cached == 0 && sequence.remaining() > 1)
    }

    /// Whether an answer before this one is still being read.
    pub(super) fn waits_for_another(&self, index: usize) -> bool {
        self.sequences.iter().take(index).any(|sequence| !sequence.finished && sequence.remaining() > 1)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.sequences.iter().all(|sequence| sequence.finished)
    }
}
