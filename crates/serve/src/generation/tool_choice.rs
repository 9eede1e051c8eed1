//! What a chat's choice of tools means: which tools the template is told of, what the answer must look like when a call is
//! required, and how such an answer becomes calls.

use serde_json::{Value, json};

use super::{ConstraintSpec, Finish, ParsedToolCall, Piece};
use crate::refusal::Refusal;

/// Most tools of a request, as OpenAI's interface has it.
const MAX_TOOLS: usize = 128;
/// Most calls of one answer where a call is required.
const MAX_CALLS: usize = 16;

/// Whether and which function is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// None, and the model is not told of them.
    None,
    /// One at least.
    Required,
    /// This one.
    Function(String),
}

/// What becomes of a request's tools.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToolPlan {
    /// The tools that the template is told of, as OpenAI writes them.
    pub(crate) tools: Vec<Value>,
    /// What the answer must look like.
    pub(crate) format: Option<ConstraintSpec>,
    /// How its pieces are read.
    pub(crate) reader: CallReader,
}

impl ToolPlan {
    /// Checks tools, `{"type": "function", "function": {…}}` each, and a choice among them. `parallel`: an answer may hold
    /// several calls where one is required.
    pub(crate) fn new(
        tools: Vec<Value>,
        choice: &ToolChoice,
        format: Option<ConstraintSpec>,
        parallel: bool,
    ) -> Result<ToolPlan, Refusal> {
        let functions = check(&tools)?;
        let wanted: Vec<&Function> =
            match choice {
                ToolChoice::Auto => return Ok(ToolPlan { tools, format, reader: CallReader::default() }),
                ToolChoice::None => return Ok(ToolPlan { tools: Vec::new(), format, reader: CallReader::default() }),
                ToolChoice::Required if functions.is_empty() => {
                    return Err(Refusal::invalid("tool_choice", "requires a call, and there are no tools"));
                }
                ToolChoice::Required => functions.iter().collect(),
                ToolChoice::Function(name) => {
                    let named = functions.iter().find(|function| function.name == *name);
                    vec![named.ok_or_else(|| {
                        Refusal::invalid("tool_choice", "names a function that is not among the tools")
                    })?]
                }
            };
        if format.is_some() {
            return Err(Refusal::invalid(
                "response_format",
                "cannot be kept when a call is required; leave one of them out",
            ));
        }
        let calls: Vec<Value> = wanted.into_iter().map(Function::call_schema).collect();
        let one = match calls.as_slice() {
            [call] => call.clone(),
            _ => json!({ "anyOf": calls }),
        };
        let several = parallel && *choice == ToolChoice::Required;
        let schema = match several {
            true => json!({ "type": "array", "items": one, "minItems": 1, "maxItems": MAX_CALLS }),
            false => one,
        };
        Ok(ToolPlan { tools, format: Some(ConstraintSpec::JsonSchema(schema)), reader: CallReader::required() })
    }
}

struct Function {
    name: String,
    parameters: Value,
}

impl Function {
    fn call_schema(&self) -> Value {
        json!({
            "type": "object",
            "properties": { "name": { "const": self.name }, "arguments": self.parameters },
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    }
}

fn check(tools: &[Value]) -> Result<Vec<Function>, Refusal> {
    if tools.len() > MAX_TOOLS {
        return Err(Refusal::invalid("tools", format!("has {} tools; a request may hold {MAX_TOOLS}", tools.len())));
    }
    tools.iter().enumerate().map(|(index, tool)| function(index, tool)).collect()
}

fn function(index: usize, tool: &Value) -> Result<Function, Refusal> {
    let wrong = |field: &str, problem: &str| Refusal::invalid(format!("tools[{index}]{field}"), problem);
    if tool.get("type").and_then(Value::as_str) != Some("function") {
        return Err(wrong(".type", "must be \"function\""));
    }
    let function = tool.get("function").and_then(Value::as_object);
    let function = function.ok_or_else(|| wrong(".function", "must be an object"))?;
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        return Err(wrong(".function.name", "must be 1 to 64 letters, digits, underscores, hyphens or dots"));
    }
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({ "type": "object" }),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => return Err(wrong(".function.parameters", "must be a JSON schema, an object")),
    };
    Ok(Function { name: name.to_owned(), parameters })
}

/// Reads the calls of a chat's answers. The text of an answer that must be calls is held back and becomes calls when it is
/// whole; and an answer that ends with calls says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallReader {
    is_required: bool,
    answers: Vec<Heard>,
}

// What came of one answer so far.
#[derive(Clone, Debug, Default)]
struct Heard {
    text: String,
    has_calls: bool,
}

impl CallReader {
    fn required() -> CallReader {
        CallReader { is_required: true, answers: Vec::new() }
    }

