//! What a package may say about how its requests are scheduled when it is served. Knows nothing of servers: what it leaves
//! out is the server's to say.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How requests of one model are scheduled. What is left out is as the server says.
///
/// ```
/// use tidemill_model::Scheduling;
///
/// let package = Scheduling { max_batch_size: Some(32), instances: Some(2), ..Scheduling::default() };
/// let operator = Scheduling { max_batch_size: Some(8), ..Scheduling::default() };
/// let both = operator.or(&package);
/// assert_eq!((both.max_batch_size, both.instances), (Some(8), Some(2)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scheduling {
    /// Most texts that the model is given at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<usize>,
    /// Most tokens that an encoder is given at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<usize>,
    /// Sizes that batches are best of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_batch_sizes: Option<Vec<usize>>,
    /// How long the first text of a batch may wait for others when the model is idle.
    #[serde(with = "tidemill_data::duration::option", skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<Duration>,
    /// Most texts that may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queue: Option<usize>,
    /// How many run side by side, each with its own weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<usize>,
    /// Threads of libtorch within one operation of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<i32>,
}

impl Scheduling {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Scheduling::default()
    }

    /// This, and what `other` says where this says nothing.
    pub fn or(self, other: &Scheduling) -> Scheduling {
        Scheduling {
            max_batch_size: self.max_batch_size.or(other.max_batch_size),
            max_batch_tokens: self.max_batch_tokens.or(other.max_batch_tokens),
            preferred_batch_sizes: self.preferred_batch_sizes.or_else(|| other.preferred_batch_sizes.clone()),
            max_delay: self.max_delay.or(other.max_delay),
            max_queue: self.max_queue.or(other.max_queue),
            instances: self.instances.or(other.instances),
            threads: self.threads.or(other.threads),
        }
    }

    /// Checks that every number that is there is at least 1, and that there are not more instances than make sense.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let smallest = |sizes: &Vec<usize>| sizes.iter().copied().min().unwrap_or(0);
        let counts = [
            ("max_batch_size", self.max_batch_size),
            ("max_batch_tokens", self.max_batch_tokens),
            ("preferred_batch_sizes", self.preferred_batch_sizes.as_ref().map(smallest)),
            ("max_queue", self.max_queue),
            ("instances", self.instances),
            ("threads", self.threads.map(|threads| usize::try_from(threads).unwrap_or(0))),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return Err((key, "must be at least 1".to_owned()));
        }
        match self.instances {
            Some(instances) if instances > MAX_INSTANCES => {
                Err(("instances", format!("is {instances}; at most {MAX_INSTANCES} run side by side")))
            }
            _ => Ok(()),
        }
    }
}

/// Most instances of one model.
const MAX_INSTANCES: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        let read = |text: &str| toml::from_str::<Scheduling>(text).unwrap().check();
        assert_eq!(read("max_delay = \"2ms\"\npreferred_batch_sizes = [8, 16]"), Ok(()));
        for (text, key) in [
            ("instances = 0", "instances"),
            ("instances = 1000", "instances"),
            ("preferred_batch_sizes = []", "preferred_batch_sizes"),
            ("preferred_batch_sizes = [8, 0]", "preferred_batch_sizes"),
            ("threads = -1", "threads"),
        ] {
            assert_eq!(read(text).unwrap_err().0, key, "{text}");
        }
        assert!(toml::from_str::<Scheduling>("max_batch = 3").is_err());
    }
}
