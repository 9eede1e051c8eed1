//! ModernBERT: Warner et al. 2024, <https://arxiv.org/abs/2412.13663>. The norm comes first, positions are rotary, most
//! layers see a window around each token and every few all of the text, the feed-forward block is gated, and few parts
//! have a bias.

use tch::{Kind, Tensor};
use tidemill_torch::Activation;
use tidemill_torch::encode::Pooling;

use super::sizes::{SizeKeys, Sizes};
use super::{Architecture, Encoder, EncoderShape, Head, HeadKind, HeadParts};
use crate::config::Config;
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::flat::{EmbeddingSum, FlatAttention, FlatBatch, FusedLinear, RotaryTable, RowNorm};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["modernbert"],
    summary: "BERT rebuilt: rotary positions, local and global attention, gated layers (Warner et al. 2024).",
    prefix: "model",
    build: |path, config, kind| Ok(Box::new(ModernBert::new(path, &ModernBertConfig::read(config)?, kind)?)),
    head,
};

const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";
/// The tables of rotary positions are whole.
const MOST_POSITIONS: i64 = 1 << 20;

struct ModernBertConfig<'a> {
    config: Config<'a>,
    sizes: Sizes,
    activation: Activation,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    /// All tokens of a window, half of them to either side.
    window: i64,
    /// In older files: one layer in so many sees all of the text.
    global_every: i64,
    /// In newer ones, each layer's kind.
    layer_types: Option<Vec<&'a str>>,
    tied: bool,
}