    /// The piece as its caller sees it.
    pub(crate) fn read(&mut self, mut piece: Piece) -> Piece {
        if self.answers.len() <= piece.sample {
            self.answers.resize(piece.sample + 1, Heard::default());
        }
        let Some(heard) = self.answers.get_mut(piece.sample) else { return piece };
        if self.is_required {
            heard.text.push_str(&std::mem::take(&mut piece.text));
            if piece.finish.is_some() {
                match calls(&heard.text) {
                    Some(calls) => piece.tool_calls.extend(calls),
                    // Cut off: what there is may help the caller.
                    None => piece.text = std::mem::take(&mut heard.text),
                }
            }
        }
        heard.has_calls |= !piece.tool_calls.is_empty();
        if heard.has_calls && piece.finish == Some(Finish::Stop) {
            piece.finish = Some(Finish::ToolCalls);
        }
        piece
    }
}

fn calls(text: &str) -> Option<Vec<ParsedToolCall>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let values = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    values.into_iter().map(call).collect()
}

fn call(value: Value) -> Option<ParsedToolCall> {
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = value.get("arguments").map_or_else(|| "{}".to_owned(), Value::to_string);
    Some(ParsedToolCall { name, arguments })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Value {
        json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object" } } })
    }

    #[test]
    fn a_required_call_is_a_format_and_its_text_becomes_calls() {
        let tools = vec![tool("tide"), tool("moon")];
        let plan = ToolPlan::new(tools.clone(), &ToolChoice::Required, None, true).unwrap();
        let Some(ConstraintSpec::JsonSchema(schema)) = plan.format else { unreachable!() };
        assert_eq!(schema["items"]["anyOf"][1]["properties"]["name"]["const"], "moon");
        let mut reader = plan.reader;
        let piece = |text: &str, finish| Piece { text: text.into(), finish, ..Piece::default() };
        assert_eq!(reader.read(piece(r#"[{"name": "tide", "#, None)), Piece::default());
        let last = reader.read(piece(r#""arguments": {"day": 1}}]"#, Some(Finish::Stop)));
        assert_eq!(last.finish, Some(Finish::ToolCalls));
        assert_eq!(last.text, "");
        let call = ParsedToolCall { name: "tide".into(), arguments: r#"{"day":1}"#.into() };
        assert_eq!(last.tool_calls, [call]);

        let plan = ToolPlan::new(tools, &ToolChoice::Function("moon".into()), None, true).unwrap();
        let Some(ConstraintSpec::JsonSchema(schema)) = plan.format else { unreachable!() };
        assert_eq!(schema["properties"]["name"]["const"], "moon");
        let mut reader = plan.reader;
        let cut = reader.read(piece(r#"{"name": "mo"#, Some(Finish::Length)));
        assert_eq!((cut.text.as_str(), cut.finish), (r#"{"name": "mo"#, Some(Finish::Length)));
    }

    #[test]
    fn no_tools_for_none_and_everything_as_it_comes_for_auto() {
        let plan =
            ToolPlan::new(vec![tool("tide")], &ToolChoice::None, Some(ConstraintSpec::JsonObject), true).unwrap();
        assert_eq!((plan.tools.len(), plan.format), (0, Some(ConstraintSpec::JsonObject)));
        let plan = ToolPlan::new(vec![tool("tide")], &ToolChoice::Auto, None, true).unwrap();
        assert_eq!(plan.tools.len(), 1);
        let piece = Piece { text: "{".into(), ..Piece::default() };
        let mut reader = plan.reader;
        assert_eq!(reader.read(piece.clone()), piece);
        // What the model library read as a call ends the answer as one.
        let call = ParsedToolCall { name: "tide".into(), arguments: "{}".into() };
        reader.read(Piece { tool_calls: vec![call], ..Piece::default() });
        let last = reader.read(Piece { finish: Some(Finish::Stop), ..Piece::default() });
        assert_eq!(last.finish, Some(Finish::ToolCalls));
    }

    #[test]
    fn wrong_tools_and_choices_are_named() {
        let field = |tools: Vec<Value>, choice: ToolChoice, format| match ToolPlan::new(tools, &choice, format, true) {
            Err(Refusal::Invalid { field, .. }) => field,
            other => format!("{other:?}"),
        };
        assert_eq!(field(vec![json!({"type": "retrieval"})], ToolChoice::Auto, None), "tools[0].type");
        assert_eq!(field(vec![json!({"type": "function"})], ToolChoice::Auto, None), "tools[0].function");
        assert_eq!(field(vec![tool("t"), tool("a b")], ToolChoice::Auto, None), "tools[1].function.name");
        let mut wrong = tool("t");
        wrong["function"]["parameters"] = json!("none");
        assert_eq!(field(vec![wrong], ToolChoice::None, None), "tools[0].function.parameters");
        assert_eq!(field(Vec::new(), ToolChoice::Required, None), "tool_choice");
        assert_eq!(field(vec![tool("t")], ToolChoice::Function("u".into()), None), "tool_choice");
        assert_eq!(field(vec![tool("t")], ToolChoice::Required, Some(ConstraintSpec::JsonObject)), "response_format");
        assert_eq!(field(vec![tool("t"); 129], ToolChoice::Auto, None), "tools");
    }
}
