//! The encoder-decoder of Vaswani et al. 2017 under the tensor names that BART made common. The families that share it differ
//! in their positions and in where their norms stand, and say so in their files.

use tch::{Device, Kind, Tensor};
use tidemill_torch::Activation;

use super::{EncoderDecoder, EncoderDecoderShape, Memory, Sources, TargetBatch, TargetStep};
use crate::config::Config;
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::flat::RowNorm;
use crate::layers::{
    CrossAttention, Heads, PlainMlp, PositionTable, Projection, ResidualStream, SourceAttention, TargetAttention,
    TokenTable,
};
use crate::parameters::Path;

/// What attention's matrices are called.
const ATTENTION: [&str; 4] = ["q_proj", "k_proj", "v_proj", "out_proj"];

/// `torch.nn.LayerNorm`'s own; no configuration names another.
const EPSILON: f64 = 1e-5;

/// Sizes of the encoder or of the decoder.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    layers: i64,
    heads: Heads,
    inner: i64,
}

impl Stack {
    fn read(config: Config, side: &str, width: i64) -> Result<Stack, ModelError> {
        let key = |what: &str| format!("{side}_{what}");
        let heads = config.size(&key("attention_heads"))?;
        if width % heads != 0 {
            let problem = format!("\"d_model\" must be a multiple of \"{}\"", key("attention_heads"));
            return Err(config.refuse(problem));
        }
        let (layers, inner) = (config.size(&key("layers"))?, config.size(&key("ffn_dim"))?);
        Ok(Stack { layers, heads: Heads::new(heads, heads, width / heads), inner })
    }
}

/// The sizes and settings that every family of this kind reads from `config.json`.
#[derive(Clone, Debug)]
pub struct TransformerConfig<'a> {
    /// The configuration they come from.
    pub config: Config<'a>,
    /// `d_model`.
    pub width: i64,
    /// `encoder_layers`, `encoder_attention_heads`, `encoder_ffn_dim`.
    pub encoder: Stack,
    /// The same of the decoder.
    pub decoder: Stack,
    /// `vocab_size`.
    pub vocabulary: i64,
    /// `decoder_vocab_size`, where the two sides have tables of their own.
    pub own_target_vocabulary: Option<i64>,
    /// `activation_function`.
    pub activation: Activation,
    /// What token vectors are multiplied by: the root of the width where `scale_embedding`.
    pub embedding_scale: f64,
    /// Norms stand before each part of a layer, and one after the last layer, and not after each part.
    pub norms_first: bool,
    /// A norm of the embeddings.
    pub embedding_norm: bool,
    /// `max_position_embeddings`.
    pub positions: i64,
    /// The longest text, at most `positions`.
    pub longest: i64,
}

