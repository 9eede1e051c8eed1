//! How well a decoder foretells a text: its perplexity over sliding windows, as the documentation of `transformers` measures
//! it (<https://huggingface.co/docs/transformers/perplexity>). Every token but the text's first is scored once, with at
//! least `window - stride` tokens before it where the text has them; where `transformers` weighs the windows' means by
//! one token too few, this is the mean over the tokens themselves.

use tch::{Device, Kind, Tensor};
use tidemill_torch::Precision;

use crate::checkpoint::Checkpoint;
use crate::decoders::{self, Decoder, LayerCache, SequenceStep, Step};
use crate::error::ModelError;
use crate::parameters::Parameters;
use crate::tasks::generation::GeneratorError;

/// How the text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens that the model sees at once; cut to what it allows. Default 1,024.
    pub window: usize,
    /// By how many tokens the next window lies further on: at most `window`. Default 512.
    pub stride: usize,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { window: 1024, stride: 512 }
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// The mean of the tokens' negative log-probabilities, in nats.
    pub nats: f64,
    /// How many tokens were scored.
    pub tokens: usize,
}

impl Perplexity {
    /// `exp(nats)`: among how many equally likely tokens the model would be as unsure. At least 1, lower is better.
    pub fn value(&self) -> f64 {
        self.nats.exp()
    }
}

/// Tokens of a block of the cache.
const BLOCK: usize = 16;
/// Rows that are scored at once, so that logits over a large vocabulary stay small.
const ROWS: i64 = 128;

/// Measures a decoder on tokens. `progress` hears how many are scored, and of how many.
///
/// # Errors
/// [`ModelError::Input`] for fewer than two tokens, one that the model does not have, or a window of fewer than two
/// tokens or a stride of none; otherwise what the model says.
pub fn of_tokens(
    model: &dyn Decoder,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Perplexity, ModelError> {
    let shape = model.shape();
    let window = windows.window.min(usize::try_from(shape.positions).unwrap_or_default());
    let stride = windows.stride.min(window);
    if window < 2 || stride == 0 {
        return Err(ModelError::Input("a window needs at least 2 tokens, and a stride 1".to_string()));
    }
    if tokens.len() < 2 {
        return Err(ModelError::Input(format!(
            "a text of {} tokens cannot be foretold; give a longer one",
            tokens.len()
        )));
    }
    if let Some(token) = tokens.iter().find(|token| i64::from(**token) >= shape.vocabulary) {
        return Err(ModelError::Input(format!("the model has {} tokens, not the token {token}", shape.vocabulary)));
    }
    let blocks: Vec<u32> = (0..window.div_ceil(BLOCK) as u32).collect();
    let size = [blocks.len() as i64, BLOCK as i64, shape.kv_heads, shape.head_dim];
    let cache = |_| LayerCache::new(size, Kind::Float, Device::Cpu);
    let caches: Vec<LayerCache> = (0..shape.layers).map(cache).collect::<Result<_, _>>()?;
    let (mut begin, mut scored_to) = (0, 1);
    let (mut sum, mut count) = (0.0_f64, 0_usize);
    while let Some(seen) = tokens.get(begin..(begin + window).min(tokens.len())) {
        let end = begin + seen.len();
        // The first of a window has nothing before it there.
        let first = scored_to.max(begin + 1);
        let whole = SequenceStep { tokens: seen, cached: 0, length: seen.len(), blocks: &blocks };
        let step = Step::new(&[whole], BLOCK, Device::Cpu)?;
        let targets: Vec<i64> = tokens.get(first..end).unwrap_or_default().iter().copied().map(i64::from).collect();
        sum += tch::no_grad(|| {
            let hidden = model.forward(&step, &caches)?;
            let rows = hidden.f_narrow(0, (first - 1 - begin) as i64, targets.len() as i64)?;
            negative_log_probability(model, &rows, &Tensor::f_from_slice(&targets)?)
        })?;
        count += targets.len();
        progress(count, tokens.len() - 1);
        if end == tokens.len() {
            break;
        }
        (begin, scored_to) = (begin + stride, end);
    }
    Ok(Perplexity { nats: sum / count.max(1) as f64, tokens: count })
}

/// Of all targets (`[n]`) together, each foretold by its row of `[n, width]`.
fn negative_log_probability(model: &dyn Decoder, rows: &Tensor, targets: &Tensor) -> Result<f64, ModelError> {
    let count = targets.size1().unwrap_or_default();
    let mut sum = 0.0;
    for start in (0..count).step_by(ROWS as usize) {
        let length = ROWS.min(count - start);
        let logits = model.logits(&rows.f_narrow(0, start, length)?)?.f_to_kind(Kind::Float)?;
        let logarithms = logits.f_log_softmax(-1, Kind::Float)?;
        let own = targets.f_narrow(0, start, length)?.f_unsqueeze(-1)?;
        sum -= logarithms.f_gather(-1, &own, false)?.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    Ok(sum)
}

/// Opens a decoder's checkpoint in a precision (as it is stored, where there is none) and measures it on the CPU.
///
/// # Errors
/// [`GeneratorError`] as a generator's, for files and configuration; and as [`of_tokens`].
pub fn of_checkpoint(
    checkpoint: &Checkpoint,
    precision: Option<Precision>,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Perplexity, GeneratorError> {
    let parameters = Parameters::stored(checkpoint.source()?, Device::Cpu).with_precision(precision);
    let model = decoders::build(&parameters.root(), checkpoint.config(), windows.window as i64)?;
    Ok(of_tokens(model.as_ref(), tokens, windows, progress)?)
}
