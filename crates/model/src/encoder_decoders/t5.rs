//! T5, Flan-T5 and mT5: relative positions, root-mean-square norms, scores that are not scaled. Raffel et al. 2020,
//! Xue et al. 2021, Chung et al. 2022.

use tch::{Device, Tensor};
use tidemill_torch::Activation;

use super::{Architecture, EncoderDecoder, EncoderDecoderShape, Memory, Sources, TargetBatch, TargetStep};
use crate::config::Config;
use crate::error::ModelError;
use crate::layers::{
    CrossAttention, FeedForward, GatedMlp, Heads, PlainMlp, Projection, RelativePositions, ResidualStream, RmsNorm,
    SourceAttention, TargetAttention, TokenTable,
};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["t5", "mt5", "umt5"],
    summary: "T5, Flan-T5 (Raffel et al. 2020, Chung et al. 2022), mT5 (Xue et al. 2021) and umT5 (Chung et al. 2023).",
    build: |path, config, longest| Ok(Box::new(T5::new(path, config, longest)?)),
};

/// What attention's matrices are called.
const ATTENTION: [&str; 4] = ["q", "k", "v", "o"];

#[derive(Debug)]
struct EncoderBlock {
    before_attention: RmsNorm,
    attention: SourceAttention,
    /// The first block's serve all; umT5 has them in each.
    positions: Option<RelativePositions>,
    before_mlp: RmsNorm,
    mlp: FeedForward,
}

#[derive(Debug)]
struct DecoderBlock {
    before_attention: RmsNorm,
    attention: TargetAttention,
    positions: Option<RelativePositions>,
    before_cross_attention: RmsNorm,
    cross_attention: CrossAttention,
    before_mlp: RmsNorm,
    mlp: FeedForward,
}

/// The model: `shared`, `encoder.block.…`, `encoder.final_layer_norm`, the same of `decoder`, and `lm_head` where the file
/// has one.
#[derive(Debug)]
struct T5 {
    tokens: TokenTable,
    encoder: Vec<EncoderBlock>,
    encoder_norm: RmsNorm,
    decoder: Vec<DecoderBlock>,
    decoder_norm: RmsNorm,
    head_scale: f64,
    shape: EncoderDecoderShape,
    device: Device,
}

/// What the blocks share.
struct Settings {
    width: i64,
    inner: i64,
    heads: Heads,
    epsilon: f64,
    buckets: i64,
    max_distance: i64,
    activation: Activation,
    gated: bool,
}

impl Settings {
    fn read(config: Config) -> Result<Settings, ModelError> {
        let (heads, head_dim) = (config.size("num_heads")?, config.size("d_kv")?);
        let buckets = config.size_or("relative_attention_num_buckets", 32)?;
        let max_distance = config.size_or("relative_attention_max_distance", 128)?;
        if buckets < 4 || max_distance <= buckets / 2 {
            return Err(config.refuse(
                "\"relative_attention_num_buckets\" must be at least 4 and \"relative_attention_max_distance\" more than \
                 half of it",
            ));
        }
        let (activation, gated) = match config.text_or("feed_forward_proj", "relu")? {
            "gated-gelu" => ("gelu_new", true),
            name => name.strip_prefix("gated-").map_or((name, false), |gate| (gate, true)),
        };
        Ok(Settings {
            width: config.size("d_model")?,
            inner: config.size("d_ff")?,
            heads: Heads { scale: 1.0, ..Heads::new(heads, heads, head_dim) },
            epsilon: config.number_or("layer_norm_epsilon", 1e-6)?,
            buckets,
            max_distance,
            activation: config.activation_named("feed_forward_proj", activation)?,
            gated,
        })
    }

    fn norm(&self, path: &Path) -> Result<RmsNorm, ModelError> {
        RmsNorm::new(path, self.width, self.epsilon, 0.0)
    }

    /// The relative positions of a block's self-attention; the first block must have some.
    fn positions(&self, path: &Path, block: i64, causal: bool) -> Result<Option<RelativePositions>, ModelError> {
        let path = path.sub("relative_attention_bias");
        if block > 0 && !path.contains("weight") {
            return Ok(None);
        }
        RelativePositions::new(&path, self.buckets, self.max_distance, self.heads.heads, causal).map(Some)
    }

    fn mlp(&self, path: &Path) -> Result<FeedForward, ModelError> {
        let (width, inner) = (self.width, self.inner);
        if self.gated {
            let names = ["wi_0", "wi_1", "wo"];
            return Ok(FeedForward::Gated(GatedMlp::separate(path, names, (width, inner), self.activation, false)?));
        }
        let up = Projection::new(&path.sub("wi"), width, inner, false)?;
        let down = Projection::new(&path.sub("wo"), inner, width, false)?;
        Ok(FeedForward::Plain(PlainMlp::new(up, down, self.activation)))
    }

    fn encoder_block(&self, path: &Path, block: i64) -> Result<EncoderBlock, ModelError> {
        let [attention, mlp] = [0, 1].map(|i| path.sub("layer").sub(i));
        let own = attention.sub("SelfAttention");
        Ok(EncoderBlock {
            before_attention: self.norm(&attention.sub("layer_norm"))?,
            positions: self.positions(&own, block, false)?,
            attention: SourceAttention::separate(&own, ATTENTION, self.width, self.heads, false)?,
            before_mlp: self.norm(&mlp.sub("layer_norm"))?,
            mlp: self.mlp(&mlp.sub("DenseReluDense"))?,
        })
    }

