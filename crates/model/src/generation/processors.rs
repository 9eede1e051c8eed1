//! What is done to the logits before a token is chosen from them: biases, penalties, bans, forced tokens. Order and
//! arithmetic are those of `transformers` (`_get_logits_processor`); presence and frequency penalties, which it lacks,
//! are OpenAI's, and come after the repetition penalty as in vLLM.

use std::collections::HashMap;

use super::error::SamplingError;
use super::sampling::SamplingConfig;

/// The steps that a request asks for, in the form in which they are carried out.
#[derive(Clone, Debug)]
pub(super) struct Processors {
    bias: Vec<(u32, f32)>,
    repetition: f32,
    presence: f32,
    frequency: f32,
    ngram: usize,
    words: Vec<Vec<u32>>,
    min_tokens: usize,
    ends: Vec<u32>,
    forced_bos: Option<u32>,
    forced_eos: Option<(usize, u32)>,
    suppressed: Vec<u32>,
}

impl Processors {
    pub(super) fn new(config: &SamplingConfig, eos: &[u32], vocabulary: usize) -> Result<Processors, SamplingError> {
        config.check()?;
        config.check_tokens(vocabulary)?;
        let own = if config.ignore_eos { &[] } else { eos };
        let bans = |word: &&Vec<u32>| !matches!(word.as_slice(), [token] if eos.contains(token));
        Ok(Processors {
            bias: config.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect(),
            repetition: config.repetition_penalty,
            presence: config.presence_penalty,
            frequency: config.frequency_penalty,
            ngram: config.no_repeat_ngram_size,
            words: config.bad_words_ids.iter().filter(bans).cloned().collect(),
            min_tokens: config.min_tokens,
            ends: own.iter().chain(&config.stop_token_ids).copied().collect(),
            forced_bos: config.forced_bos_token_id,
            forced_eos: config.max_tokens.zip(config.forced_eos_token_id),
            suppressed: config.suppress_tokens.clone(),
        })
    }

    /// Whether a token ends the output.
    pub(super) fn ends(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// How many tokens end the output.
    pub(super) fn ending_tokens(&self) -> usize {
        self.ends.len()
    }

    fn penalises(&self) -> bool {
        self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0
    }

    /// The prompt as these steps need it.
    pub(super) fn history(&self, prompt: &[u32]) -> History {
        let mut history = History {
            tokens: (self.ngram > 0 || !self.words.is_empty()).then(Vec::new),
            seen: self.penalises().then(Seen::default),
            prompt: prompt.len(),
            generated: 0,
        };
        prompt.iter().for_each(|&token| history.push(token, false));
        history
    }

    /// Changes the logits, or in a beam search the log-probabilities, of the token that follows `history`.
    pub(super) fn apply(&self, history: &History, logits: &mut [f32]) {
        for &(token, bias) in &self.bias {
            change(logits, token, |logit| logit + bias);
        }
        if let Some(seen) = &history.seen {
            self.penalise(seen, logits);
        }
        if let Some(tokens) = &history.tokens {
            ban_repeats(tokens, self.ngram, logits);
            ban_words(tokens, &self.words, logits);
        }
        if history.generated < self.min_tokens {
            ban(logits, &self.ends);
        }
        if let Some(token) = self.forced(history) {
            logits.fill(f32::NEG_INFINITY);
            change(logits, token, |_| 0.0);
        }
        ban(logits, &self.suppressed);
    }

    fn penalise(&self, seen: &Seen, logits: &mut [f32]) {
        for &(token, count) in &seen.counts {
            change(logits, token, |mut logit| {
                if self.repetition != 1.0 {
                    logit = if logit < 0.0 { logit * self.repetition } else { logit / self.repetition };
                }
                if count > 0 {
                    logit = logit - count as f32 * self.frequency - self.presence;
                }
                logit
            });
        }
    }

    fn forced(&self, history: &History) -> Option<u32> {
        let first = self.forced_bos.filter(|_| history.prompt + history.generated == 1);
        let last = self.forced_eos.filter(|&(most, _)| history.generated + 1 == most);
        last.map(|(_, token)| token).or(first)
    }
}

/// What a sequence has been so far, as far as the processors ask.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// Every token, where sequences of them must not repeat or occur.
    tokens: Option<Vec<u32>>,
    seen: Option<Seen>,
    prompt: usize,
    generated: usize,
}

