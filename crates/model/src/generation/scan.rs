//! The passes over one position's logits, which is all that costs time in proportion to the vocabulary: the largest of
//! each block, the few largest of all, exponentials and their sum. Plain loops over lanes, so that the compiler makes
//! vectors of them, and no fused multiplication, so that every machine gets the same bits.

use super::error::SamplingError;

/// Values a block.
pub(super) const BLOCK: usize = 64;
/// Lanes of a block that are worked on side by side.
const LANES: usize = 8;

/// The largest value of each block of logits, from which the few largest of all are found without sorting.
#[derive(Clone, Debug, Default)]
pub(super) struct Maxima {
    blocks: Vec<f32>,
    ranked: Vec<f32>,
}

impl Maxima {
    /// Reads the logits once and gives the largest. −∞ is a logit that is ruled out.
    pub(super) fn scan(&mut self, logits: &[f32]) -> Result<f32, SamplingError> {
        self.blocks.clear();
        let mut finite = true;
        let mut largest = f32::NEG_INFINITY;
        for block in logits.chunks(BLOCK) {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            let mut wrong = [false; LANES];
            let mut rows = block.chunks_exact(LANES);
            for row in &mut rows {
                for ((lane, wrong), &value) in lanes.iter_mut().zip(&mut wrong).zip(row) {
                    *lane = if value > *lane { value } else { *lane };
                    *wrong |= !value_fits(value);
                }
            }
            let mut most = lanes.iter().fold(f32::NEG_INFINITY, |most, &lane| most.max(lane));
            for &value in rows.remainder() {
                most = most.max(value);
                finite &= value_fits(value);
            }
            finite &= !wrong.contains(&true);
            largest = largest.max(most);
            self.blocks.push(most);
        }
        match (finite, largest == f32::NEG_INFINITY) {
            (false, _) => Err(SamplingError::NotFinite),
            (true, true) => Err(SamplingError::NothingLeft),
            (true, false) => Ok(largest),
        }
    }

    /// The lowest index of the largest value, by the maxima of the last scan of the same logits.
    pub(super) fn first(&self, logits: &[f32], largest: f32) -> u32 {
        let block = self.blocks.iter().position(|&most| most == largest).unwrap_or(0);
        let values = logits.get(block * BLOCK..).unwrap_or_default();
        (block * BLOCK + values.iter().position(|&value| value == largest).unwrap_or(0)) as u32
    }

    /// The `count` largest values with their indices, largest first and of equals the lowest index first; what is
    /// ruled out is not among them.
    pub(super) fn largest(&mut self, logits: &[f32], count: usize, found: &mut Vec<(u32, f32)>) {
        let bound = self.bound(count);
        self.gather(logits, bound, found);
        if let Some(last) = count.checked_sub(1).filter(|&last| last < found.len()) {
            found.select_nth_unstable_by(last, order);
        }
        found.truncate(count);
        found.sort_unstable_by(order);
    }

    /// The `count`-th largest value, −∞ where there are fewer; `found` is used for the work.
    pub(super) fn nth(&mut self, logits: &[f32], count: usize, found: &mut Vec<(u32, f32)>) -> f32 {
        let bound = self.bound(count);
        self.gather(logits, bound, found);
        let Some(last) = count.checked_sub(1).filter(|&last| last < found.len()) else { return f32::NEG_INFINITY };
        found.select_nth_unstable_by(last, order).1.1
    }

    /// All values of at least `bound`, in the order of their indices.
    pub(super) fn gather(&self, logits: &[f32], bound: f32, found: &mut Vec<(u32, f32)>) {
        found.clear();
        for (block, (&most, values)) in self.blocks.iter().zip(logits.chunks(BLOCK)).enumerate() {
            if most < bound || most == f32::NEG_INFINITY {
                continue;
            }
            let indexed = values.iter().enumerate();
            let large = indexed.filter(|&(_, &value)| value >= bound && value > f32::NEG_INFINITY);
            found.extend(large.map(|(offset, &value)| ((block * BLOCK + offset) as u32, value)));
        }
    }

    /// A value that at least `count` logits reach: that many blocks have a maximum of this or more.
    fn bound(&mut self, count: usize) -> f32 {
        let Some(last) = count.checked_sub(1).filter(|&last| last < self.blocks.len()) else {
            return f32::NEG_INFINITY;
        };
        self.ranked.clear();
        self.ranked.extend_from_slice(&self.blocks);
        *self.ranked.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1
    }
}

fn value_fits(value: f32) -> bool {
    value < f32::INFINITY
}

