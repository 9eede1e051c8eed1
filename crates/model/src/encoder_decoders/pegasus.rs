//! Pegasus: Marian's positions, with the norm before each part of a layer. Zhang et al. 2020.

use super::{Architecture, Transformer, TransformerConfig};
use crate::layers::PositionTable;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["pegasus"],
    summary: "Pegasus (Zhang et al. 2020).",
    build: |path, config, longest| {
        let settings = TransformerConfig { norms_first: true, ..TransformerConfig::read(config, longest)? };
        let positions = |path: &crate::Path| {
            PositionTable::sinusoidal(&path.sub("embed_positions"), settings.positions, settings.width)
        };
        Ok(Box::new(Transformer::new(path, &settings, positions)?))
    },
};
