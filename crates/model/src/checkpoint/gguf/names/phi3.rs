//! Phi-3, Phi-3.5 and Phi-4: query, key and value in one matrix, gate and up in another, as in Hugging Face.

use serde_json::{Map, Value as Json, json};

use super::{Architecture, DECODER, Keys, Layout, decoder, decoder_keys, rope};
use crate::checkpoint::gguf::metadata::Metadata;
use crate::checkpoint::gguf::problem::Problem;
use crate::config::Config;
use crate::error::ModelError;

pub(super) static PHI3: Architecture = Architecture {
    name: "phi3",
    has_experts: false,
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    tensors: &[
        DECODER,
        &[
            ("blk.*.attn_qkv", "model.layers.*.self_attn.qkv_proj", Layout::Same),
            ("blk.*.attn_output", "model.layers.*.self_attn.o_proj", Layout::Same),
            ("blk.*.ffn_up", "model.layers.*.mlp.gate_up_proj", Layout::Same),
            ("blk.*.ffn_down", "model.layers.*.mlp.down_proj", Layout::Same),
        ],
    ],
    config: phi3,
    keys: phi3_keys,
};

fn phi3(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    decoder(metadata, config)?;
    config.insert("hidden_act".to_string(), json!("silu"));
    let window = metadata.count("attention.sliding_window")?.filter(|window| *window > 0);
    config.insert("sliding_window".to_string(), json!(window));
    let width = metadata.needed("embedding_length")? / metadata.needed("attention.head_count")?;
    if let Some(rotated) = metadata.count("rope.dimension_count")?.filter(|rotated| *rotated != width) {
        config.insert("partial_rotary_factor".to_string(), json!(rotated as f64 / width.max(1) as f64));
    }
    let trained = metadata.count("rope.scaling.original_context_length")?;
    let trained = trained.map_or_else(|| metadata.needed("context_length"), Ok)?;
    config.insert("original_max_position_embeddings".to_string(), json!(trained));
    rope::scaling(metadata, config)
}

fn phi3_keys(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    let width = decoder_keys(config, keys)?;
    if config.get("sliding_window").is_some() {
        keys.count("attention.sliding_window", config.size("sliding_window")?);
    }
    let positions = config.size("max_position_embeddings")?;
    keys.count("rope.scaling.original_context_length", config.size_or("original_max_position_embeddings", positions)?);
    rope::keys(config, width, keys)
}
