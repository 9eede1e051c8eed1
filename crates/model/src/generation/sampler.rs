//! One output's choice of tokens: logits of a position in, a token out. What is drawn depends on the seed, the sample
//! and the position alone, so an output is the same whatever shares the batch.

use super::error::SamplingError;
use super::mask::TokenMask;
use super::processors::{History, Processors};
use super::random::{Draws, fresh_seed};
use super::sampling::SamplingConfig;
use super::scan::log_sum_exp;
use super::shortlist::Shortlist;

/// A token and what the model thought of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: u32,
    /// Its log-probability in the model's own distribution, before biases, penalties, constraints and temperature;
    /// there when the configuration asks for log-probabilities.
    pub logprob: Option<f32>,
    /// The likeliest tokens of that distribution with their log-probabilities, likeliest first, as many as the
    /// configuration asks for.
    pub top: Vec<(u32, f32)>,
}

/// Chooses the tokens of one output.
///
/// ```
/// use tidemill_model::generation::{Sampler, SamplingConfig};
/// let mut sampler = Sampler::new(&SamplingConfig::greedy(), &[1, 2], &[0], 4)?;
/// let chosen = sampler.choose(&mut [0.1, 0.2, 0.9, 0.9])?;
/// assert_eq!(chosen.token, 2);
/// sampler.accept(chosen.token);
/// # Ok::<(), tidemill_model::generation::SamplingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    processors: Processors,
    history: History,
    shortlist: Shortlist,
    draws: Draws,
    greedy: bool,
    logprobs: Option<usize>,
    vocabulary: usize,
    raw: Vec<f32>,
}

impl Sampler {
    /// For one output after `prompt` from a model that gives `vocabulary` logits and whose own end-of-sequence tokens
    /// are `eos`. Without a seed in the configuration it gets another one each time.
    ///
    /// # Errors
    /// [`SamplingError::Config`] that names the key.
    pub fn new(
        config: &SamplingConfig,
        prompt: &[u32],
        eos: &[u32],
        vocabulary: usize,
    ) -> Result<Sampler, SamplingError> {
        let processors = Processors::new(config, eos, vocabulary)?;
        Ok(Sampler {
            history: processors.history(prompt),
            processors,
            shortlist: Shortlist::new(config),
            draws: Draws { seed: config.seed.unwrap_or_else(fresh_seed), sample: 0 },
            greedy: config.is_greedy(),
            logprobs: config.logprobs,
            vocabulary,
            raw: Vec::new(),
        })
    }

    /// The same for another output of the same request: it draws its own numbers from the same seed.
    pub fn for_sample(&self, sample: u32) -> Sampler {
        Sampler { draws: Draws { sample, ..self.draws }, ..self.clone() }
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.draws.seed
    }

    /// How many logits a position has.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// How many tokens were accepted.
    pub fn generated(&self) -> usize {
        self.history.generated()
    }

    /// Whether a token ends the output: one of the model's own, unless they are ignored, or of `stop_token_ids`.
    pub fn ends(&self, token: u32) -> bool {
        self.processors.ends(token)
    }

    /// Chooses the next token. It is not part of the output before [`Sampler::accept`]; asked again with the same
    /// logits, the answer is the same. The logits are used up.
    ///
    /// # Errors
    /// When there are too few or too many logits, when one is not a finite number, or when no token is left. The
    /// sampler is unharmed.
    pub fn choose(&mut self, logits: &mut [f32]) -> Result<Chosen, SamplingError> {
        self.choose_allowed(logits, None)
    }

    /// As [`Sampler::choose`], among the tokens of `allowed`.
    ///
    /// # Errors
    /// As [`Sampler::choose`].
    pub fn choose_allowed(&mut self, logits: &mut [f32], allowed: Option<&TokenMask>) -> Result<Chosen, SamplingError> {
        self.check(logits)?;
        let asked = self.logprobs.map(|count| self.raw_distribution(logits, count)).transpose()?;
        self.process_allowed(logits, allowed);
        let token = if self.greedy {
            self.shortlist.likeliest(logits)?
        } else {
            self.shortlist.cut(logits)?;
            let share = self.draws.at(self.history.generated());
            self.shortlist.draw(logits, share).ok_or(SamplingError::NothingLeft)?
        };
        let Some((log_total, top)) = asked else { return Ok(Chosen { token, logprob: None, top: Vec::new() }) };
        let logprob = self.raw.get(token as usize).map(|logit| logit - log_total);
        Ok(Chosen { token, logprob, top })
    }

    /// Every token that may come next and its probability, after all biases, penalties and cuts, in the order of the
    /// tokens; of a greedy sampler the one. The logits are used up.
    ///
    /// # Errors
    /// As [`Sampler::choose`].
    pub fn distribution(&mut self, logits: &mut [f32]) -> Result<Vec<(u32, f32)>, SamplingError> {
        self.check(logits)?;
        self.process_allowed(logits, None);
        if self.greedy {
            return Ok(vec![(self.shortlist.likeliest(logits)?, 1.0)]);
        }
        self.shortlist.cut(logits)?;
        Ok(self.shortlist.probabilities(logits))
    }

    /// Carries out biases, penalties and bans on the next position's logits, and no more: what [`Sampler::choose`]
    /// does first.
    pub fn process(&self, logits: &mut [f32]) {
        self.processors.apply(&self.history, logits);
    }

