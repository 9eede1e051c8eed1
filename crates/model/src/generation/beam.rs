//! Beam search as `transformers` does it, as a state machine: the logits of all live beams in, which beams go on with
//! which tokens out, finished hypotheses kept until the end. Knows nothing of caches: whoever runs the model reorders
//! its own by [`Continuation::parent`].

use super::error::SamplingError;
use super::processors::{History, Processors};
use super::sampling::{EarlyStopping, SamplingConfig};
use super::scan::{Maxima, log_sum_exp};

/// What takes the place of a score where there is none yet, in `transformers` too.
const NO_SCORE: f32 = -1e9;

/// A beam of the next step: beam `parent` of this step, and a token more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The beam's place among those of this step.
    pub parent: usize,
    /// The token that it goes on with.
    pub token: u32,
}

/// A finished output.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Its tokens without the prompt, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Its log-probability over its length to the power of `length_penalty`.
    pub score: f32,
}

/// The search for one request.
///
/// The first step has one beam, the prompt; every later step has as many as [`BeamSearch::step`] gave. When it gives
/// none the search is over.
///
/// ```
/// use tidemill_model::generation::{BeamSearch, SamplingConfig};
/// let config = SamplingConfig { beams: 2, ..SamplingConfig::default() };
/// let mut search = BeamSearch::new(&config, &[1], &[0], 3, 2)?;
/// let beams = search.step(&mut [0.0, 2.0, 1.0], None)?; // [beams · vocabulary]
/// assert_eq!((beams[0].token, beams[1].token), (1, 2));
/// let beams = search.step(&mut [9.0, 0.0, 0.0, 0.0, 0.0, 0.0], None)?;
/// assert!(beams.is_empty());
/// assert_eq!(search.into_hypotheses()[0].tokens, [1, 0]);
/// # Ok::<(), tidemill_model::generation::SamplingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BeamSearch {
    processors: Processors,
    beams: Vec<Beam>,
    finished: Vec<Hypothesis>,
    width: usize,
    outputs: usize,
    vocabulary: usize,
    max_tokens: usize,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    renormalizes: bool,
    eos: usize,
    generated: usize,
    done: bool,
    maxima: Maxima,
}

#[derive(Clone, Debug)]
struct Beam {
    tokens: Vec<u32>,
    history: History,
    score: f32,
}

struct Candidate {
    parent: usize,
    token: u32,
    score: f32,
    ends: bool,
}

/// Text-level reasons to end a beam: given a beam's tokens and the one that would follow.
pub type EndsBeam<'a> = &'a mut dyn FnMut(&[u32], u32) -> bool;

impl BeamSearch {
    /// For one request after `prompt` (an encoder-decoder's decoder prompt), from a model that gives `vocabulary` logits
    /// and whose own end-of-sequence tokens are `eos`. No output gets more than `max_tokens` tokens, nor more than the
    /// configuration allows.
    ///
    /// # Errors
    /// [`SamplingError::Config`] that names the key.
    pub fn new(
        config: &SamplingConfig,
        prompt: &[u32],
        eos: &[u32],
        vocabulary: usize,
        max_tokens: usize,
    ) -> Result<BeamSearch, SamplingError> {
        let max_tokens = config.max_tokens.map_or(max_tokens, |most| most.min(max_tokens));
        let config = SamplingConfig { max_tokens: Some(max_tokens), ..config.clone() };
        let processors = Processors::new(&config, eos, vocabulary)?;
        let first = Beam { tokens: Vec::new(), history: processors.history(prompt), score: 0.0 };
        Ok(BeamSearch {
            eos: processors.ending_tokens(),
            processors,
            beams: vec![first],
            finished: Vec::new(),
            width: config.beams,
            outputs: config.n,
            vocabulary,
            max_tokens,
            length_penalty: f64::from(config.length_penalty),
            early_stopping: config.early_stopping,
            renormalizes: config.renormalize_logits,
            generated: 0,
            done: max_tokens == 0,
            maxima: Maxima::default(),
        })
    }

