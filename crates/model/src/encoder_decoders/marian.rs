//! Marian, the OPUS-MT models: sinusoidal positions, a norm after each part of a layer. Junczys-Dowmunt et al. 2018.

use super::{Architecture, Transformer, TransformerConfig};
use crate::layers::PositionTable;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["marian"],
    summary: "Marian, OPUS-MT (Junczys-Dowmunt et al. 2018).",
    build: |path, config, longest| {
        let read = TransformerConfig::read(config, longest)?;
        let own = !config.flag_or("share_encoder_decoder_embeddings", true)?;
        let own = own.then(|| config.size_or("decoder_vocab_size", read.vocabulary)).transpose()?;
        let settings = TransformerConfig { own_target_vocabulary: own, ..read };
        let positions = |path: &crate::Path| {
            PositionTable::sinusoidal(&path.sub("embed_positions"), settings.positions, settings.width)
        };
        Ok(Box::new(Transformer::new(path, &settings, positions)?))
    },
};
