//! `/v1/completions`: what follows a prompt, or each of several.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use futures::stream::{self as streams, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::errors::Refused;
use super::logprobs::CompletionLogprobs;
use super::sampling::{MAX_ALTERNATIVES, SamplingFields, StreamFields};
use super::{UsageObject, finish_reason, prompts, stream};
use crate::admitted::Admitted;
use crate::generation::tool_choice::CallReader;
use crate::generation::{
    Answer, ConstraintSpec, GenerateRequest, GeneratorHandle, Input, Piece, SamplingConfig, Usage,
};
use crate::http::{Http, body, now};
use crate::refusal::Refusal;
use crate::services::generation;
use crate::tasks::TextOrTokens;

const METHOD: &str = "/v1/completions";

/// Most tokens of an answer where a request does not say, as OpenAI has it.
const MAX_TOKENS: usize = 16;

/// What no prompt took.
const NOTHING: Usage = Usage { prompt_tokens: 0, shared_tokens: Some(0), completion_tokens: 0 };

#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(default)]
    model: String,
    prompt: Option<Value>,
    echo: Option<bool>,
    logprobs: Option<usize>,
    best_of: Option<usize>,
    suffix: Option<String>,
}

#[derive(Debug, Serialize)]
struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    /// In a stream `null` until the last chunk, and there only when it is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageObject>>,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

pub(in crate::http) async fn complete(State(http): State<Http>, request: Request<Body>) -> Result<Response, Refused> {
    let admitted: Admitted = request.extensions().get().cloned().unwrap_or_default();
    let body = body::read(request, http.base.max_message_bytes).await?;
    let fields: Fields = body::fields(&body)?;
    let streamed = body::fields::<StreamFields>(&body)?.wanted()?;
    let model = http.base.models.of(&admitted.caller).find::<GeneratorHandle>(&fields.model, "", "model").await?;
    let shared: SamplingFields = body::fields(&body)?;
    let (sampling, format) = sampling(&fields, &shared, &model)?;
    let prompts = prompts::read(fields.prompt, "prompt", http.base.limits())?;

    let (answers, wants_logprobs) = (sampling.n, sampling.logprobs.is_some());
    let starts = prompts.into_iter().map(|prompt| {
        let input = match prompt {
            TextOrTokens::Text(text) => Input::Text(text),
            TextOrTokens::Tokens(tokens) => Input::Tokens(tokens),
        };
        let (sampling, format) = (sampling.clone(), format.clone());
        let request = GenerateRequest { input, sampling, format, turn: admitted.turn() };
        generation::start(METHOD, &model, request, &admitted)
    });
    // All of them or none: what has started is cancelled when another cannot.
    let started = try_join_all(starts).await.map_err(|refusal| shared.in_its_words(refusal, "response_format"))?;
    let shaper = Shaper::new(&model, answers, wants_logprobs, streamed.unwrap_or(false));
    match streamed {
        Some(_) => {
            let left = started.len();
            let pieces = started.into_iter().enumerate().map(|(prompt, started)| {
                let pieces = generation::pieces(METHOD, model.clone(), started, CallReader::default());
                pieces.map(move |piece| piece.map(|piece| (prompt, piece))).boxed()
            });
            let merged = streams::select_all(pieces);
            let mut chunks = Chunks { shaper, left, usage: NOTHING, offsets: Vec::new() };
            Ok(stream::respond(until_error(merged).map(move |piece| Ok(chunks.of(piece?))), admitted))
        }
        None => {
            let finishes =
                started.into_iter().map(|started| generation::finish(METHOD, &model, started, CallReader::default()));
            let (mut choices, mut usage) = (Vec::new(), NOTHING);
            for (prompt, (answers, took)) in try_join_all(finishes).await?.into_iter().enumerate() {
                usage = sum(usage, took);
                let answers = answers.into_iter().enumerate();
                choices.extend(answers.map(|(sample, answer)| shaper.choice(prompt, sample, answer, &mut 0)));
            }
            Ok(Json(Completion { usage: Some(Some(usage.into())), ..shaper.completion(choices, None) }).into_response())
        }
    }
}