    /// Makes a token part of the output.
    pub fn accept(&mut self, token: u32) {
        self.history.accept(token);
    }

    fn check(&self, logits: &[f32]) -> Result<(), SamplingError> {
        let (expected, found) = (self.vocabulary, logits.len());
        if expected == found { Ok(()) } else { Err(SamplingError::Shape { expected, found }) }
    }

    fn process_allowed(&self, logits: &mut [f32], allowed: Option<&TokenMask>) {
        self.process(logits);
        if let Some(allowed) = allowed {
            allowed.apply(logits);
        }
    }

    /// Puts the model's own logits aside, and gives the logarithm of their sum and the likeliest tokens.
    fn raw_distribution(&mut self, logits: &[f32], count: usize) -> Result<(f32, Vec<(u32, f32)>), SamplingError> {
        self.raw.clear();
        self.raw.extend_from_slice(logits);
        let (largest, top) = self.shortlist.largest(logits, count)?;
        let log_total = log_sum_exp(logits, largest);
        Ok((log_total, top.iter().map(|&(token, logit)| (token, logit - log_total)).collect()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const VOCABULARY: usize = 300;

    fn logits(position: usize) -> Vec<f32> {
        (0..VOCABULARY).map(|token| ((token * 7919 + position * 104_729) % 1009) as f32 / 100.0).collect()
    }

    fn output(sampler: &mut Sampler, tokens: usize) -> Vec<u32> {
        let start = sampler.generated();
        (start..start + tokens)
            .map(|position| {
                let token = sampler.choose(&mut logits(position)).unwrap().token;
                sampler.accept(token);
                token
            })
            .collect()
    }

    fn sampler(config: SamplingConfig) -> Sampler {
        Sampler::new(&config, &[1, 2, 3], &[0], VOCABULARY).unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_output_and_each_sample_its_own() {
        let config = SamplingConfig { seed: Some(5), top_p: 0.9, repetition_penalty: 1.1, ..SamplingConfig::default() };
        let first = output(&mut sampler(config.clone()), 50);
        // Asked twice, or stopped half way and resumed: no difference.
        let mut again = sampler(config.clone());
        let mut pieces = output(&mut again, 20);
        again.choose(&mut logits(20)).unwrap();
        pieces.extend(output(&mut again.clone(), 30));
        assert_eq!(pieces, first);
        assert_ne!(output(&mut sampler(config.clone()).for_sample(1), 50), first);
        let mut unseeded = sampler(SamplingConfig { seed: None, ..config.clone() });
        let seed = Some(unseeded.seed());
        assert_eq!(output(&mut unseeded, 50), output(&mut sampler(SamplingConfig { seed, ..config }), 50));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let mut sampler = sampler(SamplingConfig { seed: Some(1), temperature: 2.0, top_k: 5, ..Default::default() });
        let expected = sampler.distribution(&mut logits(0)).unwrap();
        let mut counts = vec![0_u32; VOCABULARY];
        for _ in 0..20_000 {
            let token = sampler.choose(&mut logits(0)).unwrap().token;
            sampler.accept(token);
            counts[token as usize] += 1;
        }
        for (token, probability) in expected {
            let found = counts[token as usize] as f32 / 20_000.0;
            assert!((found - probability).abs() < 0.015, "{token}: {found} {probability}");
        }
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let config = SamplingConfig {
            logprobs: Some(3),
            seed: Some(2),
            temperature: 0.5,
            logit_bias: [(7, 50.0)].into(),
            ..SamplingConfig::default()
        };
        let mut sampler = sampler(config);
        let raw = logits(4);
        let total: f64 = raw.iter().map(|&logit| f64::from(logit).exp()).sum();
        let right = |token: u32| (f64::from(raw[token as usize]).exp() / total).ln() as f32;
        let chosen = sampler.choose(&mut raw.clone()).unwrap();
        assert_eq!((chosen.token, chosen.top.len()), (7, 3));
        assert!((chosen.logprob.unwrap() - right(7)).abs() < 1e-5);
        for window in chosen.top.windows(2) {
            assert!(window[0].1 >= window[1].1);
        }
        assert!(chosen.top.iter().all(|&(token, logprob)| (logprob - right(token)).abs() < 1e-5));
    }

    #[test]
    fn only_allowed_tokens_are_chosen_and_none_is_an_error() {
        for config in [SamplingConfig::greedy(), SamplingConfig::default()] {
            let mut sampler = sampler(config);
            let chosen = sampler.choose_allowed(&mut logits(0), Some(&TokenMask::of(&[17]))).unwrap();
            assert_eq!(chosen.token, 17);
            let none = sampler.choose_allowed(&mut logits(0), Some(&TokenMask::default()));
            assert_eq!(none, Err(SamplingError::NothingLeft));
            let few = sampler.choose(&mut [1.0, 2.0]);
            assert_eq!(few, Err(SamplingError::Shape { expected: VOCABULARY, found: 2 }));
            let mut damaged = logits(0);
            damaged[200] = f32::NAN;
            assert_eq!(sampler.choose(&mut damaged), Err(SamplingError::NotFinite));
        }
    }

    #[test]
    fn of_equal_logits_the_lowest_token_is_taken() {
        let mut sampler = sampler(SamplingConfig::greedy());
        let mut flat = vec![0.5; VOCABULARY];
        flat[100] = 0.7;
        flat[250] = 0.7;
        assert_eq!(sampler.choose(&mut flat).unwrap().token, 100);
    }
}
