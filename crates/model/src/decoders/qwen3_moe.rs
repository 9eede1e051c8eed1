//! Qwen 3 with a mixture of experts. Yang et al. 2025.

use super::{Architecture, Block, RotaryDecoder, RotaryDecoderConfig, qwen3};
use crate::error::ModelError;
use crate::layers::{Experts, FeedForward, GatedMlp, Projection};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["qwen3_moe"],
    summary: "Qwen 3 with a mixture of experts (Yang et al. 2025).",
    build: |path, config, longest| {
        let settings = qwen3::settings(config, longest)?;
        let sparse_step = usize::try_from(config.size_or("decoder_sparse_step", 1)?).unwrap_or(1);
        let dense = config.numbers("mlp_only_layers")?.unwrap_or_default();
        let model = RotaryDecoder::new(path, &settings, |path, layer| {
            let mlp = path.sub("mlp");
            let feed_forward = match dense.contains(&(layer as f64)) || !(layer + 1).is_multiple_of(sparse_step) {
                true => settings.mlp(&mlp, false)?,
                false => experts(&mlp, &settings)?,
            };
            Block::new(path, &settings, qwen3::attention(path, &settings, layer)?, feed_forward)
        })?;
        Ok(Box::new(model))
    },
};

fn experts(path: &Path, settings: &RotaryDecoderConfig) -> Result<FeedForward, ModelError> {
    let config = settings.config;
    let count = config.size_or("num_experts", config.size_or("num_local_experts", 128)?)?;
    let sizes = (settings.width, config.size("moe_intermediate_size")?);
    let activation = config.activation("hidden_act", "silu")?;
    let expert = |i| {
        let names = ["gate_proj", "up_proj", "down_proj"];
        GatedMlp::separate(&path.sub("experts").sub(i), names, sizes, activation, false)
    };
    Ok(FeedForward::Experts(Experts::new(
        Projection::new(&path.sub("gate"), settings.width, count, false)?,
        (0..count).map(expert).collect::<Result<_, _>>()?,
        config.size("num_experts_per_tok")?.min(count),
        config.flag_or("norm_topk_prob", false)?,
    )))
}
