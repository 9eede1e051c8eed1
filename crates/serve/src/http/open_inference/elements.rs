//! Tensors as JSON: lists of numbers, booleans or strings, nested or flat, to the bytes that the binary form has, and back.

use axum::body::{Body, Bytes};
use axum::http::Request;
use serde_json::{Number, Value};
use tidemill_proto::tensor::{Datatype, decode_bytes, encode_bytes};

use crate::refusal::Refusal;

/// A request's body, of `max` bytes at most.
pub(super) async fn body(request: Request<Body>, max: usize) -> Result<Bytes, Refusal> {
    axum::body::to_bytes(request.into_body(), max).await.map_err(|error| {
        let is_too_large = std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("limit"));
        if is_too_large { Refusal::TooLarge { max } } else { Refusal::invalid("body", "cannot be read") }
    })
}

/// The JSON object that bytes are.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| Refusal::invalid("body", format!("is not JSON: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(Refusal::invalid("body", "must be a JSON object")) }
}

/// The bytes of a tensor's elements, in their order. `field` names the list.
pub(super) fn to_raw(datatype: Datatype, data: &Value, field: &str) -> Result<Bytes, Refusal> {
    let mut elements = Vec::new();
    flatten(data, &mut elements, field)?;
    let wrong = |index: usize, wanted: &str| Refusal::invalid(format!("{field}[{index}]"), format!("must be {wanted}"));
    if datatype == Datatype::Bytes {
        let text =
            |(index, value): (usize, &Value)| value.as_str().map(str::to_owned).ok_or_else(|| wrong(index, "a string"));
        let texts: Vec<String> = elements.into_iter().enumerate().map(text).collect::<Result<_, _>>()?;
        return encode_bytes(texts).map_err(|error| Refusal::invalid(field, error.to_string()));
    }
    let mut raw = Vec::with_capacity(elements.len().saturating_mul(datatype.size().unwrap_or(1)));
    for (index, value) in elements.into_iter().enumerate() {
        match element(datatype, value, &mut raw) {
            Ok(()) => {}
            Err(wanted) => return Err(wrong(index, wanted)),
        }
    }
    Ok(raw.into())
}

// Nesting says nothing that the shape does not; the parser bounds how deep it goes.
fn flatten<'a>(data: &'a Value, elements: &mut Vec<&'a Value>, field: &str) -> Result<(), Refusal> {
    match data {
        Value::Array(list) => list.iter().try_for_each(|value| flatten(value, elements, field)),
        Value::Object(_) | Value::Null => Err(Refusal::invalid(field, "must be a list of elements")),
        value => {
            elements.push(value);
            Ok(())
        }
    }
}

// Appends an element, little-endian; else says what it must be.
fn element(datatype: Datatype, value: &Value, raw: &mut Vec<u8>) -> Result<(), &'static str> {
    let signed = value.as_i64();
    let unsigned = value.as_u64();
    match datatype {
        Datatype::Bool => raw.push(u8::from(value.as_bool().ok_or("true or false")?)),
        Datatype::Int8 => raw.push(narrow::<i8>(signed, "a whole number of 8 bits")?.to_le_bytes()[0]),
        Datatype::Int16 => raw.extend(narrow::<i16>(signed, "a whole number of 16 bits")?.to_le_bytes()),
        Datatype::Int32 => raw.extend(narrow::<i32>(signed, "a whole number of 32 bits")?.to_le_bytes()),
        Datatype::Int64 => raw.extend(signed.ok_or("a whole number of 64 bits")?.to_le_bytes()),
        Datatype::Uint8 => raw.push(narrow::<u8>(unsigned, "a whole number of 8 bits, 0 or more")?),
        Datatype::Uint16 => raw.extend(narrow::<u16>(unsigned, "a whole number of 16 bits, 0 or more")?.to_le_bytes()),
        Datatype::Uint32 => raw.extend(narrow::<u32>(unsigned, "a whole number of 32 bits, 0 or more")?.to_le_bytes()),
        Datatype::Uint64 => raw.extend(unsigned.ok_or("a whole number of 64 bits, 0 or more")?.to_le_bytes()),
        // What is beyond float32's range is its infinity, as everywhere.
        Datatype::Fp32 => raw.extend((value.as_f64().ok_or("a number")? as f32).to_le_bytes()),
        Datatype::Fp64 => raw.extend(value.as_f64().ok_or("a number")?.to_le_bytes()),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
            return Err("sent as bytes (the binary tensor extension): JSON has no form of it");
        }
    }
    Ok(())
}

