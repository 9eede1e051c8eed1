//! Gemma 2. GGUF adds one to the weights of its norms, which Hugging Face's code adds when it runs.

use serde_json::{Map, Value as Json, json};

use super::{
    Architecture, GATED_MLP, Keys, Layout, QUERY_AND_KEY, VALUE_AND_OUTPUT, decoder, decoder_keys, head_width, rope,
};
use crate::checkpoint::gguf::metadata::Metadata;
use crate::checkpoint::gguf::problem::Problem;
use crate::config::Config;
use crate::error::ModelError;

pub(super) static GEMMA2: Architecture = Architecture {
    name: "gemma2",
    has_experts: false,
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    tensors: &[
        QUERY_AND_KEY,
        VALUE_AND_OUTPUT,
        GATED_MLP,
        &[
            ("token_embd", "model.embed_tokens", Layout::Same),
            ("output_norm", "model.norm", Layout::PlusOne),
            ("blk.*.attn_norm", "model.layers.*.input_layernorm", Layout::PlusOne),
            ("blk.*.post_attention_norm", "model.layers.*.post_attention_layernorm", Layout::PlusOne),
            ("blk.*.ffn_norm", "model.layers.*.pre_feedforward_layernorm", Layout::PlusOne),
            ("blk.*.post_ffw_norm", "model.layers.*.post_feedforward_layernorm", Layout::PlusOne),
        ],
    ],
    config: gemma2,
    keys: gemma2_keys,
};

/// The 27 billion model alone scales queries by the width of the model over its heads, not by a head's own width; no key
/// says so, and llama.cpp too tells it by its layers.
const LAYERS_OF_27B: u64 = 46;

fn gemma2(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    decoder(metadata, config)?;
    let width = head_width(metadata)?;
    let scalar = if metadata.needed("block_count")? == LAYERS_OF_27B {
        metadata.needed("embedding_length")? / metadata.needed("attention.head_count")?
    } else {
        width
    };
    let number = |key: &str, usual: f64| Ok(metadata.number(key)?.unwrap_or_else(|| json!(usual)));
    config.insert("head_dim".to_string(), json!(width));
    config.insert("query_pre_attn_scalar".to_string(), json!(scalar));
    config.insert("hidden_act".to_string(), json!("gelu_pytorch_tanh"));
    config.insert("hidden_activation".to_string(), json!("gelu_pytorch_tanh"));
    config.insert("attention_bias".to_string(), json!(false));
    config.insert("attn_logit_softcapping".to_string(), number("attn_logit_softcapping", 50.0)?);
    config.insert("final_logit_softcapping".to_string(), number("final_logit_softcapping", 30.0)?);
    let window = metadata.count("attention.sliding_window")?.unwrap_or(4096);
    config.insert("sliding_window".to_string(), json!(window));
    rope::scaling(metadata, config)
}

fn gemma2_keys(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    let width = decoder_keys(config, keys)?;
    for (name, usual) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
        if config.is_null(name) {
            return Err(config.refuse(format!("GGUF has no place for \"{name}\": null; keep the safetensors form")));
        }
        keys.number(name, config.number_or(name, usual)?);
    }
    keys.count("attention.sliding_window", config.size_or("sliding_window", 4096)?);
    rope::keys(config, width, keys)
}