/// Larger values first, of equals the lower index.
fn order(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Turns values into `exp((value − largest) · scale)`, and gives their sum. `sums` gets the sum of each block.
pub(super) fn exponentials(values: &mut [f32], largest: f32, scale: f32, sums: &mut Vec<f64>) -> f64 {
    sums.clear();
    for block in values.chunks_mut(BLOCK) {
        block.iter_mut().for_each(|value| *value = exp((*value - largest) * scale));
        sums.push(sum(block));
    }
    sums.iter().sum()
}

/// The logarithm of the sum of `exp(value)`.
pub(super) fn log_sum_exp(values: &[f32], largest: f32) -> f32 {
    let mut total = 0.0_f64;
    let mut room = [0.0_f32; BLOCK];
    for block in values.chunks(BLOCK) {
        room.iter_mut().zip(block).for_each(|(place, &value)| *place = exp(value - largest));
        total += sum(room.get(..block.len()).unwrap_or_default());
    }
    (f64::from(largest) + total.ln()) as f32
}

fn sum(block: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let (rows, rest) = block.as_chunks::<LANES>();
    for row in rows {
        lanes.iter_mut().zip(row).for_each(|(lane, value)| *lane += value);
    }
    f64::from(lanes.iter().sum::<f32>() + rest.iter().sum::<f32>())
}

/// `e` to the power of `x ≤ 0`, within two units of the last place; 0 below -87, and so for −∞.
///
/// `x` is taken apart into a whole number of halvings and a rest of at most half a `ln 2`, for which a polynomial does
/// (Cephes' `expf`). Adding 1.5 · 2²³ rounds to a whole number and leaves it in the lowest bits.
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = clamped - whole * 0.693_359_4 - whole * -2.121_944_4e-4;
    let mut sum = 1.987_569_1e-4_f32;
    for term in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = sum * rest + term;
    }
    let power = sum * (rest * rest) + rest + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x > -87.0 { power * scale } else { 0.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    fn logits(count: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // A few hundred different values, so that there are equals.
        (0..count).map(|_| (random.next_u32() % 400) as f32 / 20.0 - 12.0).collect()
    }

    #[test]
    fn exponentials_are_right_to_the_last_bits() {
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) - right).abs() <= 2.5e-7 * right, "{x}");
        }
        assert_eq!((exp(0.0), exp(-87.5), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        let values = logits(1001, 1);
        let right = values.iter().map(|&value| f64::from(value).exp()).sum::<f64>().ln();
        let largest = values.iter().fold(f32::NEG_INFINITY, |most, &value| most.max(value));
        assert!((f64::from(log_sum_exp(&values, largest)) - right).abs() < 1e-6);
        let mut sums = Vec::new();
        let total = exponentials(&mut values.clone(), largest, 1.0, &mut sums);
        assert!((total.ln() + f64::from(largest) - right).abs() < 1e-6);
        assert_eq!(sums.len(), 16);
    }

    #[test]
    fn the_largest_are_those_of_a_full_sort() {
        for count in [1, 7, 63, 64, 65, 1000, 4001] {
            let mut values = logits(count, count as u64);
            if let Some(first) = values.first_mut() {
                *first = f32::NEG_INFINITY;
            }
            values.push(1.0);
            let mut sorted: Vec<(u32, f32)> =
                values.iter().enumerate().map(|(id, &value)| (id as u32, value)).collect();
            sorted.sort_by(order);
            sorted.retain(|&(_, value)| value > f32::NEG_INFINITY);
            let mut maxima = Maxima::default();
            let largest = maxima.scan(&values).unwrap();
            assert_eq!((maxima.first(&values, largest), largest), sorted[0]);
            let mut found = Vec::new();
            for k in [1, 2, 5, 50, 999, 5000] {
                maxima.largest(&values, k, &mut found);
                assert_eq!(found, sorted[..k.min(sorted.len())], "{count} {k}");
                let nth = maxima.nth(&values, k, &mut found);
                assert_eq!(nth, sorted.get(k - 1).map_or(f32::NEG_INFINITY, |&(_, value)| value));
            }
        }
    }

    #[test]
    fn damaged_logits_are_noticed_wherever_they_are() {
        for at in [0, 63, 64, 99] {
            for wrong in [f32::NAN, f32::INFINITY] {
                let mut values = logits(100, 3);
                values[at] = wrong;
                assert_eq!(Maxima::default().scan(&values), Err(SamplingError::NotFinite), "{at}");
            }
        }
        let none = vec![f32::NEG_INFINITY; 70];
        assert_eq!(Maxima::default().scan(&none), Err(SamplingError::NothingLeft));
        assert_eq!(Maxima::default().scan(&[]), Err(SamplingError::NothingLeft));
    }
}
