//! What bounds a decoder: weights read once a step, products of many rows, attention on the paged cache. The shapes are
//! SmolLM2-135M's, on two threads.
//!
//! One JSON line a figure on standard output; times are medians. Reading is set against the memory's bandwidth as plain
//! loads reach it in this run, products against this crate's oneDNN kernels (`PackedWeight`: the fastest of several). Goals:
//! 0.85 of the bandwidth for one row in float32 and bfloat16, 0.9 of oneDNN's products.

use std::hint::black_box;
use std::time::{Duration, Instant};
use tch::{Device, Kind, TchError, Tensor};
use tidemill_torch::decode::{
    Activation, AttentionBatch, PagedCache, add_rms_norm, attention, gated, rms_norm, rotate, store,
};
use tidemill_torch::{Matrix, PackedWeight, Precision};

const THREADS: i32 = 2;
const LAYERS: usize = 30;
const HIDDEN: i64 = 576;
/// Inputs and outputs of a layer's products, and of the vocabulary's.
const LAYER: [(i64, i64); 4] = [(HIDDEN, 960), (HIDDEN, HIDDEN), (HIDDEN, 3072), (1536, HIDDEN)];
const VOCABULARY: (i64, i64) = (HIDDEN, 49152);
const PRECISIONS: [Precision; 4] = [Precision::Float32, Precision::BFloat16, Precision::Int8, Precision::Int4];
const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn main() -> Result<(), TchError> {
    tidemill_torch::set_threads(THREADS);
    let bandwidth = read_bandwidth();
    report("memory read", "GB/s", bandwidth, None);
    for precision in PRECISIONS {
        read_once(precision, bandwidth)?;
    }
    for precision in PRECISIONS {
        products(precision)?;
    }
    for kind in [Kind::Float, Kind::BFloat16] {
        decode_attention(kind, 1, 512, bandwidth)?;
        decode_attention(kind, 32, 512, bandwidth)?;
        prefill_attention(kind, 512)?;
    }
    small_steps()
}

/// Every weight of the model once, for one row: what decoding at batch 1 spends on products.
fn read_once(precision: Precision, bandwidth: f64) -> Result<(), TchError> {
    let random = |(inputs, outputs): (i64, i64)| -> Result<Matrix, TchError> {
        Matrix::from_tensor(&Tensor::f_randn([outputs, inputs], FLOAT)?, precision)
    };
    let mut matrices = Vec::new();
    for _ in 0..LAYERS {
        for shape in LAYER {
            matrices.push(random(shape)?);
        }
    }
    let layers = matrices.len();
    matrices.push(random(VOCABULARY)?);
    let inputs = |matrix: &Matrix| Tensor::f_randn([1, matrix.inputs()], FLOAT);
    let rows = matrices.iter().map(inputs).collect::<Result<Vec<_>, _>>()?;
    let pass = |from: usize, to: usize| -> Result<(), TchError> {
        for (matrix, row) in matrices.iter().zip(&rows).take(to).skip(from) {
            black_box(matrix.linear(row, None)?);
        }
        Ok(())
    };
    // The layers are timed within whole steps, so that no weight is in a cache.
    let (mut in_layers, mut in_step) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let start = Instant::now();
        pass(0, layers)?;
        in_layers.push(start.elapsed().as_secs_f64());
        pass(layers, layers + 1)?;
        in_step.push(start.elapsed().as_secs_f64());
    }
    let bytes = |from: usize| matrices.iter().skip(from).map(Matrix::bytes).sum::<usize>() as f64;
    let (all, vocabulary) = (bytes(0), bytes(layers));
    let (layers, step) = (median(in_layers), median(in_step));
    let goal = matches!(precision, Precision::Float32 | Precision::BFloat16).then_some(0.85);
    let name = |what: &str| format!("one row, {precision:?}, {what}");
    report(&name("layers"), "GB/s", (all - vocabulary) / layers / 1e9, Some((bandwidth, goal)));
    report(&name("vocabulary"), "GB/s", vocabulary / (step - layers) / 1e9, Some((bandwidth, goal)));
    report(&name("whole step"), "GB/s", all / step / 1e9, Some((bandwidth, goal)));
    report(&name("steps"), "1/s", 1.0 / step, None);
    Ok(())
}

