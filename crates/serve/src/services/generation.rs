//! `tidemill.v1.Generation`: a prompt in, what follows it out. See `proto/tidemill/v1/generation.proto`.

use futures::stream::{self, BoxStream, StreamExt as _};
use tidemill_proto::v1::generate_request;
use tidemill_proto::v1::generation_server;
use tidemill_proto::v1::{
    self, GenerateRequest, GenerateResponse, GenerateStreamResponse, GeneratedText, TokenLogprob, TopLogprob,
};
use tonic::{Request, Response, Status};

use super::{Base, admitted};
use crate::admitted::Admitted;
use crate::generation::tool_choice::CallReader;
use crate::generation::{
    self, Answer, ConstraintSpec, Finish, Generation, GeneratorHandle, Input, Piece, SamplingConfig, TokenChoice, Usage,
};
use crate::refusal::Refusal;

/// Has a generator take a request, and logs why not.
pub(crate) async fn start(
    method: &'static str,
    model: &GeneratorHandle,
    request: generation::GenerateRequest,
    admitted: &Admitted,
) -> Result<Generation, Refusal> {
    let started = model.generate(request, admitted.deadline).await;
    if let Err(refusal) = &started {
        log_refusal(method, model, refusal);
    }
    started
}

/// All answers of a request, and what they took.
pub(crate) async fn finish(
    method: &'static str,
    model: &GeneratorHandle,
    mut generation: Generation,
    mut reader: CallReader,
) -> Result<(Vec<Answer>, Usage), Refusal> {
    generation.collects();
    let mut pieces = Vec::new();
    while let Some(piece) = generation.next().await {
        match piece {
            Ok(piece) => pieces.push(reader.read(piece)),
            Err(refusal) => {
                log_refusal(method, model, &refusal);
                return Err(refusal);
            }
        }
    }
    let (answers, usage) = Answer::gather(pieces);
    log_usage(method, model, usage);
    Ok((answers, usage))
}

/// The pieces of a request as a stream. After an error there is no more.
pub(crate) fn pieces(
    method: &'static str,
    model: GeneratorHandle,
    generation: Generation,
    reader: CallReader,
) -> BoxStream<'static, Result<Piece, Refusal>> {
    stream::unfold((model, generation, reader), move |(model, mut generation, mut reader)| async move {
        let piece = generation.next().await?.map(|piece| reader.read(piece));
        match &piece {
            Ok(Piece { usage: Some(usage), .. }) => log_usage(method, &model, *usage),
            Ok(_) => {}
            Err(refusal) => log_refusal(method, &model, refusal),
        }
        Some((piece, (model, generation, reader)))
    })
    .boxed()
}

fn log_usage(method: &'static str, model: &GeneratorHandle, usage: Usage) {
    tracing::debug!(
        method,
        model = model.info().name,
        prompt_tokens = usage.prompt_tokens,
        shared_tokens = usage.shared_tokens,
        completion_tokens = usage.completion_tokens,
        status = "OK",
    );
}

pub(super) fn log_refusal(method: &'static str, model: &GeneratorHandle, refusal: &Refusal) {
    let model = &model.info().name;
    match refusal {
        Refusal::Failed { .. } | Refusal::Stopped { .. } => {
            tracing::warn!(method, model, status = ?refusal.code(), %refusal);
        }
        _ => tracing::debug!(method, model, status = ?refusal.code(), %refusal),
    }
}

async fn begin(
    base: &Base,
    method: &'static str,
    request: GenerateRequest,
    admitted: &Admitted,
) -> Result<(GeneratorHandle, Generation), Refusal> {
    let model = &base
        .models
        .of(&admitted.caller)
        .find::<GeneratorHandle>(&request.model, &request.model_version, "model")
        .await?;
    let input = match request.input {
        None => return Err(Refusal::invalid("prompt", "is missing")),
        Some(generate_request::Input::Prompt(text)) => Input::Text(text),
        Some(generate_request::Input::Tokens(tokens)) => Input::Tokens(tokens.ids),
    };
    let mut sampling = sampling(model.defaults(), request.sampling);
    sampling.echo = request.echo;
    let format = request.format.map(format).transpose()?.flatten();
    let request = generation::GenerateRequest { input, sampling, format, turn: admitted.turn() };
    let generation = start(method, model, request, admitted).await.map_err(in_messages)?;
    Ok((model.clone(), generation))
}

/// How tokens are chosen: what the request says, and `defaults` where it does not.
pub(super) fn sampling(defaults: SamplingConfig, wire: Option<v1::Sampling>) -> SamplingConfig {
    let Some(wire) = wire else { return defaults };
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let asks_for_beams = wire.beams.is_some();
    let sampling = SamplingConfig {
        temperature: wire.temperature.unwrap_or(defaults.temperature),
        top_k: wire.top_k.map_or(defaults.top_k, count),
        top_p: wire.top_p.unwrap_or(defaults.top_p),
        min_p: wire.min_p.unwrap_or(defaults.min_p),
        typical_p: wire.typical_p.unwrap_or(defaults.typical_p),
        repetition_penalty: wire.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        presence_penalty: wire.presence_penalty.unwrap_or(defaults.presence_penalty),
        frequency_penalty: wire.frequency_penalty.unwrap_or(defaults.frequency_penalty),
        no_repeat_ngram_size: wire.no_repeat_ngram_size.map_or(defaults.no_repeat_ngram_size, count),
        logit_bias: wire.logit_bias.into_iter().collect(),
        min_tokens: wire.min_tokens.map_or(defaults.min_tokens, count),
        max_tokens: wire.max_tokens.map(count).or(defaults.max_tokens),
        stop: wire.stop,
        stop_token_ids: wire.stop_tokens,
        ignore_eos: wire.ignore_end,
        seed: wire.seed,
        n: wire.answers.map_or(defaults.n, count),
        beams: wire.beams.map_or(defaults.beams, count),
        length_penalty: wire.length_penalty.unwrap_or(defaults.length_penalty),
        logprobs: wire.logprobs.map(count),
        ..defaults
    };
    if asks_for_beams { sampling } else { sampling.yielding_beams() }
}

