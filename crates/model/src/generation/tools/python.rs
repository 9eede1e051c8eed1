//! What Llama writes after `<|python_tag|>`: a call of a built-in tool such as `brave_search.call(query="…")`, or code.

use serde_json::{Map, Value, json};

use super::call::ParsedToolCall;

/// The tool that runs code.
const INTERPRETER: &str = "code_interpreter";

pub(super) fn call(text: &str) -> ParsedToolCall {
    built_in(text.trim()).unwrap_or_else(|| ParsedToolCall {
        name: INTERPRETER.to_string(),
        arguments: json!({ "code": text }).to_string(),
    })
}

/// `name.call(key="text", other=3)`.
fn built_in(text: &str) -> Option<ParsedToolCall> {
    let (name, rest) = text.split_once(".call(")?;
    let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let mut rest = rest.strip_suffix(')').filter(|_| plain(name))?.trim();
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=')?;
        let key = key.trim();
        if !plain(key) {
            return None;
        }
        let (value, after) = literal(value.trim_start())?;
        arguments.insert(key.to_string(), value);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(ParsedToolCall { name: name.to_string(), arguments: Value::Object(arguments).to_string() })
}

/// A Python string, number or constant, and what comes after it.
fn literal(text: &str) -> Option<(Value, &str)> {
    let quote = text.chars().next().filter(|first| matches!(first, '"' | '\''));
    let Some(quote) = quote else {
        let end = text.find(',').unwrap_or(text.len());
        let (word, after) = text.split_at(end);
        let value = match word.trim() {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            word => serde_json::from_str(word).ok()?,
        };
        return Some((value, after));
    };
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                other => value.push(other),
            },
            character if character == quote => return Some((Value::String(value), text.get(at + 1..)?)),
            character => value.push(character),
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn built_in_tools_and_code() {
        let alpha = call("wolfram_alpha.call(query='solve x=2', exact=True, n=1.5)");
        assert_eq!((alpha.name.as_str(), alpha.arguments.as_str()), {
            ("wolfram_alpha", r#"{"query":"solve x=2","exact":true,"n":1.5}"#)
        });
        assert_eq!(call("search.call()").arguments, "{}");
        for code in ["x = 1", "a.call(b", "a.call(1)", "a b.call(c=1)", "a.call(c=d)", "a.call(c=\"d)"] {
            assert_eq!(
                call(code),
                ParsedToolCall { name: INTERPRETER.to_string(), arguments: json!({ "code": code }).to_string() }
            );
        }
    }
}
