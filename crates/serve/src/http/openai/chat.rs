//! `/v1/chat/completions`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use futures::stream::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::errors::Refused;
use super::logprobs::ChatLogprobs;
use super::sampling::{MAX_ALTERNATIVES, SamplingFields, StreamFields};
use super::{UsageObject, chat_messages, finish_reason, stream};
use crate::admitted::Admitted;
use crate::generation::tool_choice::{ToolChoice, ToolPlan};
use crate::generation::{Answer, ChatInput, GenerateRequest, GeneratorHandle, Input, ParsedToolCall, Piece};
use crate::http::{Http, body, now};
use crate::refusal::Refusal;
use crate::services::generation;

const METHOD: &str = "/v1/chat/completions";

#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(default)]
    model: String,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    functions: Option<Value>,
    function_call: Option<Value>,
    /// As vLLM has it: further arguments of the template.
    chat_template_kwargs: Option<Map<String, Value>>,
}

#[derive(Debug, Serialize)]
struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: UsageObject,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct AnswerMessage {
    role: &'static str,
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallObject>,
}

#[derive(Debug, Serialize)]
struct CallObject {
    /// Which call of the answer, in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionObject,
}

#[derive(Debug, Serialize)]
struct FunctionObject {
    name: String,
    arguments: String,
}

#[derive(Debug, Serialize)]
struct Chunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChunkChoice>,
    /// `null` until the last chunk, and there only when it is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageObject>>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallObject>,
}

pub(in crate::http) async fn complete(State(http): State<Http>, request: Request<Body>) -> Result<Response, Refused> {
    let admitted: Admitted = request.extensions().get().cloned().unwrap_or_default();
    let body = body::read(request, http.base.max_message_bytes).await?;
    let fields: Fields = body::fields(&body)?;
    let streamed = body::fields::<StreamFields>(&body)?.wanted()?;
    let model = http.base.models.of(&admitted.caller).find::<GeneratorHandle>(&fields.model, "", "model").await?;
    let wants_logprobs = fields.logprobs.unwrap_or(false);
    let shared: SamplingFields = body::fields(&body)?;
    let (request, plan) = request_of(fields, &shared, &model, &admitted)?;
    let started = generation::start(METHOD, &model, request, &admitted).await;
    let started = started.map_err(|refusal| shared.in_its_words(refusal, "tools"))?;
    match streamed {
        Some(with_usage) => {
            let mut chunks = Chunks::new(&model, wants_logprobs, with_usage);
            let pieces = generation::pieces(METHOD, model, started, plan.reader);
            Ok(stream::respond(pieces.map(move |piece| Ok(chunks.of(piece?))), admitted))
        }
        None => {
            let (answers, usage) = generation::finish(METHOD, &model, started, plan.reader).await?;
            let answers = answers.into_iter().enumerate();
            let completion = Completion {
                id: crate::ids::new("chatcmpl-"),
                object: "chat.completion",
                created: now(),
                model: model.info().name.clone(),
                choices: answers.map(|(index, answer)| choice(index, answer, wants_logprobs)).collect(),
                usage: usage.into(),
            };
            Ok(Json(completion).into_response())
        }
    }
}

fn request_of(
    fields: Fields,
    shared: &SamplingFields,
    model: &GeneratorHandle,
    admitted: &Admitted,
) -> Result<(GenerateRequest, ToolPlan), Refusal> {
    for (name, field) in [("functions", &fields.functions), ("function_call", &fields.function_call)] {
        if field.is_some() {
            return Err(Refusal::invalid(name, "is no longer part of the interface; use tools and tool_choice"));
        }
    }
    let messages = chat_messages::read(fields.messages)?;
    if !model.has_chat_template() {
        let problem = "cannot be written out: the model has no chat template; use /v1/completions";
        return Err(Refusal::invalid("messages", problem));
    }
    let mut sampling = shared.over(model.defaults())?;
    sampling.logprobs = logprobs(fields.logprobs, fields.top_logprobs)?;
    let choice = tool_choice(fields.tool_choice)?;
    let parallel = fields.parallel_tool_calls.unwrap_or(true);
    let mut plan = ToolPlan::new(fields.tools.unwrap_or_default(), &choice, shared.format()?, parallel)?;
    let tools = std::mem::take(&mut plan.tools);
    let variables = fields.chat_template_kwargs.unwrap_or_default();
    let chat = ChatInput { messages, tools, variables, add_generation_prompt: true, ..ChatInput::default() };
    let input = Input::Chat(chat);
    let request = GenerateRequest { input, sampling, format: plan.format.take(), turn: admitted.turn() };
    Ok((request, plan))
}

