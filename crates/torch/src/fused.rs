//! Optimiser steps over many tensors in one pass over memory, in place, by libtorch's fused kernels.
//!
//! Owns no state and no schedule: the caller keeps the moments and gives the numbers of the step. Nothing is recorded
//! for autograd. The types and shapes of all lists are checked before anything is changed.

use crate::ffi::{self, Input};
use tch::{TchError, Tensor};

/// What [`adam`] is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay: added to the gradient, or taken from the weight directly where `decoupled`.
    pub weight_decay: f64,
    /// AdamW (Loshchilov and Hutter 2019) instead of Adam.
    pub decoupled: bool,
}

/// What [`sgd`] is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub learning_rate: f64,
    /// Momentum; zero for none.
    pub momentum: f64,
    /// Dampening of the momentum.
    pub dampening: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

/// What [`adagrad`] is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the learning rate by step.
    pub learning_rate_decay: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
    /// Added to the denominator.
    pub eps: f64,
}

/// One step of Adam (Kingma and Ba 2015) or AdamW, as `torch.optim.Adam(fused=True)` takes it.
///
/// The lists run in parallel, one entry a parameter. `steps` are float32 tensors of one number, counted up by this call
/// (they start at zero).
///
/// # Errors
/// [`TchError::Torch`] where lists, shapes or types do not fit; nothing is changed then.
pub fn adam(
    params: &[Tensor],
    grads: &[Tensor],
    exp_avgs: &[Tensor],
    exp_avg_sqs: &[Tensor],
    steps: &[Tensor],
    options: Adam,
) -> Result<(), TchError> {
    let lists = lists(&[params, grads, exp_avgs, exp_avg_sqs, steps])?;
    let Adam { learning_rate, beta1, beta2, weight_decay, eps, decoupled } = options;
    let numbers = [learning_rate, beta1, beta2, weight_decay, eps];
    // SAFETY: five lists of `params.len()` live tensors and five numbers, as the shim reads; all outlive the call.
    ffi::check(unsafe { ffi::tm_adam(heads(&lists).as_ptr(), params.len() as i64, numbers.as_ptr(), decoupled) })
}

/// One step of stochastic gradient descent, as `torch.optim.SGD(fused=True)` takes it.
///
/// `momentums` is empty where `options.momentum` is zero; `first` says that they hold nothing yet: they are then filled
/// with the gradients.
///
/// # Errors
/// [`TchError::Torch`] where lists, shapes or types do not fit; nothing is changed then.
pub fn sgd(
    params: &[Tensor],
    grads: &[Tensor],
    momentums: &[Tensor],
    first: bool,
    options: Sgd,
) -> Result<(), TchError> {
    let momentum = options.momentum != 0.0;
    let lists = if momentum { lists(&[params, grads, momentums])? } else { lists(&[params, grads])? };
    let mut heads = heads(&lists);
    if !momentum {
        heads.push(std::ptr::null());
    }
    let numbers = [options.learning_rate, options.momentum, options.dampening, options.weight_decay];
    let (count, nesterov) = (params.len() as i64, options.nesterov);
    // SAFETY: three lists of `params.len()` live tensors, the third possibly null, and four numbers; all outlive the call.
    ffi::check(unsafe { ffi::tm_sgd(heads.as_ptr(), count, numbers.as_ptr(), nesterov, first) })
}

/// One step of Adagrad (Duchi et al. 2011), as `torch.optim.Adagrad(fused=True)` takes it. `steps` as in [`adam`].
///
/// # Errors
/// [`TchError::Torch`] where lists, shapes or types do not fit; nothing is changed then.
pub fn adagrad(
    params: &[Tensor],
    grads: &[Tensor],
    sums: &[Tensor],
    steps: &[Tensor],
    options: Adagrad,
) -> Result<(), TchError> {
    let lists = lists(&[params, grads, sums, steps])?;
    let Adagrad { learning_rate, learning_rate_decay, weight_decay, eps } = options;
    let numbers = [learning_rate, learning_rate_decay, weight_decay, eps];
    // SAFETY: four lists of `params.len()` live tensors and four numbers; all outlive the call.
    ffi::check(unsafe { ffi::tm_adagrad(heads(&lists).as_ptr(), params.len() as i64, numbers.as_ptr()) })
}

/// Makes the gradients undefined, so that the next backward pass stores its own instead of adding to zeros: cheaper than
/// `zero_grad`, and a parameter that took no part can be told from one whose gradient is zero.
///
/// # Errors
/// [`TchError::Torch`] where a tensor cannot hold a gradient.
pub fn clear_gradients(params: &[Tensor]) -> Result<(), TchError> {
    let list: Vec<Input> = params.iter().map(Tensor::as_ptr).collect();
    // SAFETY: `list` holds live tensors and outlives the call.
    ffi::check(unsafe { ffi::tm_clear_gradients(list.as_ptr(), list.len() as i64) })
}

/// The pointers of several lists, which must be equally long and hold defined tensors.
fn lists(lists: &[&[Tensor]]) -> Result<Vec<Vec<Input>>, TchError> {
    let count = lists.first().map_or(0, |list| list.len());
    if lists.iter().any(|list| list.len() != count) {
        let lengths: Vec<usize> = lists.iter().map(|list| list.len()).collect();
        let message = format!("fused step: the lists differ in length: {lengths:?}");
        return Err(TchError::Torch(message));
    }
    if let Some(at) = lists.iter().find_map(|list| list.iter().position(|t| !t.defined())) {
        return Err(TchError::Torch(format!(
            "fused step: a tensor of parameter number {at} is undefined (has it a gradient?)"
        )));
    }
    Ok(lists.iter().map(|list| list.iter().map(Tensor::as_ptr).collect()).collect())
}

fn heads(lists: &[Vec<Input>]) -> Vec<*const Input> {
    lists.iter().map(|list| list.as_ptr()).collect()
}
