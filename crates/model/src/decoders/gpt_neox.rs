//! GPT-NeoX and Pythia: part of each head turned, attention and feed-forward side by side. Black et al. 2022.

use tch::{Kind, Tensor};

use super::{Architecture, Decoder, DecoderShape, LayerCache, Step};
use crate::config::Config;
use crate::error::ModelError;
use crate::init::Init;
use crate::layers::flat::RowNorm;
use crate::layers::{CausalAttention, Heads, PlainMlp, Projection, ResidualStream, Rotary, TokenTable};
use crate::parameters::Path;

/// The registry's line.
pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_types: &["gpt_neox"],
    summary: "GPT-NeoX and Pythia (Black et al. 2022).",
    build: |path, config, longest| Ok(Box::new(GptNeoX::new(path, config, longest)?)),
};

#[derive(Debug)]
struct Block {
    before_attention: RowNorm,
    attention: CausalAttention,
    before_mlp: RowNorm,
    mlp: PlainMlp,
}

/// The model: `gpt_neox.embed_in`, `gpt_neox.layers.…`, `gpt_neox.final_layer_norm`, `embed_out`.
#[derive(Debug)]
struct GptNeoX {
    tokens: TokenTable,
    rotary: Rotary,
    blocks: Vec<Block>,
    norm: RowNorm,
    parallel: bool,
    shape: DecoderShape,
}

impl GptNeoX {
    fn new(path: &Path, config: Config, longest: i64) -> Result<GptNeoX, ModelError> {
        let root = path.sub("gpt_neox");
        let width = config.size("hidden_size")?;
        let heads = config.size("num_attention_heads")?;
        let inner = config.size("intermediate_size")?;
        let (layers, vocabulary) = (config.size("num_hidden_layers")?, config.size("vocab_size")?);
        let positions = config.size_or("max_position_embeddings", longest)?.min(longest);
        let epsilon = config.number_or("layer_norm_eps", 1e-5)?;
        let biased = config.flag_or("attention_bias", true)?;
        let activation = config.activation("hidden_act", "gelu")?;
        if width % heads != 0 {
            return Err(config.refuse("\"hidden_size\" must be a multiple of \"num_attention_heads\""));
        }
        let shape = Heads::new(heads, heads, width / heads);
        let block = |i: i64| -> Result<Block, ModelError> {
            let path = root.sub("layers").sub(i);
            let (attention, mlp) = (path.sub("attention"), path.sub("mlp"));
            let qkv = attention.sub("query_key_value");
            // Stored head by head, each with its query, key and value; we read all queries first.
            let sorted = |stored: &Tensor, rest: &[i64]| {
                let by_head = [&[heads, 3, width / heads], rest].concat();
                stored.f_view(by_head.as_slice())?.f_transpose(0, 1)?.f_contiguous()?.f_flatten(0, 2)
            };
            let matrix = qkv.matrix_from("weight", &[3 * width, width], |stored| sorted(stored, &[width]))?;
            let bias = match biased {
                true => Some(sorted(&qkv.get("bias", &[3 * width], Init::Zeros)?, &[])?),
                false => None,
            };
            let output = Projection::new(&attention.sub("dense"), width, width, biased)?;
            Ok(Block {
                before_attention: RowNorm::new(&path.sub("input_layernorm"), width, epsilon, true, Kind::Float)?,
                attention: CausalAttention::new(Projection::from_parts(matrix, bias), output, shape),
                before_mlp: RowNorm::new(&path.sub("post_attention_layernorm"), width, epsilon, true, Kind::Float)?,
                mlp: PlainMlp::new(
                    Projection::new(&mlp.sub("dense_h_to_4h"), width, inner, true)?,
                    Projection::new(&mlp.sub("dense_4h_to_h"), inner, width, true)?,
                    activation,
                ),
            })
        };
        let tokens = TokenTable::new(&root.sub("embed_in"), vocabulary, width)?;
        let tied = config.flag_or("tie_word_embeddings", false)?;
        Ok(GptNeoX {
            tokens: if tied { tokens } else { tokens.with_head(&path.sub("embed_out"))? },
            rotary: Rotary::new(config, width / heads, positions, path.device())?,
            blocks: (0..layers).map(block).collect::<Result<_, _>>()?,
            norm: RowNorm::new(&root.sub("final_layer_norm"), width, epsilon, true, Kind::Float)?,
            parallel: config.flag_or("use_parallel_residual", true)?,
            shape: DecoderShape { layers, kv_heads: heads, head_dim: width / heads, vocabulary, positions },
        })
    }
}

impl Decoder for GptNeoX {
    fn shape(&self) -> DecoderShape {
        self.shape
    }

    fn short_contexts(&self) -> Option<usize> {
        self.rotary.short_contexts()
    }

    fn forward(&self, step: &Step, caches: &[LayerCache]) -> Result<Tensor, ModelError> {
        let mut stream = ResidualStream::new(self.tokens.rows(step.ids())?); // [tokens, width]
        let rows = self.rotary.rows(step)?;
        for (block, cache) in self.blocks.iter().zip(caches) {
            let normed = stream.normed(&block.before_attention)?;
            let beside = self.parallel.then(|| stream.normed(&block.before_mlp)).transpose()?;
            stream.add(block.attention.forward(&normed, step, cache, Some((&self.rotary, &rows)))?)?;
            let normed = beside.map_or_else(|| stream.normed(&block.before_mlp), Ok)?;
            stream.add(block.mlp.forward(&normed)?)?;
        }
        stream.normed(&self.norm)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.tokens.scores(hidden)
    }
}
