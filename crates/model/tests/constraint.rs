//! Outputs kept to schemas, expressions and grammars, drawn at random from what is allowed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemill_model::generation::{
    Constraint, ConstraintCompiler, ConstraintError, ConstraintLimits, ConstraintSpec, Sampler, SamplingConfig,
    TextStream, verify,
};
use tokenizers::Tokenizer;

/// Every byte, and the texts that a few merges make of them.
fn tokenizer(byte_level: bool) -> (Tokenizer, usize, u32) {
    let own = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = (0x100_u32..).filter_map(char::from_u32);
    let mut vocabulary: Vec<String> = (0..=u8::MAX)
        .map(|byte| match byte_level {
            true if own(byte) => char::from(byte).to_string(),
            true => others.next().unwrap().to_string(),
            false => format!("<0x{byte:02X}>"),
        })
        .collect();
    if !byte_level {
        vocabulary.extend((' '..='~').filter(|&letter| letter != ' ').map(String::from));
        vocabulary.push("▁".to_string());
    }
    let space = if byte_level { "Ġ" } else { "▁" };
    let mut merges = Vec::new();
    for (left, right) in [("t", "r"), ("u", "e"), ("tr", "ue"), ("\"", ":"), ("n", "a"), ("na", "m"), ("nam", "e")] {
        merges.push(json!([left, right]));
        vocabulary.push(format!("{left}{right}"));
    }
    merges.push(json!([space, "{"]));
    vocabulary.push(format!("{space}{{"));
    let end = vocabulary.len();
    vocabulary.push("<|end|>".to_string());
    let vocab: serde_json::Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let (splitter, decoder) = match byte_level {
        true => {
            let step = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
            (step.clone(), step)
        }
        false => (
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}),
            json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
        ),
    };
    let json = json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": end, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": splitter, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": !byte_level, "vocab": vocab,
            "merges": merges}});
    // The model has a few more logits than tokens, as padded models have.
    (Tokenizer::from_bytes(json.to_string()).unwrap(), vocabulary.len() + 5, end as u32)
}

struct Model {
    tokenizer: Tokenizer,
    vocabulary: usize,
    end: u32,
    compiler: ConstraintCompiler,
}

fn model(byte_level: bool) -> Model {
    let (tokenizer, vocabulary, end) = tokenizer(byte_level);
    let limits = ConstraintLimits::default();
    let compiler = ConstraintCompiler::new(&tokenizer, vocabulary, &[end], limits).unwrap();
    Model { tokenizer, vocabulary, end, compiler }
}

impl Model {
    /// A text drawn at random from what is allowed; ends are somewhat likely, long texts are cut.
    fn text(&self, constraint: &mut Constraint, seed: u64, skip_forced: bool) -> Option<String> {
        let config = SamplingConfig { seed: Some(seed), ..SamplingConfig::default() };
        let mut sampler = Sampler::new(&config, &[], &[self.end], self.vocabulary).unwrap();
        let mut stream = TextStream::new(&self.tokenizer);
        let mut text = String::new();
        while sampler.generated() < 400 {
            if skip_forced {
                for token in constraint.forced() {
                    constraint.accept(token).unwrap();
                    sampler.accept(token);
                    text.push_str(&stream.push(token).unwrap());
                }
            }
            if constraint.is_finished() {
                return Some(text + &stream.finish().unwrap());
            }
            // Letters and digits rather than the rest, and the end and what closes most of all.
            let mut logits = vec![0.0_f32; self.vocabulary];
            for (token, logit) in logits.iter_mut().enumerate() {
                let name = self.tokenizer.id_to_token(token as u32).unwrap_or_default();
                *logit += f32::from(u8::from(name.chars().all(|letter| letter.is_ascii_alphanumeric()))) * 2.0;
                *logit += f32::from(u8::from(["\"", "}", "]", "<|end|>", ","].contains(&name.as_str()))) * 6.0;
            }
            let token = sampler.choose_allowed(&mut logits, Some(constraint.allowed().unwrap())).unwrap().token;
            constraint.accept(token).unwrap();
            sampler.accept(token);
            if token == self.end {
                assert!(constraint.is_met());
                return Some(text + &stream.finish().unwrap());
            }
            text.push_str(&stream.push(token).unwrap());
        }
        None
    }
}

