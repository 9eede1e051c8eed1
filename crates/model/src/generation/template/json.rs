//! `tojson` as `transformers` has it in templates: Python's `json.dumps` with its spaces, its floats and its options.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// How a value is laid out.
#[derive(Clone, Debug)]
struct Layout {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

/// Deepest nesting that is written.
const NESTING: usize = 200;

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
        }),
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
    };
    let ascii = ascii.or(ensure_ascii).unwrap_or(false);
    let layout = Layout { ascii, indent, item, key, sorted: sorted.unwrap_or(false) };
    let mut json = String::new();
    write(state, value, &layout, 0, &mut json)?;
    Ok(json)
}

fn write(state: &State, value: &Value, layout: &Layout, depth: usize, json: &mut String) -> Result<(), Error> {
    state.consume_fuel(1)?;
    if depth > NESTING {
        return Err(Error::new(ErrorKind::BadSerialization, "a value is nested too deeply for tojson"));
    }
    match value.kind() {
        ValueKind::None => json.push_str("null"),
        ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => json.push_str(&number(value)),
        ValueKind::String => text(value.as_str().unwrap_or_default(), layout.ascii, json),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?;
            list(items, ('[', ']'), layout, depth, json, |item, json| write(state, &item, layout, depth + 1, json))?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if layout.sorted {
                keys.sort();
            }
            list(keys.into_iter(), ('{', '}'), layout, depth, json, |key, json| {
                text(&name(&key), layout.ascii, json);
                json.push_str(&layout.key);
                write(state, &value.get_item(&key)?, layout, depth + 1, json)
            })?;
        }
        kind => {
            let problem = format!("a value that is {kind} cannot be written as JSON");
            return Err(Error::new(ErrorKind::BadSerialization, problem));
        }
    }
    Ok(())
}

fn list(
    items: impl Iterator<Item = Value>,
    (open, close): (char, char),
    layout: &Layout,
    depth: usize,
    json: &mut String,
    mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |depth: usize, json: &mut String| {
        if let Some(indent) = &layout.indent {
            json.push('\n');
            (0..depth).for_each(|_| json.push_str(indent));
        }
    };
    json.push(open);
    let mut empty = true;
    for item in items {
        if !empty {
            json.push_str(&layout.item);
        }
        empty = false;
        line(depth + 1, json);
        write(item, json)?;
    }
    if !empty {
        line(depth, json);
    }
    json.push(close);
    Ok(())
}

/// A key as Python writes it: what is no text becomes one.
fn name(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".to_string(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_string(),
        ValueKind::Number => number(key),
        _ => key.to_string(),
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => python_float(float),
        _ => value.to_string(),
    }
}

/// A float as Python's `repr` writes it: the shortest digits, with an exponent below 0.0001 and from 1e16.
fn python_float(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_string();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || value == 0.0 {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

fn text(text: &str, ascii: bool, json: &mut String) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            control if control < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(control))),
            other if ascii && !(' '..='~').contains(&other) => {
                let mut units = [0; 2];
                other.encode_utf16(&mut units).iter().for_each(|unit| json.push_str(&format!("\\u{unit:04x}")));
            }
            other => json.push(other),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        for (value, right) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(python_float(value), right);
        }
    }
}
