//! The cuts before a token is drawn, as the warpers of `transformers` make them: temperature, top-k, top-p, min-p,
//! typical. Nothing is sorted that need not be: what is cut away is found by thresholds and partial selection.

use std::cmp::Ordering;

use super::error::SamplingError;
use super::sampling::SamplingConfig;
use super::scan::{BLOCK, Maxima, exp, exponentials};

/// Capacity that a list keeps from one token to the next; what a flat distribution needed beyond it is given back.
const KEPT: usize = 8192;

/// The largest logit, and the largest few with their tokens.
pub(super) type Largest<'a> = (f32, &'a [(u32, f32)]);

/// What may be drawn and how likely it is, for one position.
#[derive(Clone, Debug)]
pub(super) struct Shortlist {
    cuts: Cuts,
    maxima: Maxima,
    found: Vec<(u32, f32)>,
    candidates: Vec<Candidate>,
    ranked: Vec<Candidate>,
    sums: Vec<f64>,
    /// Whether every token is a candidate; then the weights lie where the logits were.
    whole: bool,
    total: f64,
}

#[derive(Clone, Copy, Debug)]
struct Cuts {
    temperature: f32,
    top_k: usize,
    top_p: f64,
    min_p: f32,
    typical_p: f64,
}

/// A token, its logit below the largest over the temperature, and the exponential of that.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    score: f32,
    weight: f32,
}

impl Shortlist {
    pub(super) fn new(config: &SamplingConfig) -> Shortlist {
        Shortlist {
            cuts: Cuts {
                temperature: config.temperature,
                top_k: config.top_k,
                top_p: f64::from(config.top_p),
                min_p: config.min_p,
                typical_p: f64::from(config.typical_p),
            },
            maxima: Maxima::default(),
            found: Vec::new(),
            candidates: Vec::new(),
            ranked: Vec::new(),
            sums: Vec::new(),
            whole: false,
            total: 0.0,
        }
    }

    /// The likeliest token, of equals the lowest.
    pub(super) fn likeliest(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let largest = self.maxima.scan(logits)?;
        Ok(self.maxima.first(logits, largest))
    }

