//! What GGUF calls things and what Hugging Face calls them: tensors and configuration, one file a family. A table row is
//! `(name in GGUF, name in Hugging Face, how it is laid out)`, without `.weight` or `.bias`, with `*` for a layer's number
//! and `#` for an expert's. A tensor that no row knows is an error: a part of a model is never silently left out.

mod gemma2;
mod gpt2;
mod gptneox;
mod llama;
mod phi3;
mod qwen;
mod rope;

use serde_json::{Map, Value as Json, json};

use super::metadata::Metadata;
use super::problem::Problem;

/// One architecture that GGUF files come in.
pub(crate) struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// Whether it is the one with experts of two that share a name.
    has_experts: bool,
    /// `model_type` of `config.json`.
    model_type: &'static str,
    /// The class in `transformers`.
    class: &'static str,
    tensors: &'static [(&'static str, &'static str, Layout)],
    config: fn(&Metadata<'_>, &mut Map<String, Json>) -> Result<(), Problem>,
}

/// How a tensor in GGUF differs from the one in Hugging Face, beyond its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Not at all.
    Same,
    /// Rows of every query head are in the order that rotates neighbours, not halves.
    RotaryQuery,
    /// As `RotaryQuery`, for key heads.
    RotaryKey,
    /// Query, key and value rows are apart, not together a head.
    FusedHeads,
    /// One is added.
    PlusOne,
    /// Transposed.
    Transposed,
    /// All experts are one tensor.
    Experts,
}

/// Every architecture that is read.
static ARCHITECTURES: &[&Architecture] = &[
    &llama::LLAMA,
    &llama::MIXTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN3MOE,
    &phi3::PHI3,
    &gemma2::GEMMA2,
    &gpt2::GPT2,
    &gptneox::GPTNEOX,
];

/// Tensors that hold what the configuration says, or what is computed.
const NOT_WEIGHTS: &[&str] = &["rope_freqs", "rope_factors_long", "rope_factors_short", "blk.*.attn_rot_embd"];

/// The architecture of a file.
pub(crate) fn of(metadata: &Metadata<'_>) -> Result<&'static Architecture, Problem> {
    let has_experts = metadata.count("expert_count")?.unwrap_or_default() > 0;
    let name = metadata.architecture();
    let mut known: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    known.dedup();
    let found = ARCHITECTURES.iter().filter(|architecture| architecture.name == name);
    let (mut found, with_name) = (found.clone().filter(|a| a.has_experts == has_experts), found.count());
    found.next().copied().ok_or_else(|| match with_name {
        0 => Problem::new(format!(
            "holds the architecture {name:?}, which is not supported as GGUF (supported are {}); take the model's Hugging \
             Face folder if there is one",
            known.join(", ")
        )),
        _ => Problem::new(format!("key \"{name}.expert_count\" does not go with the architecture {name:?}")),
    })
}

/// Where a tensor of the file goes: its name in Hugging Face, with `#` still for an expert's number, and its layout.
/// Nothing for a tensor that is not a weight.
pub(crate) fn place(architecture: &Architecture, stored: &str) -> Result<Option<(String, Layout)>, Problem> {
    let suffix = [".weight", ".bias"].into_iter().find(|suffix| stored.ends_with(suffix)).unwrap_or_default();
    let stem = stored.strip_suffix(suffix).unwrap_or(stored);
    let (pattern, layer) = match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, rest)) if is_number(layer) => (format!("blk.*.{rest}"), layer),
        _ => (stem.to_string(), ""),
    };
    if NOT_WEIGHTS.contains(&pattern.as_str()) {
        return Ok(None);
    }
    let row = architecture.tensors.iter().find(|(gguf, _, _)| *gguf == pattern && !suffix.is_empty());
    let Some((_, name, layout)) = row else {
        let text = format!("is not one that the architecture {:?} has", architecture.name);
        return Err(Problem::new(text).of_tensor(stored));
    };
    Ok(Some((format!("{}{suffix}", name.replace('*', layer)), *layout)))
}

