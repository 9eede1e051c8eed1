//! Wide and deep: a linear model on a bag of n-grams and a TextCNN, whose logits are averaged. Cheng et al. 2016, "Wide &
//! Deep Learning for Recommender Systems". The bag remembers phrases, the convolutions generalise; they err on different
//! texts. For most rows of training only one of the two answers, drawn anew each time, so that neither leans on the other
//! (as ModDrop, Neverova et al. 2016, does for modalities).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use super::bag_of_embeddings::{BagOfEmbeddings, BagOfEmbeddingsConfig};
use super::text_cnn::{TextCnn, TextCnnConfig};
use super::{Architecture, COMMON_KEYS, Check, Common, TextClassifier, defaults, read_config};
use crate::error::ModelError;
use crate::parameters::Path;
use crate::text_input::TextInput;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: NAME,
    summary: "A bag of n-grams and a TextCNN, averaged (Cheng et al. 2016).",
    defaults: defaults::<WideAndDeepConfig>,
    build: |path, config| Ok(Box::new(WideAndDeep::new(path, config)?)),
    check: |config| WideAndDeepConfig::read(config).map(drop),
};

const NAME: &str = "wide_and_deep";

/// Keys of `wide_and_deep`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WideAndDeepConfig {
    /// `[model.wide]`: the keys of `bag_of_embeddings`.
    pub wide: BagOfEmbeddingsConfig,
    /// `[model.deep]`: the keys of `text_cnn`.
    pub deep: TextCnnConfig,
    /// The share of training rows that only one of the two answers. Default 0: both answer every row.
    pub alone: f64,
}

impl WideAndDeepConfig {
    fn read(config: &Map<String, Value>) -> Result<(Common, Self), ModelError> {
        let (common, own): (Common, Self) = read_config(NAME, config)?;
        Check(NAME)
            .that((0.0..=1.0).contains(&own.alone), || format!("\"alone\" must be from 0 to 1, not {}", own.alone))?;
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

/// The model: `wide.…` as in `bag_of_embeddings`, `deep.…` as in `text_cnn`.
#[derive(Debug)]
pub struct WideAndDeep {
    wide: BagOfEmbeddings,
    deep: TextCnn,
    alone: f64,
}

impl WideAndDeep {
    /// Takes the parameters that the configuration asks for.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is wrong or a parameter does not fit it.
    pub fn new(path: &Path, config: &Map<String, Value>) -> Result<Self, ModelError> {
        let (_, own) = WideAndDeepConfig::read(config)?;
        Ok(WideAndDeep {
            wide: BagOfEmbeddings::new(&path.sub("wide"), &WideAndDeepConfig::part(config, &own.wide))?,
            deep: TextCnn::new(&path.sub("deep"), &WideAndDeepConfig::part(config, &own.deep))?,
            alone: own.alone,
        })
    }
}

impl TextClassifier for WideAndDeep {
    fn forward(&self, input: &TextInput, train: bool) -> Result<Tensor, ModelError> {
        let wide = self.wide.forward(input, train)?; // [batch, labels]
        let deep = self.deep.forward(input, train)?; // [batch, labels]
        let mean = wide.f_add(&deep)?.f_mul_scalar(0.5)?;
        if !train || self.alone == 0.0 {
            return Ok(mean);
        }
        let draw = Tensor::f_rand([input.batch(), 1], (Kind::Float, input.device()))?;
        let either = wide.f_where_self(&draw.f_lt(self.alone / 2.0)?, &deep)?;
        Ok(either.f_where_self(&draw.f_lt(self.alone)?, &mean)?)
    }
}
