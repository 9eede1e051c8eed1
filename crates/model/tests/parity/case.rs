//! A case's folder: the checkpoint, `expected.json` and `expected.safetensors`, as `xtask/peers/parity.py` writes them.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};
use tidemill_model::Weights;

/// What a case's checkpoint is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CaseKind {
    Decoder,
    Encoder,
    EncoderDecoder,
    Tokenizer,
}

/// One way of generating, and what it gives for each prompt.
#[derive(Debug, Deserialize)]
pub(crate) struct Search<Output> {
    /// As in a `generation_config.json`.
    pub(crate) settings: Map<String, Value>,
    pub(crate) outputs: Vec<Output>,
}

impl<Output> Search<Output> {
    /// The tokens that end an output; none where it goes on to its length.
    pub(crate) fn end_tokens(&self) -> Vec<u32> {
        let tokens = self.settings.get("eos_token_id").map(|value| serde_json::from_value(value.clone()).unwrap());
        tokens.unwrap_or_default()
    }

    /// What an encoder-decoder's answers begin with.
    pub(crate) fn start(&self) -> u32 {
        serde_json::from_value(self.settings["decoder_start_token_id"].clone()).unwrap()
    }
}

/// One output of a beam search.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Beam {
    pub(crate) tokens: Vec<u32>,
    pub(crate) score: f32,
}

/// A text and its tokens.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenizedText {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) ids_without_special: Vec<u32>,
    pub(crate) decoded: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Expected {
    pub(crate) case: String,
    pub(crate) kind: CaseKind,
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) greedy: Vec<Search<Vec<u32>>>,
    #[serde(default)]
    pub(crate) beams: Vec<Search<Vec<Beam>>>,
    pub(crate) texts: Vec<TokenizedText>,
}

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) folder: PathBuf,
    pub(crate) expected: Expected,
    /// The prompts; an encoder-decoder's sources.
    pub(crate) rows: Vec<Vec<u32>>,
    /// What an encoder-decoder's decoder is given beside each.
    pub(crate) targets: Vec<Vec<u32>>,
    /// `[tokens of all rows, vocabulary]`.
    pub(crate) logits: Option<Tensor>,
}

impl Case {
    pub(crate) fn read(folder: &Path) -> Case {
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Expected =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut case =
            Case { folder: folder.to_path_buf(), expected, rows: Vec::new(), targets: Vec::new(), logits: None };
        if case.expected.kind != CaseKind::Tokenizer {
            let weights = Weights::open(&folder.join("expected.safetensors")).unwrap();
            case.rows = unpadded(&weights, "input_ids", "attention_mask");
            if case.expected.kind == CaseKind::EncoderDecoder {
                case.targets = unpadded(&weights, "decoder_input_ids", "decoder_attention_mask");
            }
            case.logits = Some(weights.tensor("logits", Device::Cpu).unwrap());
        }
        case
    }
}

/// The rows of a padded batch without their padding, on whichever side it is.
fn unpadded(weights: &Weights, ids: &str, mask: &str) -> Vec<Vec<u32>> {
    let ids = weights.tensor(ids, Device::Cpu).unwrap();
    let mask = weights.tensor(mask, Device::Cpu).unwrap().to_kind(Kind::Bool);
    let row = |row: i64| {
        let kept = ids.get(row).masked_select(&mask.get(row));
        Vec::<i64>::try_from(kept).unwrap().into_iter().map(|id| id as u32).collect()
    };
    (0..ids.size()[0]).map(row).collect()
}
