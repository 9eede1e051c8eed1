//! Durations as text with a unit, for `#[serde(with = "tidemill_data::duration")]`: "500us", "2ms", "30s", "5m". The largest
//! unit that is exact is written. [`option`] is the same for those that may be left out.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, Serializer, de};

const UNITS: [(&str, u128); 4] = [("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Writes a duration, to the microsecond.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let micros = duration.as_micros();
    let exact = UNITS.iter().find(|(_, size)| micros != 0 && micros.is_multiple_of(*size));
    match exact {
        Some((unit, size)) => serializer.serialize_str(&format!("{}{unit}", micros / size)),
        None => serializer.serialize_str(&format!("{micros}us")),
    }
}

/// Reads a duration.
///
/// # Errors
/// It is not a whole number and a unit.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(text.trim()).ok_or_else(|| {
        de::Error::custom(format!(
            "{text:?} is not a duration; write a whole number and a unit: \"500us\", \"2ms\", \"30s\" or \"5m\""
        ))
    })
}

fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, size) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    let micros = number.parse::<u64>().ok()?.checked_mul(u64::try_from(*size).ok()?)?;
    Some(Duration::from_micros(micros))
}

/// The same for durations that may be left out; the field needs `#[serde(default)]` too.
pub mod option {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    /// Writes a duration, or none.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a duration that is there.
    ///
    /// # Errors
    /// It is not a whole number and a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}
