//! The usual initialisers by name, filled from a ChaCha8 stream that is keyed by the run's seed and the parameter's own
//! name: adding, removing or reordering layers changes no other parameter, and the numbers are the same on every
//! machine. Fans are counted as PyTorch counts them: a weight is `[out, in, window…]`.

mod names;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::error::ModelError;

pub use names::UnknownInit;

/// How a parameter starts.
///
/// In configurations and recipes an initialiser is a name with the usual numbers (`"xavier_uniform"`, `"normal"`), or a
/// table with its own: `{ normal = { mean = 0.0, std = 0.1 } }`.
///
/// With *fan in* and *fan out* the inputs and outputs of one unit, window included:
///
/// | name | values | source |
/// |---|---|---|
/// | `zeros`, `ones`, `constant` | all the same | |
/// | `normal` | normal, by default mean 0, standard deviation 1 | |
/// | `uniform` | uniform in `[low, high)`, by default `[-0.1, 0.1)` | |
/// | `fan_in_uniform` | uniform, bound `1 / √fan_in` | PyTorch's default for linear layers and convolutions |
/// | `xavier_uniform`, `xavier_normal` | bound `√(6 / (fan_in + fan_out))`, deviation `√(2 / (fan_in + fan_out))` | Glorot and Bengio 2010 |
/// | `kaiming_uniform`, `kaiming_normal` | bound `√(6 / fan_in)`, deviation `√(2 / fan_in)` | He et al. 2015, for ReLU |
/// | `truncated_normal` | normal, by default mean 0, deviation 0.02, redrawn outside two deviations | Devlin et al. 2019 |
/// | `orthogonal` | rows or columns orthonormal, times `gain` (1) | Saxe et al. 2014 |
///
/// ```
/// use tidemill_model::Init;
/// assert_eq!("normal".parse::<Init>().unwrap(), Init::Normal { mean: 0.0, std: 1.0 });
/// assert!("xaver_uniform".parse::<Init>().unwrap_err().to_string().contains("xavier_uniform"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// All this value.
    Constant(f64),
    /// Normal.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
    /// Uniform in `[low, high)`.
    Uniform {
        /// The least value.
        low: f64,
        /// The bound above.
        high: f64,
    },
    /// Uniform within `1 / √fan_in`.
    FanInUniform,
    /// Uniform within `√(6 / (fan_in + fan_out))`.
    XavierUniform,
    /// Normal of deviation `√(2 / (fan_in + fan_out))`.
    XavierNormal,
    /// Uniform within `√(6 / fan_in)`.
    KaimingUniform,
    /// Normal of deviation `√(2 / fan_in)`.
    KaimingNormal,
    /// Normal, redrawn outside two standard deviations.
    TruncatedNormal {
        /// The mean before truncation.
        mean: f64,
        /// The standard deviation before truncation.
        std: f64,
    },
    /// Orthonormal rows or columns, whichever are fewer.
    Orthogonal {
        /// What they are multiplied by.
        gain: f64,
    },
}

impl Init {
    /// A float32 tensor on the CPU of this shape, the same for the same seed and parameter name.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when the shape has a negative or overflowing size, when the initialiser counts fans and
    /// the shape has fewer than two dimensions, or when a standard deviation is negative or a range is empty.
    pub fn tensor(&self, shape: &[i64], seed: u64, name: &str) -> Result<Tensor, ModelError> {
        let refuse = |problem: String| ModelError::Tensor { tensor: name.to_string(), problem };
        let count = shape
            .iter()
            .try_fold(1_i64, |count, &size| count.checked_mul(size).filter(|_| size >= 0))
            .and_then(|count| usize::try_from(count).ok())
            .filter(|&count| count <= MAX_ELEMENTS)
            .ok_or_else(|| refuse(format!("no tensor can have the shape {shape:?}")))?;
        let values = match *self {
            Init::Zeros => vec![0.0; count],
            Init::Ones => vec![1.0; count],
            Init::Constant(value) => vec![value as f32; count],
            Init::Orthogonal { gain } => return orthogonal(shape, gain, seed, name),
            _ => {
                let distribution = self.distribution(shape).map_err(refuse)?;
                distribution.draw(count, &mut stream(seed, name))
            }
        };
        Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
    }