    /// The largest logit, and the `count` largest with their tokens, largest first.
    pub(super) fn largest(&mut self, logits: &[f32], count: usize) -> Result<Largest<'_>, SamplingError> {
        let largest = self.maxima.scan(logits)?;
        self.maxima.largest(logits, count, &mut self.found);
        Ok((largest, &self.found))
    }

    /// Makes the cuts. The logits may be weights afterwards: they are used up.
    pub(super) fn cut(&mut self, logits: &mut [f32]) -> Result<(), SamplingError> {
        let largest = self.maxima.scan(logits)?;
        let scale = 1.0 / self.cuts.temperature;
        self.candidates.clear();
        self.whole = !(1..logits.len()).contains(&self.cuts.top_k);
        if self.whole {
            self.total = exponentials(logits, largest, scale, &mut self.sums);
        } else {
            let least = self.maxima.nth(logits, self.cuts.top_k, &mut self.found);
            self.maxima.gather(logits, least, &mut self.found);
            self.candidates.extend(self.found.iter().map(|&(token, logit)| {
                let score = (logit - largest) * scale;
                Candidate { token, score, weight: exp(score) }
            }));
            self.add_up();
        }
        if self.cuts.top_p < 1.0 {
            self.top_p(logits);
        }
        if self.cuts.min_p > 0.0 {
            let least = self.cuts.min_p;
            self.narrow(logits, |weight| weight >= least);
        }
        if self.cuts.typical_p < 1.0 {
            self.typical(logits);
        }
        Ok(())
    }

    /// Keeps the likeliest tokens that first reach the share `top_p`. Those so unlikely that all of them together would
    /// not fill the rest are dropped before anything is ranked.
    fn top_p(&mut self, weights: &[f32]) {
        let before = self.total;
        let count = if self.whole { weights.len() } else { self.candidates.len() };
        let rest = (1.0 - self.cuts.top_p) * before;
        // A little less, lest rounding drop equals that fill the list.
        let least = (0.999 * rest / count.max(1) as f64) as f32;
        self.narrow(weights, |weight| weight > least);
        let likeliest = |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token));
        let last = last_within(&self.candidates, &mut self.ranked, likeliest, self.cuts.top_p * before);
        if let Some(last) = last {
            self.candidates.retain(|candidate| likeliest(candidate, &last) != Ordering::Greater);
        }
        self.add_up();
    }

    /// Keeps the tokens whose information is nearest to its expectation.
    fn typical(&mut self, weights: &[f32]) {
        self.narrow(weights, |weight| weight > 0.0);
        let (total, log_total) = (self.total, self.total.ln());
        let information = |candidate: &Candidate| log_total - f64::from(candidate.score);
        let expected: f64 =
            self.candidates.iter().map(|candidate| f64::from(candidate.weight) / total * information(candidate)).sum();
        let distance = |candidate: &Candidate| (information(candidate) - expected).abs();
        let nearest = |a: &Candidate, b: &Candidate| distance(a).total_cmp(&distance(b)).then(a.token.cmp(&b.token));
        let last = last_within(&self.candidates, &mut self.ranked, nearest, self.cuts.typical_p * total);
        if let Some(last) = last {
            self.candidates.retain(|candidate| distance(candidate) <= distance(&last));
        }
        self.add_up();
    }

    /// Keeps the candidates of which `keep` holds.
    fn narrow(&mut self, weights: &[f32], keep: impl Fn(f32) -> bool) {
        if self.whole {
            let indexed = weights.iter().enumerate();
            let kept = indexed.filter(|&(_, &weight)| keep(weight));
            self.candidates.extend(kept.map(|(token, &weight)| Candidate {
                token: token as u32,
                score: weight.ln(),
                weight,
            }));
            self.whole = false;
        } else {
            self.candidates.retain(|candidate| keep(candidate.weight));
        }
        self.add_up();
    }

    fn add_up(&mut self) {
        self.total = self.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    }

    /// The token at which the weights, added up in the order of the tokens, first pass `share` of their sum.
    pub(super) fn draw(&mut self, weights: &[f32], share: f64) -> Option<u32> {
        let aim = share * self.total;
        let token = if self.whole {
            let (start, block, sum) = self.block_of(weights, aim)?;
            let indexed = block.iter().enumerate().map(|(offset, &weight)| (start + offset as u32, weight));
            walk(indexed, sum, aim)
        } else {
            walk(self.candidates.iter().map(|candidate| (candidate.token, candidate.weight)), 0.0, aim)
        };
        self.found.shrink_to(KEPT);
        self.candidates.shrink_to(KEPT);
        self.ranked.shrink_to(KEPT);
        token
    }

    /// The block of weights in which the sum passes `aim`: its first token, its weights, and the sum before it.
    fn block_of<'a>(&self, weights: &'a [f32], aim: f64) -> Option<(u32, &'a [f32], f64)> {
        let (mut sum, mut best) = (0.0, None);
        for ((index, block), &more) in weights.chunks(BLOCK).enumerate().zip(&self.sums) {
            if more > 0.0 {
                best = Some(((index * BLOCK) as u32, block, sum));
            }
            if sum + more > aim {
                break;
            }
            sum += more;
        }
        best
    }

    /// Every token that may be drawn and its probability, in the order of the tokens.
    pub(super) fn probabilities(&self, weights: &[f32]) -> Vec<(u32, f32)> {
        let share = |weight: f32| (f64::from(weight) / self.total) as f32;
        if self.whole {
            let indexed = weights.iter().enumerate().filter(|&(_, &weight)| weight > 0.0);
            return indexed.map(|(token, &weight)| (token as u32, share(weight))).collect();
        }
        self.candidates.iter().map(|candidate| (candidate.token, share(candidate.weight))).collect()
    }
}

