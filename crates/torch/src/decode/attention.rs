//! The paged key-value cache of one layer, and attention on it.

use crate::ffi;
use tch::{Device, Kind, TchError, Tensor};

/// The keys and values of one layer, in blocks that sequences own by their block tables.
#[derive(Debug)]
pub struct PagedCache {
    /// `[blocks, block_size, kv_heads, head_dim]`, float32 or bfloat16, contiguous.
    pub keys: Tensor,
    /// As `keys`.
    pub values: Tensor,
}

impl PagedCache {
    /// An empty cache, `[blocks, block_size, kv_heads, head_dim]`. What lies in it is undefined until it is stored, and is not
    /// read before: so that a large cache takes memory only as it is used.
    ///
    /// # Errors
    /// [`TchError::Torch`] where there is no memory for it.
    pub fn new(size: [i64; 4], kind: Kind, device: Device) -> Result<Self, TchError> {
        Ok(Self { keys: Tensor::f_empty(size, (kind, device))?, values: Tensor::f_empty(size, (kind, device))? })
    }
}

/// Which queries of a call belong to which sequence, and where the sequences' keys and values lie.
///
/// Query `i` of sequence `s` has the position `contexts[s] - queries(s) + i`: the last queries of the context.
#[derive(Debug)]
pub struct AttentionBatch {
    /// `[sequences, max_blocks]`, int64: the blocks of each sequence in order. What lies past its context is not read.
    pub block_tables: Tensor,
    /// `[sequences + 1]`, int64, from 0 to the number of queries: where each sequence's queries begin.
    pub query_starts: Tensor,
    /// `[sequences]`, int64: positions of each sequence in the cache, its queries of this call included.
    pub contexts: Tensor,
}

/// Writes keys and values (`[tokens, kv_heads, head_dim]`, float32, possibly views) to `slots` of the cache
/// (`[tokens]`, int64: block * block_size + offset). A token whose slot is negative is not stored.
///
/// # Errors
/// [`TchError::Torch`] where shapes or types do not fit or a slot is outside the cache; nothing is stored then.
pub fn store(cache: &PagedCache, keys: &Tensor, values: &Tensor, slots: &Tensor) -> Result<(), TchError> {
    let (cache_keys, cache_values) = (cache.keys.as_ptr(), cache.values.as_ptr());
    // SAFETY: live tensors that outlive the call. The cache's contents change as they do by any operator of libtorch that
    // works in place: through a shared handle.
    let done = ffi::done(|done| unsafe {
        ffi::tm_store(done, cache_keys, cache_values, keys.as_ptr(), values.as_ptr(), slots.as_ptr())
    })?;
    if done {
        return Ok(());
    }
    tch::no_grad(|| {
        let kept = slots.f_ge(0)?.f_nonzero()?.f_squeeze_dim(-1)?;
        let slots = slots.f_index_select(0, &kept)?;
        let (blocks, block_size, _, _) = cache.keys.size4()?;
        if slots.f_ge(blocks * block_size)?.f_any()?.int64_value(&[]) != 0 {
            return Err(TchError::Torch(format!(
                "paged cache: a slot is outside the cache of {}",
                blocks * block_size
            )));
        }
        for (target, source) in [(&cache.keys, keys), (&cache.values, values)] {
            let source = source.f_index_select(0, &kept)?.f_to_kind(target.kind())?;
            let _ = target.f_flatten(0, 1)?.f_index_copy_(0, &slots, &source)?;
        }
        Ok(())
    })
}

/// Causal attention of queries on the cache: `[tokens, heads * head_dim]` float32.
///
/// `queries` is `[tokens, heads, head_dim]`, float32, possibly a view; `heads` is a multiple of the cache's `kv_heads`
/// and head `h` reads key-value head `h / (heads / kv_heads)`. A query at position `p` sees the positions up to `p`, and
/// of these only the last `window` where one is given. Scores are multiplied by `scale` and, where `softcap` is given,
/// become `softcap * tanh(score / softcap)`.
///
/// # Errors
/// [`TchError::Torch`] where shapes or types do not fit, a block is outside the cache, or a context is shorter than its
/// queries.
pub fn attention(
    queries: &Tensor,
    cache: &PagedCache,
    batch: &AttentionBatch,
    scale: f64,
    window: Option<i64>,
    softcap: Option<f64>,
) -> Result<Tensor, TchError> {
    if window.is_some_and(|window| window < 1) {
        return Err(TchError::Torch("attention: a window must hold at least one position".to_owned()));
    }
    let (keys, values) = (cache.keys.as_ptr(), cache.values.as_ptr());
    let (tables, starts) = (batch.block_tables.as_ptr(), batch.query_starts.as_ptr());
    let (contexts, queries_pointer) = (batch.contexts.as_ptr(), queries.as_ptr());
    let (width, cap) = (window.unwrap_or(0), softcap.unwrap_or(0.0));
    // SAFETY: live tensors that outlive the call.
    let output = ffi::optional_result(|result| unsafe {
        ffi::tm_attention(result, queries_pointer, keys, values, tables, starts, contexts, scale, width, cap)
    })?;
    if let Some(output) = output {
        return Ok(output);
    }
    tch::no_grad(|| by_libtorch(queries, cache, batch, scale, window, softcap))
}

