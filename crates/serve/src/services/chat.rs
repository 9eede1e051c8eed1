//! `tidemill.v1.Chat`: a conversation in, the assistant's next message out. See `proto/tidemill/v1/chat.proto`.

use futures::stream::{BoxStream, StreamExt as _};
use serde_json::{Map, Value, json};
use tidemill_proto::v1::chat_server::Chat;
use tidemill_proto::v1::tool_choice::Choice;
use tidemill_proto::v1::{self, ChatAnswer, ChatMessage, ChatRequest, ChatResponse, ChatStreamResponse};
use tonic::{Request, Response, Status};

use super::generation::{
    answer_number, finish, finish_on_the_wire, format, in_messages, pieces, sampling, start, tokens_on_the_wire,
    usage_on_the_wire, wants_logprobs,
};
use super::{Base, admitted};
use crate::admitted::Admitted;
use crate::generation::tool_choice::{CallReader, ToolChoice, ToolPlan};
use crate::generation::{
    ChatInput, Content, FunctionCall, GenerateRequest, Generation, GeneratorHandle, Input, Message, ParsedToolCall,
    ToolCall,
};
use crate::refusal::Refusal;

async fn begin(
    base: &Base,
    method: &'static str,
    request: ChatRequest,
    admitted: &Admitted,
) -> Result<(GeneratorHandle, Generation, CallReader), Refusal> {
    let model = &base
        .models
        .of(&admitted.caller)
        .find::<GeneratorHandle>(&request.model, &request.model_version, "model")
        .await?;
    if request.messages.is_empty() {
        return Err(Refusal::invalid("messages", "is empty; send at least one message"));
    }
    if !model.has_chat_template() {
        return Err(Refusal::invalid("messages", "cannot be written out: the model has no chat template"));
    }
    let tools = request.tools.into_iter().enumerate().map(|(index, tool)| described(index, tool));
    let format = request.format.map(format).transpose()?.flatten();
    let tools = tools.collect::<Result<_, _>>()?;
    let plan = ToolPlan::new(tools, &choice(request.tool_choice), format, true).map_err(in_messages)?;
    let template_arguments = match request.template_arguments.as_str() {
        "" => Map::new(),
        text => {
            serde_json::from_str(text).map_err(|_| Refusal::invalid("template_arguments", "is not a JSON object"))?
        }
    };
    let messages = request.messages.into_iter().map(message).collect();
    let request = GenerateRequest {
        input: Input::Chat(ChatInput {
            messages,
            tools: plan.tools,
            variables: template_arguments,
            add_generation_prompt: true,
            ..ChatInput::default()
        }),
        sampling: sampling(model.defaults(), request.sampling),
        format: plan.format,
        turn: admitted.turn(),
    };
    let generation = start(method, model, request, admitted).await.map_err(in_messages)?;
    Ok((model.clone(), generation, plan.reader))
}

fn choice(choice: Option<v1::ToolChoice>) -> ToolChoice {
    match choice.and_then(|choice| choice.choice) {
        Some(Choice::None(true)) => ToolChoice::None,
        Some(Choice::Required(true)) => ToolChoice::Required,
        Some(Choice::Function(name)) => ToolChoice::Function(name),
        Some(Choice::Auto(_) | Choice::None(false) | Choice::Required(false)) | None => ToolChoice::Auto,
    }
}

// A tool as OpenAI writes it, which is how templates read it.
fn described(index: usize, tool: v1::Tool) -> Result<Value, Refusal> {
    let mut function = Map::from_iter([("name".to_owned(), Value::String(tool.name))]);
    if !tool.description.is_empty() {
        function.insert("description".to_owned(), Value::String(tool.description));
    }
    if !tool.parameters.is_empty() {
        let wrong = |_| Refusal::invalid(format!("tools[{index}].parameters"), "is not JSON");
        function.insert("parameters".to_owned(), serde_json::from_str(&tool.parameters).map_err(wrong)?);
    }
    Ok(json!({ "type": "function", "function": function }))
}

fn message(message: ChatMessage) -> Message {
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let calls = message.tool_calls.into_iter().map(|call| ToolCall {
        id: given(call.id),
        kind: "function".to_owned(),
        function: FunctionCall { name: call.name, arguments: Value::String(call.arguments) },
    });
    let calls: Vec<ToolCall> = calls.collect();
    let only_calls = message.content.is_empty() && !calls.is_empty();
    Message {
        role: message.role,
        content: if only_calls { None } else { Some(Content::Text(message.content)) },
        name: given(message.name),
        tool_calls: if calls.is_empty() { None } else { Some(calls) },
        tool_call_id: given(message.tool_call_id),
        other: Map::new(),
    }
}

fn calls_on_the_wire(calls: Vec<ParsedToolCall>) -> Vec<v1::ToolCall> {
    let call = |ParsedToolCall { name, arguments }| v1::ToolCall { id: crate::ids::new("call_"), name, arguments };
    calls.into_iter().map(call).collect()
}

#[tonic::async_trait]
impl Chat for Base {
    async fn complete(&self, request: Request<ChatRequest>) -> Result<Response<ChatResponse>, Status> {
        let admitted = admitted(&request);
        let request = request.into_inner();
        let wanted = wants_logprobs(request.sampling.as_ref());
        let (model, generation, reader) = begin(self, "Complete", request, &admitted).await?;
        let (answers, usage) = finish("Complete", &model, generation, reader).await?;
        let answers = answers.into_iter().map(|answer| ChatAnswer {
            finish_reason: finish_on_the_wire(answer.finish.as_ref()),
            content: answer.text,
            tool_calls: calls_on_the_wire(answer.tool_calls),
            tokens: tokens_on_the_wire(answer.tokens, wanted),
        });
        let info = model.info();
        Ok(Response::new(ChatResponse {
            model: info.name.clone(),
            model_version: info.version.clone(),
            answers: answers.collect(),
            usage: Some(usage_on_the_wire(usage)),
        }))
    }

    type CompleteStreamStream = BoxStream<'static, Result<ChatStreamResponse, Status>>;

    async fn complete_stream(
        &self,
        request: Request<ChatRequest>,
    ) -> Result<Response<Self::CompleteStreamStream>, Status> {
        let admitted = admitted(&request);
        let request = request.into_inner();
        let wanted = wants_logprobs(request.sampling.as_ref());
        let (model, generation, reader) = begin(self, "CompleteStream", request, &admitted).await?;
        let messages = pieces("CompleteStream", model, generation, reader).map(move |piece| {
            let piece = piece?;
            Ok(ChatStreamResponse {
                answer: answer_number(piece.sample),
                finish_reason: finish_on_the_wire(piece.finish.as_ref()),
                content: piece.text,
                tool_calls: calls_on_the_wire(piece.tool_calls),
                tokens: tokens_on_the_wire(piece.tokens, wanted),
                usage: piece.usage.map(usage_on_the_wire),
            })
        });
        Ok(Response::new(messages.boxed()))
    }
}