/// A layer's number as a writer would write it.
fn is_number(text: &str) -> bool {
    text.len() <= 6 && text.parse::<u32>().is_ok_and(|number| number.to_string() == text)
}

/// `config.json` as the model's Hugging Face folder would have it, as far as the file says.
pub(crate) fn config(metadata: &Metadata<'_>) -> Result<Map<String, Json>, Problem> {
    let architecture = of(metadata)?;
    let mut config = Map::new();
    config.insert("architectures".to_string(), json!([architecture.class]));
    config.insert("model_type".to_string(), json!(architecture.model_type));
    config.insert("vocab_size".to_string(), json!(rows_of(metadata, "token_embd.weight")?));
    config.insert("tie_word_embeddings".to_string(), json!(!metadata.has_tensor("output.weight")));
    (architecture.config)(metadata, &mut config)?;
    for (name, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = super::metadata::count(metadata.gguf, &format!("tokenizer.ggml.{key}_token_id"))? {
            config.insert(name.to_string(), json!(id));
        }
    }
    Ok(config)
}

/// How many rows a table has.
fn rows_of(metadata: &Metadata<'_>, name: &str) -> Result<usize, Problem> {
    let rows = metadata.gguf.tensor_shape(name).and_then(<[usize]>::first).copied();
    rows.ok_or_else(|| Problem::new("is missing; take a whole copy of the file").of_tensor(name))
}

/// What every decoder with rotary embedding and RMS norms says: sizes, heads, rotation.
fn decoder(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    let heads = metadata.needed("attention.head_count")?;
    let hidden = metadata.needed("embedding_length")?;
    let mut set = |name: &str, value: Json| config.insert(name.to_string(), value);
    set("hidden_size", json!(hidden));
    set("intermediate_size", json!(metadata.needed("feed_forward_length")?));
    set("num_hidden_layers", json!(metadata.needed("block_count")?));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(metadata.count("attention.head_count_kv")?.unwrap_or(heads)));
    set("max_position_embeddings", json!(metadata.needed("context_length")?));
    let epsilon = metadata.number("attention.layer_norm_rms_epsilon")?;
    set("rms_norm_eps", epsilon.ok_or_else(|| Problem::new("says no epsilon of its norms; convert the model again"))?);
    set("rope_theta", metadata.number("rope.freq_base")?.unwrap_or_else(|| json!(10_000.0)));
    Ok(())
}

/// The width of a head.
fn head_width(metadata: &Metadata<'_>) -> Result<u64, Problem> {
    match metadata.count("attention.key_length")? {
        Some(width) if width > 0 => Ok(width),
        _ => Ok(metadata.needed("embedding_length")? / metadata.needed("attention.head_count")?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_checkpoint() {
        let place = |stored| place(&llama::LLAMA, stored).ok().flatten();
        assert_eq!(place("output_norm.weight"), Some(("model.norm.weight".to_string(), Layout::Same)));
        let query = Some(("model.layers.17.self_attn.q_proj.weight".to_string(), Layout::RotaryQuery));
        assert_eq!(place("blk.17.attn_q.weight"), query);
        assert_eq!(place("rope_freqs.weight"), None);
    }

    #[test]
    fn a_tensor_that_no_row_knows_is_an_error() {
        for stored in ["blk.0.attn_sub_norm.weight", "blk.00.attn_q.weight", "blk.0.attn_q", "blk.x.attn_q.weight", ""]
        {
            assert!(place(&llama::LLAMA, stored).is_err(), "{stored}");
        }
    }

    #[test]
    fn no_table_names_a_tensor_twice() {
        for architecture in ARCHITECTURES {
            for (at, (gguf, name, _)) in architecture.tensors.iter().enumerate() {
                let earlier = architecture.tensors.iter().take(at);
                assert!(!earlier.clone().any(|(other, ..)| other == gguf), "{gguf}");
                assert!(!earlier.clone().any(|(_, other, _)| other == name), "{name}");
            }
        }
    }
}
