//! BART: learned positions, a norm after each part of a layer, and one of the embeddings. Lewis et al. 2019.

use super::{Architecture, Transformer, TransformerConfig};
use crate::layers::PositionTable;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["bart"],
    summary: "BART (Lewis et al. 2019).",
    build: |path, config, longest| {
        let settings = TransformerConfig { embedding_norm: true, ..TransformerConfig::read(config, longest)? };
        let positions = |path: &crate::Path| {
            PositionTable::learned(&path.sub("embed_positions"), settings.positions, settings.width, 2)
        };
        Ok(Box::new(Transformer::new(path, &settings, positions)?))
    },
};
