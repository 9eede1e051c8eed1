//! ModernBERT: Warner et al. 2024, <https://arxiv.org/abs/2412.13663>. The norm comes first, positions are rotary, most
//! layers see a window around each token and every few all of the text, the feed-forward block is gated, and few parts
//! have a bias.

use serde::Deserialize;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};
use tidemill_torch::encode::{self, Activation, Pooling};

use super::config::{Sizes, activation, read, refuse};
use super::{Architecture, Encoder, EncoderShape, Head, HeadKind, HeadParts};
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::flat::{EmbeddingSum, FlatAttention, FlatBatch, FusedLinear, RotaryTable, RowNorm};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &[NAME],
    summary: "BERT rebuilt: rotary positions, local and global attention, gated layers (Warner et al. 2024).",
    prefix: "model",
    build: |path, config, kind| Ok(Box::new(ModernBert::new(path, &ModernBertConfig::read(config)?, kind)?)),
    head,
};

const NAME: &str = "modernbert";
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct ModernBertConfig {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    hidden_activation: String,
    max_position_embeddings: i64,
    norm_eps: f64,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    /// All tokens of a window, half of them to either side.
    local_attention: i64,
    /// In older files: one layer in so many sees all of the text.
    global_attn_every_n_layers: i64,
    /// In newer ones, each layer's kind.
    layer_types: Option<Vec<String>>,
    global_rope_theta: f64,
    local_rope_theta: Option<f64>,
    /// In newer files, by the layers' kind.
    rope_parameters: Map<String, Value>,
    classifier_pooling: String,
    classifier_bias: bool,
    classifier_activation: String,
    decoder_bias: bool,
    tie_word_embeddings: bool,
}

impl Default for ModernBertConfig {
    fn default() -> ModernBertConfig {
        ModernBertConfig {
            vocab_size: 50368,
            hidden_size: 768,
            intermediate_size: 1152,
            num_hidden_layers: 22,
            num_attention_heads: 12,
            hidden_activation: "gelu".to_string(),
            max_position_embeddings: 8192,
            norm_eps: 1e-5,
            norm_bias: false,
            attention_bias: false,
            mlp_bias: false,
            local_attention: 128,
            global_attn_every_n_layers: 3,
            layer_types: None,
            global_rope_theta: 160_000.0,
            local_rope_theta: None,
            rope_parameters: Map::new(),
            classifier_pooling: "cls".to_string(),
            classifier_bias: false,
            classifier_activation: "gelu".to_string(),
            decoder_bias: true,
            tie_word_embeddings: true,
        }
    }
}

impl ModernBertConfig {
    fn read(config: &Map<String, Value>) -> Result<ModernBertConfig, ModelError> {
        let own: ModernBertConfig = read(NAME, config)?;
        let sizes = Sizes {
            vocabulary: own.vocab_size,
            width: own.hidden_size,
            heads: own.num_attention_heads,
            inner: own.intermediate_size,
            layers: own.num_hidden_layers,
            positions: own.max_position_embeddings,
            epsilon: own.norm_eps,
        };
        sizes.check(
            NAME,
            [
                "vocab_size",
                "hidden_size",
                "num_attention_heads",
                "intermediate_size",
                "num_hidden_layers",
                "max_position_embeddings",
                "norm_eps",
            ],
        )?;
        if own.head_dim() % 2 != 0 {
            let problem = format!("a head has {} numbers, and rotary positions need pairs", own.head_dim());
            return Err(refuse(NAME, problem));
        }
        if own.local_attention < 1 || own.global_attn_every_n_layers < 1 {
            let problem = "\"local_attention\" and \"global_attn_every_n_layers\" must be at least 1";
            return Err(refuse(NAME, problem.to_string()));
        }
        Ok(own)
    }

    fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }

    /// Whether a layer sees a window alone.
    fn is_local(&self, layer: i64) -> Result<bool, ModelError> {
        let Some(kinds) = &self.layer_types else {
            return Ok(layer % self.global_attn_every_n_layers != 0);
        };
        match kinds.get(layer as usize).map(String::as_str) {
            Some(GLOBAL) => Ok(false),
            Some(LOCAL) => Ok(true),
            Some(other) => Err(refuse(
                NAME,
                format!("\"layer_types\" has \"{other}\", which is neither \"{GLOBAL}\" nor \"{LOCAL}\""),
            )),
            None => Err(refuse(NAME, format!("\"layer_types\" says nothing of layer {layer}"))),
        }
    }

    fn rotary(&self, local: bool, path: &Path) -> Result<RotaryTable, ModelError> {
        let of_kind = self.rope_parameters.get(if local { LOCAL } else { GLOBAL });
        let rope = of_kind.and_then(|rope| rope.get("rope_type")).and_then(Value::as_str).unwrap_or("default");
        if rope != "default" {
            return Err(refuse(NAME, format!("\"rope_type\" is \"{rope}\", and only \"default\" is known")));
        }
        let stated = of_kind.and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64);
        let older = if local { self.local_rope_theta.unwrap_or(10_000.0) } else { self.global_rope_theta };
        let theta = stated.unwrap_or(older);
        if !(theta.is_finite() && theta >= 1.0) {
            return Err(refuse(NAME, format!("\"rope_theta\" must be at least 1, not {theta}")));
        }
        RotaryTable::new(theta, self.head_dim(), self.max_position_embeddings, path.device())
    }

    fn norm(&self, path: &Path, kind: Kind) -> Result<RowNorm, ModelError> {
        RowNorm::new(path, self.hidden_size, self.norm_eps, self.norm_bias, kind)
    }
}

/// One layer: `x + attn(attn_norm(x))`, then `x + Wo(activation(gate) · value)` with both out of `Wi(mlp_norm(x))`.
struct Layer {
    /// The first layer has none: the embeddings are normalised already.
    attn_norm: Option<RowNorm>,
    attn: FlatAttention,
    mlp_norm: RowNorm,
    wi: FusedLinear,
    wo: FusedLinear,
    activation: Activation,
    local: bool,
}

impl Layer {
    fn new(path: &Path, own: &ModernBertConfig, index: i64, kind: Kind) -> Result<Layer, ModelError> {
        let (width, inner, bias) = (own.hidden_size, own.intermediate_size, own.attention_bias);
        let local = own.is_local(index)?;
        let (attn, mlp) = (path.sub("attn"), path.sub("mlp"));
        let qkv = FusedLinear::new(&attn.sub("Wqkv"), width, 3 * width, bias, kind)?;
        let output = FusedLinear::new(&attn.sub("Wo"), width, width, bias, kind)?;
        let attention = FlatAttention::new(qkv, output, own.num_attention_heads, own.head_dim());
        Ok(Layer {
            attn_norm: (index > 0).then(|| own.norm(&path.sub("attn_norm"), kind)).transpose()?,
            attn: attention.within(local.then_some(own.local_attention / 2)),
            mlp_norm: own.norm(&path.sub("mlp_norm"), kind)?,
            wi: FusedLinear::new(&mlp.sub("Wi"), width, 2 * inner, own.mlp_bias, kind)?,
            wo: FusedLinear::new(&mlp.sub("Wo"), inner, width, own.mlp_bias, kind)?,
            activation: activation(NAME, "hidden_activation", &own.hidden_activation)?,
            local,
        })
    }
}

struct ModernBert {
    embeddings: EmbeddingSum,
    layers: Vec<Layer>,
    final_norm: RowNorm,
    global: RotaryTable,
    local: RotaryTable,
    kind: Kind,
    shape: EncoderShape,
}