impl<'a> TransformerConfig<'a> {
    /// Reads the keys; `longest` bounds sources and targets.
    ///
    /// # Errors
    /// [`ModelError::Config`] that names the key.
    pub fn read(config: Config<'a>, longest: i64) -> Result<TransformerConfig<'a>, ModelError> {
        let width = config.size("d_model")?;
        let positions = config.size_or("max_position_embeddings", 1024)?;
        let scaled = config.flag_or("scale_embedding", false)?;
        Ok(TransformerConfig {
            config,
            width,
            encoder: Stack::read(config, "encoder", width)?,
            decoder: Stack::read(config, "decoder", width)?,
            vocabulary: config.size("vocab_size")?,
            own_target_vocabulary: None,
            activation: config.activation("activation_function", "gelu")?,
            embedding_scale: if scaled { (width as f64).sqrt() } else { 1.0 },
            norms_first: false,
            embedding_norm: false,
            positions,
            longest: longest.min(positions),
        })
    }
}

/// The part of a layer that is run between its norm and its residual.
#[derive(Debug)]
struct Sublayer<L> {
    layer: L,
    norm: RowNorm,
    norm_first: bool,
}

impl<L> Sublayer<L> {
    fn forward(
        &self,
        stream: &mut ResidualStream,
        run: impl FnOnce(&L, &Tensor) -> Result<Tensor, ModelError>,
    ) -> Result<(), ModelError> {
        if self.norm_first {
            let normed = stream.normed(&self.norm)?;
            return stream.add(run(&self.layer, &normed)?);
        }
        let output = run(&self.layer, stream.sum()?)?;
        *stream = ResidualStream::new(self.norm.add(&output, stream.sum()?)?);
        Ok(())
    }
}

/// What a stack of layers ends with: its sum, normalised where there is a norm.
fn finish(mut stream: ResidualStream, norm: Option<&RowNorm>) -> Result<Tensor, ModelError> {
    match norm {
        Some(norm) => stream.normed(norm),
        None => Ok(stream.sum()?.shallow_clone()),
    }
}

#[derive(Debug)]
struct EncoderLayer {
    attention: Sublayer<SourceAttention>,
    mlp: Sublayer<PlainMlp>,
}

#[derive(Debug)]
struct DecoderLayer {
    attention: Sublayer<TargetAttention>,
    cross_attention: Sublayer<CrossAttention>,
    mlp: Sublayer<PlainMlp>,
}

/// What turns tokens into vectors on one side.
#[derive(Debug)]
struct Embedding {
    tokens: TokenTable,
    scale: f64,
    positions: PositionTable,
    norm: Option<RowNorm>,
}

impl Embedding {
    /// Ids `[tokens]` and their positions' vectors → `[tokens, width]`.
    fn forward(&self, ids: &Tensor, positions: &Tensor) -> Result<Tensor, ModelError> {
        let mut tokens = self.tokens.rows(ids)?;
        if self.scale != 1.0 {
            tokens = tokens.f_mul_scalar(self.scale)?;
        }
        let embedded = tokens.f_add(positions)?;
        self.norm.as_ref().map_or(Ok(embedded.shallow_clone()), |norm| norm.forward(&embedded))
    }
}

/// The model: `model.shared`, `model.encoder.…`, `model.decoder.…`, `final_logits_bias`, and `lm_head` unless it is tied.
#[derive(Debug)]
pub struct Transformer {
    sources: Embedding,
    encoder: Vec<EncoderLayer>,
    encoder_norm: Option<RowNorm>,
    targets: Embedding,
    decoder: Vec<DecoderLayer>,
    decoder_norm: Option<RowNorm>,
    head: Option<Projection>,
    logits_bias: Option<Tensor>,
    shape: EncoderDecoderShape,
    device: Device,
}

impl Transformer {
    /// Takes the parameters; `positions` makes those of the encoder or the decoder, at whose path it is called.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(
        path: &Path,
        settings: &TransformerConfig,
        positions: impl Fn(&Path) -> Result<PositionTable, ModelError>,
    ) -> Result<Transformer, ModelError> {
        // Without the prefix when the file holds the bare model.
        let bare = path.contains("encoder.layers.0.fc1.weight");
        let root = if bare { path.clone() } else { path.sub("model") };
        let (encoder, decoder) = (root.sub("encoder"), root.sub("decoder"));
        let &TransformerConfig { width, vocabulary, own_target_vocabulary, norms_first, embedding_norm, .. } = settings;
        let target_vocabulary = own_target_vocabulary.unwrap_or(vocabulary);
        let norm = |path: Path| RowNorm::new(&path, width, EPSILON, true, Kind::Float);
        let embedding = |path: &Path, tokens: TokenTable| -> Result<Embedding, ModelError> {
            Ok(Embedding {
                tokens,
                scale: settings.embedding_scale,
                positions: positions(path)?,
                norm: embedding_norm.then(|| norm(path.sub("layernorm_embedding"))).transpose()?,
            })
        };
        let final_norm = |path: &Path| norms_first.then(|| norm(path.sub("layer_norm"))).transpose();

        let (source_tokens, target_tokens) = match own_target_vocabulary {
            Some(own) => (
                TokenTable::new(&encoder.sub("embed_tokens"), vocabulary, width)?,
                TokenTable::new(&decoder.sub("embed_tokens"), own, width)?,
            ),
            None => {
                // One table of several names, of which a file holds those that its writer did not leave out.
                let names =
                    [root.sub("shared"), encoder.sub("embed_tokens"), decoder.sub("embed_tokens"), path.sub("lm_head")];
                let held = names.iter().find(|path| path.contains("weight")).unwrap_or(&names[0]);
                let table = TokenTable::new(held, vocabulary, width)?;
                (table.clone(), table)
            }
        };
        let tied = settings.config.flag_or("tie_word_embeddings", true)?;
        let head = || Projection::new(&path.sub("lm_head"), width, target_vocabulary, false);
        let logits_bias = path.contains("final_logits_bias");
        let logits_bias =
            logits_bias.then(|| path.get("final_logits_bias", &[1, target_vocabulary], Init::Zeros)).transpose()?;
        let layers = |stack: Stack| 0..stack.layers;
        Ok(Transformer {
            sources: embedding(&encoder, source_tokens)?,
            encoder: layers(settings.encoder)
                .map(|i| EncoderLayer::new(&encoder.sub("layers").sub(i), settings))
                .collect::<Result<_, _>>()?,
            encoder_norm: final_norm(&encoder)?,
            targets: embedding(&decoder, target_tokens)?,
            decoder: layers(settings.decoder)
                .map(|i| DecoderLayer::new(&decoder.sub("layers").sub(i), settings))
                .collect::<Result<_, _>>()?,
            decoder_norm: final_norm(&decoder)?,
            head: (!tied).then(head).transpose()?,
            logits_bias,
            shape: EncoderDecoderShape {
                layers: settings.decoder.layers,
                heads: settings.decoder.heads.heads,
                head_dim: settings.decoder.heads.head_dim,
                source_vocabulary: vocabulary,
                vocabulary: target_vocabulary,
                source_positions: settings.longest,
                target_positions: settings.longest,
            },
            device: path.device(),
        })
    }
}

