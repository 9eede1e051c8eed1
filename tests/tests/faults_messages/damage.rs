//! What is done to valid messages: to their bytes, to JSON's values, and to gRPC's frames.

use rand::Rng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

/// Changes some bytes; now and then the length too.
pub(crate) fn bytes(bytes: &[u8], other: &[u8], random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..3) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 12));
        match random.random_range(0..16) {
            0..8 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            8..10 if at < bytes.len() => bytes[at] = random.random(),
            10 => bytes.truncate(at),
            11 => drop(bytes.drain(at..end)),
            12 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            // The greatest varint, and one that never ends.
            13 => drop(bytes.splice(at..end, [0xff; 9].into_iter().chain([random.random_range(0..3)]))),
            _ => {
                let from = random.random_range(0..=other.len());
                bytes.splice(at..end, other[from..].iter().take(40).copied());
            }
        }
    }
    bytes
}

/// Puts something else in the place of some value.
pub(crate) fn value(value: &Value, random: &mut impl Rng) -> Value {
    let mut changed = value.clone();
    let count = count(&changed);
    let at = random.random_range(0..count);
    let new = other(random);
    replace(&mut changed, &mut at.clone(), &new, random);
    changed
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(values) => values.values().map(count).sum(),
        _ => 0,
    }
}

/// Replaces the value that comes `at`th, or takes it out of what holds it.
fn replace(value: &mut Value, at: &mut usize, new: &Value, random: &mut impl Rng) -> bool {
    if *at == 0 {
        *value = new.clone();
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(values) => {
            for index in 0..values.len() {
                if *at == 0 && random.random_bool(0.3) {
                    values.remove(index);
                    return true;
                }
                if replace(&mut values[index], at, new, random) {
                    return true;
                }
            }
        }
        Value::Object(values) => {
            let keys: Vec<String> = values.keys().cloned().collect();
            for key in keys {
                if *at == 0 && random.random_bool(0.3) {
                    values.remove(&key);
                    return true;
                }
                if values.get_mut(&key).is_some_and(|value| replace(value, at, new, random)) {
                    return true;
                }
            }
        }
        _ => {}
    }
    false
}

fn other(random: &mut impl Rng) -> Value {
    let depth = random.random_range(1..120);
    let nested = (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e308),
        json!(-1.5),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1_000_000_007),
        json!(""),
        json!("\u{0}\u{fffd}\u{1f30a}"),
        json!("x".repeat(random.random_range(1..3000))),
        json!("(a|b)*[^"),
        json!([]),
        json!({}),
        json!([[], [[]]]),
        json!({"type": "object", "properties": {"a": {"$ref": "#"}}}),
        json!(["tide", 1, null]),
        nested,
    ];
    values.choose(random).cloned().unwrap_or_default()
}

/// A message in gRPC's frame, which now and then lies of its length or says that it is compressed.
pub(crate) fn framed(message: &[u8], random: &mut impl Rng) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let (flag, length) = match random.random_range(0..10) {
        0 => (random.random(), length),
        1 => (0, random.random()),
        2 => (0, length.wrapping_add(random.random_range(1..4))),
        3 => (0, length.saturating_sub(random.random_range(1..4))),
        _ => (0, length),
    };
    let one = [&[flag], &length.to_be_bytes()[..], message].concat();
    match random.random_range(0..12) {
        // Less than a frame's own five bytes; a second frame; bytes after it.
        0 => one[..one.len().min(random.random_range(0..5))].to_vec(),
        1 => [&one[..], &one].concat(),
        2 => [&one[..], &[0, 0, 0]].concat(),
        _ => one,
    }
}
