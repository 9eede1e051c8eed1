//! Llama 1 to 3 and what has its shape (SmolLM and many more): Touvron et al. 2023, Grattafiori et al. 2024.

use super::{Architecture, Block, RotaryDecoder, RotaryDecoderConfig};
use crate::layers::CausalAttention;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["llama"],
    summary: "Llama 1 to 3, SmolLM and others of their shape (Touvron et al. 2023).",
    build: |path, config, longest| {
        let settings = RotaryDecoderConfig::read(config, false, longest)?;
        let biased = config.flag_or("attention_bias", false)?;
        let mlp_biased = config.flag_or("mlp_bias", false)?;
        let model = RotaryDecoder::new(path, &settings, |path, layer| {
            let heads = settings.heads_of(layer);
            let attention = CausalAttention::separate(&path.sub("self_attn"), settings.width, heads, biased, biased)?;
            Block::new(path, &settings, attention, settings.mlp(&path.sub("mlp"), mlp_biased)?)
        })?;
        Ok(Box::new(model))
    },
};
