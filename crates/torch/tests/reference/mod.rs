//! What the kernels must give, by libtorch's operators in float64, and a small generator of cases.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use tch::{Device, Kind, Tensor};
use tidemill_torch::decode::{AttentionBatch, PagedCache};
use tidemill_torch::{Groups, Matrix, Precision};

pub(crate) const PRECISIONS: [Precision; 4] =
    [Precision::Float32, Precision::BFloat16, Precision::Int8, Precision::Int4];

/// A small generator of our own, so that the cases are the same everywhere.
pub(crate) struct Cases(pub(crate) u64);

impl Cases {
    pub(crate) fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as i64
    }

    pub(crate) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as i64) as usize]
    }
}

pub(crate) fn random(size: &[i64]) -> Tensor {
    Tensor::randn(size, (Kind::Float, Device::Cpu))
}

pub(crate) fn ids(numbers: &[i64]) -> Tensor {
    Tensor::from_slice(numbers)
}

/// Largest difference relative to the largest number.
pub(crate) fn difference(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.size(), theirs.size());
    if ours.numel() == 0 {
        return 0.0;
    }
    let (ours, theirs) = (ours.to_kind(Kind::Double), theirs.to_kind(Kind::Double));
    let scale = theirs.abs().max().double_value(&[]).max(1e-6);
    (ours - theirs).abs().max().double_value(&[]) / scale
}

/// `x @ weight.T + bias` by the matrix's own numbers in float64; `level` is that of the kernels.
pub(crate) fn product(matrix: &Matrix, x: &Tensor, bias: Option<&Tensor>, level: i32) -> Tensor {
    let rounds = level == 3 && matrix.precision() != Precision::Float32;
    let x = if rounds { x.to_kind(Kind::BFloat16) } else { x.shallow_clone() };
    let bias = bias.map(|bias| bias.to_kind(Kind::Double));
    x.to_kind(Kind::Double).linear(&matrix.to_tensor().unwrap().to_kind(Kind::Double), bias.as_ref())
}

/// Random quantised numbers; `exact` says that float16 holds the scales.
pub(crate) struct Quantised {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) group: usize,
    pub(crate) values: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) minima: Option<Vec<f32>>,
}

impl Quantised {
    pub(crate) fn random(cases: &mut Cases, outputs: i64, groups: i64) -> Self {
        let group = cases.pick(&[16, 32]);
        let (least, most) = cases.pick(&[(0i64, 15i64), (-8, 7), (-128, 127), (0, 31), (-32, 31)]);
        let halves = cases.below(2) == 0;
        let count = outputs * groups;
        let number = |cases: &mut Cases| {
            let step = if halves { 1.0 / 1024.0 } else { 1.0 / 777_777.0 };
            (cases.below(1000) - 300) as f32 * step as f32
        };
        let scales = (0..count).map(|_| number(cases)).collect();
        let minima = (cases.below(2) == 0).then(|| (0..count).map(|_| number(cases)).collect());
        let values = (0..count * group).map(|_| (least + cases.below(most - least + 1)) as i8).collect();
        let inputs = (groups * group) as usize;
        Self { outputs: outputs as usize, inputs, group: group as usize, values, scales, minima }
    }

    pub(crate) fn groups(&self) -> Groups<'_> {
        Groups {
            outputs: self.outputs,
            inputs: self.inputs,
            group: self.group,
            values: &self.values,
            scales: &self.scales,
            minima: self.minima.as_deref(),
        }
    }

    pub(crate) fn number(&self, output: usize, input: usize) -> f32 {
        let at = output * (self.inputs / self.group) + input / self.group;
        let product = self.scales[at] * f32::from(self.values[output * self.inputs + input]);
        product + self.minima.as_ref().map_or(0.0, |minima| minima[at])
    }
}