fn sampling(
    fields: &Fields,
    shared: &SamplingFields,
    model: &GeneratorHandle,
) -> Result<(SamplingConfig, Option<ConstraintSpec>), Refusal> {
    if fields.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(Refusal::invalid("suffix", "is not supported: the models continue a text, and do not fill one in"));
    }
    let mut sampling = shared.over(model.defaults())?;
    if fields.best_of.is_some_and(|best_of| best_of != sampling.n) {
        return Err(Refusal::invalid("best_of", "is not supported beyond n; ask for n answers and choose among them"));
    }
    if fields.logprobs.is_some_and(|logprobs| logprobs > MAX_ALTERNATIVES) {
        return Err(Refusal::invalid("logprobs", format!("must be 0 to {MAX_ALTERNATIVES}")));
    }
    sampling.logprobs = fields.logprobs;
    sampling.echo = fields.echo.unwrap_or(false);
    if sampling.echo && sampling.logprobs.is_some() {
        return Err(Refusal::invalid("logprobs", "is not told of a prompt; leave out echo or logprobs"));
    }
    sampling.max_tokens = sampling.max_tokens.or(Some(MAX_TOKENS));
    Ok((sampling, shared.format()?))
}

// One prompt's error ends them all.
fn until_error<T: Send + 'static>(
    pieces: impl streams::Stream<Item = Result<T, Refusal>> + Send + 'static,
) -> impl streams::Stream<Item = Result<T, Refusal>> + Send + 'static {
    let mut is_over = false;
    pieces.take_while(move |piece| {
        let goes_on = !is_over;
        is_over = piece.is_err();
        std::future::ready(goes_on)
    })
}

fn sum(one: Usage, other: Usage) -> Usage {
    Usage {
        prompt_tokens: one.prompt_tokens + other.prompt_tokens,
        shared_tokens: one.shared_tokens.zip(other.shared_tokens).map(|(one, other)| one + other),
        completion_tokens: one.completion_tokens + other.completion_tokens,
    }
}

/// Makes choices of answers.
struct Shaper {
    id: String,
    created: u64,
    model: String,
    answers: usize,
    wants_logprobs: bool,
    with_usage: bool,
}

impl Shaper {
    fn new(model: &GeneratorHandle, answers: usize, wants_logprobs: bool, with_usage: bool) -> Shaper {
        let (id, model) = (crate::ids::new("cmpl-"), model.info().name.clone());
        Shaper { id, created: now(), model, answers, wants_logprobs, with_usage }
    }

    fn choice(&self, prompt: usize, sample: usize, answer: Answer, offset: &mut usize) -> Choice {
        Choice {
            index: prompt * self.answers + sample,
            logprobs: self.wants_logprobs.then(|| CompletionLogprobs::new(answer.tokens, offset)),
            text: answer.text,
            finish_reason: finish_reason(answer.finish.as_ref()),
        }
    }

    fn completion(&self, choices: Vec<Choice>, usage: Option<UsageObject>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: self.with_usage.then_some(usage),
        }
    }
}

/// Makes chunks of pieces, each of one of the prompts.
struct Chunks {
    shaper: Shaper,
    // Prompts that are not answered whole.
    left: usize,
    usage: Usage,
    // How many characters of each answer were sent.
    offsets: Vec<usize>,
}

impl Chunks {
    fn of(&mut self, (prompt, piece): (usize, Piece)) -> Vec<Completion> {
        let mut chunks = Vec::new();
        let Piece { sample, text, tokens, finish, usage, .. } = piece;
        let index = prompt * self.shaper.answers + sample;
        if self.offsets.len() <= index {
            self.offsets.resize(index + 1, 0);
        }
        let has_logprobs = self.shaper.wants_logprobs && !tokens.is_empty();
        if (has_logprobs || !text.is_empty() || finish.is_some())
            && let Some(offset) = self.offsets.get_mut(index)
        {
            let answer = Answer { text, tokens, finish, ..Answer::default() };
            let choice = self.shaper.choice(prompt, sample, answer, offset);
            chunks.push(self.shaper.completion(vec![choice], None));
        }
        if let Some(usage) = usage {
            self.usage = sum(self.usage, usage);
            self.left = self.left.saturating_sub(1);
            if self.left == 0 && self.shaper.with_usage {
                chunks.push(self.shaper.completion(Vec::new(), Some(self.usage.into())));
            }
        }
        chunks
    }
}
