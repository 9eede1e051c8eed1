//! A conversation as OpenAI's interface and `transformers` have it: messages with roles, text, calls of tools and their
//! results; and the form in which templates read it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TemplateError;

/// One message of a conversation.
///
/// ```
/// use tidemill_model::generation::Message;
/// let message: Message = serde_json::from_str(r#"{"role": "user", "content": "What is a tide mill?"}"#)?;
/// assert_eq!(message, Message::new("user", "What is a tide mill?"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`; templates may know others.
    pub role: String,
    /// What was said; none where a message only calls tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Who said it, where several have the same role, or the tool that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tools that an assistant called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What else templates may read, such as `reasoning_content`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// One text.
    Text(String),
    /// Parts, of which only texts can be used here.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The call's own name, by which its result refers to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// The function of a call, and what it is called with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Its arguments: an object, or as OpenAI's interface has it the text of one.
    #[serde(default)]
    pub arguments: Value,
}

fn function() -> String {
    "function".to_string()
}

impl Message {
    /// A message of text.
    pub fn new(role: &str, content: &str) -> Message {
        let content = Some(Content::Text(content.to_string()));
        Message { role: role.to_string(), content, ..Message::default() }
    }

    /// The message as templates read it: content as one text, arguments as an object, nothing that is null.
    pub(super) fn for_template(&self) -> Result<Value, TemplateError> {
        let mut message = self.clone();
        if let Some(Content::Parts(parts)) = &self.content {
            let texts: Option<Vec<&str>> =
                parts.iter().map(|part| part.text.as_deref().filter(|_| part.kind == "text")).collect();
            let texts = texts.ok_or_else(|| TemplateError::Part { role: self.role.clone() })?;
            message.content = Some(Content::Text(texts.join("\n")));
        }
        for call in message.tool_calls.iter_mut().flatten() {
            let object = call.function.arguments.as_str().map(serde_json::from_str::<Map<String, Value>>);
            if let Some(Ok(object)) = object {
                call.function.arguments = Value::Object(object);
            }
        }
        message.other.retain(|_, value| !value.is_null());
        serde_json::to_value(message).map_err(|error| TemplateError::Failed { line: 0, problem: error.to_string() })
    }
}
