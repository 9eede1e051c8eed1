//! Requests that wait for their turn: first come, first served for each key, and the keys in turn, so that one with many
//! requests does not keep the others waiting.

use std::collections::VecDeque;

use super::RequestId;
use super::group::Group;

/// The queues of all keys, the one whose turn it is first.
#[derive(Default)]
pub(super) struct Waiting {
    queues: VecDeque<(String, VecDeque<Group>)>,
    count: usize,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn has(&self, id: RequestId) -> bool {
        self.queues.iter().any(|(_, queue)| queue.iter().any(|group| group.id == id))
    }

    /// Last of its key.
    pub(super) fn push(&mut self, group: Group) {
        self.count += 1;
        self.queue(&group.request.key).push_back(group);
    }

    /// First of its key, and its key first: for one that was running and lost its memory.
    pub(super) fn put_back(&mut self, group: Group) {
        self.count += 1;
        let key = group.request.key.clone();
        self.queue(&key).push_front(group);
        if let Some(place) = self.queues.iter().position(|(own, _)| *own == key) {
            self.queues.rotate_left(place);
        }
    }

    /// The one whose turn it is.
    pub(super) fn next(&self) -> Option<&Group> {
        self.queues.front().and_then(|(_, queue)| queue.front())
    }

    /// Takes the one whose turn it is; the next key comes after it.
    pub(super) fn take(&mut self) -> Option<Group> {
        let (key, mut queue) = self.queues.pop_front()?;
        let group = queue.pop_front();
        if !queue.is_empty() {
            self.queues.push_back((key, queue));
        }
        self.count -= usize::from(group.is_some());
        group
    }

    /// Takes one that nobody wants any more.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<Group> {
        let place = |queue: &VecDeque<Group>| queue.iter().position(|group| group.id == id);
        let (key, at) = self.queues.iter().enumerate().find_map(|(key, (_, queue))| Some((key, place(queue)?)))?;
        let (_, queue) = self.queues.get_mut(key)?;
        let group = queue.remove(at);
        if queue.is_empty() {
            self.queues.remove(key);
        }
        self.count -= usize::from(group.is_some());
        group
    }

    fn queue(&mut self, key: &str) -> &mut VecDeque<Group> {
        let place = self.queues.iter().position(|(own, _)| own == key).unwrap_or_else(|| {
            self.queues.push_back((key.to_owned(), VecDeque::new()));
            self.queues.len() - 1
        });
        // Just found or made.
        &mut self.queues[place].1
    }
}
