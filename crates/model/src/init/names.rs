//! Initialisers in configurations: a name with the usual numbers, or a table with others.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Init;

impl Init {
    /// Every name that `str::parse` knows, with the initialiser it gives.
    pub const BY_NAME: &'static [(&'static str, Init)] = &[
        ("zeros", Init::Zeros),
        ("ones", Init::Ones),
        ("normal", Init::Normal { mean: 0.0, std: 1.0 }),
        ("uniform", Init::Uniform { low: -0.1, high: 0.1 }),
        ("fan_in_uniform", Init::FanInUniform),
        ("xavier_uniform", Init::XavierUniform),
        ("xavier_normal", Init::XavierNormal),
        ("kaiming_uniform", Init::KaimingUniform),
        ("kaiming_normal", Init::KaimingNormal),
        ("truncated_normal", Init::TruncatedNormal { mean: 0.0, std: 0.02 }),
        ("orthogonal", Init::Orthogonal { gain: 1.0 }),
    ];
}

/// No initialiser has this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no initialiser \"{name}\"; choose one of {known}")]
pub struct UnknownInit {
    name: String,
    known: String,
}

impl FromStr for Init {
    type Err = UnknownInit;

    fn from_str(name: &str) -> Result<Init, UnknownInit> {
        let found = Init::BY_NAME.iter().find(|(known, _)| *known == name);
        found.map(|(_, init)| *init).ok_or_else(|| UnknownInit {
            name: name.to_string(),
            known: Init::BY_NAME.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
        })
    }
}

/// The table form, for numbers other than the usual ones.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum InitTable {
    Constant(f64),
    Normal {
        #[serde(default)]
        mean: f64,
        std: f64,
    },
    Uniform {
        low: f64,
        high: f64,
    },
    TruncatedNormal {
        #[serde(default)]
        mean: f64,
        std: f64,
    },
    Orthogonal {
        gain: f64,
    },
}

impl From<InitTable> for Init {
    fn from(table: InitTable) -> Init {
        match table {
            InitTable::Constant(value) => Init::Constant(value),
            InitTable::Normal { mean, std } => Init::Normal { mean, std },
            InitTable::Uniform { low, high } => Init::Uniform { low, high },
            InitTable::TruncatedNormal { mean, std } => Init::TruncatedNormal { mean, std },
            InitTable::Orthogonal { gain } => Init::Orthogonal { gain },
        }
    }
}

impl Serialize for Init {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some((name, _)) = Init::BY_NAME.iter().find(|(_, init)| init == self) {
            return serializer.serialize_str(name);
        }
        match *self {
            Init::Constant(value) => InitTable::Constant(value),
            Init::Normal { mean, std } => InitTable::Normal { mean, std },
            Init::Uniform { low, high } => InitTable::Uniform { low, high },
            Init::TruncatedNormal { mean, std } => InitTable::TruncatedNormal { mean, std },
            Init::Orthogonal { gain } => InitTable::Orthogonal { gain },
            _ => return Err(serde::ser::Error::custom("an initialiser without a name")),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Init {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Init, D::Error> {
        struct NameOrTable;
        impl<'de> serde::de::Visitor<'de> for NameOrTable {
            type Value = Init;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an initialiser's name, or a table such as { normal = { std = 0.1 } }")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Init, E> {
                name.parse().map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Init, A::Error> {
                InitTable::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Init::from)
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tables_both_read_and_write() {
        let by_name: Init = serde_json::from_str("\"xavier_normal\"").unwrap();
        assert_eq!(by_name, Init::XavierNormal);
        let by_table: Init = serde_json::from_str(r#"{"normal":{"std":0.1}}"#).unwrap();
        assert_eq!(by_table, Init::Normal { mean: 0.0, std: 0.1 });
        for (_, init) in Init::BY_NAME.iter().chain([&("", by_table), &("", Init::Constant(2.0))]) {
            let text = serde_json::to_string(init).unwrap();
            assert_eq!(serde_json::from_str::<Init>(&text).unwrap(), *init);
        }
        let error = serde_json::from_str::<Init>("\"xavier\"").unwrap_err().to_string();
        assert!(error.contains("there is no initialiser \"xavier\"") && error.contains("xavier_uniform"));
    }
}
