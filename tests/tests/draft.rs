//! Drafting by a second checkpoint as a user meets it: the same answers, of which some were drafted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tidemill_proto::v1::generation_client::GenerationClient;
use tidemill_proto::v1::{GenerateRequest, Sampling, generate_request};
use tidemill_tests::{Server, checkpoint, tidemill};

const PROMPT: &str = "The tide";

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_changes_no_answer_of_the_program_or_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint("qwen2");
    let generate = |draft: &[&str]| {
        let arguments = ["generate", model.as_str(), PROMPT, "--max-tokens", "16", "--temperature", "0", "--json"];
        tidemill(folder.path(), &[&arguments, draft].concat()).success().json()
    };
    let (alone, drafted) = (generate(&[]), generate(&["--draft", &model]));
    assert_eq!(drafted["texts"], alone["texts"]);
    assert_eq!(alone["drafted_tokens"], 0);
    assert!(drafted["accepted_tokens"].as_u64().unwrap() > 0, "{drafted}");

    let server = Server::start(folder.path(), &[&model, "--draft", &model]);
    let sampling = Sampling { max_tokens: Some(16), temperature: Some(0.0), ..Sampling::default() };
    let request = GenerateRequest {
        input: Some(generate_request::Input::Prompt(PROMPT.to_owned())),
        sampling: Some(sampling),
        ..GenerateRequest::default()
    };
    let answer = GenerationClient::new(server.channel().await).generate(request).await.unwrap().into_inner();
    assert_eq!(alone["texts"][0], answer.answers[0].text);
}

#[test]
fn a_draft_of_other_tokens_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (model, other) = (checkpoint("qwen2"), checkpoint("gpt2"));
    let finished = tidemill(folder.path(), &["generate", &model, PROMPT, "--draft", &other]);
    assert_eq!(finished.code, 2, "{}", finished.stderr);
    assert!(finished.stderr.contains(&model) && finished.stderr.contains(&other), "{}", finished.stderr);
}
