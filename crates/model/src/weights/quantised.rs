//! A quantised matrix as a file holds it, so that it can be used as integers without loss, and the rounding that makes one
//! of floats.

use half::f16;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};

/// A matrix whose number `i` of row `o` is `scales[o][i / group] * values[o][i] + minima[o][i / group]`.
///
/// The integers are those of the file's blocks, whatever its format; products of scales that a format keeps apart are
/// multiplied out, which float32 holds exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// Rows.
    pub outputs: usize,
    /// Numbers in a row: a multiple of `group`.
    pub inputs: usize,
    /// How many neighbours in a row share a scale: 16 or 32.
    pub group: usize,
    /// `[outputs, inputs]`.
    pub values: Vec<i8>,
    /// `[outputs, inputs / group]`.
    pub scales: Vec<f32>,
    /// `[outputs, inputs / group]`, or nothing when the format has no minima.
    pub minima: Option<Vec<f32>>,
}

impl Quantised {
    /// The same numbers as float32, `[outputs, inputs]`.
    pub fn to_floats(&self) -> Vec<f32> {
        let group = self.group.max(1);
        // Minus zero, which added changes no number, not even the sign of a zero.
        let zeros = vec![-0.0; if self.minima.is_none() { self.scales.len() } else { 0 }];
        let minima = self.minima.as_deref().unwrap_or(&zeros);
        let groups = self.values.chunks(group).zip(self.scales.iter().zip(minima));
        groups
            .flat_map(|(values, (scale, minimum))| values.iter().map(move |v| scale * f32::from(*v) + minimum))
            .collect()
    }
}

/// How many neighbours in a row share a scale where [`Quantised::from_floats`] chooses.
pub const GROUP: usize = 32;
/// Scales and minima are float16, whose numbers end a little later.
const LARGEST: f32 = 60_000.0;

/// How many bits an integer of a quantised matrix takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// -127 to 127 with a scale a group.
    Eight,
    /// 0 to 15 with a scale and a minimum a group.
    Four,
}

/// One group before it is put among the others.
#[derive(Clone, Copy, Default)]
struct Rounded {
    scale: f32,
    minimum: f32,
    values: [i8; GROUP],
}

impl Quantised {
    /// Rounds `[outputs, inputs]` numbers in groups of [`GROUP`] as `tidemill_torch::Matrix` rounds them, so that a file
    /// of them runs as its source does at that precision: [`Bits::Eight`] takes the largest of a group as 127 steps,
    /// [`Bits::Four`] searches the scale and minimum with the smallest squared error. Scales and minima are float16
    /// numbers. Nothing when `inputs` is no multiple of [`GROUP`], a length does not fit, or a number is not finite or
    /// beyond 60,000.
    pub fn from_floats(floats: &[f32], outputs: usize, inputs: usize, bits: Bits) -> Option<Quantised> {
        let fits = inputs.is_multiple_of(GROUP) && outputs.checked_mul(inputs) == Some(floats.len());
        // A comparison with NaN is false.
        if !fits || !floats.iter().all(|number| number.abs() <= LARGEST) {
            return None;
        }
        let round = match bits {
            Bits::Eight => to_bytes,
            Bits::Four => to_nibbles,
        };
        let groups: Vec<Rounded> = floats.as_chunks::<GROUP>().0.par_iter().with_min_len(256).map(round).collect();
        let minima = || groups.iter().map(|group| group.minimum).collect();
        Some(Quantised {
            outputs,
            inputs,
            group: GROUP,
            values: groups.iter().flat_map(|group| group.values).collect(),
            scales: groups.iter().map(|group| group.scale).collect(),
            minima: (bits == Bits::Four).then(minima),
        })
    }
}

fn to_bytes(group: &[f32; GROUP]) -> Rounded {
    let most = group.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
    let wanted = most / 127.0;
    let nearest = f16::from_f32(wanted);
    // Not below, or the largest would not fit.
    let scale = if nearest.to_f32() < wanted { f16::from_bits(nearest.to_bits() + 1) } else { nearest }.to_f32();
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let values = group.map(|number| (number * inverse).round_ties_even().clamp(-127.0, 127.0) as i8);
    Rounded { scale, minimum: 0.0, values }
}

/// Among several ranges, each mended by least squares, the one with the smallest error.
fn to_nibbles(group: &[f32; GROUP]) -> Rounded {
    let least = group.iter().copied().fold(f32::INFINITY, f32::min);
    let range = group.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    let (mut best, mut best_error) = (Rounded::default(), f32::INFINITY);
    for step in 0..=8 {
        // 15 steps over the range, or over a little less or more of it.
        let (mut scale, mut minimum) = (range / (14.2 + 0.2 * step as f32), least);
        for _ in 0..2 {
            let mut rounded = Rounded { scale: half(scale), minimum: half(minimum), values: [0; GROUP] };
            let inverse = if rounded.scale > 0.0 { 1.0 / rounded.scale } else { 0.0 };
            let (mut error, mut sum_q, mut sum_qq, mut sum_x, mut sum_qx) =
                (0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32);
            for (value, x) in rounded.values.iter_mut().zip(group) {
                let q = ((x - rounded.minimum) * inverse).round_ties_even().clamp(0.0, 15.0);
                *value = q as i8;
                let away = rounded.scale * q + rounded.minimum - x;
                error += away * away;
                sum_q += q;
                sum_qq += q * q;
                sum_x += x;
                sum_qx += q * x;
            }
            if error < best_error {
                (best, best_error) = (rounded, error);
            }
            let (n, spread) = (GROUP as f32, GROUP as f32 * sum_qq - sum_q * sum_q);
            if spread <= 0.0 {
                break;
            }
            scale = (n * sum_qx - sum_q * sum_x) / spread;
            minimum = (sum_x - scale * sum_q) / n;
            if scale.is_nan() || scale <= 0.0 {
                break;
            }
        }
    }
    best
}

fn half(number: f32) -> f32 {
    f16::from_f32(number).to_f32()
}