impl EncoderLayer {
    fn new(path: &Path, settings: &TransformerConfig) -> Result<EncoderLayer, ModelError> {
        let (width, stack) = (settings.width, settings.encoder);
        let attention = SourceAttention::separate(&path.sub("self_attn"), ATTENTION, width, stack.heads, true)?;
        Ok(EncoderLayer {
            attention: sublayer(path, "self_attn_layer_norm", settings, attention)?,
            mlp: sublayer(path, "final_layer_norm", settings, mlp(path, settings, stack.inner)?)?,
        })
    }
}

impl DecoderLayer {
    fn new(path: &Path, settings: &TransformerConfig) -> Result<DecoderLayer, ModelError> {
        let (width, stack) = (settings.width, settings.decoder);
        let attention = TargetAttention::separate(&path.sub("self_attn"), ATTENTION, width, stack.heads, true)?;
        let cross = CrossAttention::separate(&path.sub("encoder_attn"), ATTENTION, width, stack.heads, true)?;
        Ok(DecoderLayer {
            attention: sublayer(path, "self_attn_layer_norm", settings, attention)?,
            cross_attention: sublayer(path, "encoder_attn_layer_norm", settings, cross)?,
            mlp: sublayer(path, "final_layer_norm", settings, mlp(path, settings, stack.inner)?)?,
        })
    }
}

fn sublayer<L>(path: &Path, norm: &str, settings: &TransformerConfig, layer: L) -> Result<Sublayer<L>, ModelError> {
    let norm = RowNorm::new(&path.sub(norm), settings.width, EPSILON, true, Kind::Float)?;
    Ok(Sublayer { layer, norm, norm_first: settings.norms_first })
}

fn mlp(path: &Path, settings: &TransformerConfig, inner: i64) -> Result<PlainMlp, ModelError> {
    let up = Projection::new(&path.sub("fc1"), settings.width, inner, true)?;
    Ok(PlainMlp::new(up, Projection::new(&path.sub("fc2"), inner, settings.width, true)?, settings.activation))
}

impl EncoderDecoder for Transformer {
    fn shape(&self) -> EncoderDecoderShape {
        self.shape
    }

    fn encode(&self, sources: &[&[u32]]) -> Result<Memory, ModelError> {
        let sources = Sources::new(sources, &self.shape, self.device)?;
        let embedded = self.sources.forward(sources.ids(), &sources.positions(&self.sources.positions)?)?;
        let mut stream = ResidualStream::new(embedded);
        for layer in &self.encoder {
            layer.attention.forward(&mut stream, |attention, hidden| attention.forward(hidden, &sources, None))?;
            layer.mlp.forward(&mut stream, PlainMlp::forward)?;
        }
        let hidden = finish(stream, self.encoder_norm.as_ref())?;
        sources.memory(self.decoder.iter().map(|layer| layer.cross_attention.layer.keys_values(&hidden)))
    }

    fn decode(&self, steps: &mut [TargetStep<'_>]) -> Result<Tensor, ModelError> {
        let batch = TargetBatch::new(steps, &self.shape)?;
        let embedded = self.targets.forward(batch.ids(), &batch.positions(&self.targets.positions)?)?;
        let mut stream = ResidualStream::new(embedded);
        for (i, layer) in self.decoder.iter().enumerate() {
            layer.attention.forward(&mut stream, |attention, hidden| attention.forward(hidden, &batch, i))?;
            layer.cross_attention.forward(&mut stream, |cross, hidden| cross.forward(hidden, &batch, i))?;
            layer.mlp.forward(&mut stream, PlainMlp::forward)?;
        }
        batch.finish(&finish(stream, self.decoder_norm.as_ref())?)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let logits = match &self.head {
            Some(head) => head.forward(hidden)?,
            None => self.targets.tokens.scores(hidden)?,
        };
        match &self.logits_bias {
            Some(bias) => Ok(logits.f_add(bias)?),
            None => Ok(logits),
        }
    }
}
