//! What encoder models do between their products, each in one pass over memory: embeddings, residual and layer norm,
//! rotary positions, attention over texts of different lengths, pooling.
//!
//! A batch is flat: the tokens of all texts are the rows of one matrix, and text `t` has the rows `bounds[t] ..
//! bounds[t + 1]`, so that no row is padding. Rows are float32 or bfloat16; sums, norms and softmax are float32. On other
//! devices and where a gradient is wanted libtorch's own operators do the same.

use crate::ffi::{self, Input, pointer};
use tch::{Kind, TchError, Tensor};

/// From a vector a token to one a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean over the text's tokens.
    Mean = 0,
    /// The largest of each number.
    Max = 1,
    /// The first token's.
    First = 2,
    /// The last token's.
    Last = 3,
    /// The sum over the square root of the number of tokens.
    MeanSquareRoot = 4,
}

/// A layer norm (Ba et al. 2016): float32 parameters of one row's width.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Multiplied with.
    pub weight: &'a Tensor,
    /// Added.
    pub bias: Option<&'a Tensor>,
    /// Added to the variance.
    pub epsilon: f64,
}

/// The sum of one row from each table, normalised: `tables` are pairs of a table `[rows, width]` and the ids `[tokens]`
/// (int64) of its rows. Gives `[tokens, width]` of type `kind`.
///
/// # Errors
/// [`TchError::Torch`] where an id is outside its table, or shapes or types do not fit.
pub fn embed(tables: &[(&Tensor, &Tensor)], norm: Option<Norm<'_>>, kind: Kind) -> Result<Tensor, TchError> {
    let (weight, bias, epsilon) = parts(norm);
    let (lists, ids): (Vec<Input>, Vec<Input>) =
        tables.iter().map(|(table, ids)| (table.as_ptr() as Input, ids.as_ptr() as Input)).unzip();
    let bfloat = is_bfloat(kind)?;
    // SAFETY: the lists hold `tables.len()` live tensors each, and everything outlives the call.
    ffi::result(|result| unsafe {
        ffi::tm_embed(result, lists.as_ptr(), ids.as_ptr(), tables.len() as i64, weight, bias, epsilon, bfloat)
    })
}

/// `norm(x)` for rows `[tokens, width]`, as numbers of type `kind`.
///
/// # Errors
/// [`TchError::Torch`] where shapes or types do not fit.
pub fn layer_norm(x: &Tensor, norm: Norm<'_>, kind: Kind) -> Result<Tensor, TchError> {
    add_norm(x, None, false, Some(norm), kind)
}

/// `norm(x + residual)` for rows `[tokens, width]`, as numbers of type `kind`: a sublayer's end where the norm comes last.
///
/// # Errors
/// [`TchError::Torch`] where shapes or types do not fit.
pub fn add_layer_norm(x: &Tensor, residual: &Tensor, norm: Norm<'_>, kind: Kind) -> Result<Tensor, TchError> {
    add_norm(x, Some(residual), false, Some(norm), kind)
}

/// As [`add_layer_norm`], and the sum is left in `residual`: where the norm comes first in the next sublayer.
///
/// # Errors
/// [`TchError::Torch`] where shapes or types do not fit.
pub fn accumulate_layer_norm(
    x: &Tensor,
    residual: &mut Tensor,
    norm: Norm<'_>,
    kind: Kind,
) -> Result<Tensor, TchError> {
    add_norm(x, Some(residual), true, Some(norm), kind)
}

/// `residual += x` for rows `[tokens, width]`.
///
/// # Errors
/// [`TchError::Torch`] where shapes or types do not fit.
pub fn accumulate(x: &Tensor, residual: &mut Tensor) -> Result<(), TchError> {
    if x.requires_grad() || residual.requires_grad() {
        *residual = residual.f_add(x)?;
        return Ok(());
    }
    add_norm(x, Some(residual), true, None, x.kind()).map(drop)
}

fn add_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    keep: bool,
    norm: Option<Norm<'_>>,
    kind: Kind,
) -> Result<Tensor, TchError> {
    let (weight, bias, epsilon) = parts(norm);
    let bfloat = is_bfloat(kind)?;
    // SAFETY: the pointers are live tensors or null, and outlive the call; `residual` is written only where `keep` says
    // so, and then the caller holds it exclusively.
    ffi::result(|result| unsafe {
        ffi::tm_add_layer_norm(result, x.as_ptr(), pointer(residual), keep, weight, bias, epsilon, bfloat)
    })
}

