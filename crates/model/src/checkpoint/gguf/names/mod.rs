//! What GGUF calls things and what Hugging Face calls them, in both directions: tensors and configuration, one file a family. A table row is
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
use super::writer::Header;
use crate::config::Config;
use crate::error::ModelError;

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
    /// Tables of its tensors: its own, and those that families share.
    tensors: &'static [&'static [Row]],
    config: fn(&Metadata<'_>, &mut Map<String, Json>) -> Result<(), Problem>,
    keys: fn(Config, &mut Keys<'_>) -> Result<(), ModelError>,
}

/// A tensor's name in GGUF, in Hugging Face, and how it is laid out.
type Row = (&'static str, &'static str, Layout);

/// The tensors around the layers and their norms, where a norm stands before each part.
const DECODER: &[Row] = &[
    ("token_embd", "model.embed_tokens", Layout::Same),
    ("output_norm", "model.norm", Layout::Same),
    ("output", "lm_head", Layout::Same),
    ("blk.*.attn_norm", "model.layers.*.input_layernorm", Layout::Same),
    ("blk.*.ffn_norm", "model.layers.*.post_attention_layernorm", Layout::Same),
];

/// Attention without its queries and keys, which some families lay out anew.
const VALUE_AND_OUTPUT: &[Row] = &[
    ("blk.*.attn_v", "model.layers.*.self_attn.v_proj", Layout::Same),
    ("blk.*.attn_output", "model.layers.*.self_attn.o_proj", Layout::Same),
];

const QUERY_AND_KEY: &[Row] = &[
    ("blk.*.attn_q", "model.layers.*.self_attn.q_proj", Layout::Same),
    ("blk.*.attn_k", "model.layers.*.self_attn.k_proj", Layout::Same),
];

const GATED_MLP: &[Row] = &[
    ("blk.*.ffn_gate", "model.layers.*.mlp.gate_proj", Layout::Same),
    ("blk.*.ffn_up", "model.layers.*.mlp.up_proj", Layout::Same),
    ("blk.*.ffn_down", "model.layers.*.mlp.down_proj", Layout::Same),
];

/// Where the keys of an architecture are written.
pub(crate) struct Keys<'a> {
    architecture: &'static str,
    pub(crate) header: &'a mut Header,
    /// Tensors that hold a part of the configuration, all F32 lists.
    pub(crate) lists: Vec<(&'static str, Vec<f32>)>,
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
    let row = architecture.rows().find(|(gguf, _, _)| *gguf == pattern && !suffix.is_empty());
    let Some((_, name, layout)) = row else {
        let text = format!("is not one that the architecture {:?} has", architecture.name);
        return Err(Problem::new(text).of_tensor(stored));
    };
    Ok(Some((format!("{}{suffix}", name.replace('*', layer)), *layout)))
}

impl Architecture {
    fn rows(&self) -> impl Iterator<Item = &'static Row> + Clone {
        self.tensors.iter().copied().flatten()
    }

    /// The architecture that a checkpoint of this `model_type` is written as.
    pub(crate) fn of_model_type(model_type: &str) -> Option<&'static Architecture> {
        // Mistral is Llama but for its window, which llama.cpp leaves away: see `context`.
        let known = if model_type == "mistral" { "llama" } else { model_type };
        ARCHITECTURES.iter().find(|architecture| architecture.model_type == known).copied()
    }

    /// Every `model_type` that can be written.
    pub(crate) fn model_types() -> Vec<&'static str> {
        let all = ARCHITECTURES.iter().map(|architecture| architecture.model_type);
        all.chain(std::iter::once("mistral")).collect()
    }

    /// Writes what `config.json` says, with `rope_scaling` and `rope_theta` as transformers 4 has them.
    pub(crate) fn write<'a>(&self, config: Config, header: &'a mut Header) -> Result<Keys<'a>, ModelError> {
        header.text("general.architecture", self.name);
        let mut keys = Keys { architecture: self.name, header, lists: Vec::new() };
        (self.keys)(config, &mut keys)?;
        Ok(keys)
    }

    /// Where a tensor of the checkpoint goes: its name in the file, the number of its expert, and its layout. Nothing for
    /// one that the architecture does not have.
    pub(crate) fn stored(&self, name: &str) -> Option<(String, Option<usize>, Layout)> {
        let (stem, suffix) = [".weight", ".bias"].into_iter().find_map(|end| Some((name.strip_suffix(end)?, end)))?;
        self.rows().find_map(|(gguf, pattern, layout)| {
            // The first GPT-2 files leave the outermost name away.
            let bare = pattern.strip_prefix("transformer.").unwrap_or(pattern);
            let (layer, expert) = numbers_in(stem, pattern).or_else(|| numbers_in(stem, bare))?;
            let gguf = layer.map_or_else(|| (*gguf).to_string(), |layer| gguf.replace('*', &layer.to_string()));
            Some((format!("{gguf}{suffix}"), expert, *layout))
        })
    }
}

