//! GPT-2: learned positions, layer norms before each part, weights stored turned. Radford et al. 2019.

use tch::{Kind, Tensor};
use tidemill_torch::encode;

use super::{Architecture, Decoder, DecoderShape, LayerCache, Step};
use crate::config::Config;
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::flat::RowNorm;
use crate::layers::{CausalAttention, Heads, PlainMlp, Projection, ResidualStream, TokenTable};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["gpt2"],
    summary: "GPT-2 (Radford et al. 2019).",
    build: |path, config, longest| Ok(Box::new(Gpt2::new(path, config, longest)?)),
};

#[derive(Debug)]
struct Block {
    before_attention: RowNorm,
    attention: CausalAttention,
    before_mlp: RowNorm,
    mlp: PlainMlp,
}

/// The model: `wte`, `wpe`, `h.…`, `ln_f`, below `transformer` or at the root; the head is `wte` again unless it is not tied.
#[derive(Debug)]
struct Gpt2 {
    tokens: TokenTable,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: RowNorm,
    shape: DecoderShape,
}

impl Gpt2 {
    fn new(path: &Path, config: Config, longest: i64) -> Result<Gpt2, ModelError> {
        let root = if path.contains("transformer.wte.weight") { path.sub("transformer") } else { path.clone() };
        let width = config.size("n_embd")?;
        let heads = config.size("n_head")?;
        let inner = config.size_or("n_inner", 4 * width)?;
        let (layers, vocabulary) = (config.size("n_layer")?, config.size("vocab_size")?);
        let stored = config.size_or("n_positions", 1024)?;
        let epsilon = config.number_or("layer_norm_epsilon", 1e-5)?;
        let activation = config.activation("activation_function", "gelu_new")?;
        if width % heads != 0 {
            return Err(config.refuse("\"n_embd\" must be a multiple of \"n_head\""));
        }
        let scaled = config.flag_or("scale_attn_weights", true)?;
        let by_layer = config.flag_or("scale_attn_by_inverse_layer_idx", false)?;
        let block = |i: i64| -> Result<Block, ModelError> {
            let path = root.sub("h").sub(i);
            let (attention, mlp) = (path.sub("attn"), path.sub("mlp"));
            let mut shape = Heads::new(heads, heads, width / heads);
            if !scaled {
                shape.scale = 1.0;
            }
            if by_layer {
                shape.scale /= (i + 1) as f64;
            }
            Ok(Block {
                before_attention: RowNorm::new(&path.sub("ln_1"), width, epsilon, true, Kind::Float)?,
                attention: CausalAttention::new(
                    turned(&attention.sub("c_attn"), width, 3 * width)?,
                    turned(&attention.sub("c_proj"), width, width)?,
                    shape,
                ),
                before_mlp: RowNorm::new(&path.sub("ln_2"), width, epsilon, true, Kind::Float)?,
                mlp: PlainMlp::new(
                    turned(&mlp.sub("c_fc"), width, inner)?,
                    turned(&mlp.sub("c_proj"), inner, width)?,
                    activation,
                ),
            })
        };
        let tokens = TokenTable::new(&root.sub("wte"), vocabulary, width)?;
        let tied = config.flag_or("tie_word_embeddings", true)?;
        Ok(Gpt2 {
            tokens: if tied { tokens } else { tokens.with_head(&path.sub("lm_head"))? },
            positions: root.sub("wpe").get("weight", &[stored, width], Init::Zeros)?,
            blocks: (0..layers).map(block).collect::<Result<_, _>>()?,
            norm: RowNorm::new(&root.sub("ln_f"), width, epsilon, true, Kind::Float)?,
            shape: DecoderShape {
                layers,
                kv_heads: heads,
                head_dim: width / heads,
                vocabulary,
                positions: stored.min(longest),
            },
        })
    }
}

/// A projection whose weight is stored `[inputs, outputs]`.
fn turned(path: &Path, inputs: i64, outputs: i64) -> Result<Projection, ModelError> {
    let matrix = path.matrix_from("weight", &[inputs, outputs], |stored| stored.f_transpose(0, 1)?.f_contiguous())?;
    Ok(Projection::from_parts(matrix, Some(path.get("bias", &[outputs], Init::Zeros)?)))
}

impl Decoder for Gpt2 {
    fn shape(&self) -> DecoderShape {
        self.shape
    }

    fn forward(&self, step: &Step, caches: &[LayerCache]) -> Result<Tensor, ModelError> {
        let mut stream = ResidualStream::new(self.tokens.rows(step.ids())?); // [tokens, width]
        stream.add(encode::embed(&[(&self.positions, step.positions())], None, Kind::Float)?)?;
        for (block, cache) in self.blocks.iter().zip(caches) {
            let normed = stream.normed(&block.before_attention)?;
            stream.add(block.attention.forward(&normed, step, cache, None)?)?;
            let normed = stream.normed(&block.before_mlp)?;
            stream.add(block.mlp.forward(&normed)?)?;
        }
        stream.normed(&self.norm)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.tokens.scores(hidden)
    }
}