impl ModernBert {
    fn new(path: &Path, own: &ModernBertConfig, kind: Kind) -> Result<ModernBert, ModelError> {
        let embeddings = path.sub("embeddings");
        // What is added up from layer to layer stays float32 whatever the products are computed in.
        let norm = own.norm(&embeddings.sub("norm"), Kind::Float)?;
        let tables = [(embeddings.sub("tok_embeddings"), own.vocab_size)];
        let layers = path.sub("layers");
        let layers = (0..own.num_hidden_layers).map(|index| Layer::new(&layers.sub(index), own, index, kind));
        Ok(ModernBert {
            embeddings: EmbeddingSum::new(&tables, own.hidden_size, norm)?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: own.norm(&path.sub("final_norm"), kind)?,
            global: own.rotary(false, path)?,
            local: own.rotary(true, path)?,
            kind,
            shape: EncoderShape {
                vocabulary: own.vocab_size,
                width: own.hidden_size,
                longest: own.max_position_embeddings,
            },
        })
    }
}

impl Encoder for ModernBert {
    fn forward(&self, batch: &FlatBatch) -> Result<Tensor, ModelError> {
        let positions = batch.positions()?;
        let mut residual = self.embeddings.forward(&[batch.ids()])?; // [tokens, hidden_size], float32
        let mut rows = residual.f_to_kind(self.kind)?;
        // What the layer before adds; each norm takes it up on its way.
        let mut added: Option<Tensor> = None;
        for layer in &self.layers {
            if let (Some(norm), Some(before)) = (&layer.attn_norm, &added) {
                rows = norm.accumulate(before, &mut residual)?;
            }
            let rotary = if layer.local { &self.local } else { &self.global };
            let attended = layer.attn.forward(&rows, batch, Some((rotary, &positions)))?;
            rows = layer.mlp_norm.accumulate(&attended, &mut residual)?;
            let gated = encode::gated(&layer.wi.forward(&rows)?, layer.activation)?; // [tokens, intermediate_size]
            added = Some(layer.wo.forward(&gated)?);
        }
        match &added {
            Some(before) => self.final_norm.accumulate(before, &mut residual),
            None => self.final_norm.forward(&residual),
        }
    }

    fn shape(&self) -> EncoderShape {
        self.shape
    }

    fn tokens(&self) -> Option<&Tensor> {
        self.embeddings.tokens()
    }
}

fn head(parts: &HeadParts<'_>) -> Result<Head, ModelError> {
    let own = ModernBertConfig::read(parts.config)?;
    let (root, width, kind) = (&parts.root, own.hidden_size, parts.kind);
    let path = root.sub("head");
    let dense = FusedLinear::new(&path.sub("dense"), width, width, own.classifier_bias, kind)?;
    let dense = dense.activated(activation(NAME, "classifier_activation", &own.classifier_activation)?);
    let norm = own.norm(&path.sub("norm"), kind)?;
    let linear = |name: &str, outputs: i64| FusedLinear::new(&root.sub(name), width, outputs, true, kind);
    let (pooling, output) = match parts.head {
        HeadKind::SequenceClassification => {
            let pooling = match own.classifier_pooling.as_str() {
                "cls" => Pooling::First,
                "mean" => Pooling::Mean,
                other => {
                    let problem =
                        format!("\"classifier_pooling\" is \"{other}\", which is neither \"cls\" nor \"mean\"");
                    return Err(refuse(NAME, problem));
                }
            };
            (Some(pooling), linear("classifier", parts.labels)?)
        }
        HeadKind::TokenClassification => (None, linear("classifier", parts.labels)?),
        HeadKind::QuestionAnswering => (None, linear("classifier", 2)?),
        HeadKind::MaskedLanguageModel => {
            let path = root.sub("decoder");
            let output = match parts.encoder.tokens().filter(|_| own.tie_word_embeddings) {
                Some(table) => {
                    let bias = own.decoder_bias.then(|| path.get("bias", &[own.vocab_size], Init::Zeros));
                    FusedLinear::tied(table, bias.transpose()?, path.is_constant(), kind)?
                }
                None => FusedLinear::new(&path, width, own.vocab_size, own.decoder_bias, kind)?,
            };
            (None, output)
        }
    };
    Ok(Head { pooling, dense: Some(dense), norm: Some(norm), ..Head::plain(output) })
}