/// The layer's and the expert's number in a name of this pattern.
fn numbers_in(name: &str, pattern: &str) -> Option<(Option<usize>, Option<usize>)> {
    let (mut layer, mut expert) = (None, None);
    let mut names = name.split('.');
    for part in pattern.split('.') {
        let found = names.next()?;
        match part {
            "*" => layer = Some(found).filter(|found| is_number(found)).map(str::parse)?.ok(),
            "#" => expert = Some(found).filter(|found| is_number(found)).map(str::parse)?.ok(),
            same if same == found => {}
            _ => return None,
        }
    }
    names.next().is_none().then_some((layer, expert))
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn count(&mut self, key: &str, value: i64) {
        // Sizes were checked to be small when they were read.
        self.header.count(&self.key(key), u32::try_from(value).unwrap_or_default());
    }

    fn number(&mut self, key: &str, value: f64) {
        self.header.number(&self.key(key), value as f32);
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.header.flag(&self.key(key), value);
    }

    fn text(&mut self, key: &str, value: &str) {
        self.header.text(&self.key(key), value);
    }
}

/// What every decoder with rotary embedding and RMS norms writes: the other direction of `decoder`. Gives a head's width.
fn decoder_keys(config: Config, keys: &mut Keys<'_>) -> Result<i64, ModelError> {
    let (hidden, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let width = config.size_or("head_dim", hidden / heads)?;
    keys.count("block_count", config.size("num_hidden_layers")?);
    keys.count("context_length", config.size("max_position_embeddings")?);
    keys.count("embedding_length", hidden);
    keys.count("feed_forward_length", config.size("intermediate_size")?);
    keys.count("attention.head_count", heads);
    keys.count("attention.head_count_kv", config.size_or("num_key_value_heads", heads)?);
    keys.count("attention.key_length", width);
    keys.count("attention.value_length", width);
    keys.number("attention.layer_norm_rms_epsilon", config.number_or("rms_norm_eps", 1e-6)?);
    keys.number("rope.freq_base", config.number_or("rope_theta", 10_000.0)?);
    let rotated = width as f64 * config.number_or("partial_rotary_factor", 1.0)?;
    keys.count("rope.dimension_count", rotated as i64);
    keys.count("vocab_size", config.size("vocab_size")?);
    Ok(width)
}

/// Where the file cannot say that attention has a window, the context ends with it: within it there is no difference.
fn end_context_with_window(config: Config, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    if config.get("sliding_window").is_some() {
        let window = config.size("sliding_window")?.min(config.size("max_position_embeddings")?);
        keys.count("context_length", window);
    }
    Ok(())
}

/// Refuses a configuration that differs where a GGUF file has no key.
fn must_be(config: Config, key: &str, expected: bool) -> Result<(), ModelError> {
    match config.flag_or(key, expected)? == expected {
        true => Ok(()),
        false => {
            Err(config.refuse(format!("GGUF has no place for \"{key}\": {}; keep the safetensors form", !expected)))
        }
    }
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
            for (at, (gguf, name, _)) in architecture.rows().enumerate() {
                let earlier = architecture.rows().take(at);
                assert!(!earlier.clone().any(|(other, ..)| other == gguf), "{gguf}");
                assert!(!earlier.clone().any(|(_, other, _)| other == name), "{name}");
            }
        }
    }
}
