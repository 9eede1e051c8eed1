//! The paged cache's blocks: who holds which, what full blocks contain, and which may be given out again. Kwon et al. 2023,
//! "Efficient Memory Management for Large Language Model Serving with PagedAttention". Blocks whose tokens are known are
//! shared between sequences that begin alike, and stay findable after their last holder has left until their memory is
//! needed. Knows nothing of tensors.

use std::collections::{BTreeSet, HashMap};

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A block's number.
pub(super) type Block = u32;

/// What a full block contains: a hash of its tokens and of all before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Content(u128);

impl Content {
    /// What stands before the first block of a long context, whose keys are not a short one's: see
    /// [`Decoder::short_contexts`](crate::decoders::Decoder::short_contexts).
    pub(super) const LONG: Content = Content(1);

    /// Of a full block's tokens, which follow what `before` says.
    pub(super) fn of(before: Option<Content>, tokens: &[u32]) -> Content {
        let mut bytes = Vec::with_capacity(16 + 4 * tokens.len());
        bytes.extend_from_slice(&before.map_or(0, |content| content.0).to_le_bytes());
        tokens.iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()));
        Content(xxh3_128_with_seed(&bytes, 0x7469_6465))
    }
}

/// All blocks of a cache.
#[derive(Debug)]
pub(super) struct Blocks {
    size: usize,
    holders: Vec<u32>,
    contents: Vec<Option<Content>>,
    /// When each block that nobody holds was left, the longest ago first.
    free: BTreeSet<(u64, Block)>,
    left: Vec<u64>,
    clock: u64,
    by_content: HashMap<Content, Block>,
}

impl Blocks {
    /// `count` blocks of `size` tokens each.
    pub(super) fn new(count: usize, size: usize) -> Blocks {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Blocks {
            size,
            holders: vec![0; count as usize],
            contents: vec![None; count as usize],
            free: (0..count).map(|block| (0, block)).collect(),
            left: vec![0; count as usize],
            clock: 0,
            by_content: HashMap::new(),
        }
    }

    /// Tokens in a block.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Blocks that `tokens` tokens take.
    pub(super) fn needed(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.size)
    }

    pub(super) fn total(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that nobody holds.
    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    /// A block that nobody holds, the one left longest ago, whose contents are forgotten.
    pub(super) fn take(&mut self) -> Option<Block> {
        let (_, block) = self.free.pop_first()?;
        if let Some(content) = self.contents.get_mut(block as usize).and_then(Option::take) {
            self.by_content.remove(&content);
        }
        self.set_holders(block, 1);
        Some(block)
    }

    /// One more holder of a block that is held.
    pub(super) fn share(&mut self, block: Block) {
        self.set_holders(block, self.holders_of(block) + 1);
    }

    /// One holder fewer.
    pub(super) fn leave(&mut self, block: Block) {
        let holders = self.holders_of(block).saturating_sub(1);
        self.set_holders(block, holders);
        if holders == 0 {
            self.clock += 1;
            if let Some(left) = self.left.get_mut(block as usize) {
                *left = self.clock;
            }
            self.free.insert((self.clock, block));
        }
    }

    /// How many hold a block.
    pub(super) fn holders_of(&self, block: Block) -> u32 {
        self.holders.get(block as usize).copied().unwrap_or_default()
    }

    /// The block with this content, with one more holder.
    pub(super) fn find(&mut self, content: Content) -> Option<Block> {
        let block = *self.by_content.get(&content)?;
        if self.holders_of(block) == 0 {
            let left = self.left.get(block as usize).copied().unwrap_or_default();
            self.free.remove(&(left, block));
        }
        self.share(block);
        Some(block)
    }

    /// Says what a full block contains, so that others can find it.
    pub(super) fn name(&mut self, block: Block, content: Content) {
        if self.by_content.contains_key(&content) {
            return;
        }
        if let Some(slot) = self.contents.get_mut(block as usize)
            && slot.is_none()
        {
            *slot = Some(content);
            self.by_content.insert(content, block);
        }
    }

    fn set_holders(&mut self, block: Block, holders: u32) {
        if let Some(slot) = self.holders.get_mut(block as usize) {
            *slot = holders;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_shared_by_content_and_forgotten_when_needed() {
        let mut blocks = Blocks::new(3, 2);
        let first = blocks.take().unwrap();
        let content = Content::of(None, &[1, 2]);
        blocks.name(first, content);
        assert_eq!(blocks.find(content), Some(first));
        assert_eq!((blocks.holders_of(first), blocks.available()), (2, 2));
        blocks.leave(first);
        blocks.leave(first);
        assert_eq!(blocks.available(), 3);
        assert_eq!(blocks.find(content), Some(first), "it stays findable when nobody holds it");
        blocks.leave(first);
        let taken: Vec<_> = (0..3).map(|_| blocks.take().unwrap()).collect();
        assert_eq!(taken.last(), Some(&first), "the one left last goes last");
        assert_eq!((blocks.take(), blocks.find(content)), (None, None));
    }

    #[test]
    fn content_depends_on_all_that_went_before() {
        let one = Content::of(Some(Content::of(None, &[1, 2])), &[3, 4]);
        let other = Content::of(Some(Content::of(None, &[2, 1])), &[3, 4]);
        assert_ne!(one, other);
        assert_ne!(one, Content::of(None, &[3, 4]));
    }
}