/// A refusal that names the field as the typed messages have it: sampling is a message of its own there, and some of its
/// fields have names of their own.
pub(super) fn in_messages(refusal: Refusal) -> Refusal {
    let Refusal::Invalid { field, problem } = refusal else { return refusal };
    let is_of_sampling =
        serde_json::to_value(SamplingConfig::default()).is_ok_and(|known| known.get(field.as_str()).is_some());
    let field = match field.as_str() {
        "n" => "sampling.answers".to_owned(),
        "stop_token_ids" => "sampling.stop_tokens".to_owned(),
        "ignore_eos" => "sampling.ignore_end".to_owned(),
        "response_format" => "format".to_owned(),
        _ if is_of_sampling => format!("sampling.{field}"),
        _ => field,
    };
    Refusal::Invalid { field, problem }
}

/// What the answer must look like.
pub(super) fn format(wire: v1::Format) -> Result<Option<ConstraintSpec>, Refusal> {
    Ok(match wire.format {
        None | Some(v1::format::Format::JsonObject(false)) => None,
        Some(v1::format::Format::JsonObject(true)) => Some(ConstraintSpec::JsonObject),
        Some(v1::format::Format::JsonSchema(text)) => {
            let wrong = |_| Refusal::invalid("format.json_schema", "is not JSON");
            Some(ConstraintSpec::JsonSchema(serde_json::from_str(&text).map_err(wrong)?))
        }
        Some(v1::format::Format::Regex(regex)) => Some(ConstraintSpec::Regex(regex)),
        Some(v1::format::Format::Grammar(grammar)) => Some(ConstraintSpec::Grammar(grammar)),
    })
}

pub(super) fn usage_on_the_wire(usage: Usage) -> v1::Usage {
    v1::Usage {
        prompt_tokens: usage.prompt_tokens as u64,
        cached_tokens: usage.shared_tokens.map(|tokens| tokens as u64),
        completion_tokens: usage.completion_tokens as u64,
    }
}

pub(super) fn finish_on_the_wire(finish: Option<&Finish>) -> i32 {
    let reason = match finish {
        Some(Finish::Stop) => v1::FinishReason::Stop,
        Some(Finish::Length) => v1::FinishReason::Length,
        Some(Finish::ToolCalls) => v1::FinishReason::ToolCalls,
        // Those that are no answer end as an error.
        None | Some(Finish::Failed(_)) => v1::FinishReason::Unspecified,
    };
    reason.into()
}

/// Tokens, where log-probabilities are `wanted`.
pub(super) fn tokens_on_the_wire(tokens: Vec<TokenChoice>, wanted: bool) -> Vec<TokenLogprob> {
    let tokens = tokens.into_iter().filter(|_| wanted);
    let token = |token: TokenChoice| TokenLogprob {
        id: token.token,
        text: token.text,
        logprob: token.logprob.unwrap_or(f32::NAN),
        top: token.top.into_iter().map(|(id, text, logprob)| TopLogprob { id, text, logprob }).collect(),
    };
    tokens.map(token).collect()
}

/// Whether a request asks for log-probabilities.
pub(super) fn wants_logprobs(sampling: Option<&v1::Sampling>) -> bool {
    sampling.is_some_and(|sampling| sampling.logprobs.is_some())
}

/// The number of an answer.
pub(super) fn answer_number(sample: usize) -> u32 {
    u32::try_from(sample).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl generation_server::Generation for Base {
    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<GenerateResponse>, Status> {
        let admitted = admitted(&request);
        let request = request.into_inner();
        let wanted = wants_logprobs(request.sampling.as_ref());
        let (model, generation) = begin(self, "Generate", request, &admitted).await?;
        let (answers, usage) = finish("Generate", &model, generation, CallReader::default()).await?;
        let answers = answers.into_iter().map(|answer| GeneratedText {
            finish_reason: finish_on_the_wire(answer.finish.as_ref()),
            text: answer.text,
            tokens: tokens_on_the_wire(answer.tokens, wanted),
        });
        let info = model.info();
        Ok(Response::new(GenerateResponse {
            model: info.name.clone(),
            model_version: info.version.clone(),
            answers: answers.collect(),
            usage: Some(usage_on_the_wire(usage)),
        }))
    }

    type GenerateStreamStream = BoxStream<'static, Result<GenerateStreamResponse, Status>>;

    async fn generate_stream(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        let admitted = admitted(&request);
        let request = request.into_inner();
        let wanted = wants_logprobs(request.sampling.as_ref());
        let (model, generation) = begin(self, "GenerateStream", request, &admitted).await?;
        let pieces = pieces("GenerateStream", model, generation, CallReader::default());
        let messages = pieces.map(move |piece| {
            let piece = piece?;
            Ok(GenerateStreamResponse {
                answer: answer_number(piece.sample),
                finish_reason: finish_on_the_wire(piece.finish.as_ref()),
                text: piece.text,
                tokens: tokens_on_the_wire(piece.tokens, wanted),
                usage: piece.usage.map(usage_on_the_wire),
            })
        });
        Ok(Response::new(messages.boxed()))
    }
}
