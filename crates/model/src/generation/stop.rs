//! Where an output ends: stop strings, found across the borders of tokens while nothing of them is ever given out, and
//! the reasons why an output ended.

use std::sync::Arc;

/// Why an output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model chose one of its own end-of-sequence tokens, or its constraint was met and allows nothing more.
    Stop,
    /// A token of `stop_token_ids` was chosen.
    StopToken(u32),
    /// The stop string of this place in `stop` was found.
    StopString(usize),
    /// As many tokens as were asked for, or as the context holds.
    Length,
    /// Whoever asked has gone, or does not want more.
    Cancelled,
    /// Something failed; the error came beside.
    Error,
}

impl FinishReason {
    /// The reason in OpenAI's interface: `stop` or `length`; a cancelled or failed output has none.
    pub fn as_openai(&self) -> Option<&'static str> {
        match self {
            FinishReason::Stop | FinishReason::StopToken(_) | FinishReason::StopString(_) => Some("stop"),
            FinishReason::Length => Some("length"),
            FinishReason::Cancelled | FinishReason::Error => None,
        }
    }
}

/// Looks for stop strings in a text that comes in pieces. What could be the beginning of one is held back until it is
/// known.
///
/// ```
/// use tidemill_model::generation::StopScanner;
/// let mut scanner = StopScanner::new(&["END".to_string()]);
/// assert_eq!(scanner.push("the E"), ("the ".to_string(), None));
/// assert_eq!(scanner.push("N"), (String::new(), None));
/// assert_eq!(scanner.push("D of it"), (String::new(), Some(0)));
/// ```
#[derive(Clone, Debug)]
pub struct StopScanner {
    patterns: Arc<[Pattern]>,
    /// How many bytes of each pattern the text so far ends with.
    matched: Vec<usize>,
    held: String,
    found: Option<usize>,
}

/// A string, and for each of its beginnings the longest beginning that is also the end of it (Knuth, Morris and Pratt).
#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    fallback: Vec<usize>,
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let mut pattern = Pattern { bytes: text.as_bytes().to_vec(), fallback: vec![0] };
        let mut border = 0;
        for &byte in text.as_bytes().iter().skip(1) {
            border = pattern.advance(border, byte);
            pattern.fallback.push(border);
        }
        pattern
    }

    /// How many bytes are matched after one more.
    fn advance(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.bytes.get(matched) == Some(&byte) {
                return matched + 1;
            }
            let Some(shorter) = matched.checked_sub(1) else { return 0 };
            matched = self.fallback.get(shorter).copied().unwrap_or(0);
        }
    }
}

impl StopScanner {
    /// For these strings; empty ones are never found.
    pub fn new(stops: &[String]) -> StopScanner {
        StopScanner {
            patterns: stops.iter().map(|stop| Pattern::new(stop)).collect(),
            matched: vec![0; stops.len()],
            held: String::new(),
            found: None,
        }
    }

    /// Takes more text; gives what is certain to come before any stop string, and which of them was found. The one that
    /// is complete first counts, of several that end together the longest. After that nothing more is given.
    pub fn push(&mut self, text: &str) -> (String, Option<usize>) {
        if self.found.is_some() {
            return (String::new(), self.found);
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (offset, byte) in text.bytes().enumerate() {
            let mut longest = None;
            for (index, (pattern, matched)) in self.patterns.iter().zip(&mut self.matched).enumerate() {
                *matched = pattern.advance(*matched, byte);
                let length = pattern.bytes.len();
                if length > 0 && *matched == length && longest.is_none_or(|(_, most)| length > most) {
                    longest = Some((index, length));
                }
            }
            if let Some((index, length)) = longest {
                self.found = Some(index);
                self.held.truncate((before + offset + 1).saturating_sub(length));
                return (std::mem::take(&mut self.held), self.found);
            }
        }
        let kept = self.matched.iter().copied().max().unwrap_or(0);
        (self.give(kept), None)
    }

    /// Takes text in which no stop string counts, and gives all there is.
    pub fn pass(&mut self, text: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.matched.fill(0);
        self.held.push_str(text);
        self.give(0)
    }

    /// Gives what was held back, when the text ends without a stop string.
    pub fn finish(&mut self) -> String {
        self.matched.fill(0);
        self.give(0)
    }

    /// All but the last `kept` bytes, which are the beginning of a stop string and so begin with a character.
    fn give(&mut self, kept: usize) -> String {
        let rest = self.held.split_off(self.held.len().saturating_sub(kept));
        std::mem::replace(&mut self.held, rest)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn scan(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut scanner = StopScanner::new(&stops);
        let mut text = String::new();
        for piece in pieces {
            let (more, found) = scanner.push(piece);
            text.push_str(&more);
            if found.is_some() {
                assert_eq!(scanner.finish(), "");
                return (text, found);
            }
        }
        text.push_str(&scanner.finish());
        (text, None)
    }

    /// Every way to cut a text in up to three pieces.
    fn cuts(text: &str) -> Vec<Vec<&str>> {
        let borders: Vec<usize> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
        let mut all = Vec::new();
        for &first in &borders {
            for &second in borders.iter().filter(|&&second| second >= first) {
                all.push(vec![&text[..first], &text[first..second], &text[second..]]);
            }
        }
        all
    }

    #[test]
    fn a_stop_string_is_found_at_every_split_and_the_text_before_it_is_exact() {
        for (stops, text, right) in [
            (vec!["</s>"], "go < home</s>more", ("go < home", Some(0))),
            (vec!["aab"], "aaaab!", ("aa", Some(0))),
            (vec!["\n\n", "User:"], "one\ntwo\nUser: x", ("one\ntwo\n", Some(1))),
            (vec!["ab", "xabc"], "-xabc", ("-x", Some(0))),
            (vec!["b", "ab"], "xab", ("x", Some(1))),
            (vec!["é😀"], "né é😀 fin", ("né ", Some(0))),
            (vec!["漢字", "字"], "漢 漢字", ("漢 ", Some(0))),
            (vec!["abab"], "abaabac", ("abaabac", None)),
            (vec!["never"], "nev nev nevnever-", ("nev nev nev", Some(0))),
            (vec![], "anything", ("anything", None)),
        ] {
            for pieces in cuts(text) {
                let (found, stop) = scan(&stops, &pieces);
                assert_eq!((found.as_str(), stop), right, "{pieces:?}");
            }
        }
    }

    #[test]
    fn no_more_is_held_back_than_may_become_a_stop_string() {
        let mut scanner = StopScanner::new(&["abcd".to_string()]);
        assert_eq!(scanner.push("xxab").0, "xx");
        assert_eq!(scanner.push("c").0, "");
        assert_eq!(scanner.push("a").0, "abc");
        assert_eq!(scanner.push("z").0, "az");
        assert_eq!(scanner.pass("abcd"), "abcd");
        assert_eq!(scanner.push("abc").0, "");
        assert_eq!(scanner.pass("d"), "abcd");
        assert_eq!(scanner.push("!abcd!"), ("!".to_string(), Some(0)));
        assert_eq!(scanner.push("late"), (String::new(), Some(0)));
    }
}