    /// How many beams the next step has.
    pub fn live(&self) -> usize {
        if self.done { 0 } else { self.beams.len() }
    }

    /// The tokens of each live beam, in the order of the logits' rows.
    pub fn beams(&self) -> impl Iterator<Item = &[u32]> {
        self.beams.iter().take(self.live()).map(|beam| beam.tokens.as_slice())
    }

    /// One step: `[live · vocabulary]` logits of the live beams, one row after another, which are used up. `ends` may
    /// end beams for reasons that tokens alone do not show, such as a stop string. Gives the next step's beams in their
    /// order, none when the search is over.
    ///
    /// # Errors
    /// When there are too few or too many logits, or one is not a finite number.
    pub fn step(
        &mut self,
        logits: &mut [f32],
        mut ends: Option<EndsBeam<'_>>,
    ) -> Result<Vec<Continuation>, SamplingError> {
        let (expected, found) = (self.live() * self.vocabulary, logits.len());
        if expected != found {
            return Err(SamplingError::Shape { expected, found });
        }
        if self.done {
            return Ok(Vec::new());
        }
        let mut candidates = self.candidates(logits)?;
        let last = self.generated + 1 == self.max_tokens;
        for candidate in &mut candidates {
            let tokens = self.beams.get(candidate.parent).map(|beam| beam.tokens.as_slice()).unwrap_or_default();
            candidate.ends = last
                || self.processors.ends(candidate.token)
                || ends.as_mut().is_some_and(|ends| ends(tokens, candidate.token));
        }
        self.generated += 1;
        self.finish(&candidates);
        let going: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.ends).take(self.width).collect();
        self.beams = going.iter().filter_map(|candidate| self.follow(candidate)).collect();
        self.done = self.beams.is_empty() || !self.may_improve();
        if self.done {
            return Ok(Vec::new());
        }
        Ok(going.iter().map(|candidate| Continuation { parent: candidate.parent, token: candidate.token }).collect())
    }

    /// The best ways to go on over all beams, best first: so many that enough are left when some of them end.
    fn candidates(&mut self, logits: &mut [f32]) -> Result<Vec<Candidate>, SamplingError> {
        let kept = (1 + self.eos).max(2) * self.width;
        let mut candidates = Vec::with_capacity(kept * self.beams.len());
        let mut found = Vec::new();
        for (parent, (beam, row)) in self.beams.iter().zip(logits.chunks_mut(self.vocabulary.max(1))).enumerate() {
            let largest = self.maxima.scan(row)?;
            let total = log_sum_exp(row, largest);
            row.iter_mut().for_each(|logit| *logit -= total);
            self.processors.apply(&beam.history, row);
            match self.maxima.scan(row) {
                Ok(largest) => {
                    if self.renormalizes {
                        let total = log_sum_exp(row, largest);
                        row.iter_mut().for_each(|logit| *logit -= total);
                    }
                    self.maxima.largest(row, kept, &mut found);
                }
                // A beam that can go nowhere ends unheard, as long as another one lives.
                Err(SamplingError::NothingLeft) => found.clear(),
                Err(error) => return Err(error),
            }
            candidates.extend(found.iter().map(|&(token, logprob)| Candidate {
                parent,
                token,
                score: beam.score + logprob,
                ends: false,
            }));
        }
        if candidates.is_empty() {
            return Err(SamplingError::NothingLeft);
        }
        // Stable: of equals the lowest beam and token first.
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        candidates.truncate(kept);
        Ok(candidates)
    }

    /// Keeps the hypotheses that end among the best `width` candidates, if they are good enough.
    fn finish(&mut self, candidates: &[Candidate]) {
        let length = (self.generated as f64).powf(self.length_penalty) as f32;
        for candidate in candidates.iter().take(self.width).filter(|candidate| candidate.ends) {
            if let Some(Beam { tokens, .. }) = self.beams.get(candidate.parent) {
                let tokens = tokens.iter().copied().chain([candidate.token]).collect();
                self.finished.push(Hypothesis { tokens, score: candidate.score / length });
            }
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.width);
    }

    fn follow(&self, candidate: &Candidate) -> Option<Beam> {
        let mut beam = self.beams.get(candidate.parent)?.clone();
        beam.tokens.push(candidate.token);
        beam.history.accept(candidate.token);
        beam.score = candidate.score;
        Some(beam)
    }

    /// Whether going on may give a better hypothesis, as far as `early_stopping` asks.
    fn may_improve(&self) -> bool {
        let full = self.finished.len() == self.width;
        if full && self.early_stopping == EarlyStopping::Yes {
            return false;
        }
        let length = match self.early_stopping {
            EarlyStopping::Never if self.length_penalty > 0.0 => self.max_tokens,
            _ => self.generated,
        };
        let best = self.beams.first().map_or(NO_SCORE, |beam| beam.score);
        let best = best / (length as f64).powf(self.length_penalty) as f32;
        let worst = self.finished.last().filter(|_| full).map_or(NO_SCORE, |hypothesis| hypothesis.score);
        best > worst
    }

    /// The best outputs, best first, as many as the configuration asks for. A search that was given up before its end
    /// makes up the number with its live beams.
    pub fn into_hypotheses(mut self) -> Vec<Hypothesis> {
        let length = (self.generated.max(1) as f64).powf(self.length_penalty) as f32;
        let missing = self.outputs.saturating_sub(self.finished.len());
        let live = self.beams.into_iter().take(missing);
        self.finished.extend(live.map(|beam| Hypothesis { tokens: beam.tokens, score: beam.score / length }));
        self.finished.truncate(self.outputs);
        self.finished
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn config(beams: usize) -> SamplingConfig {
        SamplingConfig { beams, n: beams, ..SamplingConfig::default() }
    }

    #[test]
    fn a_beam_ends_by_what_the_caller_sees_in_its_text() {
        let mut search = BeamSearch::new(&config(2), &[1], &[], 4, 9).unwrap();
        search.step(&mut [0.0, 1.0, 2.0, 0.5], None).unwrap();
        assert_eq!(search.beams().collect::<Vec<_>>(), [[2], [1]]);
        let mut stop = |tokens: &[u32], token: u32| tokens == [2] && token == 3;
        let next = search.step(&mut [0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.1], Some(&mut stop)).unwrap();
        assert_eq!(next.len(), 2);
        assert!(next.iter().all(|beam| (beam.parent, beam.token) != (0, 3)));
        assert_eq!(search.clone().into_hypotheses()[0].tokens, [2, 3]);
        assert_eq!(search.into_hypotheses().len(), 2);
    }

    #[test]
    fn probabilities_are_taken_anew_of_the_tokens_that_are_left() {
        let score = |renormalize_logits| {
            let config =
                SamplingConfig { suppress_tokens: vec![2], max_tokens: Some(1), renormalize_logits, ..config(2) };
            let mut search = BeamSearch::new(&config, &[1], &[0], 3, 9).unwrap();
            // Probabilities of 1/4, 1/4 and 1/2.
            assert!(search.step(&mut [0.0, 0.0, 2_f32.ln()], None).unwrap().is_empty());
            search.into_hypotheses()[0].score
        };
        assert!((score(false) - 0.25_f32.ln()).abs() < 1e-6);
        assert!((score(true) - 0.5_f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn wrong_logits_are_refused_and_the_search_goes_on() {
        let mut search = BeamSearch::new(&config(2), &[1], &[0], 3, 2).unwrap();
        assert_eq!(search.step(&mut [0.0; 4], None), Err(SamplingError::Shape { expected: 3, found: 4 }));
        assert_eq!(search.step(&mut [0.0, f32::NAN, 0.0], None), Err(SamplingError::NotFinite));
        assert_eq!(search.step(&mut [0.0, 1.0, 2.0], None).unwrap().len(), 2);
        assert!(search.step(&mut [0.0; 6], None).unwrap().is_empty());
        assert_eq!((search.live(), search.step(&mut [], None).unwrap().len()), (0, 0));
        assert_eq!(search.into_hypotheses().len(), 2);
    }
}
