//! Positions as T5 has them: a number added to each attention score by how far apart query and key stand. Raffel et al. 2020.
//! Distances share buckets, the farther the coarser.

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// What each head adds at each distance.
#[derive(Debug)]
pub struct RelativePositions {
    /// `[heads, 2 · furthest + 1]`: the distance from a query to a key, from `-furthest` to `furthest`.
    by_distance: Tensor,
    furthest: i64,
    causal: bool,
}

impl RelativePositions {
    /// Takes `weight` `[buckets, heads]`. From `max_distance` on all distances are one bucket; where `causal`, keys after the
    /// query have none and are not seen.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(
        path: &Path,
        buckets: i64,
        max_distance: i64,
        heads: i64,
        causal: bool,
    ) -> Result<RelativePositions, ModelError> {
        let weight = path.get("weight", &[buckets, heads], Init::Zeros)?;
        // Twice as far as needed, because rounding may leave `max_distance` itself in the bucket before the last.
        let furthest = 2 * max_distance.max(1);
        let distances = Tensor::f_arange_start(-furthest, furthest + 1, (Kind::Int64, weight.device()))?;
        let chosen = bucket_of(&distances, buckets, max_distance, causal)?;
        let by_distance = weight.f_index_select(0, &chosen)?.f_transpose(0, 1)?.f_contiguous()?;
        Ok(RelativePositions { by_distance, furthest, causal })
    }

    /// What is added to the scores of `queries` that come after `before` others, `[1, heads, queries, before + queries]`:
    /// -∞ where a key is not seen.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn bias(&self, before: i64, queries: i64) -> Result<Tensor, ModelError> {
        let keys = before + queries;
        let distances = Tensor::f_arange_start(1 - keys, queries, (Kind::Int64, self.by_distance.device()))?;
        let places = distances.f_clamp(-self.furthest, self.furthest)?.f_add_scalar(self.furthest)?;
        let mut line = self.by_distance.f_index_select(1, &places)?; // [heads, keys + queries - 1]
        if self.causal {
            line = line.f_masked_fill(&distances.f_gt(0)?, f64::NEG_INFINITY)?;
        }
        // The last query's keys begin at the line's start, those of each query before it one further on.
        Ok(line.f_unfold(1, keys, 1)?.f_flip([1])?.f_unsqueeze(0)?)
    }
}

/// The bucket of each distance, by the operations (and the rounding) that the models were trained with.
fn bucket_of(distances: &Tensor, buckets: i64, max_distance: i64, causal: bool) -> Result<Tensor, ModelError> {
    let (buckets, after, far) = if causal {
        (buckets, distances.f_zeros_like()?, distances.f_neg()?.f_clamp_min(0)?)
    } else {
        let half = buckets / 2;
        (half, distances.f_gt(0)?.f_to_kind(Kind::Int64)?.f_mul_scalar(half)?, distances.f_abs()?)
    };
    let exact = (buckets / 2).max(1);
    let growth = (max_distance as f64 / exact as f64).ln();
    let coarse = far.f_to_kind(Kind::Float)?.f_div_scalar(exact)?.f_log()?;
    let coarse = coarse.f_div_scalar(growth)?.f_mul_scalar(buckets - exact)?.f_clamp_min(0)?.f_to_kind(Kind::Int64)?;
    let coarse = coarse.f_add_scalar(exact)?.f_clamp_max(buckets - 1)?;
    Ok(after.f_add(&far.f_where_self(&far.f_lt(exact)?, &coarse)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn buckets(distances: &[i64], causal: bool) -> Vec<i64> {
        Vec::try_from(bucket_of(&Tensor::from_slice(distances), 32, 128, causal).unwrap()).unwrap()
    }

    /// By `T5Attention._relative_position_bucket` of transformers 5.24.
    #[test]
    fn distances_fall_into_the_buckets_of_t5() {
        let distances = [-200, -128, -127, -65, -64, -16, -15, -8, -7, -1, 0, 1, 7, 8, 11, 12, 16, 64, 90, 128, 1000];
        let both = [15, 15, 15, 14, 14, 10, 9, 8, 7, 1, 0, 17, 23, 24, 24, 25, 26, 30, 30, 31, 31];
        assert_eq!(buckets(&distances, false), both);
        assert_eq!(buckets(&distances[..11], true), [31, 31, 31, 26, 26, 16, 15, 8, 7, 1, 0]);
        assert_eq!(buckets(&[1, 5, 500], true), [0, 0, 0]);
    }

    #[test]
    fn a_bias_reads_by_distance_and_hides_what_is_to_come() {
        let by_distance = Tensor::arange_start(-4, 5, (Kind::Float, tch::Device::Cpu)).view([1, -1]);
        let positions = RelativePositions { by_distance, furthest: 4, causal: true };
        let bias: Vec<f32> = Vec::try_from(positions.bias(2, 2).unwrap().flatten(0, -1)).unwrap();
        assert_eq!(bias, [-2.0, -1.0, 0.0, f32::NEG_INFINITY, -3.0, -2.0, -1.0, 0.0]);
    }
}
