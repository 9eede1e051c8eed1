//! Biases, penalties, cuts and beam search against `transformers`: stored results of `fixtures/make_generation.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use serde_json::{Value, json};
use tidemill_model::generation::{BeamSearch, Sampler, SamplingConfig};

fn fixtures() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/generation.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

/// Null is −∞.
fn scores(value: &Value) -> Vec<f32> {
    let score = |value: &Value| value.as_f64().map_or(f32::NEG_INFINITY, |score| score as f32);
    value.as_array().unwrap().iter().map(score).collect()
}

#[test]
fn processors_and_warpers_do_to_logits_what_transformers_does() {
    let fixtures = fixtures();
    let (vocabulary, eos) = (fixtures["vocabulary"].as_u64().unwrap() as usize, tokens(&json!([fixtures["eos"]])));
    for case in fixtures["processors"].as_array().unwrap() {
        let config: SamplingConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let mut sampler = Sampler::new(&config, &tokens(&case["prompt"]), &eos, vocabulary).unwrap();
        tokens(&case["output"]).into_iter().for_each(|token| sampler.accept(token));

        let mut processed = scores(&case["logits"]);
        sampler.process(&mut processed);
        for (token, (found, right)) in processed.iter().zip(scores(&case["processed"])).enumerate() {
            assert!(
                found == &right || (found - right).abs() < 2e-6 * right.abs().max(10.0),
                "{} {token}: {found} {right}",
                case["config"]
            );
        }

        let mut probabilities = vec![0.0; vocabulary];
        for (token, probability) in sampler.distribution(&mut scores(&case["logits"])).unwrap() {
            probabilities[token as usize] = probability;
        }
        for (token, (found, right)) in probabilities.iter().zip(scores(&case["probabilities"])).enumerate() {
            let near = (found - right).abs() <= 2e-6 + 2e-5 * right;
            assert!(near && (*found == 0.0) == (right == 0.0), "{} {token}: {found} {right}", case["config"]);
        }
    }
}

#[test]
fn beam_search_finds_what_transformers_finds() {
    let fixtures = fixtures();
    let beams = &fixtures["beams"];
    let vocabulary = beams["vocabulary"].as_u64().unwrap() as usize;
    let tables: Vec<Vec<Vec<f32>>> = beams["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rows| rows.as_array().unwrap().iter().map(scores).collect())
        .collect();
    for case in beams["cases"].as_array().unwrap() {
        let config = case["config"].as_object().unwrap();
        let eos = match config.get("eos_token_id") {
            None => vec![0],
            Some(Value::Array(_)) => tokens(&config["eos_token_id"]),
            Some(eos) => tokens(&json!([eos])),
        };
        let config = SamplingConfig::from_generation_config(config, None).unwrap();
        let (table, prompt) = (&tables[case["table"].as_u64().unwrap() as usize], tokens(&case["prompt"]));
        let max_tokens = case["max_tokens"].as_u64().unwrap() as usize;
        let mut search = BeamSearch::new(&config, &prompt, &eos, vocabulary, max_tokens).unwrap();
        let mut last = vec![*prompt.last().unwrap()];
        while !last.is_empty() {
            let mut logits: Vec<f32> = last.iter().flat_map(|&token| table[token as usize].clone()).collect();
            last = search.step(&mut logits, None).unwrap().iter().map(|beam| beam.token).collect();
        }
        let found = search.into_hypotheses();
        let right = case["hypotheses"].as_array().unwrap();
        assert_eq!(found.len(), right.len(), "{}", case["config"]);
        for (found, right) in found.iter().zip(right) {
            assert_eq!(found.tokens, tokens(&right["tokens"]), "{}", case["config"]);
            let score = right["score"].as_f64().unwrap();
            assert!((f64::from(found.score) - score).abs() <= 1e-4 * score.abs().max(1.0), "{}", case["config"]);
        }
    }
}
