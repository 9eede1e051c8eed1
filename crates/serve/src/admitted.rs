//! What the gate tells the services of a request, and what they tell it of an answer.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tidemill_model::engine::Turn;

use crate::keys::Caller;
use crate::priority::Priority;
use crate::refusal::Refusal;

/// What the gate tells the services of a request: an extension of every request that it let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admitted {
    /// When the answer is no longer wanted.
    pub(crate) deadline: Option<Instant>,
    /// On whose behalf it is made: its key's name; where keys are off the credential that it carries, else where it comes
    /// from. Keys take turns.
    pub(crate) key: String,
    /// How soon the answer is wanted.
    pub(crate) priority: Priority,
    /// Who makes it.
    pub(crate) caller: Caller,
    /// Why an answer that had begun was not finished.
    pub(crate) broken: Broken,
}

impl Admitted {
    /// When a request to a model that generates is let in, beside others that wait.
    pub(crate) fn turn(&self) -> Turn {
        Turn { priority: self.priority.level() as u8, key: self.key.clone() }
    }

    /// Notes why an answer that had begun is not finished, where the wire itself does not show it.
    pub(crate) fn note_broken(&self, refusal: &Refusal) {
        self.broken.note(refusal.reason());
    }
}

/// Why a response is no answer: an extension of responses over HTTP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason(pub(crate) &'static str);

/// Why an answer that had begun was not finished, once that is known. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broken(Arc<OnceLock<&'static str>>);

impl Broken {
    fn note(&self, reason: &'static str) {
        let _ = self.0.set(reason);
    }

    /// The reason, in a word that metrics count by.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}
