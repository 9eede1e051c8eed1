//! Chat templates: a conversation to the text that a model was trained on, by the checkpoint's own Jinja template, as
//! `transformers` renders it. A template comes with the checkpoint and is a stranger's program, so its work, its
//! recursion and its output are bounded.

mod date;
mod json;
mod message;

use std::collections::BTreeMap;
use std::error::Error as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Map;

pub use message::{Content, FunctionCall, Message, Part, ToolCall};

/// The template's name within its environment.
const NAME: &str = "chat_template";

/// Stack of the thread that renders: values that a template nests in one another are dropped by recursion.
const STACK: usize = 128 << 20;

/// How much a template may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateLimits {
    /// Bytes of its source. Default 1 MiB.
    pub source_bytes: usize,
    /// Work of one rendering: an instruction costs 1, and so do 64 bytes of text. Default 2,000,000, under a second.
    pub work: u64,
    /// Levels of recursion. Default 200.
    pub recursion: usize,
    /// Bytes of one rendered text. Default 16 MiB.
    pub output_bytes: usize,
}

impl Default for TemplateLimits {
    fn default() -> Self {
        TemplateLimits { source_bytes: 1 << 20, work: 2_000_000, recursion: 200, output_bytes: 16 << 20 }
    }
}

/// Why a conversation could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template is not Jinja, or uses what is not there.
    #[error("the chat template is wrong in line {line}: {problem}")]
    Syntax {
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },

    /// The template refused the conversation, in its own words.
    #[error("the model's chat template refuses the conversation: {0}")]
    Refused(String),

    /// The template failed on the conversation.
    #[error("the chat template failed in line {line}: {problem}")]
    Failed {
        /// Its line, from 1; 0 where it is not known.
        line: usize,
        /// What failed.
        problem: String,
    },

    /// It costs more than is allowed.
    #[error("the chat template does not come to an end within its bounds: {0}")]
    TooMuch(String),

    /// A message holds something else than text.
    #[error("a message of the role \"{role}\" holds a part that is not text, and this model reads only text")]
    Part {
        /// The message's role.
        role: String,
    },
}

/// A conversation, and what else a template may ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatInput {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// The tools that the model may call, each `{"type": "function", "function": {…}}`.
    pub tools: Vec<serde_json::Value>,
    /// Documents to answer from, for templates that read them.
    pub documents: Vec<serde_json::Value>,
    /// Whether the text ends where the assistant's next message begins.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`.
    pub variables: Map<String, serde_json::Value>,
    /// What `strftime_now` takes for now, in seconds since 1970; by default the system's clock.
    pub now: Option<i64>,
}

/// A checkpoint's chat template.
///
/// ```
/// use tidemill_model::generation::{ChatInput, ChatTemplate, Message, TemplateLimits};
/// let source = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}";
/// let special = [("eos_token".to_string(), "</s>".to_string())].into();
/// let template = ChatTemplate::new(source, special, TemplateLimits::default())?;
/// let input = ChatInput { messages: vec![Message::new("user", "Hello")], ..ChatInput::default() };
/// assert_eq!(template.render(&input)?, "<|user|>Hello</s>");
/// # Ok::<(), tidemill_model::generation::TemplateError>(())
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
    limits: TemplateLimits,
    source: String,
}

/// What `raise_exception` was given, to be told from errors of the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are its variables `bos_token`, `eos_token` and so on.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] with the line, [`TemplateError::TooMuch`] when it is too long.
    pub fn new(
        source: &str,
        special_tokens: BTreeMap<String, String>,
        limits: TemplateLimits,
    ) -> Result<ChatTemplate, TemplateError> {
        if source.len() > limits.source_bytes {
            let problem = format!("it has {} bytes, and {} are the most", source.len(), limits.source_bytes);
            return Err(TemplateError::TooMuch(problem));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| described(&error))?);
        environment.set_fuel(Some(limits.work));
        environment.set_recursion_limit(limits.recursion);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        });
        environment.add_function("strftime_now", |state: &State, format: String| {
            let now = state.lookup("__now").and_then(|now| now.as_i64());
            date::strftime(&format, now.unwrap_or_else(date::now))
        });
        let compiled = environment.add_template_owned(NAME, without_generation_blocks(source));
        compiled
            .map_err(|error| TemplateError::Syntax { line: error.line().unwrap_or(0), problem: problem(&error) })?;
        Ok(ChatTemplate { environment, special_tokens, limits, source: source.to_string() })
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`TemplateError`] that says what the template refuses or where it fails. The template stays usable.
    pub fn render(&self, input: &ChatInput) -> Result<String, TemplateError> {
        let context = self.context(input)?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("template".to_string()).stack_size(STACK);
            let unknown = |problem: String| TemplateError::Failed { line: 0, problem };
            let thread = thread.spawn_scoped(scope, || self.render_here(context));
            let thread = thread.map_err(|error| unknown(error.to_string()))?;
            thread.join().unwrap_or_else(|_| Err(unknown("the template engine gave up".to_string())))
        })
    }

    fn render_here(&self, context: Value) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME).map_err(|error| described(&error))?;
        let mut output = Bounded { text: Vec::new(), most: self.limits.output_bytes, over: false };
        let rendered = template.render_captured_to(context, &mut output).map(|_| ());
        if output.over {
            let problem = format!("its text is longer than {} bytes", self.limits.output_bytes);
            return Err(TemplateError::TooMuch(problem));
        }
        rendered.map_err(|error| described(&error))?;
        String::from_utf8(output.text).map_err(|error| TemplateError::Failed { line: 0, problem: error.to_string() })
    }

    fn context(&self, input: &ChatInput) -> Result<Value, TemplateError> {
        let messages: Result<Vec<serde_json::Value>, TemplateError> =
            input.messages.iter().map(Message::for_template).collect();
        let optional = |values: &[serde_json::Value]| match values {
            [] => Value::from(()),
            values => Value::from(Serde(values)),
        };
        let fixed = [
            ("messages", Value::from(Serde(messages?))),
            ("tools", optional(&input.tools)),
            ("documents", optional(&input.documents)),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("__now", input.now.map_or(Value::UNDEFINED, Value::from)),
        ];
        let special = self.special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let further = input.variables.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        Ok(Value::from_pairs(special.chain(further).chain(fixed)))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ChatTemplate({} bytes)", self.source.len())
    }
}

