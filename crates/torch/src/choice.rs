//! Which kernel is the fastest, measured once per product, shape, type and thread count on the processor at hand.
//!
//! Knows nothing of autograd: it times bare products on constant tensors, a few milliseconds a shape, touching neither
//! gradients nor the random generator. A choice is kept for the process, and in the user's cache folder
//! (`$XDG_CACHE_HOME/tidemill` or `~/.cache/tidemill`, one file per processor and libtorch) so that later runs on the
//! machine round alike. Numbers behind it: `benches/linear.rs`.

mod measure;
mod store;

use crate::{Kernel, LinearKernels};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use tch::{Device, Kind, TchError, Tensor};

pub(crate) use measure::{Packs, fastest, packed_product, panel_product};

/// Below this many multiplications and additions a product is not worth a measurement: libtorch's own is taken.
const SMALL: i64 = 400_000;

/// A product of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// `input @ weight.T`.
    Forward,
    /// `grad_output @ weight`.
    GradInput,
    /// `grad_output.T @ input`.
    GradWeight,
    /// `input @ weight.T` with a weight that may be packed beforehand.
    Inference,
}

/// What a choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The product.
    pub pass: Pass,
    /// Rows of the input, rounded up to a power of two.
    pub rows: i64,
    /// Input features.
    pub inputs: i64,
    /// Output features.
    pub outputs: i64,
    /// Whether the numbers are bfloat16; float32 otherwise.
    pub bfloat16: bool,
    /// Threads that libtorch uses.
    pub threads: i32,
}

/// Every choice made so far. Store it with a training run and [`restore`] it on resuming, so that the sums round alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTable {
    /// In the order of the keys, each key once.
    pub choices: Vec<(Key, Kernel)>,
}

/// `input @ weight.T + bias` by the fastest kernels for this shape, differentiable.
///
/// `input` is `[..., in]`, `weight` `[out, in]`, `bias` `[out]`, the result `[..., out]`. See [`crate::linear`] for what
/// is promised of the numbers.
///
/// # Errors
/// [`TchError::Torch`] where shapes, types or devices do not fit.
pub fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
    crate::linear(input, weight, bias, kernels(input, weight))
}

/// The kernels that [`linear`] takes for these tensors: looked up, or measured and remembered.
pub fn kernels(input: &Tensor, weight: &Tensor) -> LinearKernels {
    let (size, weight_size) = (input.size(), weight.size());
    let &[outputs, inputs] = weight_size.as_slice() else {
        return LinearKernels::default();
    };
    if size.last() != Some(&inputs) || input.device() != Device::Cpu {
        return LinearKernels::default();
    }
    let rows = size.iter().rev().skip(1).product();
    let backward = weight.requires_grad() || input.requires_grad();
    kernels_for(rows, inputs, outputs, weight.kind(), backward)
}

/// As [`kernels`], by shape: the backward products are only measured where `backward` says that they will be needed.
pub fn kernels_for(rows: i64, inputs: i64, outputs: i64, kind: Kind, backward: bool) -> LinearKernels {
    let pick = |pass| {
        key(pass, rows, inputs, outputs, kind)
            .map_or(Kernel::Libtorch, |key| choose(key, || fastest(key, Packs::default())))
    };
    if !backward {
        return LinearKernels { forward: pick(Pass::Forward), ..LinearKernels::default() };
    }
    LinearKernels {
        forward: pick(Pass::Forward),
        grad_input: pick(Pass::GradInput),
        grad_weight: pick(Pass::GradWeight),
    }
}

/// All choices of this process so far.
pub fn table() -> KernelTable {
    KernelTable { choices: choices().iter().map(|(key, kernel)| (*key, *kernel)).collect() }
}

/// Takes over the choices of an earlier process, replacing those made here for the same keys.
pub fn restore(table: &KernelTable) {
    choices().extend(table.choices.iter().copied());
}

/// The key of a product worth choosing for; `None` where only libtorch's own can or should run.
pub(crate) fn key(pass: Pass, rows: i64, inputs: i64, outputs: i64, kind: Kind) -> Option<Key> {
    let multiplications = rows.checked_mul(inputs)?.checked_mul(outputs)?;
    if !matches!(kind, Kind::Float | Kind::BFloat16) || multiplications < SMALL {
        return None;
    }
    let rows = i64::try_from(u64::try_from(rows).ok()?.checked_next_power_of_two()?).ok()?;
    let bfloat16 = kind == Kind::BFloat16;
    Some(Key { pass, rows, inputs, outputs, bfloat16, threads: crate::threads() })
}

/// Looks the choice up, or makes and remembers it. The lock is held while measuring: two measurements at once would
/// disturb one another.
pub(crate) fn choose(key: Key, measure: impl FnOnce() -> Kernel) -> Kernel {
    let mut choices = choices();
    if let Some(kernel) = choices.get(&key) {
        return *kernel;
    }
    let kernel = store::agree(key, measure());
    choices.insert(key, kernel);
    kernel
}

fn choices() -> MutexGuard<'static, BTreeMap<Key, Kernel>> {
    static CHOICES: OnceLock<Mutex<BTreeMap<Key, Kernel>>> = OnceLock::new();
    let choices = CHOICES.get_or_init(|| Mutex::new(store::load().choices.into_iter().collect()));
    choices.lock().unwrap_or_else(PoisonError::into_inner)
}
