//! Calls of tools in generated text: each family of models writes them its own way, mixed with ordinary text. A parser
//! takes the text as it streams, gives out what is certainly not part of a call at once, and calls when they are
//! complete. What looks like a call and is none comes out as the text that it is.

mod call;
mod python;

pub use call::ParsedToolCall;
use call::{JsonScan, parse};

/// How a family writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Qwen 2.5 and 3, Hermes, SmolLM2.
    Hermes,
    /// `[TOOL_CALLS] [{"name": …, "arguments": {…}}]`, or `[TOOL_CALLS]name[ARGS]{…}` of later models: Mistral.
    Mistral,
    /// `{"name": …, "parameters": {…}}` as the whole answer, `<|python_tag|>` before a call of a built-in tool or before
    /// code, `<function=name>{…}</function>`: Llama 3.1 to 3.3.
    Llama,
}

impl ToolFormat {
    /// The format that a chat template teaches; none for families without tools, such as Gemma and Phi.
    ///
    /// ```
    /// use tidemill_model::generation::ToolFormat;
    /// assert_eq!(ToolFormat::detect("… within <tool_call></tool_call> tags …"), Some(ToolFormat::Hermes));
    /// assert_eq!(ToolFormat::detect("{% for message in messages %}…"), None);
    /// ```
    pub fn detect(template: &str) -> Option<ToolFormat> {
        let marks = [
            ("<tool_call>", ToolFormat::Hermes),
            ("[TOOL_CALLS]", ToolFormat::Mistral),
            ("<|python_tag|>", ToolFormat::Llama),
        ];
        marks.into_iter().find(|(mark, _)| template.contains(mark)).map(|(_, format)| format)
    }

    /// The special tokens that mark calls: a [`TextStream`](super::TextStream) must show them.
    pub fn special_tokens(self) -> &'static [&'static str] {
        match self {
            ToolFormat::Hermes => &["<tool_call>", "</tool_call>"],
            ToolFormat::Mistral => &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
            ToolFormat::Llama => &["<|python_tag|>"],
        }
    }

    /// What a call begins with, wherever in the text.
    fn marks(self) -> &'static [(&'static str, Body)] {
        match self {
            ToolFormat::Hermes => &[("<tool_call>", Body::Tagged)],
            ToolFormat::Mistral => &[("[TOOL_CALLS]", Body::Mistral)],
            ToolFormat::Llama => &[("<|python_tag|>", Body::Python), ("<function=", Body::Function)],
        }
    }
}

/// What a text that streams turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEvent {
    /// Ordinary text.
    Text(String),
    /// A call, complete.
    Call(ParsedToolCall),
}

/// Takes the text of one output as it streams, and tells text from calls.
///
/// ```
/// use tidemill_model::generation::{ToolEvent, ToolFormat, ToolParser};
/// let mut parser = ToolParser::new(ToolFormat::Hermes);
/// assert_eq!(parser.push("Let me see.<tool"), [ToolEvent::Text("Let me see.".to_string())]);
/// let events = parser.push("_call>{\"name\": \"clock\", \"arguments\": {\"zone\": \"UTC\"}}</tool_call>");
/// let [ToolEvent::Call(call)] = events.as_slice() else { panic!() };
/// assert_eq!((call.name.as_str(), call.arguments.as_str()), ("clock", "{\"zone\": \"UTC\"}"));
/// ```
#[derive(Clone, Debug)]
pub struct ToolParser {
    format: ToolFormat,
    /// Text that is not decided yet; within a call, what follows its mark.
    held: String,
    /// The call's kind and its mark, within one.
    body: Option<(Body, String)>,
    /// How far the body was looked through.
    searched: usize,
    scan: JsonScan,
    /// Whether an object here would be a call: at the beginning, and after another call.
    fresh: bool,
    /// Spaces after a call, which are text only if text follows.
    blank: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Tagged,
    Mistral,
    Object,
    Python,
    Function,
}

enum Outcome {
    /// It is not complete.
    Wait,
    /// Calls, and how many bytes they took.
    Calls(Vec<ParsedToolCall>, usize),
    /// It is ordinary text.
    Text,
}

/// Longest name of a function.
const NAME_BYTES: usize = 256;

impl ToolParser {
    /// For one output.
    pub fn new(format: ToolFormat) -> ToolParser {
        ToolParser {
            format,
            held: String::new(),
            body: None,
            searched: 0,
            scan: JsonScan::default(),
            fresh: format == ToolFormat::Llama,
            blank: None,
        }
    }

