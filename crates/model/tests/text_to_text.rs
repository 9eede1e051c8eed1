//! Summaries and translations as `transformers` gives them, from the stored checkpoints; see
//! `fixtures/make_text_to_text.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tidemill_model::engine::EngineConfig;
use tidemill_model::generation::{ConstraintSpec, FinishReason, SamplingConfig};
use tidemill_model::tasks::generation::{GenerateRequest, Generator, GeneratorError, GeneratorOptions, Input};
use tidemill_model::tasks::text_to_text::{TextToText, TextToTextError, TextToTextOptions};

#[derive(Deserialize)]
struct Expected {
    texts: Vec<String>,
    sets: Vec<Set>,
}

#[derive(Deserialize)]
struct Set {
    checkpoint: String,
    config: Map<String, Value>,
    generation_config: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    languages: Option<[String; 2]>,
    options: Options,
    answers: Vec<String>,
    read: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    max_tokens: Option<usize>,
    beams: Option<usize>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A copy of a stored checkpoint with keys added to its configurations.
fn checkpoint(name: &str, config: &Map<String, Value>, generation_config: &Map<String, Value>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join("checkpoints").join(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    for (file, more) in [("config.json", config), ("generation_config.json", generation_config)] {
        let file = folder.path().join(file);
        let mut keys: Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        keys.extend(more.clone());
        std::fs::write(&file, serde_json::to_string(&keys).unwrap()).unwrap();
    }
    folder
}

fn open(name: &str) -> TextToText {
    let folder = checkpoint(name, &Map::new(), &Map::new());
    TextToText::open(folder.path(), &GeneratorOptions::default()).unwrap()
}

#[test]
fn answers_are_those_of_transformers() {
    let expected = std::fs::read_to_string(fixtures().join("text_to_text.json")).unwrap();
    let expected: Expected = serde_json::from_str(&expected).unwrap();
    let texts: Vec<&str> = expected.texts.iter().map(String::as_str).collect();
    for set in &expected.sets {
        let folder = checkpoint(&set.checkpoint, &set.config, &set.generation_config);
        // Two may wait: the third text is handed over when there is room.
        let engine = EngineConfig { max_waiting: 2, ..EngineConfig::default() };
        let options = GeneratorOptions { engine, ..GeneratorOptions::default() };
        let mut model = TextToText::open(folder.path(), &options).unwrap();
        for (i, case) in set.cases.iter().enumerate() {
            let Options { max_tokens, beams } = case.options;
            let options = TextToTextOptions { max_tokens, beams, ..TextToTextOptions::default() };
            let answers = match &case.languages {
                None => model.summarise(&texts, &options),
                Some([source, target]) => model.translate(&texts, source, target, &options),
            };
            let answers = answers.unwrap();
            let written: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
            assert_eq!(written, case.answers, "{}, case {i}", set.checkpoint);
            let read: usize = answers.iter().map(|answer| answer.usage.prompt_tokens).sum();
            assert_eq!(read, case.read, "{}, case {i}", set.checkpoint);
        }
    }
}

#[test]
fn what_is_wrong_is_named_before_anything_is_read() {
    let options = TextToTextOptions { max_tokens: Some(2), ..TextToTextOptions::default() };
    let mut languages = open("m2m_100");
    let mut problem = |texts: &[&str], source: &str, target: &str| {
        languages.translate(texts, source, target, &options).unwrap_err().to_string()
    };
    assert!(problem(&["a"], "", "fr_XX").starts_with("text 0: target_language: is not one of the model's languages"));
    assert!(problem(&["a"], "en_XY", "").contains("did you mean \"en_XX\"?"));
    assert_eq!(problem(&["a", ""], "", "de_DE"), "text 1: text: it has no tokens; give at least one word");

    // 96 positions.
    let long = "The tide comes in twice a day. ".repeat(20);
    assert!(problem(&[&long], "", "de_DE").contains("the model reads at most 96"));
    let cut = TextToTextOptions { truncate: true, ..options.clone() };
    let answers = languages.translate(&[&long], "", "de_DE", &cut).unwrap();
    assert_eq!(answers[0].usage.prompt_tokens, 96);

    let mut bart = open("bart");
    let problem = bart.translate(&["a"], "en", "de", &options).unwrap_err().to_string();
    assert!(problem.contains("source_language: cannot be chosen"), "{problem}");
    let problem = open("t5").translate(&["a"], "en", "", &options).unwrap_err().to_string();
    assert!(problem.contains("target_language: must name a language"), "{problem}");
    let many = TextToTextOptions { beams: Some(65), ..options };
    assert!(bart.summarise(&["a"], &many).unwrap_err().to_string().contains("\"beams\""));
    let folder = checkpoint("llama_3", &Map::new(), &Map::new());
    let refused = TextToText::open(folder.path(), &GeneratorOptions::default()).unwrap_err();
    assert!(matches!(refused, GeneratorError::NotTextToText), "{refused}");
}

#[test]
fn a_set_flag_ends_the_work_and_the_model_is_free_again() {
    let mut model = open("bart");
    let cancelled = Arc::new(AtomicBool::new(true));
    let options = TextToTextOptions { cancelled: Some(Arc::clone(&cancelled)), ..TextToTextOptions::default() };
    assert!(matches!(model.summarise(&["The tide"; 3], &options), Err(TextToTextError::Cancelled)));
    cancelled.store(false, Ordering::Relaxed);
    let options = TextToTextOptions { max_tokens: Some(3), ..options };
    assert_eq!(model.summarise(&["The tide"], &options).unwrap().len(), 1);
}

#[test]
fn a_prompt_is_a_source_and_its_answer_comes_piece_by_piece() {
    let folder = checkpoint("bart", &Map::new(), &Map::new());
    let mut generator = Generator::open(folder.path(), &GeneratorOptions::default()).unwrap();
    let preparation = generator.preparation();
    assert!(preparation.is_text_to_text() && !preparation.has_chat_template());
    let sampling = SamplingConfig { max_tokens: Some(12), n: 2, ..preparation.defaults().clone() };
    let request = GenerateRequest { sampling, ..GenerateRequest::of(Input::Text("The tide".to_string())) };
    generator.submit(preparation.prepare(&request).unwrap()).unwrap();
    let (mut pieces, mut texts, mut usage, mut ends) = (0, [String::new(), String::new()], None, 0);
    while !generator.is_idle() {
        for output in generator.step().unwrap() {
            pieces += usize::from(!output.text.is_empty());
            texts[output.sample].push_str(&output.text);
            ends += usize::from(output.finish.is_some_and(|finish| finish != FinishReason::Error));
            usage = output.usage.or(usage);
        }
    }
    assert!(pieces > 4 && ends == 2, "{pieces} pieces, {ends} ends");
    assert_eq!(texts[0], texts[1], "greedy");
    let usage = usage.unwrap();
    assert_eq!(usage.prompt_tokens, preparation.count_tokens("The tide").unwrap());
    assert_eq!(usage.completion_tokens, 24);

    // BART's forced first token is no part of what a format says.
    let format = Some(ConstraintSpec::Regex("[0-9]{3}".to_string()));
    let request = GenerateRequest { format, ..GenerateRequest::of(Input::Text("The tide".to_string())) };
    generator.submit(preparation.prepare(&request).unwrap()).unwrap();
    let mut text = String::new();
    while !generator.is_idle() {
        generator.step().unwrap().iter().for_each(|output| text.push_str(&output.text));
    }
    assert!(text.len() == 3 && text.bytes().all(|digit| digit.is_ascii_digit()), "{text:?}");
}