fn by_libtorch(
    queries: &Tensor,
    cache: &PagedCache,
    batch: &AttentionBatch,
    scale: f64,
    window: Option<i64>,
    softcap: Option<f64>,
) -> Result<Tensor, TchError> {
    let (tokens, heads, head_dim) = queries.size3()?;
    let (blocks, block_size, kv_heads, _) = cache.keys.size4()?;
    let starts = Vec::<i64>::try_from(&batch.query_starts)?;
    let contexts = Vec::<i64>::try_from(&batch.contexts)?;
    let refuse = |what: &str| Err(TchError::Torch(format!("attention: {what}")));
    if starts.len() != contexts.len() + 1 || starts.first() != Some(&0) || starts.last() != Some(&tokens) {
        return refuse("query_starts does not run from 0 to the number of queries, one sequence each");
    }
    if kv_heads == 0 || heads % kv_heads != 0 {
        return refuse(&format!("{heads} heads cannot share {kv_heads} key-value heads"));
    }
    let mut outputs = Vec::with_capacity(contexts.len());
    for (sequence, (&context, bounds)) in contexts.iter().zip(starts.windows(2)).enumerate() {
        let &[start, end] = bounds else { continue };
        let count = end - start;
        if count == 0 {
            continue;
        }
        if count < 0 || context < count {
            return refuse(&format!("sequence {sequence} has {count} queries but a context of {context}"));
        }
        let table = batch.block_tables.f_get(sequence as i64)?;
        let used = (context + block_size - 1) / block_size;
        if used > table.size1()? {
            return refuse(&format!("a context of {context} does not fit the block table of sequence {sequence}"));
        }
        let table = table.f_narrow(0, 0, used)?;
        if table.f_min()?.int64_value(&[]) < 0 || table.f_max()?.int64_value(&[]) >= blocks {
            return refuse(&format!("a block of sequence {sequence} is outside the cache"));
        }
        // [kv_heads, 1, context, head_dim]
        let gather = |from: &Tensor| -> Result<Tensor, TchError> {
            let rows = from.f_index_select(0, &table.f_to_device(from.device())?)?.f_flatten(0, 1)?;
            rows.f_narrow(0, 0, context)?.f_transpose(0, 1)?.f_unsqueeze(1)?.f_to_kind(Kind::Float)
        };
        let (keys, values) = (gather(&cache.keys)?, gather(&cache.values)?);
        let own = queries.f_narrow(0, start, count)?.f_transpose(0, 1)?;
        let own = own.f_reshape([kv_heads, heads / kv_heads, count, head_dim])?;
        let mut scores = own.f_matmul(&keys.f_transpose(-1, -2)?)?.f_mul_scalar(scale)?;
        if let Some(cap) = softcap {
            scores = scores.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap)?;
        }
        let options = (Kind::Int64, queries.device());
        let at = Tensor::f_arange_start(context - count, context, options)?.f_unsqueeze(1)?;
        let seen = Tensor::f_arange(context, options)?.f_unsqueeze(0)?;
        let mut hidden = seen.f_gt_tensor(&at)?;
        if let Some(window) = window {
            hidden = hidden.f_logical_or(&seen.f_le_tensor(&at.f_sub_scalar(window)?)?)?;
        }
        let weights = scores.f_masked_fill(&hidden, f64::NEG_INFINITY)?.f_softmax(-1, Kind::Float)?;
        let mixed = weights.f_matmul(&values)?.f_reshape([heads, count, head_dim])?;
        outputs.push(mixed.f_transpose(0, 1)?.f_reshape([count, heads * head_dim])?);
    }
    if outputs.is_empty() {
        return Tensor::f_zeros([0, heads * head_dim], (Kind::Float, queries.device()));
    }
    Tensor::f_cat(&outputs, 0)
}
