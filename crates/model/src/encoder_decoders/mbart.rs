//! mBART and mBART-50: BART in many languages, with the norm before each part of a layer. Liu et al. 2020, Tang et al. 2020.

use super::{Architecture, Transformer, TransformerConfig};
use crate::layers::PositionTable;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["mbart"],
    summary: "mBART and mBART-50 (Liu et al. 2020).",
    build: |path, config, longest| {
        let settings = TransformerConfig::read(config, longest)?;
        let settings = TransformerConfig { norms_first: true, embedding_norm: true, ..settings };
        let positions = |path: &crate::Path| {
            PositionTable::learned(&path.sub("embed_positions"), settings.positions, settings.width, 2)
        };
        Ok(Box::new(Transformer::new(path, &settings, positions)?))
    },
};
