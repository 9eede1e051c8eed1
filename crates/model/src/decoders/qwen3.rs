//! Qwen 3: Llama's shape with a norm on every query and key head. Yang et al. 2025.

use super::{Architecture, Block, RotaryDecoder, RotaryDecoderConfig};
use crate::config::Config;
use crate::error::ModelError;
use crate::layers::CausalAttention;
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["qwen3"],
    summary: "Qwen 3 (Yang et al. 2025).",
    build: |path, config, longest| {
        let settings = settings(config, longest)?;
        let model = RotaryDecoder::new(path, &settings, |path, layer| {
            Block::new(path, &settings, attention(path, &settings, layer)?, settings.mlp(&path.sub("mlp"), false)?)
        })?;
        Ok(Box::new(model))
    },
};

/// What Qwen 3 and its mixture of experts have in common.
pub(super) fn settings(config: Config, longest: i64) -> Result<RotaryDecoderConfig, ModelError> {
    let settings = RotaryDecoderConfig::read(config, false, longest)?;
    let slides = config.flag_or("use_sliding_window", false)?;
    let whole = usize::try_from(config.size_or("max_window_layers", 28)?).unwrap_or_default();
    settings.with_windows(|layer| slides && layer >= whole)
}

/// Their attention.
pub(super) fn attention(
    path: &Path,
    settings: &RotaryDecoderConfig,
    layer: usize,
) -> Result<CausalAttention, ModelError> {
    let biased = settings.config.flag_or("attention_bias", false)?;
    let path = path.sub("self_attn");
    CausalAttention::separate(&path, settings.width, settings.heads_of(layer), biased, biased)?
        .with_head_norms(&path, settings.epsilon)
}