    /// Takes more text and gives what is certain, in order.
    pub fn push(&mut self, text: &str) -> Vec<ToolEvent> {
        self.held.push_str(text);
        self.run(false)
    }

    /// Gives what was held back, at the end of the output.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        self.run(true)
    }

    fn run(&mut self, end: bool) -> Vec<ToolEvent> {
        let mut events = Vec::new();
        loop {
            let Some((body, mark)) = self.body.clone() else {
                if self.text(end, &mut events) {
                    continue;
                }
                return events;
            };
            match self.look(body, end) {
                Outcome::Wait if !end => return events,
                Outcome::Calls(calls, used) => {
                    self.held.drain(..used.min(self.held.len()));
                    events.extend(calls.into_iter().map(ToolEvent::Call));
                    self.fresh = self.format == ToolFormat::Llama;
                    self.blank = Some(String::new());
                }
                Outcome::Wait | Outcome::Text => {
                    self.fresh = false;
                    self.say(&mark, &mut events);
                }
            }
            self.body = None;
        }
    }

    /// Gives text up to the next mark; whether there is one.
    fn text(&mut self, end: bool, events: &mut Vec<ToolEvent>) -> bool {
        if self.fresh {
            let separators: &[char] = if self.blank.is_some() { &[' ', '\n', ';', ','] } else { &[' ', '\n'] };
            let lead = self.held.len() - self.held.trim_start_matches(separators).len();
            match self.held.get(lead..).unwrap_or_default() {
                "" if !end => return false,
                rest if rest.starts_with('{') => {
                    let lead = self.held.drain(..lead).collect();
                    self.begin(Body::Object, lead);
                    return true;
                }
                _ => self.fresh = false,
            }
        }
        let marks = self.format.marks().iter();
        let found = marks.filter_map(|&(mark, body)| self.held.find(mark).map(|at| (at, mark, body)));
        if let Some((at, mark, body)) = found.min_by_key(|&(at, ..)| at) {
            let rest = self.held.split_off(at + mark.len());
            let before = std::mem::replace(&mut self.held, rest);
            self.say(before.get(..at).unwrap_or_default(), events);
            self.begin(body, mark.to_string());
            return true;
        }
        let kept =
            if end { 0 } else { self.format.marks().iter().map(|(mark, _)| open(&self.held, mark)).max().unwrap_or(0) };
        let rest = self.held.split_off(self.held.len() - kept);
        let text = std::mem::replace(&mut self.held, rest);
        self.say(&text, events);
        false
    }

    fn begin(&mut self, body: Body, mark: String) {
        self.body = Some((body, mark));
        self.searched = 0;
        self.scan = JsonScan::default();
    }

    fn say(&mut self, text: &str, events: &mut Vec<ToolEvent>) {
        if let Some(blank) = &mut self.blank {
            blank.push_str(text);
            if blank.trim().is_empty() {
                return;
            }
        }
        let text = self.blank.take().unwrap_or_else(|| text.to_string());
        match events.last_mut() {
            _ if text.is_empty() => {}
            Some(ToolEvent::Text(before)) => before.push_str(&text),
            _ => events.push(ToolEvent::Text(text)),
        }
    }

    fn look(&mut self, body: Body, end: bool) -> Outcome {
        match body {
            Body::Tagged => self.tagged(end),
            Body::Object => self.object(0, true),
            Body::Mistral => self.mistral(),
            Body::Python => self.python(end),
            Body::Function => self.function(),
        }
    }

    /// JSON up to a closing tag that is not within one of its strings.
    fn tagged(&mut self, end: bool) -> Outcome {
        const CLOSE: &str = "</tool_call>";
        while let Some(at) = self.held.get(self.searched..).and_then(|rest| rest.find(CLOSE)) {
            let (inside, after) = (self.searched + at, self.searched + at + CLOSE.len());
            match parse(self.held.get(..inside).unwrap_or_default(), false) {
                Ok(calls) => return Outcome::Calls(calls, after),
                Err(call::NoCall::Incomplete) => self.searched = after,
                Err(call::NoCall::Other) => return Outcome::Text,
            }
        }
        if end {
            return match parse(&self.held, false) {
                Ok(calls) => Outcome::Calls(calls, self.held.len()),
                Err(_) => Outcome::Text,
            };
        }
        self.searched = self.searched.max(self.held.len() - open(&self.held, CLOSE));
        Outcome::Wait
    }

    /// JSON from `start` to its end; it must have arguments where `strict`, as any object may have a name.
    fn object(&mut self, start: usize, strict: bool) -> Outcome {
        let Some(end) = self.scan.end(&self.held, start) else { return Outcome::Wait };
        match parse(self.held.get(start..end).unwrap_or_default(), strict) {
            Ok(calls) => Outcome::Calls(calls, end),
            Err(_) => Outcome::Text,
        }
    }

    fn mistral(&mut self) -> Outcome {
        let start = self.held.len() - self.held.trim_start().len();
        let rest = self.held.get(start..).unwrap_or_default();
        if rest.is_empty() {
            return Outcome::Wait;
        }
        if rest.starts_with(['[', '{']) {
            return self.object(start, false);
        }
        let Some(brace) = rest.find('{') else {
            return if rest.len() > NAME_BYTES { Outcome::Text } else { Outcome::Wait };
        };
        let head = rest.get(..brace).unwrap_or_default();
        let name = head.split(['[', ' ', '\n']).next().unwrap_or_default().to_string();
        if name.is_empty() || head.len() > NAME_BYTES {
            return Outcome::Text;
        }
        let Some(end) = self.scan.end(&self.held, start + brace) else { return Outcome::Wait };
        let arguments = self.held.get(start + brace..end).unwrap_or_default().to_string();
        match serde_json::from_str::<serde::de::IgnoredAny>(&arguments) {
            Ok(_) => Outcome::Calls(vec![ParsedToolCall { name, arguments }], end),
            Err(_) => Outcome::Text,
        }
    }

    fn python(&mut self, end: bool) -> Outcome {
        let start = self.held.len() - self.held.trim_start().len();
        if self.held.get(start..).is_some_and(|rest| rest.starts_with('{')) {
            match self.object(start, true) {
                Outcome::Text => {}
                other => return other,
            }
        }
        // Code ends with the output.
        match end {
            true if !self.held.trim().is_empty() => Outcome::Calls(vec![python::call(&self.held)], self.held.len()),
            _ => Outcome::Wait,
        }
    }

    fn function(&mut self) -> Outcome {
        const CLOSE: &str = "</function>";
        let Some((name, rest)) = self.held.split_once('>') else {
            return if self.held.len() > NAME_BYTES { Outcome::Text } else { Outcome::Wait };
        };
        let Some(end) = rest.find(CLOSE) else { return Outcome::Wait };
        let arguments = rest.get(..end).unwrap_or_default().trim();
        let arguments = if arguments.is_empty() { "{}" } else { arguments };
        if name.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_err() {
            return Outcome::Text;
        }
        let call = ParsedToolCall { name: name.to_string(), arguments: arguments.to_string() };
        Outcome::Calls(vec![call], name.len() + 1 + end + CLOSE.len())
    }
}

