//! Gemma 2: norms around attention and feed-forward, soft caps, every other layer with a window. Gemma Team 2024.

use super::{Architecture, Block, Norms, RotaryDecoder, RotaryDecoderConfig};
use crate::layers::{CausalAttention, FeedForward, GatedMlp, Heads};

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["gemma2"],
    summary: "Gemma 2 (Gemma Team 2024).",
    build: |path, config, longest| {
        let read = RotaryDecoderConfig::read(config, true, longest)?;
        let scale = config.number_or("query_pre_attn_scalar", 256.0)?.powf(-0.5);
        let settings = RotaryDecoderConfig {
            heads: Heads { scale, softcap: config.number("attn_logit_softcapping")?, ..read.heads },
            norm_offset: 1.0,
            embedding_scale: (read.width as f64).sqrt(),
            logit_softcap: config.number("final_logit_softcapping")?,
            ..read
        };
        let settings = settings.with_windows(|layer| layer.is_multiple_of(2))?;
        let activation = config.activation("hidden_activation", "gelu_pytorch_tanh")?;
        let biased = config.flag_or("attention_bias", false)?;
        let model = RotaryDecoder::new(path, &settings, |path, layer| {
            let (heads, width, inner) = (settings.heads_of(layer), settings.width, settings.inner);
            let norm = |name: &str| settings.norm(&path.sub(name));
            let names = ["gate_proj", "up_proj", "down_proj"];
            let mlp = GatedMlp::separate(&path.sub("mlp"), names, (width, inner), activation, false)?;
            Ok(Block {
                norms: Norms::Around([
                    norm("input_layernorm")?,
                    norm("post_attention_layernorm")?,
                    norm("pre_feedforward_layernorm")?,
                    norm("post_feedforward_layernorm")?,
                ]),
                attention: CausalAttention::separate(&path.sub("self_attn"), width, heads, biased, biased)?,
                feed_forward: FeedForward::Gated(mlp),
            })
        })?;
        Ok(Box::new(model))
    },
};
