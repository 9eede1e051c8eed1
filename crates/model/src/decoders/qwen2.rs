//! Qwen 2 and 2.5: Llama's shape with biases on queries, keys and values. Yang et al. 2024.

use super::{Architecture, Block, RotaryDecoder, RotaryDecoderConfig};
use crate::layers::CausalAttention;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["qwen2"],
    summary: "Qwen 2 and 2.5 (Yang et al. 2024).",
    build: |path, config, longest| {
        let settings = RotaryDecoderConfig::read(config, false, longest)?;
        let slides = config.flag_or("use_sliding_window", false)?;
        let whole = usize::try_from(config.size_or("max_window_layers", 28)?).unwrap_or_default();
        let settings = settings.with_windows(|layer| slides && layer >= whole)?;
        let model = RotaryDecoder::new(path, &settings, |path, layer| {
            let heads = settings.heads_of(layer);
            let attention = CausalAttention::separate(&path.sub("self_attn"), settings.width, heads, true, false)?;
            Block::new(path, &settings, attention, settings.mlp(&path.sub("mlp"), false)?)
        })?;
        Ok(Box::new(model))
    },
};
