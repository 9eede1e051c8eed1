//! Bidirectional GRU classifier: the model of `bilstm.rs` with the cell of Cho et al. 2014, and the same keys.

use super::bilstm::{RecurrentClassifier, RecurrentConfig};
use super::{Architecture, defaults};
use crate::layers::Cell;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: NAME,
    summary: "Bidirectional GRU with attention pooling (Cho et al. 2014).",
    defaults: defaults::<RecurrentConfig>,
    build: |path, config| Ok(Box::new(RecurrentClassifier::new(path, NAME, Cell::Gru, config)?)),
    check: |config| RecurrentConfig::read(NAME, config).map(drop),
};

const NAME: &str = "bigru";
