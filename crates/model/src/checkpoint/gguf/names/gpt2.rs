//! GPT-2. Hugging Face stores its matrices the other way round (`Conv1D`: inputs by outputs); GGUF does not.

use serde_json::{Map, Value as Json, json};

use super::{Architecture, Keys, Layout, must_be, rows_of};
use crate::checkpoint::gguf::metadata::Metadata;
use crate::checkpoint::gguf::problem::Problem;
use crate::config::Config;
use crate::error::ModelError;

pub(super) static GPT2: Architecture = Architecture {
    name: "gpt2",
    has_experts: false,
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    tensors: &[&[
        ("token_embd", "transformer.wte", Layout::Same),
        ("position_embd", "transformer.wpe", Layout::Same),
        ("output_norm", "transformer.ln_f", Layout::Same),
        ("output", "lm_head", Layout::Same),
        ("blk.*.attn_norm", "transformer.h.*.ln_1", Layout::Same),
        ("blk.*.attn_qkv", "transformer.h.*.attn.c_attn", Layout::Transposed),
        ("blk.*.attn_output", "transformer.h.*.attn.c_proj", Layout::Transposed),
        ("blk.*.ffn_norm", "transformer.h.*.ln_2", Layout::Same),
        ("blk.*.ffn_up", "transformer.h.*.mlp.c_fc", Layout::Transposed),
        ("blk.*.ffn_down", "transformer.h.*.mlp.c_proj", Layout::Transposed),
    ]],
    config: gpt2,
    keys: gpt2_keys,
};

fn gpt2(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    let mut set = |name: &str, value: Json| config.insert(name.to_string(), value);
    let positions = rows_of(metadata, "position_embd.weight")?;
    set("n_embd", json!(metadata.needed("embedding_length")?));
    set("n_layer", json!(metadata.needed("block_count")?));
    set("n_head", json!(metadata.needed("attention.head_count")?));
    set("n_inner", json!(metadata.needed("feed_forward_length")?));
    set("n_positions", json!(positions));
    set("n_ctx", json!(positions));
    set("activation_function", json!("gelu_new"));
    set("layer_norm_epsilon", metadata.number("attention.layer_norm_epsilon")?.unwrap_or_else(|| json!(1e-5)));
    Ok(())
}

fn gpt2_keys(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    must_be(config, "scale_attn_weights", true)?;
    must_be(config, "scale_attn_by_inverse_layer_idx", false)?;
    let width = config.size("n_embd")?;
    keys.count("block_count", config.size("n_layer")?);
    keys.count("context_length", config.size_or("n_positions", 1024)?);
    keys.count("embedding_length", width);
    keys.count("feed_forward_length", config.size_or("n_inner", 4 * width)?);
    keys.count("attention.head_count", config.size("n_head")?);
    keys.number("attention.layer_norm_epsilon", config.number_or("layer_norm_epsilon", 1e-5)?);
    keys.count("vocab_size", config.size("vocab_size")?);
    Ok(())
}
