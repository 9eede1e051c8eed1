//! The model library's generator as one that the server drives.

use std::error::Error;

use tidemill_model::engine::{Refused, RequestId};
use tidemill_model::generation::SamplingError;
use tidemill_model::tasks::generation::{self as tasks, Output, PrepareError, Prepared};

use super::{EngineState, Finish, GenerateRequest, Generator, Piece, Preparation, RequestError, SamplingConfig, Usage};
use crate::tasks::TextToTextInput;

impl Generator for tasks::Generator {
    type Id = RequestId;
    type Prepared = Prepared;

    fn submit(&mut self, request: Prepared) -> Result<RequestId, RequestError> {
        tasks::Generator::submit(self, request).map_err(|refused| match refused {
            Refused::Full { max } => RequestError::Full { max },
            Refused::TooLong { .. } => RequestError::TooLong { problem: refused.to_string() },
            Refused::TooMany { .. } => RequestError::invalid("n", refused.to_string()),
            _ => RequestError::invalid("prompt", refused.to_string()),
        })
    }

    fn cancel(&mut self, request: RequestId) {
        tasks::Generator::cancel(self, request);
    }

    fn step(&mut self) -> Result<Vec<(RequestId, Piece)>, Box<dyn Error + Send + Sync>> {
        Ok(tasks::Generator::step(self)?.into_iter().map(|output| (output.request, piece(output))).collect())
    }

    fn is_idle(&self) -> bool {
        tasks::Generator::is_idle(self)
    }

    fn is_waiting(&self, request: RequestId) -> bool {
        tasks::Generator::is_waiting(self, request)
    }

    fn state(&self) -> EngineState {
        tasks::Generator::state(self)
    }
}

fn piece(output: Output) -> Piece {
    let Output { sample, text, tool_calls, tokens, finish, problem, usage, .. } = output;
    let failed = || Finish::Failed(problem.unwrap_or_else(|| "the answer was broken off".to_owned()));
    let finish = finish.map(|finish| match finish.as_openai() {
        Some("length") => Finish::Length,
        Some(_) => Finish::Stop,
        None => failed(),
    });
    let usage = usage.map(|usage| Usage {
        prompt_tokens: usage.prompt_tokens,
        shared_tokens: usage.shared_tokens,
        completion_tokens: usage.completion_tokens,
    });
    Piece { sample, text, tool_calls, tokens, finish, usage }
}

impl Preparation for tasks::Preparation {
    type Prepared = Prepared;

    fn prepare(&self, request: &GenerateRequest) -> Result<Prepared, RequestError> {
        tasks::Preparation::prepare(self, request).map_err(refused)
    }

    fn prepare_text_to_text(&self, input: &TextToTextInput) -> Result<Prepared, RequestError> {
        tasks::Preparation::prepare_text_to_text(self, input).map_err(refused)
    }

    fn defaults(&self) -> SamplingConfig {
        tasks::Preparation::defaults(self).clone()
    }

    fn context_length(&self) -> usize {
        tasks::Preparation::context_length(self)
    }

    fn has_chat_template(&self) -> bool {
        tasks::Preparation::has_chat_template(self)
    }
}

fn refused(error: PrepareError) -> RequestError {
    let field = match &error {
        PrepareError::Sampling(SamplingError::Config { key, problem }) => {
            return RequestError::invalid(*key, problem.clone());
        }
        PrepareError::TooLong { .. } | PrepareError::SourceTooLong { .. } => {
            return RequestError::TooLong { problem: without_field(&error.to_string()) };
        }
        PrepareError::Language { field, problem } => return RequestError::invalid(*field, problem.clone()),
        PrepareError::Sampling(_) => "sampling",
        PrepareError::Template(_) | PrepareError::NoTemplate => "messages",
        PrepareError::Format(_) => "format",
        PrepareError::NotTextToText => "model",
        _ => "prompt",
    };
    RequestError::invalid(field, without_field(&error.to_string()))
}

// The library's sentences begin with the field, "prompt: it has …".
fn without_field(sentence: &str) -> String {
    match sentence.split_once(": ") {
        Some(("prompt" | "messages" | "format" | "text" | "model", rest)) => rest.to_owned(),
        _ => sentence.to_owned(),
    }
}
