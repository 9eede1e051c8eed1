//! Which tokens a constraint allows next: one bit a token.

/// A set of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// From words of 32 bits, the lowest bit of the first being token 0. Tokens beyond the last word are not in the set.
    pub fn from_words(words: Vec<u32>) -> TokenMask {
        TokenMask { words }
    }

    /// Exactly these tokens.
    pub fn of(tokens: &[u32]) -> TokenMask {
        let mut words = vec![0; tokens.iter().max().map_or(0, |&most| most as usize / 32 + 1)];
        for &token in tokens {
            if let Some(word) = words.get_mut(token as usize / 32) {
                *word |= 1 << (token % 32);
            }
        }
        TokenMask { words }
    }

    /// Whether a token is in the set.
    pub fn allows(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word & (1 << (token % 32)) != 0)
    }

    /// How many tokens are in the set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Rules out, by −∞, the logits of all tokens that are not in the set.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            match word {
                0 => logits.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                _ => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word & (1 << bit) == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_tokens_keep_their_logits() {
        let mask = TokenMask::of(&[0, 31, 32, 70]);
        assert_eq!(mask.count(), 4);
        let mut logits = vec![1.0_f32; 130];
        mask.apply(&mut logits);
        let kept: Vec<usize> = (0..130).filter(|&token| logits.get(token) == Some(&1.0)).collect();
        assert_eq!(kept, [0, 31, 32, 70]);
        assert!(mask.allows(70) && !mask.allows(71) && !mask.allows(10_000));
        let all = TokenMask::from_words(vec![u32::MAX; 2]);
        let mut logits = vec![1.0_f32; 64];
        all.apply(&mut logits);
        assert!(logits.iter().all(|&logit| logit == 1.0));
    }
}