fn logprobs(wanted: Option<bool>, top: Option<usize>) -> Result<Option<usize>, Refusal> {
    match (wanted.unwrap_or(false), top) {
        (false, Some(1..)) => Err(Refusal::invalid("top_logprobs", "is for answers with logprobs: set logprobs")),
        (true, Some(top)) if top > MAX_ALTERNATIVES => {
            Err(Refusal::invalid("top_logprobs", format!("must be 0 to {MAX_ALTERNATIVES}")))
        }
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, _) => Ok(None),
    }
}

fn tool_choice(value: Option<Value>) -> Result<ToolChoice, Refusal> {
    let wrong = || Refusal::invalid("tool_choice", "must be \"none\", \"auto\", \"required\" or name a function");
    match value {
        None | Some(Value::Null) => Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            _ => Err(wrong()),
        },
        Some(object) => {
            let name = object.get("function").and_then(|function| function.get("name")).and_then(Value::as_str);
            name.map(|name| ToolChoice::Function(name.to_owned())).ok_or_else(wrong)
        }
    }
}

fn choice(index: usize, answer: Answer, wants_logprobs: bool) -> Choice {
    let only_calls = answer.text.is_empty() && !answer.tool_calls.is_empty();
    Choice {
        index,
        message: AnswerMessage {
            role: "assistant",
            content: if only_calls { None } else { Some(answer.text) },
            refusal: None,
            tool_calls: answer.tool_calls.into_iter().map(|call| call_object(call, None)).collect(),
        },
        logprobs: wants_logprobs.then(|| ChatLogprobs::new(answer.tokens)),
        finish_reason: finish_reason(answer.finish.as_ref()),
    }
}

fn call_object(call: ParsedToolCall, index: Option<usize>) -> CallObject {
    let function = FunctionObject { name: call.name, arguments: call.arguments };
    CallObject { index, id: crate::ids::new("call_"), kind: "function", function }
}

/// Makes chunks of pieces.
struct Chunks {
    id: String,
    created: u64,
    model: String,
    wants_logprobs: bool,
    with_usage: bool,
    // For each answer, whether its role was said, and how many calls.
    said: Vec<(bool, usize)>,
}

impl Chunks {
    fn new(model: &GeneratorHandle, wants_logprobs: bool, with_usage: bool) -> Chunks {
        let (id, model) = (crate::ids::new("chatcmpl-"), model.info().name.clone());
        Chunks { id, created: now(), model, wants_logprobs, with_usage, said: Vec::new() }
    }

    fn of(&mut self, piece: Piece) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        if self.said.len() <= piece.sample {
            self.said.resize(piece.sample + 1, (false, 0));
        }
        if let Some((has_role, calls)) = self.said.get_mut(piece.sample) {
            let role = if std::mem::replace(has_role, true) { None } else { Some("assistant") };
            let first_call = *calls;
            *calls += piece.tool_calls.len();
            // Nothing new to say is not said, unless something else hangs on it.
            let is_empty = piece.text.is_empty() && piece.tool_calls.is_empty() && role.is_none();
            let delta = Delta {
                role,
                content: (role.is_some() || !piece.text.is_empty()).then_some(piece.text),
                tool_calls: (first_call..).zip(piece.tool_calls).map(|(n, call)| call_object(call, Some(n))).collect(),
            };
            let wants_logprobs = self.wants_logprobs && !piece.tokens.is_empty();
            let choice = ChunkChoice {
                index: piece.sample,
                delta,
                logprobs: wants_logprobs.then(|| ChatLogprobs::new(piece.tokens)),
                finish_reason: finish_reason(piece.finish.as_ref()),
            };
            if !is_empty || wants_logprobs || choice.finish_reason.is_some() {
                chunks.push(self.chunk(vec![choice], None));
            }
        }
        if let Some(usage) = piece.usage.filter(|_| self.with_usage) {
            chunks.push(self.chunk(Vec::new(), Some(usage.into())));
        }
        chunks
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<UsageObject>) -> Chunk {
        Chunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: self.with_usage.then_some(usage),
        }
    }
}
