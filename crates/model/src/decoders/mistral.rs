//! Mistral: Llama's shape, each position seeing a window of those before it. Jiang et al. 2023.

use super::{Architecture, Block, RotaryDecoder, RotaryDecoderConfig};
use crate::layers::CausalAttention;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["mistral"],
    summary: "Mistral, with a sliding window (Jiang et al. 2023).",
    build: |path, config, longest| {
        let settings = RotaryDecoderConfig::read(config, false, longest)?.with_windows(|_| true)?;
        let model = RotaryDecoder::new(path, &settings, |path, layer| {
            let heads = settings.heads_of(layer);
            let attention = CausalAttention::separate(&path.sub("self_attn"), settings.width, heads, false, false)?;
            Block::new(path, &settings, attention, settings.mlp(&path.sub("mlp"), false)?)
        })?;
        Ok(Box::new(model))
    },
};
