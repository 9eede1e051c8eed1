//! Random numbers that depend on nothing but the seed, which sample of a request it is, and the position: what shares
//! the batch, what was pre-empted and what was drafted in advance change no output.

use std::hash::{BuildHasher, Hasher, RandomState};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// One number for each position of one output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws {
    pub(super) seed: u64,
    pub(super) sample: u32,
}

impl Draws {
    /// Uniform in [0, 1), the same whenever it is asked for.
    pub(super) fn at(&self, position: usize) -> f64 {
        let mut stream = ChaCha8Rng::seed_from_u64(self.seed);
        stream.set_stream(u64::from(self.sample));
        stream.set_word_pos(2 * position as u128);
        (stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A seed for requests that bring none: the standard library's own random keys, another one each time.
pub(super) fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_sample_and_position_has_its_own_number() {
        let at = |seed, sample, position| Draws { seed, sample }.at(position);
        assert_eq!(at(1, 2, 3), at(1, 2, 3));
        let others = [at(2, 2, 3), at(1, 3, 3), at(1, 2, 4), at(1, 2, 2)];
        assert!(others.iter().all(|&other| other != at(1, 2, 3) && (0.0..1.0).contains(&other)));
        let mean: f64 = (0..4000).map(|position| at(7, 0, position)).sum::<f64>() / 4000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert_ne!(fresh_seed(), fresh_seed());
    }
}
