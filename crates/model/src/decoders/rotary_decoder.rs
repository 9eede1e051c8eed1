//! The decoder that Llama made common: root-mean-square norms, rotary positions, grouped queries, a gated feed-forward.
//! The families that share it differ by a setting each, and say so in their files.

use tch::Tensor;

use super::{Decoder, DecoderShape, LayerCache, Step};
use crate::config::Config;
use crate::error::ModelError;
use crate::layers::{CausalAttention, FeedForward, GatedMlp, Heads, ResidualStream, RmsNorm, Rotary, TokenTable};
use crate::parameters::Path;

/// The sizes and settings that every family of this kind reads from `config.json`.
#[derive(Clone, Debug)]
pub struct RotaryDecoderConfig<'a> {
    /// The configuration they come from.
    pub config: Config<'a>,
    /// `hidden_size`.
    pub width: i64,
    /// `intermediate_size`.
    pub inner: i64,
    /// `num_hidden_layers`.
    pub layers: i64,
    /// `num_attention_heads`, `num_key_value_heads`, `head_dim`.
    pub heads: Heads,
    /// `vocab_size`.
    pub vocabulary: i64,
    /// `rms_norm_eps`.
    pub epsilon: f64,
    /// Added to the weights of norms: 1 in Gemma.
    pub norm_offset: f64,
    /// What token vectors are multiplied by.
    pub embedding_scale: f64,
    /// `cap · tanh(logit / cap)` on the scores.
    pub logit_softcap: Option<f64>,
    /// `tie_word_embeddings`.
    pub tied: bool,
    /// The window of each layer.
    pub windows: Vec<Option<i64>>,
    /// The longest context.
    pub positions: i64,
}

impl<'a> RotaryDecoderConfig<'a> {
    /// Reads the keys; `tied` is what the family does when `tie_word_embeddings` is missing, `longest` bounds the context.
    ///
    /// # Errors
    /// [`ModelError::Config`] that names the key.
    pub fn read(config: Config<'a>, tied: bool, longest: i64) -> Result<RotaryDecoderConfig<'a>, ModelError> {
        let width = config.size("hidden_size")?;
        let heads = config.size("num_attention_heads")?;
        let kv_heads = config.size_or("num_key_value_heads", heads)?;
        let head_dim = config.size_or("head_dim", width / heads.max(1))?;
        if heads % kv_heads != 0 || head_dim < 2 {
            return Err(config.refuse("\"num_attention_heads\" must be a multiple of \"num_key_value_heads\""));
        }
        let layers = config.size("num_hidden_layers")?;
        let positions = config.size_or("max_position_embeddings", longest)?;
        Ok(RotaryDecoderConfig {
            config,
            width,
            inner: config.size("intermediate_size")?,
            layers,
            heads: Heads::new(heads, kv_heads, head_dim),
            vocabulary: config.size("vocab_size")?,
            epsilon: config.number_or("rms_norm_eps", 1e-6)?,
            norm_offset: 0.0,
            embedding_scale: 1.0,
            logit_softcap: None,
            tied: config.flag_or("tie_word_embeddings", tied)?,
            windows: vec![None; usize::try_from(layers).unwrap_or_default()],
            positions: positions.min(longest),
        })
    }

    /// Gives the layers that `layer_types` (or, without it, `slides`) names the window `sliding_window`.
    ///
    /// # Errors
    /// [`ModelError::Config`] that names the key.
    pub fn with_windows(mut self, slides: impl Fn(usize) -> bool) -> Result<Self, ModelError> {
        let window = self.config.get("sliding_window").map(|_| self.config.size("sliding_window")).transpose()?;
        let kinds = self.config.texts("layer_types");
        for (layer, slot) in self.windows.iter_mut().enumerate() {
            let sliding = match &kinds {
                Some(kinds) => kinds.get(layer) == Some(&"sliding_attention"),
                None => slides(layer),
            };
            *slot = window.filter(|_| sliding);
        }
        Ok(self)
    }

    /// The heads of one layer.
    pub fn heads_of(&self, layer: usize) -> Heads {
        Heads { window: self.windows.get(layer).copied().flatten(), ..self.heads }
    }

    /// A norm of this family.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn norm(&self, path: &Path) -> Result<RmsNorm, ModelError> {
        RmsNorm::new(path, self.width, self.epsilon, self.norm_offset)
    }

    /// The feed-forward with `gate_proj`, `up_proj` and `down_proj`.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn mlp(&self, path: &Path, biased: bool) -> Result<FeedForward, ModelError> {
        let activation = self.config.activation("hidden_act", "silu")?;
        let names = ["gate_proj", "up_proj", "down_proj"];
        Ok(FeedForward::Gated(GatedMlp::separate(path, names, (self.width, self.inner), activation, biased)?))
    }
}

