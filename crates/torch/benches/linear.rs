//! The linear primitive against `at::linear` on the shapes of the design's table: forward, both gradients, and inference
//! with a packed weight, in float32 and bfloat16, on two threads.
//!
//! Both run in turn on the same tensors; the figures are medians in milliseconds, `ratio` is the peer's time over ours. One
//! JSON line a row on standard output. Goals: nowhere slower than 0.95; 1.8 for a large float32 forward product, where
//! the processor is one on which oneDNN beats libtorch's own by that much (as measured right here, without our choice).

use std::time::Instant;
use tch::{Device, Kind, TchError, Tensor};
use tidemill_torch::{Kernel, LinearKernels, PackedWeight, choice, linear};

/// Rows, input features, output features.
const SHAPES: [(i64, i64, i64); 5] =
    [(800, 384, 1536), (3072, 384, 1536), (3072, 1536, 384), (32, 576, 1536), (1, 576, 49152)];
const THREADS: i32 = 2;

fn main() -> Result<(), TchError> {
    tidemill_torch::set_threads(THREADS);
    for (rows, inputs, outputs) in SHAPES {
        for kind in [Kind::Float, Kind::BFloat16] {
            shape(rows, inputs, outputs, kind)?;
        }
    }
    Ok(())
}

fn shape(rows: i64, inputs: i64, outputs: i64, kind: Kind) -> Result<(), TchError> {
    let random = |size: [i64; 2]| -> Result<Tensor, TchError> {
        Tensor::f_randn(size, (Kind::Float, Device::Cpu))?.f_to_kind(kind)
    };
    let (input, weight) = (random([rows, inputs])?, random([outputs, inputs])?);
    let gradient = random([rows, outputs])?;
    let name = |pass: &str| {
        let kind = if kind == Kind::Float { "float32" } else { "bfloat16" };
        format!("linear {rows}x{inputs}x{outputs} {kind} {pass}")
    };
    let work = rows * inputs * outputs;

    // Forward alone.
    let by_libtorch = || tch::no_grad(|| input.f_linear(&weight, None::<&Tensor>).map(drop));
    let by_onednn = || {
        let kernels = LinearKernels::all(Kernel::Onednn);
        tch::no_grad(|| linear(&input, &weight, None, kernels).map(drop))
    };
    let by_choice = || tch::no_grad(|| choice::linear(&input, &weight, None).map(drop));
    let (peer, onednn) = in_turn(by_libtorch, by_onednn)?;
    let large = kind == Kind::Float && work > 100_000_000 && peer / onednn >= 1.8;
    let (peer, ours) = in_turn(by_libtorch, by_choice)?;
    report(&name("forward"), peer, ours, if large { 1.8 } else { 0.95 });

    // Inference with the packed weight.
    let packed = PackedWeight::new(&weight, rows)?;
    let (peer, ours) = in_turn(by_libtorch, || packed.linear(&input, None).map(drop))?;
    report(&name("packed"), peer, ours, 0.95);

    // Each gradient alone: only one of the two leaves wants it.
    for (pass, for_input) in [("grad_input", true), ("grad_weight", false)] {
        let input = input.f_detach()?.f_set_requires_grad(for_input)?;
        let weight = weight.f_detach()?.f_set_requires_grad(!for_input)?;
        let leaf = if for_input { &input } else { &weight };
        let theirs = input.f_linear(&weight, None::<&Tensor>)?;
        let ours = choice::linear(&input, &weight, None)?;
        // A product with a given gradient, so that the backward pass is the product and little else.
        let backward = |output: &Tensor| -> Result<(), TchError> {
            let loss = (output * &gradient).f_sum(Kind::Float)?;
            Tensor::f_run_backward(&[loss], &[leaf], true, false).map(drop)
        };
        let (peer, ours) = in_turn(|| backward(&theirs), || backward(&ours))?;
        report(&name(pass), peer, ours, 0.95);
    }
    Ok(())
}

/// The medians of both, in milliseconds, run one after the other again and again.
fn in_turn(
    mut peer: impl FnMut() -> Result<(), TchError>,
    mut ours: impl FnMut() -> Result<(), TchError>,
) -> Result<(f64, f64), TchError> {
    for _ in 0..3 {
        peer()?;
        ours()?;
    }
    let (mut peers, mut own) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while own.len() < 15 || (start.elapsed().as_secs_f64() < 0.6 && own.len() < 200) {
        peers.push(timed(&mut peer)?);
        own.push(timed(&mut ours)?);
    }
    Ok((median(peers), median(own)))
}

fn timed(work: &mut impl FnMut() -> Result<(), TchError>) -> Result<f64, TchError> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(name: &str, peer: f64, ours: f64, goal: f64) {
    let ratio = peer / ours;
    let line = serde_json::json!({
        "name": name, "unit": "ms", "peer": peer, "ours": ours, "ratio": ratio, "goal": goal,
        "met": ratio >= goal,
    });
    println!("{line}");
}
