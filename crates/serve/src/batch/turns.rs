//! In which order entries are run: urgent ones first; among those of one priority the keys in turn, so that one with many
//! requests does not keep the others waiting; and of one key the oldest first.

use std::collections::VecDeque;
use std::time::Instant;

use super::entry::Entry;
use crate::priority::Priority;

/// Entries in the order in which they are to be run.
#[derive(Debug)]
pub(super) struct Turns<T, A> {
    levels: [Keys<T, A>; Priority::LEVELS],
}

/// The entries of each key, the one whose turn it is first. None is empty.
type Keys<T, A> = VecDeque<(String, VecDeque<Entry<T, A>>)>;

impl<T, A> Default for Turns<T, A> {
    fn default() -> Turns<T, A> {
        Turns { levels: std::array::from_fn(|_| VecDeque::new()) }
    }
}

impl<T, A> Turns<T, A> {
    pub(super) fn is_empty(&self) -> bool {
        self.levels.iter().all(VecDeque::is_empty)
    }

    /// Puts an entry behind those of its key, and a key that has none waiting behind all keys.
    pub(super) fn push(&mut self, entry: Entry<T, A>) {
        let Some(keys) = self.levels.get_mut(entry.terms.priority.level()) else { return };
        match keys.iter_mut().find(|(key, _)| *key == entry.terms.key) {
            Some((_, entries)) => entries.push_back(entry),
            None => keys.push_back((entry.terms.key.clone(), VecDeque::from([entry]))),
        }
    }

    /// The entry whose turn it is.
    pub(super) fn front(&self) -> Option<&Entry<T, A>> {
        self.levels.iter().find_map(|keys| keys.front()?.1.front())
    }

    /// Takes it; the next key comes after it.
    pub(super) fn pop(&mut self) -> Option<Entry<T, A>> {
        let keys = self.levels.iter_mut().find(|keys| !keys.is_empty())?;
        let (key, mut entries) = keys.pop_front()?;
        let entry = entries.pop_front();
        if !entries.is_empty() {
            keys.push_back((key, entries));
        }
        entry
    }

    /// When the entry that has waited longest arrived.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let firsts = self.levels.iter().flatten().filter_map(|(_, entries)| entries.front());
        firsts.map(|entry| entry.terms.arrived).min()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T, A>> {
        self.levels.iter().flatten().flat_map(|(_, entries)| entries)
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&Entry<T, A>) -> bool) {
        for keys in &mut self.levels {
            keys.iter_mut().for_each(|(_, entries)| entries.retain(&is_kept));
            keys.retain(|(_, entries)| !entries.is_empty());
        }
    }
}
