//! The messages of a chat, read by hand so that what is wrong is named by its path: `messages[2].content[0].type`.

use serde_json::{Map, Value};

use crate::generation::{Content, FunctionCall, Message, Part, ToolCall};
use crate::refusal::Refusal;

/// Most messages of a request.
const MAX_MESSAGES: usize = 4096;

/// The messages of a request, checked.
pub(super) fn read(messages: Vec<Value>) -> Result<Vec<Message>, Refusal> {
    if messages.is_empty() {
        return Err(Refusal::invalid("messages", "is empty; send at least one message"));
    }
    if messages.len() > MAX_MESSAGES {
        let problem = format!("has {} messages; a request may hold {MAX_MESSAGES}", messages.len());
        return Err(Refusal::invalid("messages", problem));
    }
    messages.into_iter().enumerate().map(|(index, value)| message(value, &format!("messages[{index}]"))).collect()
}

fn message(value: Value, path: &str) -> Result<Message, Refusal> {
    let mut fields = object(value, path)?;
    let role = string(fields.remove("role"), &format!("{path}.role"))?;
    let role = role.ok_or_else(|| Refusal::invalid(format!("{path}.role"), "is missing"))?;
    let content = content(fields.remove("content"), &format!("{path}.content"))?;
    let tool_calls = tool_calls(fields.remove("tool_calls"), &format!("{path}.tool_calls"))?;
    if content.is_none() && tool_calls.is_none() {
        return Err(Refusal::invalid(format!("{path}.content"), "is missing"));
    }
    Ok(Message {
        role,
        content,
        name: string(fields.remove("name"), &format!("{path}.name"))?,
        tool_calls,
        tool_call_id: string(fields.remove("tool_call_id"), &format!("{path}.tool_call_id"))?,
        other: fields,
    })
}

fn content(value: Option<Value>, path: &str) -> Result<Option<Content>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Content::Text(text))),
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate().map(|(index, value)| part(value, &format!("{path}[{index}]")));
            Ok(Some(Content::Parts(parts.collect::<Result<_, _>>()?)))
        }
        Some(_) => Err(Refusal::invalid(path, "must be a string or a list of parts")),
    }
}

fn part(value: Value, path: &str) -> Result<Part, Refusal> {
    let mut fields = object(value, path)?;
    let kind = string(fields.remove("type"), &format!("{path}.type"))?.unwrap_or_default();
    if kind != "text" {
        return Err(Refusal::invalid(format!("{path}.type"), "must be \"text\": the model reads nothing else"));
    }
    let text = string(fields.remove("text"), &format!("{path}.text"))?;
    let text = text.ok_or_else(|| Refusal::invalid(format!("{path}.text"), "is missing"))?;
    Ok(Part { kind, text: Some(text) })
}

fn tool_calls(value: Option<Value>, path: &str) -> Result<Option<Vec<ToolCall>>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(calls)) => {
            let calls =
                calls.into_iter().enumerate().map(|(index, value)| tool_call(value, &format!("{path}[{index}]")));
            Ok(Some(calls.collect::<Result<_, _>>()?))
        }
        Some(_) => Err(Refusal::invalid(path, "must be a list")),
    }
}

fn tool_call(value: Value, path: &str) -> Result<ToolCall, Refusal> {
    let mut fields = object(value, path)?;
    let id = string(fields.remove("id"), &format!("{path}.id"))?;
    let mut function = object(fields.remove("function").unwrap_or_default(), &format!("{path}.function"))?;
    let name = string(function.remove("name"), &format!("{path}.function.name"))?;
    let name = name.ok_or_else(|| Refusal::invalid(format!("{path}.function.name"), "is missing"))?;
    let arguments = function.remove("arguments").unwrap_or_else(|| Value::Object(Map::new()));
    if !arguments.is_string() && !arguments.is_object() {
        return Err(Refusal::invalid(format!("{path}.function.arguments"), "must be the text of a JSON object"));
    }
    Ok(ToolCall { id, kind: "function".to_owned(), function: FunctionCall { name, arguments } })
}

fn object(value: Value, path: &str) -> Result<Map<String, Value>, Refusal> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Refusal::invalid(path, "must be an object")),
    }
}

fn string(value: Option<Value>, path: &str) -> Result<Option<String>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::invalid(path, "must be a string")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_read_with_what_templates_may_ask_for() {
        let messages = read(vec![
            json!({"role": "user", "content": [{"type": "text", "text": "When is high tide?"}]}),
            json!({"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "tide", "arguments": "{}"}}]}),
            json!({"role": "tool", "tool_call_id": "a", "content": "noon"}),
        ]);
        let messages = messages.unwrap();
        assert!(matches!(&messages[0].content, Some(Content::Parts(parts)) if parts.len() == 1));
        assert_eq!(messages[1].tool_calls.as_ref().unwrap()[0].function.name, "tide");
        assert_eq!(messages[1].other["reasoning_content"], "hm");
        assert_eq!(messages[2].tool_call_id.as_deref(), Some("a"));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let field = |message: Value| match read(vec![message]) {
            Err(Refusal::Invalid { field, .. }) => field,
            other => format!("{other:?}"),
        };
        assert_eq!(field(json!("hello")), "messages[0]");
        assert_eq!(field(json!({"content": "a"})), "messages[0].role");
        assert_eq!(field(json!({"role": "user"})), "messages[0].content");
        assert_eq!(field(json!({"role": "user", "content": 3})), "messages[0].content");
        let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]});
        assert_eq!(field(image), "messages[0].content[0].type");
        let call = json!({"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": 3}}]});
        assert_eq!(field(call), "messages[0].tool_calls[0].function.arguments");
        assert!(read(Vec::new()).is_err());
    }
}