/// Few and many rows times the feed-forward weights.
fn products(precision: Precision) -> Result<(), TchError> {
    let kind = if precision == Precision::Float32 { Kind::Float } else { Kind::BFloat16 };
    for rows in [8, 32, 512] {
        for (inputs, outputs) in [(HIDDEN, 3072), (1536, HIDDEN)] {
            let weight = Tensor::f_randn([outputs, inputs], FLOAT)?;
            let x = Tensor::f_randn([rows, inputs], FLOAT)?;
            let matrix = Matrix::from_tensor(&weight, precision)?;
            let packed = PackedWeight::new(&weight.f_to_kind(kind)?, rows)?;
            let rounded = x.f_to_kind(kind)?;
            let peer = time(|| packed.linear(&rounded, None).map(drop))?;
            let ours = time(|| matrix.linear(&x, None).map(drop))?;
            let work = (2 * rows * inputs * outputs) as f64 / 1e9;
            let name = format!("{rows} rows, {precision:?}, {inputs} x {outputs}");
            report(&name, "GFLOP/s", work / ours, Some((work / peer, Some(0.9))));
        }
    }
    Ok(())
}

/// A cache and a batch of sequences, each with `queries` queries at the end of `context` positions.
fn paged(kind: Kind, sequences: i64, queries: i64, context: i64) -> Result<(PagedCache, AttentionBatch), TchError> {
    const BLOCK: i64 = 16;
    let width = (context + BLOCK - 1) / BLOCK;
    let cache = PagedCache::new([sequences * width, BLOCK, 3, 64], kind, Device::Cpu)?;
    for tensor in [&cache.keys, &cache.values] {
        tensor.shallow_clone().f_copy_(&Tensor::f_randn(tensor.size(), FLOAT)?)?;
    }
    let long = (Kind::Int64, Device::Cpu);
    let batch = AttentionBatch {
        block_tables: Tensor::f_randperm(sequences * width, long)?.f_view([sequences, width])?,
        query_starts: Tensor::f_arange_start_step(0, sequences * queries + 1, queries, long)?,
        contexts: Tensor::f_full([sequences], context, long)?,
    };
    Ok((cache, batch))
}

fn decode_attention(kind: Kind, sequences: i64, context: i64, bandwidth: f64) -> Result<(), TchError> {
    // As many layers as make the caches larger than a processor's.
    let layers = (LAYERS as i64 / sequences).max(2);
    let layers = (0..layers).map(|_| paged(kind, sequences, 1, context)).collect::<Result<Vec<_>, _>>()?;
    let queries = Tensor::f_randn([sequences, 9, 64], FLOAT)?;
    let seconds = time(|| {
        for (cache, batch) in &layers {
            black_box(attention(&queries, cache, batch, 0.125, None, None)?);
        }
        Ok(())
    })? / layers.len() as f64;
    let bytes = (sequences * context * 3 * 64 * 2) as f64 * kind.elt_size_in_bytes() as f64;
    let name = format!("attention, {kind:?} cache, {sequences} sequences of {context}");
    report(&format!("{name}, a layer"), "us", seconds * 1e6, None);
    report(&name, "GB/s", bytes / seconds / 1e9, Some((bandwidth, None)));
    Ok(())
}

