//! GPT-NeoX and Pythia. Hugging Face keeps query, key and value of one head together; GGUF has all queries first.

use serde_json::{Map, Value as Json, json};

use super::{Architecture, Keys, Layout};
use crate::checkpoint::gguf::metadata::Metadata;
use crate::checkpoint::gguf::problem::Problem;
use crate::config::Config;
use crate::error::ModelError;

pub(super) static GPTNEOX: Architecture = Architecture {
    name: "gptneox",
    has_experts: false,
    model_type: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    tensors: &[&[
        ("token_embd", "gpt_neox.embed_in", Layout::Same),
        ("output_norm", "gpt_neox.final_layer_norm", Layout::Same),
        ("output", "embed_out", Layout::Same),
        ("blk.*.attn_norm", "gpt_neox.layers.*.input_layernorm", Layout::Same),
        ("blk.*.attn_qkv", "gpt_neox.layers.*.attention.query_key_value", Layout::FusedHeads),
        ("blk.*.attn_output", "gpt_neox.layers.*.attention.dense", Layout::Same),
        ("blk.*.ffn_norm", "gpt_neox.layers.*.post_attention_layernorm", Layout::Same),
        ("blk.*.ffn_up", "gpt_neox.layers.*.mlp.dense_h_to_4h", Layout::Same),
        ("blk.*.ffn_down", "gpt_neox.layers.*.mlp.dense_4h_to_h", Layout::Same),
    ]],
    config: gptneox,
    keys: gptneox_keys,
};

fn gptneox(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    let mut set = |name: &str, value: Json| config.insert(name.to_string(), value);
    let (hidden, heads) = (metadata.needed("embedding_length")?, metadata.needed("attention.head_count")?);
    let width = (hidden / heads).max(1);
    let rotated = metadata.count("rope.dimension_count")?.unwrap_or(width);
    set("hidden_size", json!(hidden));
    set("intermediate_size", json!(metadata.needed("feed_forward_length")?));
    set("num_hidden_layers", json!(metadata.needed("block_count")?));
    set("num_attention_heads", json!(heads));
    set("max_position_embeddings", json!(metadata.needed("context_length")?));
    set("rotary_pct", json!(rotated as f64 / width as f64));
    let base = metadata.number("rope.freq_base")?.unwrap_or_else(|| json!(10_000.0));
    set("rotary_emb_base", base.clone());
    set("rope_theta", base);
    set("use_parallel_residual", json!(metadata.flag("use_parallel_residual")?.unwrap_or(true)));
    set("layer_norm_eps", metadata.number("attention.layer_norm_epsilon")?.unwrap_or_else(|| json!(1e-5)));
    set("hidden_act", json!("gelu"));
    set("attention_bias", json!(metadata.has_tensor("blk.0.attn_qkv.bias")));
    Ok(())
}

fn gptneox_keys(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let share = config.number_or("rotary_pct", config.number_or("partial_rotary_factor", 0.25)?)?;
    keys.count("block_count", config.size("num_hidden_layers")?);
    keys.count("context_length", config.size("max_position_embeddings")?);
    keys.count("embedding_length", width);
    keys.count("feed_forward_length", config.size("intermediate_size")?);
    keys.count("attention.head_count", heads);
    keys.count("rope.dimension_count", ((width / heads) as f64 * share) as i64);
    keys.number("rope.freq_base", config.number_or("rope_theta", config.number_or("rotary_emb_base", 10_000.0)?)?);
    keys.flag("use_parallel_residual", config.flag_or("use_parallel_residual", true)?);
    keys.number("attention.layer_norm_epsilon", config.number_or("layer_norm_eps", 1e-5)?);
    keys.count("vocab_size", config.size("vocab_size")?);
    if config.section("rope_scaling").is_some() {
        return Err(
            config.refuse("GGUF has no place for the \"rope_scaling\" of a GPT-NeoX; keep the safetensors form")
        );
    }
    Ok(())
}