#[test]
fn json_fits_its_schema_and_forced_tokens_change_nothing() {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["name", "ok", "kind", "list"],
        "properties": {"name": {"type": "string", "maxLength": 12}, "ok": {"type": "boolean"},
            "kind": {"enum": ["mill", "tide"]}, "list": {"type": "array", "items": {"type": "integer", "maximum": 99},
            "maxItems": 4}}});
    for byte_level in [true, false] {
        let model = model(byte_level);
        let mut finished = 0;
        for seed in 0..20 {
            let mut constraint = model.compiler.compile(&ConstraintSpec::JsonSchema(schema.clone())).unwrap();
            let text = model.text(&mut constraint.clone(), seed, false);
            assert_eq!(text, model.text(&mut constraint, seed, true));
            let Some(text) = text else { continue };
            finished += 1;
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(value["name"].as_str().unwrap().chars().count() <= 12 && value["ok"].is_boolean(), "{text}");
            assert!(["mill", "tide"].contains(&value["kind"].as_str().unwrap()), "{text}");
            assert!(value["list"].as_array().unwrap().iter().all(|item| item.as_i64().unwrap() <= 99), "{text}");
        }
        assert!(finished >= 10, "{finished} of 20 texts came to an end");
    }
}

#[test]
fn expressions_and_grammars_hold() {
    let model = model(true);
    let mut date =
        model.compiler.compile(&ConstraintSpec::Regex("[0-9]{4}-(0[1-9]|1[0-2]) (é|漢)!".to_string())).unwrap();
    let text = model.text(&mut date, 1, false).unwrap();
    let (year, rest) = text.split_at(5);
    assert!(year.chars().take(4).all(|digit| digit.is_ascii_digit()) && year.ends_with('-'), "{text}");
    assert!(rest.ends_with(" é!") || rest.ends_with(" 漢!"), "{text}");
    let grammar = "start: sum\nsum: number (\"+\" number)*\nnumber: /[1-9][0-9]?/ | \"(\" sum \")\"";
    let mut found = 0;
    for seed in 0..10 {
        let mut sum = model.compiler.compile(&ConstraintSpec::Grammar(grammar.to_string())).unwrap();
        let Some(text) = model.text(&mut sum, seed, false) else { continue };
        found += 1;
        assert!(text.chars().all(|letter| letter.is_ascii_digit() || "+()".contains(letter)), "{text}");
        assert_eq!(text.matches('(').count(), text.matches(')').count(), "{text}");
    }
    assert!(found > 0);
    let object = model.compiler.compile(&ConstraintSpec::JsonObject).unwrap();
    assert!(
        (0..20)
            .filter_map(|seed| model.text(&mut object.clone(), seed, false))
            .all(|text| { serde_json::from_str::<serde_json::Map<String, Value>>(&text).is_ok() })
    );
}

#[test]
fn drafts_are_verified_within_the_constraint() {
    let model = model(true);
    let spec = ConstraintSpec::Regex("(true|name)+!".to_string());
    let mut constraint = model.compiler.compile(&spec).unwrap();
    let mut sampler = Sampler::new(&SamplingConfig::greedy(), &[], &[model.end], model.vocabulary).unwrap();
    let token = |text: &str| model.tokenizer.token_to_id(text).unwrap();
    let drafts = [token("true"), token("name"), token("x")];
    let mut logits = vec![0.0_f32; 4 * model.vocabulary];
    for (row, draft) in drafts.iter().enumerate() {
        logits[row * model.vocabulary + *draft as usize] = 5.0;
    }
    let verified = verify(&mut sampler, Some(&mut constraint), &drafts, &mut logits, |_, _| false).unwrap();
    assert_eq!((verified.accepted, verified.chosen.len()), (2, 3));
    assert_eq!(verified.chosen[2].token, token("!"));
    assert!(constraint.is_finished());
}

