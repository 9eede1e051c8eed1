//! Mixtral: Mistral with a mixture of experts. Jiang et al. 2024.

use super::{Architecture, Block, RotaryDecoder, RotaryDecoderConfig};
use crate::error::ModelError;
use crate::layers::{CausalAttention, Experts, FeedForward, GatedMlp, Projection};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["mixtral"],
    summary: "Mixtral, a mixture of experts (Jiang et al. 2024).",
    build: |path, config, longest| {
        let settings = RotaryDecoderConfig::read(config, false, longest)?.with_windows(|_| true)?;
        let model = RotaryDecoder::new(path, &settings, |path, layer| {
            let heads = settings.heads_of(layer);
            let attention = CausalAttention::separate(&path.sub("self_attn"), settings.width, heads, false, false)?;
            Block::new(path, &settings, attention, experts(&path.sub("block_sparse_moe"), &settings)?)
        })?;
        Ok(Box::new(model))
    },
};

fn experts(path: &Path, settings: &RotaryDecoderConfig) -> Result<FeedForward, ModelError> {
    let config = settings.config;
    let count = config.size_or("num_local_experts", 8)?;
    let activation = config.activation("hidden_act", "silu")?;
    let expert = |i| {
        let path = path.sub("experts").sub(i);
        GatedMlp::separate(&path, ["w1", "w3", "w2"], (settings.width, settings.inner), activation, false)
    };
    Ok(FeedForward::Experts(Experts::new(
        Projection::new(&path.sub("gate"), settings.width, count, false)?,
        (0..count).map(expert).collect::<Result<_, _>>()?,
        config.size_or("num_experts_per_tok", 2)?.min(count),
        true,
    )))
}
