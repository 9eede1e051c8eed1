//! TextCNN: convolutions of several widths over token vectors, the maximum of each filter over time, a linear
//! classifier. Kim 2014, "Convolutional Neural Networks for Sentence Classification". Windows of padding do not count,
//! so an answer does not depend on the batch around it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::Tensor;

use super::{Architecture, Check, Common, TextClassifier, defaults, read_config};
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::{Embedding, Linear, TextConvolution, dropout};
use crate::parameters::Path;
use crate::text_input::{Layout, TextInput};

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: NAME,
    summary: "Convolutions of several widths and their maximum over time (Kim 2014).",
    defaults: defaults::<TextCnnConfig>,
    build: |path, config| Ok(Box::new(TextCnn::new(path, config)?)),
    check: |config| TextCnnConfig::read(config).map(drop),
};

const NAME: &str = "text_cnn";

/// Keys of `text_cnn`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextCnnConfig {
    /// Width of the token vectors. Default 128.
    pub embedding_dim: i64,
    /// Window widths in tokens. Default 3, 4, 5.
    pub widths: Vec<i64>,
    /// Filters of each width. Default 100.
    pub filters: i64,
    /// Let windows reach past the end of a text, as if zeros followed: they see where it ends. Default false.
    pub wide: bool,
    /// Dropout on the token vectors. Default 0.
    pub embedding_dropout: f64,
    /// Dropout before the classifier. Default 0.5.
    pub dropout: f64,
    /// How the table starts. Default uniform within 0.25, as Kim's unknown words.
    pub embedding_init: Init,
    /// How convolutions and classifier start. Default `fan_in_uniform`.
    pub init: Init,
}

impl Default for TextCnnConfig {
    fn default() -> Self {
        TextCnnConfig {
            embedding_dim: 128,
            widths: vec![3, 4, 5],
            filters: 100,
            wide: false,
            embedding_dropout: 0.0,
            dropout: 0.5,
            embedding_init: Init::Uniform { low: -0.25, high: 0.25 },
            init: Init::FanInUniform,
        }
    }
}

impl TextCnnConfig {
    fn read(config: &Map<String, Value>) -> Result<(Common, Self), ModelError> {
        let (common, own): (Common, Self) = read_config(NAME, config)?;
        let check = Check(NAME);
        check.size("embedding_dim", own.embedding_dim)?;
        check.size("filters", own.filters)?;
        check.that(!own.widths.is_empty() && own.widths.len() <= 64, || {
            "\"widths\" must name between 1 and 64 widths".to_string()
        })?;
        for &width in &own.widths {
            check.that((1..=1024).contains(&width), || {
                format!("each of \"widths\" must be at least 1 and at most 1024, not {width}")
            })?;
        }
        check.probability("embedding_dropout", own.embedding_dropout)?;
        check.probability("dropout", own.dropout)?;
        Ok((common, own))
    }
}

/// The model: `embedding.weight`, `convs.N.weight` and `convs.N.bias` for each width, `classifier.weight` and
/// `classifier.bias`.
#[derive(Debug)]
pub struct TextCnn {
    embedding: Embedding,
    num_tokens: i64,
    convs: Vec<TextConvolution>,
    classifier: Linear,
    widest: i64,
    /// Positions past the end that windows may reach.
    reach: i64,
    embedding_dropout: f64,
    dropout: f64,
}

impl TextCnn {
    /// Takes the parameters that the configuration asks for.
    ///
    /// # Errors
    /// [`ModelError`] when the configuration is wrong or a parameter does not fit it.
    pub fn new(path: &Path, config: &Map<String, Value>) -> Result<Self, ModelError> {
        let (common, own) = TextCnnConfig::read(config)?;
        let padding = Some(common.pad_token_id);
        let (vocabulary, dim) = (common.vocab_size, own.embedding_dim);
        let embedding = Embedding::new(&path.sub("embedding"), vocabulary, dim, padding, own.embedding_init)?;
        let convs = path.sub("convs");
        let convs = own
            .widths
            .iter()
            .enumerate()
            .map(|(index, &width)| TextConvolution::new(&convs.sub(index), dim, own.filters, width, own.init));
        let convs = convs.collect::<Result<Vec<_>, _>>()?;
        let features = own.filters * own.widths.len() as i64;
        let widest = own.widths.iter().copied().max().unwrap_or(1);
        Ok(TextCnn {
            embedding,
            num_tokens: common.num_tokens,
            convs,
            classifier: Linear::new(&path.sub("classifier"), features, common.num_labels, own.init)?,
            widest,
            reach: if own.wide { widest - 1 } else { 0 },
            embedding_dropout: own.embedding_dropout,
            dropout: own.dropout,
        })
    }
}

impl TextClassifier for TextCnn {
    fn forward(&self, input: &TextInput, train: bool) -> Result<Tensor, ModelError> {
        let input = input.tokens(self.num_tokens);
        let time = (input.time() + self.reach).max(self.widest);
        let vectors = self.embedding.positions(&input, Layout::BatchFirst(time))?; // [batch, time, embedding_dim]
        let vectors = dropout(vectors, self.embedding_dropout, train)?;
        // A text shorter than the widest window is padded too, and shorter windows must not see that padding.
        let padded = input.has_padding() || input.time() + self.reach < self.widest;
        let lengths = if padded { Some(input.lengths()?.f_add_scalar(self.reach)?) } else { None };
        let maxima = self.convs.iter().map(|conv| conv.forward(&vectors, lengths.as_ref())); // [batch, filters]
        let features = Tensor::f_cat(&maxima.collect::<Result<Vec<_>, _>>()?, 1)?; // [batch, widths · filters]
        self.classifier.forward(&dropout(features, self.dropout, train)?) // [batch, labels]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::architectures::{Vocabulary, build, complete_config};
    use crate::parameters::Parameters;

    #[test]
    fn wide_windows_see_zeros_past_the_end() {
        let logits = |wide: bool, rows: &[&[u32]]| {
            let keys = serde_json::from_value(serde_json::json!({ "wide": wide, "widths": [2, 3], "dropout": 0.0 }));
            let labels = ["no".to_owned(), "yes".to_owned()];
            let config = complete_config("text_cnn", &keys.unwrap(), Vocabulary::of_tokens(20), &labels).unwrap();
            let model = build(&Parameters::new(1, Device::Cpu).root(), &config).unwrap();
            model.forward(&TextInput::from_ids(rows, 0, Device::Cpu).unwrap(), false).unwrap()
        };
        let wide = logits(true, &[&[3, 4, 5, 6], &[7, 8, 9]]);
        let zeros = logits(false, &[&[3, 4, 5, 6, 0, 0], &[7, 8, 9, 0, 0]]);
        assert!((&wide - zeros).abs().max().double_value(&[]) < 1e-6);
        assert!((&wide - logits(false, &[&[3, 4, 5, 6], &[7, 8, 9]])).abs().max().double_value(&[]) > 1e-6);
    }
}
