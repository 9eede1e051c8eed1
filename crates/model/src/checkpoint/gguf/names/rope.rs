//! How positions are stretched, as `rope_scaling` of `config.json`. Three places in a GGUF file say so: keys, the tensor
//! `rope_freqs.weight` (Llama 3), and the tensors `rope_factors_long.weight` and `rope_factors_short.weight` (Phi-3).

use std::f64::consts::TAU;

use serde_json::{Map, Value as Json, json};

use super::Keys;
use crate::checkpoint::gguf::metadata::{Metadata, shortest};
use crate::checkpoint::gguf::problem::Problem;
use crate::config::Config;
use crate::error::ModelError;

/// Adds `rope_scaling` when the file says that positions are stretched.
pub(super) fn scaling(metadata: &Metadata<'_>, config: &mut Map<String, Json>) -> Result<(), Problem> {
    let scaling = match factors(metadata, "rope_freqs.weight")? {
        Some(factors) => by_frequency(&factors, config),
        None => by_keys(metadata)?,
    };
    if let Some(scaling) = scaling {
        config.insert("rope_scaling".to_string(), scaling);
    }
    Ok(())
}

/// A tensor with one divisor a frequency.
fn factors(metadata: &Metadata<'_>, tensor: &str) -> Result<Option<Vec<f32>>, Problem> {
    const MOST: usize = 1 << 16;
    let Some(info) = metadata.gguf.tensor(tensor) else {
        return Ok(None);
    };
    let count = info.shape.iter().product();
    if count > MOST {
        return Err(Problem::new(format!("has {count} numbers, more than frequencies there can be")).of_tensor(tensor));
    }
    let mut factors = vec![0.0; count];
    let bytes = metadata.gguf.tensor_bytes(info).map_err(|problem| problem.of_tensor(tensor))?;
    info.kind.dequantise(&bytes, count, |row| row, &mut factors).map_err(|problem| problem.of_tensor(tensor))?;
    if !factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
        return Err(Problem::new("must hold positive numbers").of_tensor(tensor));
    }
    Ok(Some(factors))
}

/// What every Llama since 3.1 was stretched by, but for the factor; `config.json` says it, GGUF only its result.
const LLAMA3: (f64, f64, f64) = (1.0, 4.0, 8192.0);

fn by_frequency(factors: &[f32], config: &Map<String, Json>) -> Option<Json> {
    if factors.iter().all(|factor| *factor == 1.0) {
        return None;
    }
    let theta = config.get("rope_theta").and_then(Json::as_f64).unwrap_or(10_000.0);
    let factor = factors.iter().copied().fold(1.0_f32, f32::max);
    let expected = llama3_factors(factor.into(), theta, factors.len(), LLAMA3);
    let agree = factors.iter().zip(expected).all(|(factor, e)| (f64::from(*factor) - e).abs() <= 1e-4 * e);
    let (low, high, trained) = LLAMA3;
    if agree {
        return Some(json!({
            "rope_type": "llama3", "factor": shortest(factor), "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": trained as u64,
        }));
    }
    // Any other divisors: the same for short and long texts, and no change of the attention's scale.
    let list: Vec<Json> = factors.iter().map(|factor| shortest(*factor)).collect();
    let context = config.get("max_position_embeddings").cloned();
    Some(json!({
        "rope_type": "longrope", "short_factor": list, "long_factor": list, "attention_factor": 1.0, "factor": 1.0,
        "original_max_position_embeddings": context,
    }))
}

/// The divisors that `rope_type` "llama3" means: none for short waves, the whole factor for long ones, between in between.
fn llama3_factors(
    factor: f64,
    theta: f64,
    count: usize,
    (low, high, trained): (f64, f64, f64),
) -> impl Iterator<Item = f64> {
    (0..count).map(move |at| {
        let wave = TAU * theta.powf(at as f64 / count as f64);
        if wave < trained / high {
            1.0
        } else if wave > trained / low {
            factor
        } else {
            let smooth = (trained / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    })
}

fn by_keys(metadata: &Metadata<'_>) -> Result<Option<Json>, Problem> {
    let long = factors(metadata, "rope_factors_long.weight")?;
    let short = factors(metadata, "rope_factors_short.weight")?;
    if let (Some(long), Some(short)) = (long, short) {
        let list = |factors: &[f32]| -> Vec<Json> { factors.iter().map(|factor| shortest(*factor)).collect() };
        let mut scaling = json!({"rope_type": "longrope", "type": "longrope", "long_factor": list(&long), "short_factor": list(&short)});
        if let Some(attention) = metadata.number("rope.scaling.attn_factor")? {
            set(&mut scaling, "attention_factor", attention);
        }
        return Ok(Some(scaling));
    }
    let old = metadata.number("rope.scale_linear")?;
    let kind = metadata.text("rope.scaling.type")?.unwrap_or(if old.is_some() { "linear" } else { "none" });
    let factor = metadata.number("rope.scaling.factor")?.or(old);
    let factor = factor.filter(|factor| factor.as_f64().is_some_and(|factor| factor > 0.0 && factor != 1.0));
    match (kind, factor) {
        ("none", _) | ("linear" | "yarn", None) => Ok(None),
        ("linear", Some(factor)) => Ok(Some(json!({"rope_type": "linear", "type": "linear", "factor": factor}))),
        ("yarn", Some(factor)) => yarn(metadata, factor).map(Some),
        _ => Err(Problem::new(format!(
            "key \"{}.rope.scaling.type\" is {kind:?}, which is not known or whose factors are not in the file",
            metadata.architecture()
        ))),
    }
}

fn yarn(metadata: &Metadata<'_>, factor: Json) -> Result<Json, Problem> {
    let mut scaling = json!({"rope_type": "yarn", "type": "yarn", "factor": factor});
    if let Some(trained) = metadata.count("rope.scaling.original_context_length")? {
        set(&mut scaling, "original_max_position_embeddings", json!(trained));
    }
    for (name, key) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
        if let Some(value) = metadata.number(&format!("rope.scaling.{key}"))? {
            set(&mut scaling, name, value);
        }
    }
    Ok(scaling)
}

fn set(object: &mut Json, name: &str, value: Json) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name.to_string(), value);
    }
}

