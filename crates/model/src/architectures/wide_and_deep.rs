//! Wide and deep: a linear model on a bag of n-grams and several TextCNNs, whose logits are averaged. The parts are those of
//! Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems": the bag remembers phrases, the convolutions
//! generalise, and they err on different texts. They learn each by its own loss, as an ensemble does (Hansen and Salamon
//! 1990), so that none leans on another.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::Tensor;

use super::bag_of_embeddings::{BagOfEmbeddings, BagOfEmbeddingsConfig};
use super::text_cnn::{TextCnn, TextCnnConfig};
use super::{Architecture, COMMON_KEYS, Check, Common, TextClassifier, defaults, read_config};
use crate::error::ModelError;
use crate::parameters::Path;
use crate::text_input::TextInput;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: NAME,
    summary: "A bag of n-grams and several TextCNNs, averaged (Cheng et al. 2016).",
    defaults: defaults::<WideAndDeepConfig>,
    build: |path, config| Ok(Box::new(WideAndDeep::new(path, config)?)),
    check: |config| WideAndDeepConfig::read(config).map(drop),
};

const NAME: &str = "wide_and_deep";

/// Keys of `wide_and_deep`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WideAndDeepConfig {
    /// `[model.wide]`: the keys of `bag_of_embeddings`.
    pub wide: BagOfEmbeddingsConfig,
    /// `[model.deep]`: the keys of `text_cnn`.
    pub deep: TextCnnConfig,
    /// How many TextCNNs there are, each started anew. Default 1.
    pub members: i64,
}

impl Default for WideAndDeepConfig {
    fn default() -> Self {
        WideAndDeepConfig { wide: BagOfEmbeddingsConfig::default(), deep: TextCnnConfig::default(), members: 1 }
    }
}

impl WideAndDeepConfig {
    fn read(config: &Map<String, Value>) -> Result<(Common, Self), ModelError> {
        let (common, own): (Common, Self) = read_config(NAME, config)?;
        Check(NAME).that((1..=64).contains(&own.members), || {
            format!("\"members\" must be from 1 to 64, not {}", own.members)
        })?;
        Ok((common, own))
    }

    /// The configuration of a part, as its own architecture reads it.
    fn part(config: &Map<String, Value>, own: &impl Serialize) -> Map<String, Value> {
        let common = config.iter().filter(|(key, _)| COMMON_KEYS.contains(&key.as_str()));
        let mut part: Map<String, Value> = common.map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Ok(Value::Object(own)) = serde_json::to_value(own) {
            part.extend(own);
        }
        part
    }
}

/// The model: `wide.…` as in `bag_of_embeddings`, `deep.0.…` and on as in `text_cnn`.
#[derive(Debug)]
pub struct WideAndDeep {
    wide: BagOfEmbeddings,
    deep: Vec<TextCnn>,
}

impl WideAndDeep {
    /// Takes the parameters that the configuration asks for.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is wrong or a parameter does not fit it.
    pub fn new(path: &Path, config: &Map<String, Value>) -> Result<Self, ModelError> {
        let (_, own) = WideAndDeepConfig::read(config)?;
        let deep = WideAndDeepConfig::part(config, &own.deep);
        let member = |i| TextCnn::new(&path.sub("deep").sub(i), &deep);
        Ok(WideAndDeep {
            wide: BagOfEmbeddings::new(&path.sub("wide"), &WideAndDeepConfig::part(config, &own.wide))?,
            deep: (0..own.members).map(member).collect::<Result<_, _>>()?,
        })
    }

    fn scores(&self, input: &TextInput, train: bool) -> Result<Vec<Tensor>, ModelError> {
        let mut scores = vec![self.wide.forward(input, train)?];
        for member in &self.deep {
            scores.push(member.forward(input, train)?);
        }
        Ok(scores) // [batch, labels] each
    }
}

impl TextClassifier for WideAndDeep {
    fn forward(&self, input: &TextInput, train: bool) -> Result<Tensor, ModelError> {
        let scores = Tensor::f_stack(&self.scores(input, train)?, 0)?;
        Ok(scores.f_mean_dim(0_i64, false, None)?)
    }

    fn members(&self, input: &TextInput) -> Result<Vec<Tensor>, ModelError> {
        self.scores(input, true)
    }
}
