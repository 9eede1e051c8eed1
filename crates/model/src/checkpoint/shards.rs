//! Weights spread over several safetensors files, as `model.safetensors.index.json` says. The index is not believed: its
//! file names are plain names in its own folder, and every tensor it names is in the file it names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tch::{Device, Kind, Tensor};

use super::error::CheckpointError;
use super::folder::{is_plain_name, read_needed};
use crate::error::WeightsError;
use crate::weights::{self, TensorSource, Weights};

/// The tensors of several safetensors files under one roof, none read.
#[derive(Debug)]
pub struct Shards {
    index: PathBuf,
    shards: Vec<Weights>,
    /// Which shard a tensor is in.
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Pairs as they stand, so that a name that comes twice is seen.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightMap;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors and their files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(WeightMap(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Shards {
    /// Opens the index and every file that it names.
    ///
    /// # Errors
    /// [`CheckpointError`] that names the file, and the tensor where there is one: an index that is not one, a shard that
    /// is missing or damaged, a name that is a path, a tensor that its shard does not have.
    pub fn open(index: &Path) -> Result<Shards, CheckpointError> {
        let bytes = read_needed(index)?;
        let Index { weight_map: WeightMap(pairs) } = serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::file(index, format!("is not an index of safetensors: {error}")))?;
        let refuse = |problem: String| Err(CheckpointError::file(index, problem));
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut files: BTreeMap<String, usize> = BTreeMap::new();
        let (mut shards, mut places) = (Vec::new(), BTreeMap::new());
        for (tensor, file) in pairs {
            if !is_plain_name(&file) || !file.ends_with(".safetensors") {
                return refuse(format!(
                    "puts the tensor \"{tensor}\" into {file:?}, which is not a file of its own folder"
                ));
            }
            let shard = match files.get(&file) {
                Some(shard) => *shard,
                None => {
                    let path = folder.join(&file);
                    if !path.is_file() {
                        let problem = "is missing, and the index names it; take a whole copy of the checkpoint";
                        return Err(CheckpointError::file(&path, problem));
                    }
                    shards.push(Weights::open(&path)?);
                    files.insert(file.clone(), shards.len() - 1);
                    shards.len() - 1
                }
            };
            if shards.get(shard).is_none_or(|weights| weights.shape(&tensor).is_none()) {
                return refuse(format!("puts the tensor \"{tensor}\" into {file}, which does not have it"));
            }
            if places.insert(tensor.clone(), shard).is_some() {
                return refuse(format!("names the tensor \"{tensor}\" twice"));
            }
        }
        if places.is_empty() {
            return refuse("names no tensors".to_string());
        }
        Ok(Shards { index: index.to_path_buf(), shards, places })
    }

    /// How many files there are.
    pub fn count(&self) -> usize {
        self.shards.len()
    }

    /// Length of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(Weights::bytes).sum()
    }

    fn shard(&self, name: &str) -> Option<&Weights> {
        self.shards.get(*self.places.get(name)?)
    }
}

impl TensorSource for Shards {
    fn file_of(&self, name: &str) -> &Path {
        self.shard(name).map_or(&self.index, Weights::file)
    }

    fn names(&self) -> Vec<&str> {
        self.places.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[i64]> {
        self.shard(name).and_then(|shard| shard.shape(name))
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        self.shard(name).and_then(|shard| shard.kind(name))
    }

    fn tensor(&self, name: &str, device: Device) -> Result<Tensor, WeightsError> {
        let shard = self.shard(name).ok_or_else(|| weights::missing(&self.index, name))?;
        shard.tensor(name, device)
    }
}
