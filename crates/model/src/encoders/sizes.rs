//! The sizes that every encoder has, and its labels, out of `config.json`: each family has its own names for the keys, and
//! what is not there has the default that `transformers` gives it.

use serde_json::{Map, Value};

use crate::config::Config;
use crate::error::ModelError;

/// A family's keys, each with its default.
pub(super) struct SizeKeys {
    pub(super) vocabulary: (&'static str, i64),
    pub(super) width: (&'static str, i64),
    pub(super) heads: (&'static str, i64),
    pub(super) inner: (&'static str, i64),
    pub(super) layers: (&'static str, i64),
    pub(super) positions: (&'static str, i64),
    pub(super) epsilon: (&'static str, f64),
}

/// The sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) vocabulary: i64,
    pub(super) width: i64,
    pub(super) heads: i64,
    pub(super) inner: i64,
    pub(super) layers: i64,
    pub(super) positions: i64,
    pub(super) epsilon: f64,
}

impl Sizes {
    /// Reads and checks them.
    ///
    /// # Errors
    /// [`ModelError::Config`] that names the key.
    pub(super) fn read(config: Config<'_>, keys: &SizeKeys) -> Result<Sizes, ModelError> {
        let size = |(key, default)| config.size_or(key, default);
        let (epsilon_key, epsilon) = keys.epsilon;
        let sizes = Sizes {
            vocabulary: size(keys.vocabulary)?,
            width: size(keys.width)?,
            heads: size(keys.heads)?,
            inner: size(keys.inner)?,
            layers: size(keys.layers)?,
            positions: size(keys.positions)?,
            epsilon: config.number_or(epsilon_key, epsilon)?,
        };
        let Sizes { width, heads, epsilon, .. } = sizes;
        if width % heads != 0 {
            let (width_key, heads_key) = (keys.width.0, keys.heads.0);
            let problem = format!("\"{width_key}\", {width}, must be a multiple of \"{heads_key}\", {heads}");
            return Err(config.refuse(problem));
        }
        if !(epsilon > 0.0 && epsilon < 1.0) {
            return Err(config.refuse(format!("\"{epsilon_key}\" must lie between 0 and 1, not {epsilon}")));
        }
        Ok(sizes)
    }

    /// Width of a head.
    pub(super) fn head_dim(&self) -> i64 {
        self.width / self.heads
    }
}

/// The labels' names, in the order of their scores: `id2label`, or as many as `num_labels` says, which is two by default.
///
/// ```
/// let config = serde_json::from_str(r#"{"id2label": {"1": "good", "0": "bad"}}"#)?;
/// assert_eq!(tidemill_model::encoders::labels(&config), ["bad", "good"]);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn labels(config: &Map<String, Value>) -> Vec<String> {
    let named = config.get("id2label").and_then(Value::as_object).filter(|names| !names.is_empty());
    let count = match named {
        Some(names) => names.len(),
        None => config.get("num_labels").and_then(Value::as_u64).map_or(2, |count| count.min(1 << 20) as usize),
    };
    let name = |id: usize| named?.get(&id.to_string())?.as_str().map(str::to_string);
    (0..count).map(|id| name(id).unwrap_or_else(|| format!("LABEL_{id}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_without_names_are_numbered() -> Result<(), serde_json::Error> {
        let config = serde_json::from_str(r#"{"num_labels": 3}"#)?;
        assert_eq!(labels(&config), ["LABEL_0", "LABEL_1", "LABEL_2"]);
        assert_eq!(labels(&Map::new()).len(), 2);
        Ok(())
    }
}
