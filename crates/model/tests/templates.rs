//! Chat templates of public models against `transformers`: stored texts of `fixtures/make_templates.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use serde_json::Value;
use tidemill_model::generation::{ChatInput, ChatTemplate, TemplateError, TemplateLimits, ToolFormat};

fn fixtures() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let fixtures = fixtures();
    let now = fixtures["now"].as_i64();
    let mut wrong = Vec::new();
    for fixture in fixtures["templates"].as_array().unwrap() {
        let (name, source) = (fixture["name"].as_str().unwrap(), fixture["template"].as_str().unwrap());
        let special = serde_json::from_value(fixture["special"].clone()).unwrap();
        let template = ChatTemplate::new(source, special, TemplateLimits::default()).unwrap();
        for (number, case) in fixture["cases"].as_array().unwrap().iter().enumerate() {
            let input = ChatInput {
                messages: serde_json::from_value(case["messages"].clone()).unwrap(),
                tools: serde_json::from_value(case["tools"].clone()).unwrap(),
                variables: serde_json::from_value(case["variables"].clone()).unwrap(),
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                now,
                ..ChatInput::default()
            };
            let rendered = template.render(&input);
            let right = match (&rendered, case["text"].as_str(), case["refused"].as_str()) {
                (Ok(text), Some(right), _) => text == right,
                (Err(TemplateError::Refused(message)), _, Some(right)) => message == right,
                (Err(TemplateError::Failed { .. }), None, None) => true,
                _ => false,
            };
            if !right {
                let expected = case["text"].as_str().or(case["refused"].as_str());
                wrong.push(format!("{name} {number}:\n{rendered:#?}\nshould be\n{expected:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn the_format_of_tool_calls_is_read_from_the_template() {
    let fixtures = fixtures();
    let found = fixtures["templates"].as_array().unwrap().iter().filter_map(|fixture| {
        let format = ToolFormat::detect(fixture["template"].as_str().unwrap());
        format.map(|format| (fixture["name"].as_str().unwrap(), format))
    });
    let right = [("mistral_3", ToolFormat::Mistral), ("qwen_2_5", ToolFormat::Hermes), ("qwen_3", ToolFormat::Hermes)];
    assert_eq!(found.collect::<Vec<_>>(), right);
}
