//! Names for answers and calls: random, so that they do not repeat when a server starts again.

use rand::Rng as _;
use rand::distr::Alphanumeric;

/// A name of `prefix` and 24 letters and digits.
pub(crate) fn new(prefix: &str) -> String {
    let letters = rand::rng().sample_iter(Alphanumeric).take(24).map(char::from);
    prefix.chars().chain(letters).collect()
}
