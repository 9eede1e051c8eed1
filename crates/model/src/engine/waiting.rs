//! Requests that wait for their turn: by priority; first come, first served for each key, and the keys of one priority in
//! turn, so that one with many requests does not keep the others waiting.

use std::collections::VecDeque;

use super::RequestId;
use super::group::Group;
use super::token_engine::Turn;

/// The queues of all keys with their priorities; of each priority the one whose turn it is first.
#[derive(Default)]
pub(super) struct Waiting {
    queues: VecDeque<(Turn, VecDeque<Group>)>,
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
        self.queue(&group.request.turn.clone()).push_back(group);
    }

    /// First of its key, and its key first: for one that was running and lost its memory.
    pub(super) fn put_back(&mut self, group: Group) {
        self.count += 1;
        let turn = group.request.turn.clone();
        self.queue(&turn).push_front(group);
        if let Some(place) = self.queues.iter().position(|(own, _)| *own == turn)
            && let Some(queue) = self.queues.remove(place)
        {
            self.queues.push_front(queue);
        }
    }

    /// The one whose turn it is.
    pub(super) fn next(&self) -> Option<&Group> {
        self.queues.get(self.place()?).and_then(|(_, queue)| queue.front())
    }

    /// Takes the one whose turn it is; the next key comes after it.
    pub(super) fn take(&mut self) -> Option<Group> {
        let (key, mut queue) = self.queues.remove(self.place()?)?;
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

    // The queue whose turn it is: the first of those of the lowest priority.
    fn place(&self) -> Option<usize> {
        let priorities = self.queues.iter().map(|(turn, _)| turn.priority).enumerate();
        priorities.min_by_key(|(_, priority)| *priority).map(|(place, _)| place)
    }

    fn queue(&mut self, turn: &Turn) -> &mut VecDeque<Group> {
        let place = self.queues.iter().position(|(own, _)| own == turn).unwrap_or_else(|| {
            self.queues.push_back((turn.clone(), VecDeque::new()));
            self.queues.len() - 1
        });
        // Just found or made.
        &mut self.queues[place].1
    }
}