    fn decoder_block(&self, path: &Path, block: i64) -> Result<DecoderBlock, ModelError> {
        let [attention, cross, mlp] = [0, 1, 2].map(|i| path.sub("layer").sub(i));
        let own = attention.sub("SelfAttention");
        let (width, heads) = (self.width, self.heads);
        Ok(DecoderBlock {
            before_attention: self.norm(&attention.sub("layer_norm"))?,
            positions: self.positions(&own, block, true)?,
            attention: TargetAttention::separate(&own, ATTENTION, width, heads, false)?,
            before_cross_attention: self.norm(&cross.sub("layer_norm"))?,
            cross_attention: CrossAttention::separate(&cross.sub("EncDecAttention"), ATTENTION, width, heads, false)?,
            before_mlp: self.norm(&mlp.sub("layer_norm"))?,
            mlp: self.mlp(&mlp.sub("DenseReluDense"))?,
        })
    }
}

impl T5 {
    fn new(path: &Path, config: Config, longest: i64) -> Result<T5, ModelError> {
        let settings = Settings::read(config)?;
        let width = settings.width;
        let (layers, vocabulary) = (config.size("num_layers")?, config.size("vocab_size")?);
        let decoder_layers = config.size_or("num_decoder_layers", layers)?;
        let (encoder, decoder) = (path.sub("encoder"), path.sub("decoder"));
        // One table of several names, of which a file holds those that its writer did not leave out. The head is the same
        // table unless the file has another, whatever the configuration says: transformers 5 calls all of them tied.
        let names = [path.sub("shared"), encoder.sub("embed_tokens"), decoder.sub("embed_tokens"), path.sub("lm_head")];
        let [shared, .., head] = &names;
        let held = names.iter().find(|path| path.contains("weight")).unwrap_or(shared);
        let tokens = TokenTable::new(held, vocabulary, width)?;
        // T5 1.0 divides what it says by the root of the width; 1.1 and what came after do not.
        let tied = config.text_or("model_type", "t5")? == "t5" && config.flag_or("tie_word_embeddings", true)?;
        let scaled = config.flag_or("scale_decoder_outputs", tied)?;
        Ok(T5 {
            tokens: if head.contains("weight") { tokens.with_head(head)? } else { tokens },
            encoder: (0..layers)
                .map(|i| settings.encoder_block(&encoder.sub("block").sub(i), i))
                .collect::<Result<_, _>>()?,
            encoder_norm: settings.norm(&encoder.sub("final_layer_norm"))?,
            decoder: (0..decoder_layers)
                .map(|i| settings.decoder_block(&decoder.sub("block").sub(i), i))
                .collect::<Result<_, _>>()?,
            decoder_norm: settings.norm(&decoder.sub("final_layer_norm"))?,
            head_scale: if scaled { (width as f64).powf(-0.5) } else { 1.0 },
            shape: EncoderDecoderShape {
                layers: decoder_layers,
                heads: settings.heads.heads,
                head_dim: settings.heads.head_dim,
                source_vocabulary: vocabulary,
                vocabulary,
                source_positions: longest,
                target_positions: longest,
            },
            device: path.device(),
        })
    }
}

impl EncoderDecoder for T5 {
    fn shape(&self) -> EncoderDecoderShape {
        self.shape
    }

    fn encode(&self, sources: &[&[u32]]) -> Result<Memory, ModelError> {
        let sources = Sources::new(sources, &self.shape, self.device)?;
        let mut stream = ResidualStream::new(self.tokens.rows(sources.ids())?);
        let mut bias = None;
        for block in &self.encoder {
            if let Some(positions) = &block.positions {
                bias = Some(positions.bias(0, sources.longest())?);
            }
            let normed = stream.normed(&block.before_attention)?;
            stream.add(block.attention.forward(&normed, &sources, bias.as_ref())?)?;
            let normed = stream.normed(&block.before_mlp)?;
            stream.add(block.mlp.forward(&normed)?)?;
        }
        let encoded = stream.normed(&self.encoder_norm)?;
        sources.memory(self.decoder.iter().map(|block| block.cross_attention.keys_values(&encoded)))
    }

    fn decode(&self, steps: &mut [TargetStep<'_>]) -> Result<Tensor, ModelError> {
        let mut batch = TargetBatch::new(steps, &self.shape)?;
        let mut stream = ResidualStream::new(self.tokens.rows(batch.ids())?);
        for (i, block) in self.decoder.iter().enumerate() {
            if let Some(positions) = &block.positions {
                batch.set_relative_positions(positions)?;
            }
            let normed = stream.normed(&block.before_attention)?;
            stream.add(block.attention.forward(&normed, &batch, i)?)?;
            let normed = stream.normed(&block.before_cross_attention)?;
            stream.add(block.cross_attention.forward(&normed, &batch, i)?)?;
            let normed = stream.normed(&block.before_mlp)?;
            stream.add(block.mlp.forward(&normed)?)?;
        }
        batch.finish(&stream.normed(&self.decoder_norm)?)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let hidden =
            if self.head_scale == 1.0 { hidden.shallow_clone() } else { hidden.f_mul_scalar(self.head_scale)? };
        self.tokens.scores(&hidden)
    }
}
