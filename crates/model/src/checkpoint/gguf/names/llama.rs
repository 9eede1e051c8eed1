//! Llama and what shares its form: Mistral, SmolLM, TinyLlama, Yi, and with experts Mixtral.

use serde_json::{Map, Value as Json, json};

use super::{
    Architecture, DECODER, GATED_MLP, Keys, Layout, Row, VALUE_AND_OUTPUT, decoder, decoder_keys,
    end_context_with_window, head_width, rope,
};
use crate::checkpoint::gguf::metadata::Metadata;
use crate::checkpoint::gguf::problem::Problem;
use crate::config::Config;
use crate::error::ModelError;

const ROTARY: &[Row] = &[
    ("blk.*.attn_q", "model.layers.*.self_attn.q_proj", Layout::RotaryQuery),
    ("blk.*.attn_k", "model.layers.*.self_attn.k_proj", Layout::RotaryKey),
];

const EXPERTS: &[Row] = &[
    ("blk.*.ffn_gate_inp", "model.layers.*.block_sparse_moe.gate", Layout::Same),
    ("blk.*.ffn_gate_exps", "model.layers.*.block_sparse_moe.experts.#.w1", Layout::Experts),
    ("blk.*.ffn_down_exps", "model.layers.*.block_sparse_moe.experts.#.w2", Layout::Experts),
    ("blk.*.ffn_up_exps", "model.layers.*.block_sparse_moe.experts.#.w3", Layout::Experts),
];

pub(super) static LLAMA: Architecture = Architecture {
    name: "llama",
    has_experts: false,
    model_type: "llama",
    class: "LlamaForCausalLM",
    tensors: &[DECODER, ROTARY, VALUE_AND_OUTPUT, GATED_MLP],
    config: llama,
    keys: llama_keys,
};

pub(super) static MIXTRAL: Architecture = Architecture {
    name: "llama",
    has_experts: true,
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    tensors: &[DECODER, ROTARY, VALUE_AND_OUTPUT, EXPERTS],
    config: mixtral,
    keys: mixtral_keys,
};

fn llama(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    decoder(metadata, config)?;
    let width = match metadata.count("attention.key_length")? {
        Some(width) => width,
        None => metadata.count("rope.dimension_count")?.map_or_else(|| head_width(metadata), Ok)?,
    };
    config.insert("head_dim".to_string(), json!(width));
    config.insert("hidden_act".to_string(), json!("silu"));
    config.insert("attention_bias".to_string(), json!(metadata.has_tensor("blk.0.attn_q.bias")));
    config.insert("mlp_bias".to_string(), json!(metadata.has_tensor("blk.0.ffn_up.bias")));
    rope::scaling(metadata, config)
}

fn mixtral(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    decoder(metadata, config)?;
    config.insert("head_dim".to_string(), json!(head_width(metadata)?));
    config.insert("hidden_act".to_string(), json!("silu"));
    config.insert("num_local_experts".to_string(), json!(metadata.needed("expert_count")?));
    config.insert("num_experts_per_tok".to_string(), json!(metadata.needed("expert_used_count")?));
    rope::scaling(metadata, config)
}

fn llama_keys(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    let width = decoder_keys(config, keys)?;
    end_context_with_window(config, keys)?;
    rope::keys(config, width, keys)
}

fn mixtral_keys(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    llama_keys(config, keys)?;
    keys.count("expert_count", config.size_or("num_local_experts", 8)?);
    keys.count("expert_used_count", config.size_or("num_experts_per_tok", 2)?);
    Ok(())
}