/// Writes how positions are stretched, of heads of this width: the other direction of [`scaling`].
pub(super) fn keys(config: Config, width: i64, keys: &mut Keys<'_>) -> Result<(), ModelError> {
    let Some(scaling) = config.section("rope_scaling") else {
        return Ok(());
    };
    let kind = scaling.text_or("rope_type", scaling.text_or("type", "default")?)?;
    let factor = || scaling.number("factor")?.filter(|factor| *factor > 0.0).ok_or_else(|| scaling.refuse("no factor"));
    let positions = config.size_or("max_position_embeddings", 1)?;
    let outer = config.size_or("original_max_position_embeddings", positions)?;
    let trained = scaling.size_or("original_max_position_embeddings", outer)?;
    match kind {
        "default" => {}
        "linear" => {
            keys.text("rope.scaling.type", kind);
            keys.number("rope.scaling.factor", factor()?);
        }
        "llama3" => {
            let bounds = (
                scaling.number_or("low_freq_factor", LLAMA3.0)?,
                scaling.number_or("high_freq_factor", LLAMA3.1)?,
                trained as f64,
            );
            let theta = config.number_or("rope_theta", 10_000.0)?;
            let pairs = usize::try_from(width / 2).unwrap_or_default();
            let factors = llama3_factors(factor()?, theta, pairs, bounds).map(|factor| factor as f32).collect();
            keys.lists.push(("rope_freqs.weight", factors));
        }
        "yarn" => {
            if let Some(name) =
                ["attention_factor", "mscale", "mscale_all_dim"].iter().find(|n| scaling.get(n).is_some())
            {
                return Err(
                    config.refuse(format!("GGUF has no place for YaRN's \"{name}\"; keep the safetensors form"))
                );
            }
            keys.text("rope.scaling.type", kind);
            keys.number("rope.scaling.factor", factor()?);
            keys.count("rope.scaling.original_context_length", trained);
            for (name, key) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                if let Some(value) = scaling.number(name)? {
                    keys.number(&format!("rope.scaling.{key}"), value);
                }
            }
        }
        "longrope" | "su" => {
            for (name, tensor) in
                [("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")]
            {
                let factors = scaling.numbers(name)?.unwrap_or_default();
                keys.lists.push((tensor, factors.into_iter().map(|factor| factor as f32).collect()));
            }
            keys.count("rope.scaling.original_context_length", trained);
            let stretched = scaling.number_or("factor", positions as f64 / trained as f64)?;
            let usual = if stretched <= 1.0 { 1.0 } else { (1.0 + stretched.ln() / (trained as f64).ln()).sqrt() };
            keys.number("rope.scaling.attn_factor", scaling.number_or("attention_factor", usual)?);
        }
        other => {
            return Err(config
                .refuse(format!("GGUF has no place for the rotary scaling \"{other}\"; keep the safetensors form")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_factors_are_known_again() {
        let factors: Vec<f32> = llama3_factors(32.0, 500_000.0, 64, LLAMA3).map(|factor| factor as f32).collect();
        let config = json!({"rope_theta": 500_000.0, "max_position_embeddings": 131_072});
        let scaling = by_frequency(&factors, config.as_object().unwrap_or(&Map::new())).unwrap_or_default();
        assert_eq!((&scaling["rope_type"], &scaling["factor"]), (&json!("llama3"), &json!(32.0)));
        let other: Vec<f32> = factors.iter().map(|factor| factor.sqrt()).collect();
        let scaling = by_frequency(&other, &Map::new()).unwrap_or_default();
        assert_eq!(scaling["rope_type"], "longrope");
        assert_eq!(scaling["long_factor"][63], shortest(other[63]));
    }
}
