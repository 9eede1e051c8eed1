//! A generator with a draft model: the text of the model alone, from stored checkpoints, and refusals at opening.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use tidemill_model::engine::EngineState;
use tidemill_model::generation::SamplingConfig;
use tidemill_model::tasks::generation::{GenerateRequest, Generator, GeneratorError, GeneratorOptions, Input};

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(name)
}

fn open(name: &str, draft: Option<&str>) -> Result<Generator, GeneratorError> {
    Generator::open(
        &checkpoint(name),
        &GeneratorOptions { draft: draft.map(checkpoint), ..GeneratorOptions::default() },
    )
}

/// What a generator says to three prompts at once, and what it took.
fn says(mut generator: Generator, sampling: &SamplingConfig) -> (Vec<String>, EngineState) {
    let preparation = generator.preparation();
    let mut ids = Vec::new();
    for prompt in ["The tide", "comes in twice a day and", "A"] {
        let request =
            GenerateRequest { sampling: sampling.clone(), ..GenerateRequest::of(Input::Text(prompt.to_string())) };
        ids.push(generator.submit(preparation.prepare(&request).unwrap()).unwrap());
    }
    let mut texts = vec![String::new(); ids.len()];
    while !generator.is_idle() {
        for output in generator.step().unwrap() {
            assert_eq!(output.problem, None);
            let place = ids.iter().position(|id| *id == output.request).unwrap();
            texts.get_mut(place).unwrap().push_str(&output.text);
        }
    }
    (texts, generator.state())
}

#[test]
fn texts_are_those_without_a_draft() {
    let greedy = SamplingConfig { max_tokens: Some(40), ignore_eos: true, ..SamplingConfig::greedy() };
    let drawn = SamplingConfig { temperature: 0.7, seed: Some(11), ..greedy.clone() };
    for sampling in [greedy, drawn] {
        let (alone, plain) = says(open("llama_3", None).unwrap(), &sampling);
        let (drafted, state) = says(open("llama_3", Some("llama_3")).unwrap(), &sampling);
        assert_eq!(alone, drafted);
        assert_eq!((plain.drafted_tokens, plain.accepted_tokens), (0, 0));
        assert!(state.accepted_tokens > 0 && state.steps < plain.steps, "{state:?}");
    }
    let greedy = SamplingConfig { max_tokens: Some(40), ignore_eos: true, ..SamplingConfig::greedy() };
    let (_, state) = says(open("llama_3", Some("llama_3")).unwrap(), &greedy);
    assert!(state.accepted_tokens * 10 >= state.drafted_tokens * 9, "the same weights agree: {state:?}");
}

#[test]
fn a_draft_of_other_tokens_is_refused_and_both_files_are_named() {
    let problem = open("llama_3", Some("qwen2")).unwrap_err();
    assert!(matches!(problem, GeneratorError::DraftTokens { .. }), "{problem}");
    let problem = problem.to_string();
    assert!(problem.contains("checkpoints/qwen2: its tokens are not those of"), "{problem}");
    assert!(problem.contains("checkpoints/llama_3"), "{problem}");
    for (model, draft, named) in [("t5", "llama_3", "t5"), ("llama_3", "t5", "t5")] {
        let problem = open(model, Some(draft)).unwrap_err().to_string();
        assert!(problem.contains(&format!("checkpoints/{named}: an encoder-decoder")), "{problem}");
    }
}
