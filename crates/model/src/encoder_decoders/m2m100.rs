//! M2M100 and NLLB: fairseq's sinusoidal positions, the norm before each part of a layer. Fan et al. 2020, NLLB Team 2022.

use super::{Architecture, Transformer, TransformerConfig};
use crate::layers::PositionTable;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["m2m_100"],
    summary: "M2M100 and NLLB (Fan et al. 2020, NLLB Team 2022).",
    build: |path, config, longest| {
        let settings = TransformerConfig { norms_first: true, ..TransformerConfig::read(config, longest)? };
        let padding =
            config.get("pad_token_id").map_or(Some(1), |id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        let padding = padding.filter(|&id| i64::from(id) < settings.vocabulary);
        let padding = padding.ok_or_else(|| config.refuse("\"pad_token_id\" must be one of the model's tokens"))?;
        let positions = |path: &crate::Path| {
            PositionTable::sinusoidal_after(padding, settings.positions, settings.width, path.device())
        };
        Ok(Box::new(Transformer::new(path, &settings, positions)?))
    },
};
