//! A prompt or an input as this interface lets it be: a string, a list of strings, a list of tokens, or a list of lists of
//! tokens.

use serde_json::Value;

use crate::refusal::Refusal;
use crate::services::TextLimits;
use crate::tasks::TextOrTokens;

/// The texts of a field, checked.
pub(super) fn read(value: Option<Value>, field: &str, limits: TextLimits) -> Result<Vec<TextOrTokens>, Refusal> {
    let wrong = |problem: &str| Refusal::invalid(field, problem);
    let texts = match value {
        None | Some(Value::Null) => return Err(wrong("is missing")),
        Some(Value::String(text)) => vec![TextOrTokens::Text(text)],
        Some(Value::Array(items)) => match items.first() {
            None => return Err(wrong("is empty; send at least one text")),
            Some(Value::Number(_)) => vec![tokens(&items, field)?],
            Some(_) => {
                limits.check_count(items.len(), field)?;
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| one(item, &format!("{field}[{index}]")))
                    .collect::<Result<_, _>>()?
            }
        },
        Some(_) => return Err(wrong("must be a string, a list of strings, or a list of tokens")),
    };
    for (index, text) in texts.iter().enumerate() {
        if let TextOrTokens::Text(text) = text {
            limits.check_length(text.len(), || format!("{field}[{index}]"))?;
        }
    }
    Ok(texts)
}

fn one(item: Value, field: &str) -> Result<TextOrTokens, Refusal> {
    match item {
        Value::String(text) => Ok(TextOrTokens::Text(text)),
        Value::Array(items) => tokens(&items, field),
        _ => Err(Refusal::invalid(field, "must be a string or a list of tokens")),
    }
}

fn tokens(items: &[Value], field: &str) -> Result<TextOrTokens, Refusal> {
    let token = |item: &Value| item.as_u64().and_then(|token| u32::try_from(token).ok());
    let tokens: Option<Vec<u32>> = items.iter().map(token).collect();
    tokens.map(TextOrTokens::Tokens).ok_or_else(|| Refusal::invalid(field, "must hold whole numbers, tokens, alone"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_forms_are_read_and_mixtures_refused() {
        let limits = TextLimits { max_texts: 2, max_text_bytes: 5, max_tensors: 1 };
        let text = |text: &str| TextOrTokens::Text(text.into());
        let read = |value: Value| super::read(Some(value), "input", limits);
        assert_eq!(read(json!("tide")).unwrap(), [text("tide")]);
        assert_eq!(read(json!(["a", ""])).unwrap(), [text("a"), text("")]);
        assert_eq!(read(json!([1, 2, 3])).unwrap(), [TextOrTokens::Tokens(vec![1, 2, 3])]);
        let lists = [TextOrTokens::Tokens(vec![1]), TextOrTokens::Tokens(vec![2, 3])];
        assert_eq!(read(json!([[1], [2, 3]])).unwrap(), lists);
        for wrong in
            [json!(3), json!([]), json!([1, "a"]), json!(["a", 1]), json!([[1], [-2]]), json!([1.5]), json!({})]
        {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(read(json!(["a", "b", "c"])).is_err());
        assert!(read(json!("too long")).is_err());
        assert!(super::read(None, "input", limits).is_err());
    }
}
