//! Names of the first BERT checkpoints: a norm's `gamma` and `beta` are today's `weight` and `bias`.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::error::WeightsError;
use crate::weights::TensorSource;

/// The same tensors under today's names.
pub(super) fn modern_names(source: Box<dyn TensorSource>) -> Box<dyn TensorSource> {
    let modern = |name: &str| {
        let (place, last) = name.rsplit_once('.')?;
        match last {
            "gamma" => Some(format!("{place}.weight")),
            "beta" => Some(format!("{place}.bias")),
            _ => None,
        }
    };
    let names: BTreeMap<String, String> = source
        .names()
        .into_iter()
        .map(|name| (modern(name).unwrap_or_else(|| name.to_string()), name.to_string()))
        .collect();
    if names.iter().all(|(modern, stored)| modern == stored) {
        return source;
    }
    Box::new(Renamed { source, names })
}

struct Renamed {
    source: Box<dyn TensorSource>,
    /// Stored names by today's.
    names: BTreeMap<String, String>,
}

impl Renamed {
    fn stored<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.get(name).map_or(name, String::as_str)
    }
}

impl TensorSource for Renamed {
    fn file_of(&self, name: &str) -> &Path {
        self.source.file_of(self.stored(name))
    }

    fn names(&self) -> Vec<&str> {
        self.names.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[i64]> {
        self.source.shape(self.stored(name))
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        self.source.kind(self.stored(name))
    }

    fn tensor(&self, name: &str, device: Device) -> Result<Tensor, WeightsError> {
        self.source.tensor(self.stored(name), device)
    }
}
