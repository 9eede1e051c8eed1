//! Qwen 2 and 2.5, Qwen 3, and Qwen 3 with experts.

use serde_json::{Map, Value as Json, json};

use super::{
    Architecture, DECODER, GATED_MLP, Keys, Layout, QUERY_AND_KEY, Row, VALUE_AND_OUTPUT, decoder, decoder_keys,
    end_context_with_window, head_width, must_be, rope,
};
use crate::checkpoint::gguf::metadata::Metadata;
use crate::checkpoint::gguf::problem::Problem;
use crate::config::Config;
use crate::error::ModelError;

const HEAD_NORMS: &[Row] = &[
    ("blk.*.attn_q_norm", "model.layers.*.self_attn.q_norm", Layout::Same),
    ("blk.*.attn_k_norm", "model.layers.*.self_attn.k_norm", Layout::Same),
];

const EXPERTS: &[Row] = &[
    ("blk.*.ffn_gate_inp", "model.layers.*.mlp.gate", Layout::Same),
    ("blk.*.ffn_gate_exps", "model.layers.*.mlp.experts.#.gate_proj", Layout::Experts),
    ("blk.*.ffn_up_exps", "model.layers.*.mlp.experts.#.up_proj", Layout::Experts),
    ("blk.*.ffn_down_exps", "model.layers.*.mlp.experts.#.down_proj", Layout::Experts),
];

pub(super) static QWEN2: Architecture = Architecture {
    name: "qwen2",
    has_experts: false,
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    tensors: &[DECODER, QUERY_AND_KEY, VALUE_AND_OUTPUT, GATED_MLP],
    config: qwen2,
    keys: qwen_keys,
};

pub(super) static QWEN3: Architecture = Architecture {
    name: "qwen3",
    has_experts: false,
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    tensors: &[DECODER, QUERY_AND_KEY, HEAD_NORMS, VALUE_AND_OUTPUT, GATED_MLP],
    config: qwen3,
    keys: qwen_keys,
};

pub(super) static QWEN3MOE: Architecture = Architecture {
    name: "qwen3moe",
    has_experts: true,
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    tensors: &[DECODER, QUERY_AND_KEY, HEAD_NORMS, VALUE_AND_OUTPUT, EXPERTS],
    config: qwen3moe,
    keys: qwen3moe_keys,
};

fn qwen2(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    decoder(metadata, config)?;
    config.insert("hidden_act".to_string(), json!("silu"));
    config.insert("use_sliding_window".to_string(), json!(false));
    rope::scaling(metadata, config)
}

fn qwen3(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    qwen2(metadata, config)?;
    config.insert("head_dim".to_string(), json!(head_width(metadata)?));
    config.insert("attention_bias".to_string(), json!(metadata.has_tensor("blk.0.attn_q.bias")));
    Ok(())
}

fn qwen3moe(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    qwen3(metadata, config)?;
    config.insert("num_experts".to_string(), json!(metadata.needed("expert_count")?));
    config.insert("num_experts_per_tok".to_string(), json!(metadata.needed("expert_used_count")?));
    config.insert("moe_intermediate_size".to_string(), json!(metadata.needed("expert_feed_forward_length")?));
    // The file does not say; every published model has it so, and llama.cpp computes it so.
    config.insert("norm_topk_prob".to_string(), json!(true));
    config.insert("decoder_sparse_step".to_string(), json!(1));
    config.insert("mlp_only_layers".to_string(), json!([]));
    Ok(())
}

fn qwen_keys(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    let width = decoder_keys(config, keys)?;
    if config.flag_or("use_sliding_window", false)? {
        end_context_with_window(config, keys)?;
    }
    rope::keys(config, width, keys)
}

fn qwen3moe_keys(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    must_be(config, "norm_topk_prob", true)?;
    qwen_keys(config, keys)?;
    keys.count("expert_count", config.size_or("num_experts", 128)?);
    keys.count("expert_used_count", config.size_or("num_experts_per_tok", 8)?);
    keys.count("expert_feed_forward_length", config.size("moe_intermediate_size")?);
    Ok(())
}
