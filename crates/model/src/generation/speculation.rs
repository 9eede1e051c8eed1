//! Which of the drafted tokens stand: the model's logits at every drafted position are sampled as if there had been no
//! draft, each with the number that its position draws anyway, and the draft stands as far as it agrees. So an output is
//! the same with drafts as without, token by token, for greedy choice and for sampling; only the number of steps
//! differs. For drafts that are certain (prompt look-up) no rule accepts more: a token stands with the probability that
//! the model gives it.

use super::constraint::{Constraint, ConstraintError};
use super::error::SamplingError;
use super::sampler::{Chosen, Sampler};

/// What came of a draft.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The tokens of this step, at least one. The sampler has accepted them, and the constraint.
    pub chosen: Vec<Chosen>,
    /// How many drafted tokens stand, and with them their places in the cache.
    pub accepted: usize,
}

/// Why a step of an output failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The constraint failed.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

/// Verifies a draft, which may be empty. `logits` hold one row for the position of each drafted token and one more,
/// `[drafts + 1, vocabulary]`, and are used up. `ends` says whether the output ends with a token that the sampler has
/// just accepted; nothing is chosen after that.
///
/// # Errors
/// When there are too few or too many logits, or no token can be chosen.
pub fn verify(
    sampler: &mut Sampler,
    mut constraint: Option<&mut Constraint>,
    drafts: &[u32],
    logits: &mut [f32],
    mut ends: impl FnMut(&Sampler, u32) -> bool,
) -> Result<Verified, StepError> {
    let (expected, found) = ((drafts.len() + 1) * sampler.vocabulary(), logits.len());
    if expected != found {
        return Err(SamplingError::Shape { expected, found }.into());
    }
    let mut verified = Verified { chosen: Vec::with_capacity(drafts.len() + 1), accepted: 0 };
    let guesses = drafts.iter().map(Some).chain([None]);
    for (row, draft) in logits.chunks_mut(sampler.vocabulary().max(1)).zip(guesses) {
        let allowed = constraint.as_mut().map(|constraint| constraint.allowed()).transpose()?;
        let chosen = sampler.choose_allowed(row, allowed)?;
        let token = chosen.token;
        if let Some(constraint) = &mut constraint {
            constraint.accept(token)?;
        }
        sampler.accept(token);
        verified.chosen.push(chosen);
        let stands = draft == Some(&token);
        verified.accepted += usize::from(stands);
        let over = ends(sampler, token) || constraint.as_ref().is_some_and(|constraint| constraint.is_finished());
        if !stands || over {
            break;
        }
    }
    Ok(verified)
}

/// How many tokens are worth drafting, by how the last drafts did: two more when all stood, one less otherwise, as
/// `transformers` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftLength {
    now: usize,
    most: usize,
}

impl DraftLength {
    /// Begins with `first` tokens, and never drafts more than `most`.
    pub fn new(first: usize, most: usize) -> DraftLength {
        DraftLength { now: first.min(most), most }
    }

    /// The number of tokens to draft next.
    pub fn tokens(&self) -> usize {
        self.now
    }

    /// Learns from a draft of `drafted` tokens of which `accepted` stood.
    pub fn learn(&mut self, drafted: usize, accepted: usize) {
        if drafted == 0 {
            return;
        }
        self.now = if accepted == drafted { (self.now + 2).min(self.most) } else { self.now.saturating_sub(1).max(1) };
        self.now = self.now.min(self.most);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::generation::{PromptLookup, SamplingConfig};

    const VOCABULARY: usize = 23;

    /// A model of the last two tokens, that likes to repeat itself.
    fn model(context: &[u32]) -> Vec<f32> {
        let last = context.iter().rev().take(2).fold(0, |sum, &token| sum * 31 + token as usize);
        (0..VOCABULARY).map(|token| ((token * 37 + last * 101) % 97) as f32 / 12.0).collect()
    }

    fn plain(config: &SamplingConfig, tokens: usize) -> Vec<Chosen> {
        let mut context = vec![1, 2, 3];
        let mut sampler = Sampler::new(config, &context, &[], VOCABULARY).unwrap();
        (0..tokens)
            .map(|_| {
                let chosen = sampler.choose(&mut model(&context)).unwrap();
                sampler.accept(chosen.token);
                context.push(chosen.token);
                chosen
            })
            .collect()
    }

    fn drafted(config: &SamplingConfig, tokens: usize) -> (Vec<Chosen>, usize) {
        let mut context = vec![1, 2, 3];
        let mut sampler = Sampler::new(config, &context, &[], VOCABULARY).unwrap();
        let (mut output, mut steps) = (Vec::new(), 0);
        while output.len() < tokens {
            let drafts = PromptLookup::default().draft(&context);
            let rows = (0..=drafts.len()).map(|count| model(&[context.as_slice(), &drafts[..count]].concat()));
            let mut logits = rows.collect::<Vec<_>>().concat();
            let verified = verify(&mut sampler, None, &drafts, &mut logits, |sampler, _| sampler.generated() == tokens);
            let verified = verified.unwrap();
            context.extend(verified.chosen.iter().map(|chosen| chosen.token));
            output.extend(verified.chosen);
            steps += 1;
        }
        (output, steps)
    }

    #[test]
    fn outputs_are_those_without_drafts() {
        for config in [
            SamplingConfig { logprobs: Some(2), ..SamplingConfig::greedy() },
            SamplingConfig { seed: Some(3), temperature: 0.3, frequency_penalty: 0.1, ..SamplingConfig::default() },
            SamplingConfig { seed: Some(4), top_p: 0.8, repetition_penalty: 1.05, ..SamplingConfig::default() },
        ] {
            let right = plain(&config, 200);
            let (output, steps) = drafted(&config, 200);
            assert_eq!(output, right);
            assert!(steps < 200, "{steps} steps: no draft ever stood");
        }
    }

    #[test]
    fn a_step_ends_with_the_output() {
        let mut sampler = Sampler::new(&SamplingConfig::greedy(), &[], &[5], 6).unwrap();
        let row = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let mut logits = [row, row, row].concat();
        let verified = verify(&mut sampler, None, &[5, 5], &mut logits, |sampler, token| sampler.ends(token)).unwrap();
        assert_eq!((verified.chosen.len(), verified.accepted), (1, 1));
        let wrong = verify(&mut sampler, None, &[5], &mut [0.0; 6], |_, _| false).unwrap_err();
        assert_eq!(wrong, StepError::Sampling(SamplingError::Shape { expected: 12, found: 6 }));
    }

    #[test]
    fn drafts_grow_while_they_stand() {
        let mut length = DraftLength::new(4, 8);
        let mut told = Vec::new();
        for (drafted, accepted) in [(4, 4), (6, 6), (8, 8), (8, 3), (7, 0), (0, 0)] {
            length.learn(drafted, accepted);
            told.push(length.tokens());
        }
        assert_eq!(told, [6, 8, 8, 7, 6, 6]);
    }
}