/// The different tokens of a sequence, and how often the output holds each.
#[derive(Clone, Debug, Default)]
struct Seen {
    counts: Vec<(u32, u32)>,
    places: HashMap<u32, usize>,
}

impl History {
    /// Adds a token of the output.
    pub(super) fn accept(&mut self, token: u32) {
        self.generated += 1;
        self.push(token, true);
    }

    /// How many tokens the output has.
    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    fn push(&mut self, token: u32, output: bool) {
        if let Some(tokens) = &mut self.tokens {
            tokens.push(token);
        }
        if let Some(seen) = &mut self.seen {
            let place = *seen.places.entry(token).or_insert(seen.counts.len());
            if place == seen.counts.len() {
                seen.counts.push((token, 0));
            }
            if let Some((_, count)) = seen.counts.get_mut(place).filter(|_| output) {
                *count += 1;
            }
        }
    }
}

fn change(logits: &mut [f32], token: u32, change: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = change(*logit);
    }
}

fn ban(logits: &mut [f32], tokens: &[u32]) {
    tokens.iter().for_each(|&token| change(logits, token, |_| f32::NEG_INFINITY));
}

/// Rules out every token that would complete one of `words`.
fn ban_words(tokens: &[u32], words: &[Vec<u32>], logits: &mut [f32]) {
    for word in words {
        if let Some((&last, before)) = word.split_last()
            && tokens.ends_with(before)
        {
            change(logits, last, |_| f32::NEG_INFINITY);
        }
    }
}

