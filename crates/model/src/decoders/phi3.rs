//! Phi-3 and 3.5: Llama's shape with queries, keys and values stored as one matrix, gate and up as another, and LongRoPE.
//! Abdin et al. 2024.

use super::{Architecture, Block, RotaryDecoder, RotaryDecoderConfig};
use crate::layers::{CausalAttention, FeedForward, GatedMlp, Projection};

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["phi3"],
    summary: "Phi-3 and 3.5 (Abdin et al. 2024).",
    build: |path, config, longest| {
        let settings = RotaryDecoderConfig::read(config, false, longest)?.with_windows(|_| true)?;
        let activation = config.activation("hidden_act", "silu")?;
        let model = RotaryDecoder::new(path, &settings, |path, layer| {
            let (heads, width, inner) = (settings.heads_of(layer), settings.width, settings.inner);
            let (attention, mlp) = (path.sub("self_attn"), path.sub("mlp"));
            let attention = CausalAttention::new(
                Projection::new(&attention.sub("qkv_proj"), width, heads.qkv_width(), false)?,
                Projection::new(&attention.sub("o_proj"), heads.heads * heads.head_dim, width, false)?,
                heads,
            );
            let mlp = GatedMlp::new(
                Projection::new(&mlp.sub("gate_up_proj"), width, 2 * inner, false)?,
                Projection::new(&mlp.sub("down_proj"), inner, width, false)?,
                activation,
            );
            Block::new(path, &settings, attention, FeedForward::Gated(mlp))
        })?;
        Ok(Box::new(model))
    },
};