/// How many bytes at the end of a text are the beginning of a mark.
fn open(text: &str, mark: &str) -> usize {
    let most = (mark.len() - 1).min(text.len());
    (1..=most).rev().find(|&length| mark.get(..length).is_some_and(|start| text.ends_with(start))).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// What comes out as text and calls, however the text is cut in two.
    fn parsed(format: ToolFormat, text: &str) -> (String, Vec<(String, String)>) {
        let mut results = Vec::new();
        for at in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
            let mut parser = ToolParser::new(format);
            let mut events = parser.push(&text[..at]);
            events.extend(parser.push(&text[at..]));
            events.extend(parser.finish());
            let mut result = (String::new(), Vec::new());
            for event in events {
                match event {
                    ToolEvent::Text(text) => result.0.push_str(&text),
                    ToolEvent::Call(call) => result.1.push((call.name, call.arguments)),
                }
            }
            results.push(result);
        }
        for letters in [ToolParser::new(format)] {
            let mut parser = letters;
            let mut text_out = String::new();
            let mut events: Vec<ToolEvent> = text.chars().flat_map(|letter| parser.push(&letter.to_string())).collect();
            events.extend(parser.finish());
            for event in events {
                if let ToolEvent::Text(text) = event {
                    text_out.push_str(&text);
                }
            }
            assert_eq!(text_out, results[0].0);
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:#?}");
        results.swap_remove(0)
    }

    fn calls(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, arguments)| (name.to_string(), arguments.to_string())).collect()
    }

    #[test]
    fn hermes() {
        let two = "Let me look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Zürich\"}}\n</tool_call>\
            \n<tool_call>\n{\"name\": \"now\"}\n</tool_call>\n";
        let right = calls(&[("weather", "{\"city\": \"Zürich\"}"), ("now", "{}")]);
        assert_eq!(parsed(ToolFormat::Hermes, two), ("Let me look.\n".to_string(), right));
        let inside =
            "<tool_call>{\"name\": \"say\", \"arguments\": {\"text\": \"</tool_call> {\\\"\"}}</tool_call> Done.";
        let right = calls(&[("say", "{\"text\": \"</tool_call> {\\\"\"}")]);
        assert_eq!(parsed(ToolFormat::Hermes, inside), (" Done.".to_string(), right));
        let cut = "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}";
        assert_eq!(parsed(ToolFormat::Hermes, cut), (String::new(), calls(&[("f", "{\"a\": 1}")])));
        let list =
            "<tool_call>[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]</tool_call>";
        assert_eq!(parsed(ToolFormat::Hermes, list).1, calls(&[("f", "{}"), ("g", "{}")]));
        for text in [
            "a < b, <tool_call",
            "<tool_call>no JSON</tool_call> x",
            "<tool_call>{\"name\": ",
            "<tool_call>[1]</tool_call>",
        ] {
            assert_eq!(parsed(ToolFormat::Hermes, text), (text.to_string(), Vec::new()));
        }
    }

    #[test]
    fn mistral() {
        let list =
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}}, {\"name\": \"g\", \"arguments\": {}}]";
        assert_eq!(parsed(ToolFormat::Mistral, list), (String::new(), calls(&[("f", "{\"a\": \"]\"}"), ("g", "{}")])));
        let named = "I will.[TOOL_CALLS]f[CALL_ID]abc123456[ARGS]{\"a\": {\"b\": 1}}[TOOL_CALLS]g[ARGS]{}";
        let right = calls(&[("f", "{\"a\": {\"b\": 1}}"), ("g", "{}")]);
        assert_eq!(parsed(ToolFormat::Mistral, named), ("I will.".to_string(), right));
        assert_eq!(
            parsed(ToolFormat::Mistral, "[TOOL_CALLS]f{\"a\":1} "),
            (String::new(), calls(&[("f", "{\"a\":1}")]))
        );
        for text in ["plain [TOOL", "[TOOL_CALLS] [1, 2]", "[TOOL_CALLS]f{\"a\"", "[TOOL_CALLS]"] {
            assert_eq!(parsed(ToolFormat::Mistral, text), (text.to_string(), Vec::new()));
        }
    }

    #[test]
    fn llama() {
        let json = "{\"name\": \"f\", \"parameters\": {\"a\": \"}\"}}; {\"name\": \"g\", \"parameters\": {}}";
        assert_eq!(parsed(ToolFormat::Llama, json), (String::new(), calls(&[("f", "{\"a\": \"}\"}"), ("g", "{}")])));
        let tagged = "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": 1}}";
        assert_eq!(parsed(ToolFormat::Llama, tagged), (String::new(), calls(&[("f", "{\"a\": 1}")])));
        let search = "Searching. <|python_tag|>brave_search.call(query=\"tide mills, \\\"old\\\"\", count=3)";
        let right = calls(&[("brave_search", "{\"query\":\"tide mills, \\\"old\\\"\",\"count\":3}")]);
        assert_eq!(parsed(ToolFormat::Llama, search), ("Searching. ".to_string(), right));
        let code = "<|python_tag|>print(1 + 1)\nprint(2)";
        let right = calls(&[("code_interpreter", "{\"code\":\"print(1 + 1)\\nprint(2)\"}")]);
        assert_eq!(parsed(ToolFormat::Llama, code), (String::new(), right));
        let custom = "Yes: <function=f>{\"a\": 1}</function>";
        assert_eq!(parsed(ToolFormat::Llama, custom), ("Yes: ".to_string(), calls(&[("f", "{\"a\": 1}")])));
        for text in [
            "{\"name\": \"Bob\", \"age\": 3} is Bob",
            "Use {\"name\": \"f\", \"parameters\": {}}",
            "{\"name\": \"f\", \"param",
            " \n",
            "if a <function b",
        ] {
            assert_eq!(parsed(ToolFormat::Llama, text), (text.to_string(), Vec::new()));
        }
    }

    #[test]
    fn text_before_a_call_is_given_at_once() {
        let mut parser = ToolParser::new(ToolFormat::Hermes);
        assert_eq!(parser.push("Hello"), [ToolEvent::Text("Hello".to_string())]);
        assert_eq!(parser.push(" <t"), [ToolEvent::Text(" ".to_string())]);
        assert_eq!(parser.push("ea"), [ToolEvent::Text("<tea".to_string())]);
        assert!(parser.push("<tool_call>{\"name\"").is_empty());
    }
}