    fn distribution(&self, shape: &[i64]) -> Result<Distribution, String> {
        let uniform = |bound: f64| Distribution::Uniform { low: -bound, high: bound };
        let normal = |std: f64| Distribution::Normal { mean: 0.0, std, within: f64::INFINITY };
        let distribution = match *self {
            Init::Uniform { low, high } => Distribution::Uniform { low, high },
            Init::Normal { mean, std } => Distribution::Normal { mean, std, within: f64::INFINITY },
            Init::TruncatedNormal { mean, std } => Distribution::Normal { mean, std, within: 2.0 },
            Init::FanInUniform => uniform((1.0 / fans(shape)?.0).sqrt()),
            Init::KaimingUniform => uniform((6.0 / fans(shape)?.0).sqrt()),
            Init::KaimingNormal => normal((2.0 / fans(shape)?.0).sqrt()),
            Init::XavierUniform => {
                let (fan_in, fan_out) = fans(shape)?;
                uniform((6.0 / (fan_in + fan_out)).sqrt())
            }
            Init::XavierNormal => {
                let (fan_in, fan_out) = fans(shape)?;
                normal((2.0 / (fan_in + fan_out)).sqrt())
            }
            Init::Constant(value) | Init::Orthogonal { gain: value } => {
                Distribution::Uniform { low: value, high: value }
            }
            Init::Zeros => Distribution::Uniform { low: 0.0, high: 0.0 },
            Init::Ones => Distribution::Uniform { low: 1.0, high: 1.0 },
        };
        match distribution {
            Distribution::Uniform { low, high } if !(low.is_finite() && high.is_finite() && low <= high) => {
                Err(format!("a uniform start needs low <= high, not {low} and {high}"))
            }
            Distribution::Normal { mean, std, .. } if !(mean.is_finite() && std.is_finite() && std >= 0.0) => {
                Err(format!("a normal start needs a standard deviation >= 0, not {std}"))
            }
            fine => Ok(fine),
        }
    }
}

/// Far beyond any one parameter, and small enough that its bytes can be counted in an `i64`.
const MAX_ELEMENTS: usize = 1 << 40;

enum Distribution {
    Uniform {
        low: f64,
        high: f64,
    },
    /// `within` is in standard deviations.
    Normal {
        mean: f64,
        std: f64,
        within: f64,
    },
}

impl Distribution {
    fn draw(&self, count: usize, stream: &mut ChaCha8Rng) -> Vec<f32> {
        match *self {
            Distribution::Uniform { low, high } => {
                (0..count).map(|_| (low + (high - low) * unit(stream)) as f32).collect()
            }
            Distribution::Normal { mean, std, within } => {
                let mut values = Vec::with_capacity(count + 1);
                while values.len() < count {
                    // Box and Muller 1958: two uniform numbers give two normal ones.
                    let radius = (-2.0 * (1.0 - unit(stream)).ln()).sqrt();
                    let (sine, cosine) = (std::f64::consts::TAU * unit(stream)).sin_cos();
                    for z in [radius * cosine, radius * sine] {
                        if z.abs() <= within {
                            values.push((mean + std * z) as f32);
                        }
                    }
                }
                values.truncate(count);
                values
            }
        }
    }
}

