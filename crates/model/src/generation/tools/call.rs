//! A call as JSON: where it ends, and what it says.

use serde::Deserialize;
use serde_json::value::RawValue;

/// A call that a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedToolCall {
    /// The function's name.
    pub name: String,
    /// Its arguments, the text of a JSON object as the model wrote it.
    pub arguments: String,
}

/// Why a text is no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoCall {
    /// It may become one.
    Incomplete,
    /// It is something else.
    Other,
}

#[derive(Deserialize)]
struct Written<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
}

/// Reads one call, or a list of them. Where `strict` it must have arguments.
pub(super) fn parse(text: &str, strict: bool) -> Result<Vec<ParsedToolCall>, NoCall> {
    let text = text.trim();
    let written: Result<Vec<Written<'_>>, serde_json::Error> = match text.starts_with('[') {
        true => serde_json::from_str(text),
        false => serde_json::from_str(text).map(|call| vec![call]),
    };
    let written = written.map_err(|error| if error.is_eof() { NoCall::Incomplete } else { NoCall::Other })?;
    if written.is_empty() || (strict && written.iter().any(|call| call.arguments.is_none())) {
        return Err(NoCall::Other);
    }
    Ok(written
        .into_iter()
        .map(|call| ParsedToolCall { name: call.name, arguments: arguments(call.arguments) })
        .collect())
}

/// Some models write their arguments as a string that holds the object.
fn arguments(written: Option<&RawValue>) -> String {
    let raw = written.map(RawValue::get).filter(|&raw| raw != "null").unwrap_or("{}");
    match serde_json::from_str::<String>(raw) {
        Ok(inner) if serde_json::from_str::<serde::de::IgnoredAny>(&inner).is_ok() => inner,
        _ => raw.to_string(),
    }
}

/// Finds the end of a JSON value that comes in pieces, reading each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JsonScan {
    at: Option<usize>,
    depth: usize,
    string: bool,
    escaped: bool,
}

impl JsonScan {
    /// Where the object or list ends that begins at `start`, once it does.
    pub(super) fn end(&mut self, text: &str, start: usize) -> Option<usize> {
        let from = self.at.unwrap_or(start);
        for (offset, byte) in text.as_bytes().get(from..).unwrap_or_default().iter().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.string => self.escaped = true,
                b'"' => self.string = !self.string,
                _ if self.string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        self.at = Some(from + offset);
                        // Asked again, the same answer.
                        self.depth = 1;
                        return Some(from + offset + 1);
                    }
                }
                _ => {}
            }
        }
        self.at = Some(text.len());
        None
    }
}