/// The first token at which `sum` passes `aim`, or the last that has any weight.
fn walk(tokens: impl Iterator<Item = (u32, f32)>, mut sum: f64, aim: f64) -> Option<u32> {
    let mut last = None;
    for (token, weight) in tokens.filter(|&(_, weight)| weight > 0.0) {
        last = Some(token);
        sum += f64::from(weight);
        if sum > aim {
            break;
        }
    }
    last
}

/// The last candidate, in `order`, of the shortest beginning whose weights reach `mass`: found by halving, each time
/// putting the better half before the worse, so that the work is that of a few passes.
fn last_within(
    candidates: &[Candidate],
    ranked: &mut Vec<Candidate>,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
    mass: f64,
) -> Option<Candidate> {
    ranked.clear();
    ranked.extend_from_slice(candidates);
    let mut rest = ranked.as_mut_slice();
    let mut sum = 0.0;
    while rest.len() > 1 {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, &order);
        let (better, worse) = rest.split_at_mut(middle);
        let more: f64 = better.iter().map(|candidate| f64::from(candidate.weight)).sum();
        if sum + more >= mass {
            rest = better;
        } else {
            sum += more;
            rest = worse;
        }
    }
    rest.first().copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn kept(config: SamplingConfig, probabilities: &[f32]) -> Vec<u32> {
        let mut logits: Vec<f32> = probabilities.iter().map(|probability| probability.ln()).collect();
        let mut shortlist = Shortlist::new(&config);
        shortlist.cut(&mut logits).unwrap();
        shortlist.probabilities(&logits).into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn cuts_keep_what_they_say() {
        let five = [0.1, 0.4, 0.0, 0.3, 0.2];
        let config = SamplingConfig::default;
        assert_eq!(kept(config(), &five), [0, 1, 3, 4]);
        assert_eq!(kept(SamplingConfig { top_k: 2, ..config() }, &five), [1, 3]);
        assert_eq!(kept(SamplingConfig { top_p: 0.69, ..config() }, &five), [1, 3]);
        assert_eq!(kept(SamplingConfig { top_p: 0.71, ..config() }, &five), [1, 3, 4]);
        assert_eq!(kept(SamplingConfig { top_p: 0.01, ..config() }, &five), [1]);
        assert_eq!(kept(SamplingConfig { min_p: 0.6, ..config() }, &five), [1, 3]);
        assert_eq!(kept(SamplingConfig { top_k: 3, top_p: 0.75, ..config() }, &five), [1, 3]);
        // Information 1.61, 0.92, 1.20, 2.30 of which 1.28 is expected.
        assert_eq!(kept(SamplingConfig { typical_p: 0.25, ..config() }, &five), [3]);
        assert_eq!(kept(SamplingConfig { typical_p: 0.4, ..config() }, &five), [3, 4]);
    }

    #[test]
    fn equals_of_the_last_of_top_k_stay_and_top_p_prefers_the_lowest() {
        let flat = [0.2_f32; 5];
        assert_eq!(kept(SamplingConfig { top_k: 2, ..SamplingConfig::default() }, &flat), [0, 1, 2, 3, 4]);
        assert_eq!(kept(SamplingConfig { top_p: 0.55, ..SamplingConfig::default() }, &flat), [0, 1, 2]);
    }

    #[test]
    fn draws_follow_the_weights_in_the_order_of_the_tokens() {
        let probabilities: Vec<f32> = (0..200).map(|token| if token % 2 == 0 { 0.01 } else { 0.0 }).collect();
        for top_k in [0, 120] {
            let config = SamplingConfig { top_k, ..SamplingConfig::default() };
            let mut logits: Vec<f32> = probabilities.iter().map(|probability| probability.ln()).collect();
            let mut shortlist = Shortlist::new(&config);
            shortlist.cut(&mut logits).unwrap();
            assert_eq!(shortlist.draw(&logits, 0.0), Some(0));
            assert_eq!(shortlist.draw(&logits, 0.505), Some(100));
            assert_eq!(shortlist.draw(&logits, 0.999_999_999), Some(198));
            assert_eq!(shortlist.draw(&logits, 1.5), Some(198));
        }
    }
}