fn narrow<T>(value: Option<impl TryInto<T>>, wanted: &'static str) -> Result<T, &'static str> {
    value.and_then(|value| value.try_into().ok()).ok_or(wanted)
}

/// The elements of a tensor as a flat list; `count` is how many its shape has.
pub(super) fn from_raw(datatype: Datatype, raw: &[u8], count: usize) -> Result<Value, String> {
    let no_text = "has elements that are not UTF-8; ask for it as bytes (binary_data)";
    let chunks = |size: usize| raw.chunks_exact(size);
    let list = match datatype {
        Datatype::Bytes => {
            let elements = decode_bytes(raw, count).map_err(|error| error.to_string())?;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map(Value::String);
            elements.into_iter().map(text).collect::<Result<_, _>>().map_err(|_| no_text.to_owned())?
        }
        Datatype::Bool => raw.iter().map(|byte| Value::Bool(*byte != 0)).collect(),
        Datatype::Int8 => raw.iter().map(|byte| Value::from(byte.cast_signed())).collect(),
        Datatype::Uint8 => raw.iter().map(|byte| Value::from(*byte)).collect(),
        Datatype::Int16 => chunks(2).map(|bytes| Value::from(i16::from_le_bytes(array(bytes)))).collect(),
        Datatype::Uint16 => chunks(2).map(|bytes| Value::from(u16::from_le_bytes(array(bytes)))).collect(),
        Datatype::Int32 => chunks(4).map(|bytes| Value::from(i32::from_le_bytes(array(bytes)))).collect(),
        Datatype::Uint32 => chunks(4).map(|bytes| Value::from(u32::from_le_bytes(array(bytes)))).collect(),
        Datatype::Int64 => chunks(8).map(|bytes| Value::from(i64::from_le_bytes(array(bytes)))).collect(),
        Datatype::Uint64 => chunks(8).map(|bytes| Value::from(u64::from_le_bytes(array(bytes)))).collect(),
        Datatype::Fp32 => chunks(4).map(|bytes| short_number(f32::from_le_bytes(array(bytes)))).collect(),
        Datatype::Fp64 => chunks(8).map(|bytes| Value::from(f64::from_le_bytes(array(bytes)))).collect(),
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(format!("is {datatype}, which JSON has no form of; ask for it as bytes (binary_data)"));
        }
    };
    Ok(Value::Array(list))
}

// What is no number (an infinity, or none at all) is null, as JSON has nothing for it. Otherwise the shortest that reads
// as the same float32.
fn short_number(value: f32) -> Value {
    let text = value.is_finite().then(|| value.to_string());
    text.and_then(|text| text.parse::<f64>().ok()).and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_datatype_goes_to_bytes_and_back() {
        for (datatype, list, count) in [
            (Datatype::Bool, json!([true, false]), 2),
            (Datatype::Int8, json!([-128, 127]), 2),
            (Datatype::Int16, json!([-32768, 32767]), 2),
            (Datatype::Int32, json!([i32::MIN, i32::MAX]), 2),
            (Datatype::Int64, json!([i64::MIN, i64::MAX]), 2),
            (Datatype::Uint8, json!([0, 255]), 2),
            (Datatype::Uint16, json!([0, 65535]), 2),
            (Datatype::Uint32, json!([0, u32::MAX]), 2),
            (Datatype::Uint64, json!([0, u64::MAX]), 2),
            (Datatype::Fp32, json!([0.1, -2.5, 3e38]), 3),
            (Datatype::Fp64, json!([0.1, -2.5e300]), 2),
            (Datatype::Bytes, json!(["", "die Mühle"]), 2),
            (Datatype::Fp32, json!([]), 0),
        ] {
            let raw = to_raw(datatype, &list, "data").unwrap();
            assert_eq!(from_raw(datatype, &raw, count).unwrap(), list, "{datatype}");
        }
        let nested = to_raw(Datatype::Int8, &json!([[1, 2], [[3], []]]), "data").unwrap();
        assert_eq!(*nested, [1, 2, 3]);
        assert_eq!(from_raw(Datatype::Fp32, &f32::NAN.to_le_bytes(), 1).unwrap(), json!([null]));
    }

    #[test]
    fn elements_of_another_type_are_named() {
        for (datatype, list, problem) in [
            (Datatype::Int8, json!([1, 128]), "data[1]: must be a whole number of 8 bits"),
            (Datatype::Uint32, json!([-1]), "data[0]: must be a whole number of 32 bits, 0 or more"),
            (Datatype::Int32, json!([1.5]), "data[0]: must be a whole number of 32 bits"),
            (Datatype::Bool, json!([1]), "data[0]: must be true or false"),
            (Datatype::Bytes, json!(["a", 1]), "data[1]: must be a string"),
            (Datatype::Fp32, json!(["1"]), "data[0]: must be a number"),
            (Datatype::Fp32, json!([[{}]]), "data: must be a list of elements"),
            (Datatype::Fp16, json!([1]), "data[0]: must be sent as bytes"),
        ] {
            let refusal = to_raw(datatype, &list, "data").unwrap_err().to_string();
            assert!(refusal.starts_with(problem), "{refusal}");
        }
        assert!(from_raw(Datatype::Bytes, &[1, 0, 0, 0, 0xFF], 1).unwrap_err().contains("UTF-8"));
    }
}