fn prefill_attention(kind: Kind, tokens: i64) -> Result<(), TchError> {
    let (cache, batch) = paged(kind, 1, tokens, tokens)?;
    let queries = Tensor::f_randn([tokens, 9, 64], FLOAT)?;
    let seconds = time(|| attention(&queries, &cache, &batch, 0.125, None, None).map(drop))?;
    // Two products over the half of the scores that is seen.
    let work = (2 * 2 * 9 * 64 * tokens * (tokens + 1) / 2) as f64;
    let name = format!("attention, {kind:?} cache, {tokens} tokens at once");
    report(&format!("{name}, a layer"), "us", seconds * 1e6, None);
    report(&name, "GFLOP/s", work / seconds / 1e9, None);
    Ok(())
}

/// What the steps between the products cost at batch 1, the call included.
fn small_steps() -> Result<(), TchError> {
    const CALLS: u32 = 1000;
    let x = Tensor::f_randn([1, HIDDEN], FLOAT)?;
    let mut residual = Tensor::f_randn([1, HIDDEN], FLOAT)?;
    let weight = Tensor::f_ones([HIDDEN], FLOAT)?;
    let both = Tensor::f_randn([1, 3072], FLOAT)?;
    let mut heads = Tensor::f_randn([1, 12, 64], FLOAT)?;
    let (cos, sin) = (Tensor::f_ones([512, 32], FLOAT)?, Tensor::f_zeros([512, 32], FLOAT)?);
    let positions = Tensor::from_slice(&[100i64]);
    let (cache, _) = paged(Kind::BFloat16, 1, 1, 512)?;
    let (keys, values) = (Tensor::f_randn([1, 3, 64], FLOAT)?, Tensor::f_randn([1, 3, 64], FLOAT)?);
    let tiny = Matrix::from_tensor(&Tensor::f_randn([32, 32], FLOAT)?, Precision::Float32)?;
    let row = Tensor::f_randn([1, 32], FLOAT)?;
    let mut each = |name: &str, step: &mut dyn FnMut() -> Result<(), TchError>| -> Result<(), TchError> {
        let seconds = time(|| (0..CALLS).try_for_each(|_| step()))? / f64::from(CALLS);
        report(name, "us", seconds * 1e6, None);
        Ok(())
    };
    each("rms_norm", &mut || rms_norm(&x, &weight, 1e-5, 0.0).map(drop))?;
    each("add_rms_norm", &mut || add_rms_norm(&mut residual, &x, &weight, 1e-5, 0.0).map(drop))?;
    each("gated", &mut || gated(&both, Activation::Silu).map(drop))?;
    each("rotate", &mut || rotate(&mut heads, &cos, &sin, &positions, false))?;
    each("store", &mut || store(&cache, &keys, &values, &positions))?;
    each("linear 32 x 32", &mut || tiny.linear(&row, None).map(drop))
}

/// Plain loads by all threads over 512 MB, in GB/s.
fn read_bandwidth() -> f64 {
    let numbers = vec![1u64; 64 << 20];
    let share = numbers.len() / THREADS as usize;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in numbers.chunks(share) {
                scope.spawn(|| black_box(part.iter().fold(0u64, |sum, number| sum.wrapping_add(*number))));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    numbers.len() as f64 * 8.0 / best / 1e9
}

/// The median of several runs, in seconds.
fn time(mut work: impl FnMut() -> Result<(), TchError>) -> Result<f64, TchError> {
    for _ in 0..3 {
        work()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 15 || (start.elapsed() < Duration::from_millis(400) && times.len() < 2000) {
        let now = Instant::now();
        work()?;
        times.push(now.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `against`: what the figure is set against, and the least ratio wanted.
fn report(name: &str, unit: &str, ours: f64, against: Option<(f64, Option<f64>)>) {
    let mut line = serde_json::json!({"name": name, "unit": unit, "ours": ours});
    if let Some((peer, goal)) = against {
        line["peer"] = peer.into();
        line["ratio"] = (ours / peer).into();
        if let Some(goal) = goal {
            line["goal"] = goal.into();
            line["met"] = (ours / peer >= goal).into();
        }
    }
    println!("{line}");
}
