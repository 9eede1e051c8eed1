//! The measurement behind a choice: candidates in turn, the least time of each, on constant tensors.

use super::{Key, Pass};
use crate::Kernel;
use crate::ffi;
use std::time::{Duration, Instant};
use tch::{Device, Kind, TchError, Tensor};

/// A larger product is measured on fewer rows, so that a measurement stays within milliseconds.
const LARGEST: i64 = 150_000_000;
/// Rounds in which every candidate runs once; the first only warms it up.
const ROUNDS: u32 = 6;
/// Where another program disturbs, rounds go on until each candidate's two least times agree, but no further than this.
const MOST_ROUNDS: u32 = 40;
/// How much the two least times may differ.
const AGREEMENT: f64 = 1.1;
/// Another kernel must be this much faster than libtorch's own to be taken: a tie keeps libtorch.
const MARGIN: f64 = 0.96;

/// The packed forms of a weight, where there are any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Packs<'a> {
    /// For [`Kernel::Packed`].
    pub(crate) onednn: Option<&'a Tensor>,
    /// For [`Kernel::Panels`].
    pub(crate) panels: Option<&'a Tensor>,
}

/// The fastest kernel for `key`; `packs` are those of the weight of [`Pass::Inference`]. A failure means libtorch's own.
pub(crate) fn fastest(key: Key, packs: Packs<'_>) -> Kernel {
    tch::no_grad(|| measured(key, packs)).unwrap_or_default()
}

fn measured(key: Key, packs: Packs<'_>) -> Result<Kernel, TchError> {
    let candidates = candidates(key, packs);
    if candidates.len() == 1 {
        return Ok(Kernel::Libtorch);
    }
    let kind = if key.bfloat16 { Kind::BFloat16 } else { Kind::Float };
    let cost = key.inputs.saturating_mul(key.outputs).max(1);
    let rows = key.rows.min((LARGEST / cost).max(32));
    let constant = |size: [i64; 2]| Tensor::f_full(size, 0.5, (kind, Device::Cpu));
    let (pass, left, right) = match key.pass {
        Pass::Forward | Pass::Inference => (0, constant([rows, key.inputs])?, constant([key.outputs, key.inputs])?),
        Pass::GradInput => (1, constant([rows, key.outputs])?, constant([key.outputs, key.inputs])?),
        Pass::GradWeight => (2, constant([rows, key.outputs])?, constant([rows, key.inputs])?),
    };
    let mut times = vec![[Duration::MAX; 2]; candidates.len()];
    for round in 0..MOST_ROUNDS {
        let best = times.iter().map(|[least, _]| *least).min().unwrap_or(Duration::MAX);
        let racing = |times: &[Duration; 2]| round < 3 || times[0] <= best.saturating_mul(2);
        if round >= ROUNDS && times.iter().filter(|times| racing(times)).all(agree) {
            break;
        }
        for (times, kernel) in times.iter_mut().zip(&candidates) {
            if !racing(times) {
                continue;
            }
            let start = Instant::now();
            match (kernel, packs) {
                (Kernel::Packed, Packs { onednn: Some(packed), .. }) => drop(packed_product(&left, packed, None)?),
                (Kernel::Panels, Packs { panels: Some(panels), .. }) => {
                    drop(panel_product(&left, panels, key.outputs, None, 0, false)?);
                }
                _ => drop(product(pass, *kernel, &left, &right)?),
            }
            let time = start.elapsed();
            if round == 0 {
                continue;
            }
            if time < times[0] {
                *times = [time, times[0]];
            } else {
                times[1] = times[1].min(time);
            }
        }
    }
    let least: Vec<Duration> = times.iter().map(|[least, _]| *least).collect();
    let (own, best) = (least[0], least.iter().min().copied().unwrap_or_default());
    if best.as_secs_f64() > MARGIN * own.as_secs_f64() {
        return Ok(Kernel::Libtorch);
    }
    let winner = candidates.iter().zip(&least).find(|(_, time)| **time == best);
    Ok(winner.map_or(Kernel::Libtorch, |(kernel, _)| *kernel))
}

/// Whether a candidate's two least times tell the same.
fn agree(times: &[Duration; 2]) -> bool {
    times[1].as_secs_f64() <= AGREEMENT * times[0].as_secs_f64()
}

/// What can run here, libtorch's own first.
fn candidates(key: Key, packs: Packs<'_>) -> Vec<Kernel> {
    let mut list = vec![Kernel::Libtorch];
    if crate::onednn_available() {
        list.push(Kernel::Onednn);
    }
    if !key.bfloat16 && crate::blocked_available() {
        list.push(Kernel::Blocked);
    }
    if key.pass == Pass::Inference {
        list.extend(packs.onednn.map(|_| Kernel::Packed));
        list.extend(packs.panels.map(|_| Kernel::Panels));
    }
    list
}

fn product(pass: i32, kernel: Kernel, left: &Tensor, right: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: both are live tensors that outlive the call.
    ffi::result(|result| unsafe { ffi::tm_product(result, pass, kernel as i32, left.as_ptr(), right.as_ptr()) })
}

/// By the shim's panels; `activation` is the number of one, 0 for none.
pub(crate) fn panel_product(
    input: &Tensor,
    panels: &Tensor,
    outputs: i64,
    bias: Option<&Tensor>,
    activation: i32,
    float_output: bool,
) -> Result<Tensor, TchError> {
    // SAFETY: the pointers are live tensors or null, and outlive the call.
    ffi::result(|result| unsafe {
        let bias = ffi::pointer(bias);
        ffi::tm_panel_linear(result, input.as_ptr(), panels.as_ptr(), outputs, bias, activation, float_output)
    })
}

pub(crate) fn packed_product(input: &Tensor, packed: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
    // SAFETY: the pointers are live tensors or null, and outlive the call.
    ffi::result(|result| unsafe { ffi::tm_packed_linear(result, input.as_ptr(), packed.as_ptr(), ffi::pointer(bias)) })
}
