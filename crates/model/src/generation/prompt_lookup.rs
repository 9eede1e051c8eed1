//! Speculative drafts without a model: what followed the last time that the newest tokens occurred is likely to follow
//! again (Saxena 2023). Pays where outputs repeat their prompt: summaries, edits, extraction, code.

/// How drafts are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptLookup {
    /// Most newest tokens that are looked for; fewer are tried when more are not found. Default 3.
    pub longest: usize,
    /// Fewest. Default 1.
    pub shortest: usize,
    /// Most tokens of a draft. Default 8.
    pub tokens: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        PromptLookup { longest: 3, shortest: 1, tokens: 8 }
    }
}

impl PromptLookup {
    /// What may follow `context`: the tokens after the latest earlier occurrence of its end, of as much of its end as
    /// occurs earlier. Where the two overlap, the draft goes on to repeat itself. Empty when nothing is found.
    ///
    /// ```
    /// use tidemill_model::generation::PromptLookup;
    /// let lookup = PromptLookup { tokens: 4, ..PromptLookup::default() };
    /// assert_eq!(lookup.draft(&[1, 2, 3, 4, 5, 1, 2, 3]), [4, 5, 1, 2]);
    /// assert_eq!(lookup.draft(&[7, 8, 8]), [8, 8, 8, 8]);
    /// assert!(lookup.draft(&[1, 2, 3]).is_empty());
    /// ```
    pub fn draft(&self, context: &[u32]) -> Vec<u32> {
        let Some((newest, before)) = context.split_last() else { return Vec::new() };
        let mut best: Option<(usize, usize)> = None;
        // From the latest place to the earliest; few hold the newest token.
        for (place, _) in before.iter().enumerate().rev().filter(|(_, token)| *token == newest) {
            let ends = before.get(..place).unwrap_or_default().iter().rev().zip(before.iter().rev());
            let length = 1 + ends.take(self.longest.saturating_sub(1)).take_while(|(a, b)| a == b).count();
            if best.is_none_or(|(most, _)| length > most) {
                best = Some((length, place + 1));
            }
            if length >= self.longest {
                break;
            }
        }
        let Some((_, start)) = best.filter(|&(length, _)| length >= self.shortest) else { return Vec::new() };
        let mut draft: Vec<u32> = Vec::with_capacity(self.tokens);
        for index in start..start + self.tokens {
            let token = context.get(index).or_else(|| draft.get(index - context.len())).copied();
            draft.extend(token);
        }
        draft
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_then_the_latest_match_counts() {
        let lookup = PromptLookup { longest: 3, shortest: 1, tokens: 2 };
        assert_eq!(lookup.draft(&[1, 2, 9, 4, 2, 5, 6, 1, 2]), [9, 4]);
        assert_eq!(lookup.draft(&[2, 9, 4, 2, 5, 6, 1, 2]), [5, 6]);
        assert_eq!(lookup.draft(&[3, 2, 9, 3, 2, 8, 7, 3, 2]), [8, 7]);
        let strict = PromptLookup { shortest: 2, ..lookup };
        assert!(strict.draft(&[2, 9, 4, 2, 5, 6, 1, 2]).is_empty());
        assert!(lookup.draft(&[]).is_empty() && lookup.draft(&[1]).is_empty());
        assert!(PromptLookup { tokens: 0, ..lookup }.draft(&[1, 1]).is_empty());
    }
}