/// Uniform in `[0, 1)`, 53 bits.
fn unit(stream: &mut ChaCha8Rng) -> f64 {
    (stream.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
    ChaCha8Rng::from_seed(digest.into())
}

/// Inputs and outputs of one unit of a weight `[out, in, window…]`.
fn fans(shape: &[i64]) -> Result<(f64, f64), String> {
    let [out, input, window @ ..] = shape else {
        return Err(format!("an initialiser that counts fans needs two dimensions, not {shape:?}"));
    };
    let window: f64 = window.iter().map(|&size| size as f64).product();
    Ok(((*input as f64 * window).max(1.0), (*out as f64 * window).max(1.0)))
}

/// Saxe et al. 2014, as PyTorch does it: QR of a normal matrix, signs from R's diagonal.
fn orthogonal(shape: &[i64], gain: f64, seed: u64, name: &str) -> Result<Tensor, ModelError> {
    let [rows, rest @ ..] = shape else {
        return Err(ModelError::Tensor {
            tensor: name.to_string(),
            problem: "an orthogonal start needs two dimensions".to_string(),
        });
    };
    let columns: i64 = rest.iter().product();
    let (tall, wide) = (*rows.max(&columns), *rows.min(&columns));
    let normal = Init::Normal { mean: 0.0, std: 1.0 }.tensor(&[tall, wide], seed, name)?;
    let (q, r) = Tensor::f_linalg_qr(&normal.f_to_kind(Kind::Double)?, "reduced")?;
    let q = q.f_mul(&r.f_diagonal(0, 0, 1)?.f_sign()?)?.f_mul_scalar(gain)?;
    let q = if *rows < columns { q.f_tr()? } else { q };
    Ok(q.f_to_kind(Kind::Float)?.f_contiguous()?.f_view(shape)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn values(init: Init, shape: &[i64], name: &str) -> Vec<f64> {
        let tensor = init.tensor(shape, 3, name).unwrap();
        assert_eq!(tensor.size(), shape);
        let floats: Vec<f32> = Vec::try_from(tensor.view(-1)).unwrap();
        floats.into_iter().map(f64::from).collect()
    }

    fn mean_and_std(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn statistics_are_the_documented_ones() {
        let shape = [200, 100, 3]; // fan in 300, fan out 600
        let sixth = |bound: f64| bound / 3_f64.sqrt();
        let cases = [
            (Init::Normal { mean: 1.0, std: 0.5 }, 1.0, 0.5, f64::INFINITY),
            (Init::Uniform { low: -0.25, high: 0.25 }, 0.0, sixth(0.25), 0.25),
            (Init::FanInUniform, 0.0, sixth(1.0 / 300_f64.sqrt()), 1.0 / 300_f64.sqrt()),
            (Init::XavierUniform, 0.0, (2.0 / 900_f64).sqrt(), (6.0 / 900_f64).sqrt()),
            (Init::XavierNormal, 0.0, (2.0 / 900_f64).sqrt(), f64::INFINITY),
            (Init::KaimingUniform, 0.0, (2.0 / 300_f64).sqrt(), (6.0 / 300_f64).sqrt()),
            (Init::KaimingNormal, 0.0, (2.0 / 300_f64).sqrt(), f64::INFINITY),
            // A normal cut at two deviations keeps 0.8796 of its deviation.
            (Init::TruncatedNormal { mean: 0.0, std: 0.02 }, 0.0, 0.02 * 0.8796, 0.04),
        ];
        for (init, mean, std, bound) in cases {
            let drawn = values(init, &shape, "a.weight");
            let (found_mean, found_std) = mean_and_std(&drawn);
            assert!((found_mean - mean).abs() < 0.02 * std, "{init:?}: mean {found_mean}");
            assert!((found_std / std - 1.0).abs() < 0.01, "{init:?}: deviation {found_std}");
            let largest = drawn.iter().map(|v| (v - mean).abs()).fold(0.0, f64::max);
            assert!(largest <= bound * 1.000001, "{init:?}: {largest} is beyond {bound}");
        }
    }

    #[test]
    fn orthogonal_rows_or_columns_are_orthonormal_times_the_gain() {
        for shape in [[6, 4], [4, 6]] {
            let q = Init::Orthogonal { gain: 2.0 }.tensor(&shape, 1, "q").unwrap();
            let product = if shape[0] < shape[1] { q.matmul(&q.tr()) } else { q.tr().matmul(&q) };
            let expected = Tensor::eye(4, (Kind::Float, tch::Device::Cpu)) * 4.0;
            assert!(product.allclose(&expected, 1e-5, 1e-5, false));
        }
    }

    #[test]
    fn a_parameter_depends_on_seed_and_name_alone() {
        let init = Init::Normal { mean: 0.0, std: 1.0 };
        let first = values(init, &[4, 4], "a");
        assert_eq!(first, values(init, &[4, 4], "a"));
        assert_ne!(first, values(init, &[4, 4], "b"));
        let other: Vec<f32> = Vec::try_from(init.tensor(&[16], 4, "a").unwrap()).unwrap();
        assert_ne!(first, other.into_iter().map(f64::from).collect::<Vec<_>>());
        // Stored: a checkpoint's seed must mean the same numbers in every later version.
        assert_eq!(first[..2], STORED);
    }

    const STORED: [f64; 2] = [0.675851583480835, -1.1584208011627197];

    #[test]
    fn shapes_and_numbers_that_cannot_be_are_refused() {
        assert!(Init::Zeros.tensor(&[-1, 2], 0, "w").is_err());
        assert!(Init::Zeros.tensor(&[i64::MAX, 3], 0, "w").is_err());
        assert!(Init::XavierUniform.tensor(&[3], 0, "w").is_err());
        assert!(Init::Normal { mean: 0.0, std: -1.0 }.tensor(&[3], 0, "w").is_err());
        assert!(Init::Uniform { low: 1.0, high: 0.0 }.tensor(&[3], 0, "w").is_err());
    }
}