#[test]
fn what_cannot_be_met_is_too_big_or_is_no_grammar_is_refused_in_time() {
    let model = model(true);
    let start = Instant::now();
    let refused = |spec: ConstraintSpec| match model.compiler.compile(&spec) {
        Ok(_) => panic!("{:.200} is accepted", format!("{spec:?}")),
        Err(error) => error,
    };
    let schema = |json: Value| ConstraintSpec::JsonSchema(json);
    let grammar = |source: &str| ConstraintSpec::Grammar(source.to_string());

    for impossible in [
        schema(json!({"type": "integer", "minimum": 5, "maximum": 3})),
        schema(json!(false)),
        schema(json!({"type": "object", "required": ["a"], "properties": {"a": false}})),
        ConstraintSpec::Regex("a[^\\s\\S]".to_string()),
    ] {
        let error = refused(impossible.clone());
        assert!(matches!(error, ConstraintError::Unsatisfiable { .. }), "{impossible:?}: {error:?}");
    }
    for wrong in [
        schema(json!({"type": "strange"})),
        schema(json!({"$ref": "http://example.com/schema.json"})),
        ConstraintSpec::Regex("(".to_string()),
        grammar("start: missing"),
        grammar("no rules here"),
    ] {
        let error = refused(wrong.clone());
        assert!(matches!(error, ConstraintError::Invalid { .. }), "{wrong:?}: {error:?}");
    }
    let mut deep = json!({"type": "string"});
    for _ in 0..100 {
        deep = json!({"type": "array", "items": deep});
    }
    let chain: String = (0..20_000).map(|rule| format!("r{rule}: \"a\" r{}\n", rule + 1)).collect();
    for big in [
        schema(deep),
        schema(json!({"enum": (0..60_000).map(|number| format!("value {number}")).collect::<Vec<String>>()})),
        ConstraintSpec::Regex("x".repeat(1 << 20)),
        grammar(&format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000))),
        grammar(&format!("start: r0\n{chain}r20000: \"b\"\n")),
    ] {
        let error = refused(big.clone());
        assert!(matches!(error, ConstraintError::TooBig { .. }), "{error:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn steps_take_bounded_work_whatever_the_expression() {
    let model = model(true);
    for source in ["((a{1,900}b?){1,900}c?){1,900}", "(a|b)*a(a|b){900}", "(a?){5000}a{5000}", "(.*a.*){50}"] {
        let start = Instant::now();
        let Ok(mut constraint) = model.compiler.compile(&ConstraintSpec::Regex(source.to_string())) else { continue };
        let token = model.tokenizer.token_to_id("a").unwrap();
        for _ in 0..200 {
            let step = constraint.allowed().map(|_| ()).and_then(|()| constraint.accept(token));
            if let Err(error) = step {
                assert!(matches!(error, ConstraintError::TooBig { .. }), "{source}: {error}");
                break;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{source}: {:?}", start.elapsed());
    }
}

#[test]
fn a_token_that_is_not_allowed_is_an_error() {
    let model = model(true);
    let mut constraint = model.compiler.compile(&ConstraintSpec::Regex("[0-9]".to_string())).unwrap();
    let token = |text: &str| model.tokenizer.token_to_id(text).unwrap();
    assert!(matches!(constraint.accept(token("x")), Err(ConstraintError::Left { .. })));
    constraint.accept(token("7")).unwrap();
    assert!(constraint.is_finished() && constraint.is_met());
    assert!(constraint.allowed().unwrap().allows(model.end));
}