/// Sequences in a cache of random keys and values, their blocks in random order.
pub(crate) struct Attended {
    pub(crate) cache: PagedCache,
    pub(crate) batch: AttentionBatch,
    pub(crate) queries: Tensor,
    pub(crate) counts: Vec<i64>,
    pub(crate) contexts: Vec<i64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionCase {
    pub(crate) kv_heads: i64,
    pub(crate) group: i64,
    pub(crate) head_dim: i64,
    pub(crate) block_size: i64,
    pub(crate) kind: Kind,
}

impl Attended {
    /// `sequences` are pairs of queries and context.
    pub(crate) fn new(cases: &mut Cases, case: AttentionCase, sequences: &[(i64, i64)]) -> Self {
        let AttentionCase { kv_heads, group, head_dim, block_size, kind } = case;
        let width = sequences.iter().map(|(_, context)| (context + block_size - 1) / block_size).max().unwrap() + 1;
        let blocks = width * sequences.len() as i64 + 3;
        let mut free: Vec<i64> = (0..blocks).collect();
        let table: Vec<i64> = (0..width * sequences.len() as i64)
            .map(|_| {
                let at = cases.below(free.len() as i64) as usize;
                free.swap_remove(at)
            })
            .collect();
        let size = [blocks, block_size, kv_heads, head_dim];
        let cache = PagedCache { keys: random(&size).to_kind(kind), values: random(&size).to_kind(kind) };
        let counts: Vec<i64> = sequences.iter().map(|(count, _)| *count).collect();
        let contexts: Vec<i64> = sequences.iter().map(|(_, context)| *context).collect();
        let mut starts = vec![0];
        for count in &counts {
            starts.push(starts.last().unwrap() + count);
        }
        let tokens = *starts.last().unwrap();
        // A view into wider rows, as the queries of a joint projection are.
        let queries = random(&[tokens, kv_heads * group + 2, head_dim]).narrow(1, 1, kv_heads * group);
        let batch = AttentionBatch {
            block_tables: ids(&table).view([sequences.len() as i64, width]),
            query_starts: ids(&starts),
            contexts: ids(&contexts),
        };
        Self { cache, batch, queries, counts, contexts }
    }

    /// What attention must give, in float64.
    pub(crate) fn expected(&self, scale: f64, window: Option<i64>, softcap: Option<f64>) -> Tensor {
        let (_, heads, head_dim) = self.queries.size3().unwrap();
        let kv_heads = self.cache.keys.size()[2];
        let mut outputs = Vec::new();
        let mut start = 0;
        for (sequence, (&count, &context)) in self.counts.iter().zip(&self.contexts).enumerate() {
            let table = self.batch.block_tables.get(sequence as i64);
            let gather = |from: &Tensor| {
                let rows = from.index_select(0, &table).flatten(0, 1).narrow(0, 0, context).to_kind(Kind::Double);
                rows.transpose(0, 1).repeat_interleave_self_int(heads / kv_heads, 0, None)
            };
            let (keys, values) = (gather(&self.cache.keys), gather(&self.cache.values));
            let queries = self.queries.narrow(0, start, count).to_kind(Kind::Double).transpose(0, 1);
            let mut scores = queries.matmul(&keys.transpose(1, 2)) * scale;
            if let Some(cap) = softcap {
                scores = (scores / cap).tanh() * cap;
            }
            let at = Tensor::arange_start(context - count, context, (Kind::Int64, Device::Cpu)).unsqueeze(1);
            let seen = Tensor::arange(context, (Kind::Int64, Device::Cpu)).unsqueeze(0);
            let mut hidden = seen.gt_tensor(&at);
            if let Some(window) = window {
                hidden = hidden.logical_or(&seen.le_tensor(&(at - window)));
            }
            let weights = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, Kind::Double);
            outputs.push(weights.matmul(&values).transpose(0, 1).reshape([count, heads * head_dim]));
            start += count;
        }
        Tensor::cat(&outputs, 0)
    }
}