/// Rules out every token that would end a sequence of `size` tokens a second time; none where `size` is 0.
fn ban_repeats(tokens: &[u32], size: usize, logits: &mut [f32]) {
    if size == 0 {
        return;
    }
    if size == 1 {
        return ban(logits, tokens);
    }
    let Some(start) = (tokens.len() + 1).checked_sub(size) else { return };
    let prefix = tokens.get(start..).unwrap_or_default();
    for (index, pair) in tokens.windows(2).enumerate() {
        // Few places hold the newest token, so that most of them cost one comparison.
        let &[token, next] = pair else { continue };
        if Some(&token) == prefix.last() && tokens.get(..=index).is_some_and(|before| before.ends_with(prefix)) {
            change(logits, next, |_| f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn processed(config: SamplingConfig, prompt: &[u32], output: &[u32]) -> Vec<f32> {
        let processors = Processors::new(&config, &[9], 10).unwrap();
        let mut history = processors.history(prompt);
        output.iter().for_each(|&token| history.accept(token));
        let mut logits: Vec<f32> = (0..10).map(|token| token as f32 - 4.0).collect();
        processors.apply(&history, &mut logits);
        logits
    }

    #[test]
    fn penalties_count_the_output_and_repetition_the_prompt_too() {
        let config = SamplingConfig { frequency_penalty: 0.5, presence_penalty: 0.25, ..SamplingConfig::default() };
        let logits = processed(config, &[1, 6], &[6, 6, 2]);
        assert_eq!((logits[1], logits[6], logits[2]), (-3.0, 2.0 - 1.0 - 0.25, -2.0 - 0.5 - 0.25));
        let config = SamplingConfig { repetition_penalty: 2.0, ..SamplingConfig::default() };
        let logits = processed(config, &[1, 6, 6], &[2]);
        assert_eq!((logits[1], logits[6], logits[2], logits[7]), (-6.0, 1.0, -4.0, 3.0));
    }

    #[test]
    fn sequences_do_not_repeat() {
        let config = |size| SamplingConfig { no_repeat_ngram_size: size, ..SamplingConfig::default() };
        let banned = |size, tokens: &[u32]| -> Vec<usize> {
            let logits = processed(config(size), tokens, &[]);
            (0..10).filter(|&token| logits[token] == f32::NEG_INFINITY).collect()
        };
        assert_eq!(banned(2, &[1, 2, 3, 1]), [2]);
        assert_eq!(banned(3, &[1, 2, 3, 1, 2, 4, 1, 2]), [3, 4]);
        assert_eq!(banned(1, &[5, 3]), [3, 5]);
        assert!(banned(4, &[1, 2]).is_empty());
    }

    #[test]
    fn an_output_neither_ends_too_early_nor_without_its_forced_token() {
        let config = SamplingConfig { min_tokens: 2, stop_token_ids: vec![4], ..SamplingConfig::default() };
        let early = processed(config.clone(), &[1], &[2]);
        assert_eq!((early[9], early[4]), (f32::NEG_INFINITY, f32::NEG_INFINITY));
        let late = processed(config.clone(), &[1], &[2, 3]);
        assert_eq!((late[9], late[4]), (5.0, 0.0));
        let ignoring = processed(SamplingConfig { ignore_eos: true, ..config }, &[1], &[2]);
        assert_eq!((ignoring[9], ignoring[4]), (5.0, f32::NEG_INFINITY));

        let config = SamplingConfig {
            max_tokens: Some(3),
            forced_bos_token_id: Some(5),
            forced_eos_token_id: Some(9),
            suppress_tokens: vec![8],
            ..SamplingConfig::default()
        };
        let kept =
            |logits: Vec<f32>| (0..10).filter(|&token| logits[token] > f32::NEG_INFINITY).collect::<Vec<usize>>();
        assert_eq!(kept(processed(config.clone(), &[2], &[])), [5]);
        assert_eq!(kept(processed(config.clone(), &[2], &[5])), [0, 1, 2, 3, 4, 5, 6, 7, 9]);
        assert_eq!(kept(processed(config, &[2], &[5, 1])), [9]);
    }

    /// As `NoBadWordsLogitsProcessor` of transformers 5.24 has it.
    #[test]
    fn bad_words_are_not_completed() {
        let config = |words: &[&[u32]]| SamplingConfig {
            bad_words_ids: words.iter().map(|word| word.to_vec()).collect(),
            ..SamplingConfig::default()
        };
        let banned = |words: &[&[u32]], prompt: &[u32], output: &[u32]| -> Vec<usize> {
            let logits = processed(config(words), prompt, output);
            (0..10).filter(|&token| logits[token] == f32::NEG_INFINITY).collect()
        };
        let words: &[&[u32]] = &[&[7], &[1, 2, 3], &[2, 4], &[2, 9], &[9]];
        assert_eq!(banned(words, &[5], &[]), [7], "the end of the sequence, 9, is no bad word by itself");
        assert_eq!(banned(words, &[1, 2], &[]), [3, 4, 7, 9], "a word may begin in the prompt, and be all of it");
        assert_eq!(banned(words, &[1], &[2]), [3, 4, 7, 9]);
        assert_eq!(banned(words, &[2], &[1]), [7], "the order matters");
        assert_eq!(banned(words, &[2], &[]), [4, 7, 9], "a word longer than what there is bans nothing");
        assert_eq!(banned(words, &[1, 2], &[5]), [7]);
        // A forced token comes all the same.
        let forced = SamplingConfig { forced_bos_token_id: Some(7), ..config(words) };
        assert_eq!(processed(forced, &[1], &[])[7], 0.0);
        let outside = Processors::new(&config(&[&[1, 10]]), &[], 10).unwrap_err().to_string();
        assert!(outside.contains("\"bad_words_ids\" names token 10"), "{outside}");
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_refused_or_passed_over() {
        let config = SamplingConfig { logit_bias: [(10, 1.0)].into(), ..SamplingConfig::default() };
        assert!(Processors::new(&config, &[], 10).unwrap_err().to_string().contains("token 10"));
        let config = SamplingConfig { repetition_penalty: 2.0, no_repeat_ngram_size: 1, ..SamplingConfig::default() };
        assert_eq!(processed(config, &[77], &[78])[9], 5.0);
    }
}
