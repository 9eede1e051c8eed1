//! Which tokens the next step runs: first the next token of every sequence that answers, then pieces of prompts, oldest
//! first, within the step's bound; and the memory they need, taken from the youngest where there is none left.

use super::blocks::Block;
use super::group::{Group, Sequence};
use super::{Engine, Event, RequestId};

/// One sequence's part of a step.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) group: RequestId,
    pub(super) index: usize,
    /// How many tokens are run, guesses included.
    pub(super) count: usize,
    /// How many of the last of them have a token chosen after them.
    pub(super) chosen: usize,
}

impl Part {
    pub(super) fn sequence<'a>(&self, running: &'a [Group]) -> Option<&'a Sequence> {
        running.iter().find(|group| group.id == self.group)?.sequences.get(self.index)
    }

    /// The tokens that are run.
    pub(super) fn tokens(&self, running: &[Group]) -> Vec<u32> {
        let Some(sequence) = self.sequence(running) else { return Vec::new() };
        let known = sequence.tokens.iter().skip(sequence.cached);
        known.chain(&sequence.guessed).take(self.count).copied().collect()
    }
}

/// All parts of a step.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
}

impl Engine {
    /// Plans a step and takes the memory for it.
    pub(super) fn plan(&mut self, events: &mut Vec<Event>) -> Plan {
        let mut plan = Plan::default();
        let mut budget = self.config.step_tokens;
        // Prompts come second, but a sequence that answers is never kept waiting by them.
        for answering in [true, false] {
            let sequences: Vec<(RequestId, usize)> = self
                .running
                .iter()
                .flat_map(|group| (0..group.sequences.len()).map(|index| (group.id, index)))
                .collect();
            for (id, index) in sequences {
                let Some(group) = self.running.iter_mut().find(|group| group.id == id) else { continue };
                let together = match group.beams {
                    Some(_) if group.sequences.iter().any(|sequence| sequence.remaining() > 1) && answering => continue,
                    Some(_) => Some(group.sequences.len() - index),
                    None => None,
                };
                let again = self.config.share_prefixes && !answering && group.starts_again(index);
                if again && group.waits_for_another(index) {
                    continue;
                }
                let Some(sequence) = group.sequences.get_mut(index).filter(|sequence| !sequence.finished) else {
                    continue;
                };
                if again {
                    sequence.find_prefix(&mut self.blocks);
                    self.state.shared_tokens += sequence.cached as u64;
                }
                let remaining = sequence.remaining();
                if (remaining == 1) != answering || remaining == 0 || budget == 0 {
                    continue;
                }
                let mut count = remaining.min(budget);
                if let Some(together) = together {
                    // The tokens that beams are chosen after are run in one step.
                    match answering {
                        true if together > budget => continue,
                        true => {}
                        false => count = count.min(remaining - 1),
                    }
                }
                count += sequence.guessed.len();
                let chosen = if count >= remaining { count - remaining + 1 } else { 0 };
                if !self.make_room(id, index, count, &mut plan, events) {
                    continue;
                }
                budget = budget.saturating_sub(count);
                plan.parts.push(Part { group: id, index, count, chosen });
            }
        }
        plan
    }

    /// Blocks for `count` more tokens of a sequence, its last one its own; the youngest others give theirs where there are
    /// none. False when even so there are not enough: the request has then failed, or waits again.
    fn make_room(
        &mut self,
        id: RequestId,
        index: usize,
        count: usize,
        plan: &mut Plan,
        events: &mut Vec<Event>,
    ) -> bool {
        loop {
            match self.try_room(id, index, count) {
                Some(true) => return true,
                None => return false,
                Some(false) => {}
            }
            let youngest = self.running.len().checked_sub(1);
            let Some(youngest) = youngest else { return false };
            let mut group = self.running.remove(youngest);
            plan.parts.retain(|part| part.group != group.id);
            group.leave_blocks(&mut self.blocks);
            let own = group.id == id;
            if own && self.running.is_empty() {
                let problem = "the cache is too small for the answers of this request".to_string();
                events.push(Event::Failed { request: id, problem });
                return false;
            }
            self.state.preemptions += 1;
            self.waiting.put_back(group);
            if own {
                return false;
            }
        }
    }

    /// One try of the above: whether it worked, or nothing when the sequence is gone.
    fn try_room(&mut self, id: RequestId, index: usize, count: usize) -> Option<bool> {
        let group = self.running.iter_mut().find(|group| group.id == id)?;
        let sequence = group.sequences.get_mut(index)?;
        let size = self.blocks.size();
        // The block that is written next must be nobody else's.
        let next = sequence.cached / size;
        let shared = sequence.blocks.get_mut(next).filter(|block| self.blocks.holders_of(**block) > 1);
        if let Some(block) = shared {
            let Some(own) = self.blocks.take() else { return Some(false) };
            if !copy_block(&mut self.caches, *block, own) {
                self.blocks.leave(own);
                return Some(false);
            }
            self.blocks.leave(*block);
            *block = own;
        }
        while sequence.blocks.len() < self.blocks.needed(sequence.cached + count) {
            let Some(block) = self.blocks.take() else { return Some(false) };
            sequence.blocks.push(block);
        }
        Some(true)
    }
}

/// Copies keys and values of one block in all layers.
fn copy_block(caches: &mut [super::LayerCache], from: Block, to: Block) -> bool {
    let copy = |tensor: &tch::Tensor| -> Result<(), tch::TchError> {
        let source = tensor.f_narrow(0, i64::from(from), 1)?;
        tensor.f_narrow(0, i64::from(to), 1)?.f_copy_(&source)?;
        Ok(())
    };
    tch::no_grad(|| caches.iter().all(|cache| copy(&cache.keys).and_then(|()| copy(&cache.values)).is_ok()))
}