/// The norms of a layer.
#[derive(Debug)]
pub enum Norms {
    /// `input_layernorm` before attention, `post_attention_layernorm` before the feed-forward.
    Before(RmsNorm, RmsNorm),
    /// Gemma 2: before and after each of the two.
    Around([RmsNorm; 4]),
}

/// One layer.
#[derive(Debug)]
pub struct Block {
    /// Its norms.
    pub norms: Norms,
    /// Its attention.
    pub attention: CausalAttention,
    /// Its feed-forward.
    pub feed_forward: FeedForward,
}

impl Block {
    /// A layer whose norms stand before attention and feed-forward, under their usual names.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(
        path: &Path,
        settings: &RotaryDecoderConfig,
        attention: CausalAttention,
        feed_forward: FeedForward,
    ) -> Result<Block, ModelError> {
        let norm = |name: &str| settings.norm(&path.sub(name));
        let norms = Norms::Before(norm("input_layernorm")?, norm("post_attention_layernorm")?);
        Ok(Block { norms, attention, feed_forward })
    }

    fn forward(
        &self,
        stream: &mut ResidualStream,
        step: &Step,
        cache: &LayerCache,
        rotary: (&Rotary, &Tensor),
    ) -> Result<(), ModelError> {
        match &self.norms {
            Norms::Before(before_attention, before_mlp) => {
                let normed = stream.normed(before_attention)?;
                stream.add(self.attention.forward(&normed, step, cache, Some(rotary))?)?;
                let normed = stream.normed(before_mlp)?;
                stream.add(self.feed_forward.forward(&normed)?)
            }
            Norms::Around([before_attention, after_attention, before_mlp, after_mlp]) => {
                let normed = stream.normed(before_attention)?;
                let attended = self.attention.forward(&normed, step, cache, Some(rotary))?;
                stream.add(after_attention.forward(&attended)?)?;
                let normed = stream.normed(before_mlp)?;
                stream.add(after_mlp.forward(&self.feed_forward.forward(&normed)?)?)
            }
        }
    }
}

/// The whole model: `model.embed_tokens`, `model.layers.…`, `model.norm`, and `lm_head` unless it is tied.
#[derive(Debug)]
pub struct RotaryDecoder {
    table: TokenTable,
    rotary: Rotary,
    blocks: Vec<Block>,
    norm: RmsNorm,
    shape: DecoderShape,
    embedding_scale: f64,
    logit_softcap: Option<f64>,
}

impl RotaryDecoder {
    /// Takes the parameters; `block` takes those of one layer.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(
        path: &Path,
        settings: &RotaryDecoderConfig,
        block: impl Fn(&Path, usize) -> Result<Block, ModelError>,
    ) -> Result<RotaryDecoder, ModelError> {
        let model = path.sub("model");
        let heads = settings.heads;
        let table = TokenTable::new(&model.sub("embed_tokens"), settings.vocabulary, settings.width)?;
        let layers = 0..usize::try_from(settings.layers).unwrap_or_default();
        Ok(RotaryDecoder {
            table: if settings.tied { table } else { table.with_head(&path.sub("lm_head"))? },
            rotary: Rotary::new(settings.config, heads.head_dim, settings.positions, path.device())?,
            blocks: layers.map(|i| block(&model.sub("layers").sub(i), i)).collect::<Result<_, _>>()?,
            norm: settings.norm(&model.sub("norm"))?,
            shape: DecoderShape {
                layers: settings.layers,
                kv_heads: heads.kv_heads,
                head_dim: heads.head_dim,
                vocabulary: settings.vocabulary,
                positions: settings.positions,
            },
            embedding_scale: settings.embedding_scale,
            logit_softcap: settings.logit_softcap,
        })
    }
}

impl Decoder for RotaryDecoder {
    fn shape(&self) -> DecoderShape {
        self.shape
    }

    fn short_contexts(&self) -> Option<usize> {
        self.rotary.short_contexts()
    }

    fn forward(&self, step: &Step, caches: &[LayerCache]) -> Result<Tensor, ModelError> {
        let mut embedded = self.table.rows(step.ids())?; // [tokens, width]
        if self.embedding_scale != 1.0 {
            embedded = embedded.f_mul_scalar(self.embedding_scale)?;
        }
        let rows = self.rotary.rows(step)?;
        let mut stream = ResidualStream::new(embedded);
        for (block, cache) in self.blocks.iter().zip(caches) {
            block.forward(&mut stream, step, cache, (&self.rotary, &rows))?;
        }
        stream.normed(&self.norm)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let logits = self.table.scores(hidden)?;
        match self.logit_softcap {
            Some(cap) => Ok(logits.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap)?),
            None => Ok(logits),
        }
    }
}