/// Rotary positions (Su et al. 2021) on the queries and keys of `qkv` (`[tokens, 3 * heads * head_dim]`, which is given up
/// and may be changed in place): the right half of a head's numbers is paired with its left half. `cosine` and `sine` are
/// float32 `[positions, head_dim / 2]`, `positions` int64 `[tokens]`.
///
/// # Errors
/// [`TchError::Torch`] where a position is outside the tables, or shapes or types do not fit.
pub fn rotated(
    qkv: Tensor,
    heads: i64,
    cosine: &Tensor,
    sine: &Tensor,
    positions: &Tensor,
) -> Result<Tensor, TchError> {
    // SAFETY: all are live tensors that outlive the call, and nothing else here holds `qkv`.
    ffi::result(|result| unsafe {
        ffi::tm_rotated(result, qkv.as_ptr(), heads, cosine.as_ptr(), sine.as_ptr(), positions.as_ptr())
    })
}

/// Self-attention (Vaswani et al. 2017) within each text: `qkv` is `[tokens, 3 * heads * head_dim]`, queries, keys, values;
/// the result `[tokens, heads * head_dim]`. With a `window` a token sees itself and that many tokens to either side.
///
/// ```
/// # fn main() -> Result<(), tch::TchError> {
/// let qkv = tch::Tensor::f_randn([5, 3 * 2 * 16], (tch::Kind::Float, tch::Device::Cpu))?;
/// // Two texts, of three tokens and of two.
/// let attended = tidemill_torch::encode::attention(&qkv, &[0, 3, 5], 2, 0.25, None)?;
/// assert_eq!(attended.size(), [5, 32]);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`TchError::Torch`] where the bounds do not rise from 0 to the number of tokens, or shapes or types do not fit.
pub fn attention(
    qkv: &Tensor,
    bounds: &[i64],
    heads: i64,
    scale: f64,
    window: Option<i64>,
) -> Result<Tensor, TchError> {
    let texts = texts(bounds)?;
    let window = window.map_or(-1, |window| window.max(0));
    // SAFETY: `qkv` is a live tensor, `bounds` holds one number more than `texts`, and both outlive the call.
    ffi::result(|result| unsafe {
        ffi::tm_varlen_attention(result, qkv.as_ptr(), bounds.as_ptr(), texts, heads, scale, window)
    })
}

/// One float32 vector a text, `[texts, width]`, out of `[tokens, width]`; of length 1 where `normalised` says so.
///
/// # Errors
/// [`TchError::Torch`] where the bounds do not rise from 0 to the number of tokens.
pub fn pool(hidden: &Tensor, bounds: &[i64], pooling: Pooling, normalised: bool) -> Result<Tensor, TchError> {
    let texts = texts(bounds)?;
    // SAFETY: `hidden` is a live tensor, `bounds` holds one number more than `texts`, and both outlive the call.
    ffi::result(|result| unsafe {
        ffi::tm_pool(result, hidden.as_ptr(), bounds.as_ptr(), texts, pooling as i32, normalised)
    })
}

/// Gives each row of a float32 matrix the length 1, in place; a row of zeros stays.
///
/// # Errors
/// [`TchError::Torch`] where it is not a contiguous float32 matrix.
pub fn normalise_rows(rows: &mut Tensor) -> Result<(), TchError> {
    // SAFETY: `rows` is a live tensor that outlives the call, held exclusively.
    ffi::check(unsafe { ffi::tm_normalise_rows(rows.as_ptr()) })
}

/// How many texts there are between the bounds.
fn texts(bounds: &[i64]) -> Result<i64, TchError> {
    match bounds.len() {
        0 | 1 => Err(TchError::Torch("a batch needs at least one text".to_owned())),
        count => Ok(count as i64 - 1),
    }
}

fn parts(norm: Option<Norm<'_>>) -> (Input, Input, f64) {
    norm.map_or((std::ptr::null(), std::ptr::null(), 0.0), |norm| {
        (norm.weight.as_ptr() as Input, pointer(norm.bias), norm.epsilon)
    })
}

fn is_bfloat(kind: Kind) -> Result<bool, TchError> {
    match kind {
        Kind::Float => Ok(false),
        Kind::BFloat16 => Ok(true),
        other => Err(TchError::Torch(format!("rows of {other:?} numbers cannot be made here"))),
    }
}