/// A text of bounded length.
struct Bounded {
    text: Vec<u8>,
    most: usize,
    over: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > self.most {
            self.over = true;
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn described(error: &Error) -> TemplateError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref::<Raised>() {
            return TemplateError::Refused(message.clone());
        }
        source = cause.source();
    }
    let problem = problem(error);
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::TooMuch("it takes too much work".to_string());
    }
    if problem.contains("recursion limit") {
        return TemplateError::TooMuch("it calls itself too often".to_string());
    }
    TemplateError::Failed { line: error.line().unwrap_or(0), problem }
}

fn problem(error: &Error) -> String {
    let kind = error.kind().to_string();
    error.detail().map_or(kind.clone(), |detail| format!("{kind}: {detail}"))
}

/// Takes away `{% generation %}` and `{% endgeneration %}`, by which `transformers` marks the assistant's words for
/// training: they print nothing. The whitespace control of the tags stays.
fn without_generation_blocks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let inside = tag.trim_start_matches("{%").trim_end_matches("%}");
        match inside.trim_matches(['-', '+']).trim() {
            "generation" => text.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => text.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, BTreeMap::new(), TemplateLimits::default()).unwrap()
    }

    fn rendered(source: &str) -> Result<String, TemplateError> {
        let input = ChatInput { messages: vec![Message::new("user", "hi")], now: Some(0), ..ChatInput::default() };
        template(source).render(&input)
    }

    #[test]
    fn a_template_that_loops_calls_itself_or_writes_without_end_is_an_error() {
        for source in [
            "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
            "{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
            "{{ 'x' * 50000000 }}",
            "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% for j in range(99) %}{% set ns.x = [ns.x] %}\
             {% endfor %}{% endfor %}{{ ns.x | length }}",
        ] {
            let error = rendered(source).unwrap_err();
            assert!(matches!(error, TemplateError::TooMuch(_)), "{source}: {error}");
        }
        let limits = TemplateLimits { output_bytes: 100, ..TemplateLimits::default() };
        let long = ChatTemplate::new("{{ 'x' * 101 }}", BTreeMap::new(), limits).unwrap();
        assert!(long.render(&ChatInput::default()).unwrap_err().to_string().contains("longer than 100 bytes"));
        let long = ChatTemplate::new(&" ".repeat(2 << 20), BTreeMap::new(), limits).unwrap_err();
        assert!(long.to_string().contains("bytes"));
    }

    #[test]
    fn values_nested_without_end_do_not_take_the_process_down() {
        let deep = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}";
        assert_eq!(rendered(&format!("{deep}done")).unwrap(), "done");
        assert!(rendered(&format!("{deep}{{{{ ns.x | tojson }}}}")).is_err());
    }

    #[test]
    fn errors_say_where_and_what_the_template_says_itself() {
        let error = ChatTemplate::new("a\n{% if %}", BTreeMap::new(), TemplateLimits::default()).unwrap_err();
        assert!(matches!(error, TemplateError::Syntax { line: 2, .. }), "{error}");
        let raised = rendered("{% for m in messages %}{{ raise_exception('Roles must alternate!') }}{% endfor %}");
        assert_eq!(raised, Err(TemplateError::Refused("Roles must alternate!".to_string())));
        let failed = rendered("\n\n{{ messages[0].nothing.more }}").unwrap_err();
        assert!(matches!(failed, TemplateError::Failed { line: 3, .. }), "{failed}");
        assert_eq!(rendered("{{ strftime_now('%d %b %Y') }}").unwrap(), "01 Jan 1970");
    }

    #[test]
    fn messages_come_in_the_forms_that_clients_send() {
        let message = |json| serde_json::from_value::<Message>(json).unwrap().for_template();
        let parts = message(json!({"role": "user", "content": [{"type": "text", "text": "a"},
            {"type": "text", "text": "b"}], "name": null, "weight": null}));
        assert_eq!(parts.unwrap(), json!({"role": "user", "content": "a\nb"}));
        let call = message(json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
            "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [2]}"}}]}));
        let call = call.unwrap();
        assert_eq!(call.pointer("/tool_calls/0/function/arguments").unwrap().to_string(), r#"{"b":1,"a":[2]}"#);
        assert!(call.get("content").is_none());
        let image = message(json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}));
        assert_eq!(image, Err(TemplateError::Part { role: "user".to_string() }));
    }

    #[test]
    fn blocks_that_mark_the_assistants_words_print_nothing() {
        let source = "a{%- generation -%}  b  {%- endgeneration %} c{% generation %}d{% endgeneration %}";
        assert_eq!(rendered(source).unwrap(), "ab cd");
    }
}
