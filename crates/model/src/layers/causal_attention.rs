//! Causal attention over a paged cache: grouped queries (Ainslie et al. 2023), rotary positions, sliding windows, soft caps.
//! Queries, keys and values come out of one product; keys and values go into the cache and are read from there.

use tch::Tensor;
use tidemill_torch::decode;

use crate::decoders::{LayerCache, Step};
use crate::error::ModelError;
use crate::layers::{Projection, RmsNorm, Rotary};
use crate::parameters::Path;

/// How the heads of one layer attend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; `heads` is a multiple of it.
    pub kv_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
    /// What scores are multiplied by.
    pub scale: f64,
    /// How many positions a query sees, its own included; all before it when absent.
    pub window: Option<i64>,
    /// `cap · tanh(score / cap)`, as Gemma 2 has it.
    pub softcap: Option<f64>,
}

impl Heads {
    /// Heads that see everything, with scores divided by the root of their width.
    pub fn new(heads: i64, kv_heads: i64, head_dim: i64) -> Heads {
        let scale = (head_dim as f64).powf(-0.5);
        Heads { heads, kv_heads, head_dim, scale, window: None, softcap: None }
    }

    /// Width of queries, keys and values side by side.
    pub fn qkv_width(&self) -> i64 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// One attention layer.
#[derive(Debug)]
pub struct CausalAttention {
    qkv: Projection,
    output: Projection,
    norms: Option<(RmsNorm, RmsNorm)>,
    heads: Heads,
}

impl CausalAttention {
    /// From the product that gives queries, keys and values side by side, and the one that mixes the heads' outputs.
    pub fn new(qkv: Projection, output: Projection, heads: Heads) -> CausalAttention {
        CausalAttention { qkv, output, norms: None, heads }
    }

    /// Takes `q_proj`, `k_proj`, `v_proj` and `o_proj`; the first three have biases where `biased`, the last where
    /// `output_biased`.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn separate(
        path: &Path,
        width: i64,
        heads: Heads,
        biased: bool,
        output_biased: bool,
    ) -> Result<CausalAttention, ModelError> {
        let (query, key) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        let parts = [(path.sub("q_proj"), query), (path.sub("k_proj"), key), (path.sub("v_proj"), key)];
        let qkv = Projection::beside(&parts, width, biased)?;
        Ok(CausalAttention::new(qkv, Projection::new(&path.sub("o_proj"), query, width, output_biased)?, heads))
    }

    /// Normalises every query and key head before it is turned, by `q_norm` and `k_norm`, as Qwen 3 does.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn with_head_norms(self, path: &Path, epsilon: f64) -> Result<CausalAttention, ModelError> {
        let norm = |name: &str| RmsNorm::new(&path.sub(name), self.heads.head_dim, epsilon, 0.0);
        Ok(CausalAttention { norms: Some((norm("q_norm")?, norm("k_norm")?)), ..self })
    }

    /// `[tokens, width]` → `[tokens, width]`; `rotary` with the rows of this step, unless positions come otherwise.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(
        &self,
        input: &Tensor,
        step: &Step,
        cache: &LayerCache,
        rotary: Option<(&Rotary, &Tensor)>,
    ) -> Result<Tensor, ModelError> {
        let Heads { heads, kv_heads, head_dim, scale, window, softcap } = self.heads;
        let qkv = self.qkv.forward(input)?.f_view([-1, heads + 2 * kv_heads, head_dim])?;
        let mut query = qkv.f_narrow(1, 0, heads)?; // [tokens, heads, head_dim]
        let mut key = qkv.f_narrow(1, heads, kv_heads)?;
        let value = qkv.f_narrow(1, heads + kv_heads, kv_heads)?;
        if let Some((query_norm, key_norm)) = &self.norms {
            query = query_norm.forward(&query)?;
            key = key_norm.forward(&key)?;
        }
        if let Some((rotary, rows)) = rotary {
            rotary.rotate(&mut query, rows)?;
            rotary.rotate(&mut key, rows)?;
        }
        decode::store(cache, &key, &value, step.slots())?;
        let attended = decode::attention(&query, cache, step.attention(), scale, window, softcap)?;
        self.output.forward(&attended)
    }
}