impl<'a> ModernBertConfig<'a> {
    fn read(config: Config<'a>) -> Result<ModernBertConfig<'a>, ModelError> {
        let keys = SizeKeys {
            vocabulary: ("vocab_size", 50368),
            width: ("hidden_size", 768),
            heads: ("num_attention_heads", 12),
            inner: ("intermediate_size", 1152),
            layers: ("num_hidden_layers", 22),
            positions: ("max_position_embeddings", 8192),
            epsilon: ("norm_eps", 1e-5),
        };
        let sizes = Sizes::read(config, &keys)?;
        if sizes.head_dim() % 2 != 0 {
            let problem = format!("a head has {} numbers, and rotary positions need pairs", sizes.head_dim());
            return Err(config.refuse(problem));
        }
        if sizes.positions > MOST_POSITIONS {
            let positions = sizes.positions;
            let problem = format!("\"max_position_embeddings\" is {positions}, and at most {MOST_POSITIONS} are held");
            return Err(config.refuse(problem));
        }
        Ok(ModernBertConfig {
            activation: config.activation("hidden_activation", "gelu")?,
            norm_bias: config.flag_or("norm_bias", false)?,
            attention_bias: config.flag_or("attention_bias", false)?,
            mlp_bias: config.flag_or("mlp_bias", false)?,
            window: config.size_or("local_attention", 128)?,
            global_every: config.size_or("global_attn_every_n_layers", 3)?,
            layer_types: config.texts("layer_types"),
            tied: config.flag_or("tie_word_embeddings", true)?,
            sizes,
            config,
        })
    }

    /// Whether a layer sees a window alone.
    fn is_local(&self, layer: i64) -> Result<bool, ModelError> {
        let Some(kinds) = &self.layer_types else {
            return Ok(layer % self.global_every != 0);
        };
        match usize::try_from(layer).ok().and_then(|layer| kinds.get(layer)).copied() {
            Some(GLOBAL) => Ok(false),
            Some(LOCAL) => Ok(true),
            Some(other) => {
                let problem = format!("\"layer_types\" has \"{other}\", which is neither \"{GLOBAL}\" nor \"{LOCAL}\"");
                Err(self.config.refuse(problem))
            }
            None => Err(self.config.refuse(format!("\"layer_types\" says nothing of layer {layer}"))),
        }
    }

    /// By the layers' kind in newer files, under two keys in older ones.
    fn rotary(&self, local: bool, path: &Path) -> Result<RotaryTable, ModelError> {
        let config = self.config;
        let (kind, key, usual) =
            if local { (LOCAL, "local_rope_theta", 10_000.0) } else { (GLOBAL, "global_rope_theta", 160_000.0) };
        let of_kind = config.section("rope_parameters").and_then(|rope| rope.section(kind));
        let older = config.number_or(key, usual)?;
        let (rope, theta) = match of_kind {
            Some(rope) => (rope.text_or("rope_type", "default")?, rope.number_or("rope_theta", older)?),
            None => ("default", older),
        };
        if rope != "default" {
            return Err(config.refuse(format!("\"rope_type\" is \"{rope}\", and only \"default\" is known")));
        }
        if theta < 1.0 {
            return Err(config.refuse(format!("\"rope_theta\" must be at least 1, not {theta}")));
        }
        RotaryTable::new(theta, self.sizes.head_dim(), self.sizes.positions, path.device())
    }

    fn norm(&self, path: &Path, kind: Kind) -> Result<RowNorm, ModelError> {
        RowNorm::new(path, self.sizes.width, self.sizes.epsilon, self.norm_bias, kind)
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
    fn new(path: &Path, own: &ModernBertConfig<'_>, index: i64, kind: Kind) -> Result<Layer, ModelError> {
        let (Sizes { width, heads, inner, .. }, bias) = (own.sizes, own.attention_bias);
        let local = own.is_local(index)?;
        let (attn, mlp) = (path.sub("attn"), path.sub("mlp"));
        let qkv = FusedLinear::new(&attn.sub("Wqkv"), width, 3 * width, bias, kind)?;
        let output = FusedLinear::new(&attn.sub("Wo"), width, width, bias, kind)?;
        let attention = FlatAttention::new(qkv, output, heads, own.sizes.head_dim());
        Ok(Layer {
            attn_norm: (index > 0).then(|| own.norm(&path.sub("attn_norm"), kind)).transpose()?,
            attn: attention.within(local.then_some(own.window / 2)),
            mlp_norm: own.norm(&path.sub("mlp_norm"), kind)?,
            wi: FusedLinear::new(&mlp.sub("Wi"), width, 2 * inner, own.mlp_bias, kind)?,
            wo: FusedLinear::new(&mlp.sub("Wo"), inner, width, own.mlp_bias, kind)?,
            activation: own.activation,
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
    fn new(path: &Path, own: &ModernBertConfig<'_>, kind: Kind) -> Result<ModernBert, ModelError> {
        let Sizes { vocabulary, width, positions, .. } = own.sizes;
        let embeddings = path.sub("embeddings");
        // What is added up from layer to layer stays float32 whatever the products are computed in.
        let norm = own.norm(&embeddings.sub("norm"), Kind::Float)?;
        let tables = [(embeddings.sub("tok_embeddings"), vocabulary)];
        let layers = path.sub("layers");
        let layers = (0..own.sizes.layers).map(|index| Layer::new(&layers.sub(index), own, index, kind));
        Ok(ModernBert {
            embeddings: EmbeddingSum::new(&tables, width, norm)?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: own.norm(&path.sub("final_norm"), kind)?,
            global: own.rotary(false, path)?,
            local: own.rotary(true, path)?,
            kind,
            shape: EncoderShape { vocabulary, width, longest: positions },
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
            let gated = layer.activation.gate(&layer.wi.forward(&rows)?)?; // [tokens, intermediate_size]
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
    let (config, own) = (parts.config, ModernBertConfig::read(parts.config)?);
    let Sizes { vocabulary, width, .. } = own.sizes;
    let (root, kind) = (&parts.root, parts.kind);
    let path = root.sub("head");
    let dense = FusedLinear::new(&path.sub("dense"), width, width, config.flag_or("classifier_bias", false)?, kind)?;
    let dense = dense.activated(config.activation("classifier_activation", "gelu")?);
    let norm = own.norm(&path.sub("norm"), kind)?;
    let (pooling, output) = match parts.head {
        HeadKind::SequenceClassification => {
            let pooling = match config.text_or("classifier_pooling", "cls")? {
                "cls" => Pooling::First,
                "mean" => Pooling::Mean,
                other => {
                    let problem =
                        format!("\"classifier_pooling\" is \"{other}\", which is neither \"cls\" nor \"mean\"");
                    return Err(config.refuse(problem));
                }
            };
            (Some(pooling), parts.linear("classifier", parts.labels)?)
        }
        HeadKind::TokenClassification => (None, parts.linear("classifier", parts.labels)?),
        HeadKind::QuestionAnswering => (None, parts.linear("classifier", 2)?),
        HeadKind::MaskedLanguageModel => {
            let (path, bias) = (root.sub("decoder"), config.flag_or("decoder_bias", true)?);
            let output = match parts.encoder.tokens().filter(|_| own.tied) {
                Some(table) => {
                    let bias = bias.then(|| path.get("bias", &[vocabulary], Init::Zeros));
                    FusedLinear::tied(table, bias.transpose()?, path.is_constant(), kind)?
                }
                None => FusedLinear::new(&path, width, vocabulary, bias, kind)?,
            };
            (None, output)
        }
    };
    Ok(Head { pooling, dense: Some(dense), norm: Some(norm), ..Head::plain(output) })
}
