//! Cutting a text into words. Owns the rules of the `words` and `whitespace` tokenizers; knows
//! nothing of vocabularies. Word boundaries are those of UAX #29 (Unicode text segmentation), by
//! hand for ASCII, where a table and a few comparisons do, and by `unicode-segmentation` elsewhere.
//! On top of UAX #29, for the sake of English text, cut either by hand or already by treebank rules:
//! clitics stand alone (`don't` is `do` `n't`, `film's` is `film` `'s`), a typographic apostrophe
//! counts as `'`, and equal ASCII punctuation marks in a row are one token of at most three marks.

use unicode_segmentation::UnicodeSegmentation;

use super::Digits;

/// The rules for one vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segmenter {
    /// Words by UAX #29, or whatever stands between white space.
    pub(crate) words: bool,
    pub(crate) lower_case: bool,
    pub(crate) punctuation: bool,
    pub(crate) digits: Digits,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Digit,
    Underscore,
    Mark,
}

const CLASSES: [Class; 128] = {
    let mut classes = [Class::Mark; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'_' => Class::Underscore,
            0..=b' ' | 0x7f => Class::Space,
            _ => Class::Mark,
        };
        byte += 1;
    }
    classes
};

/// What may follow an apostrophe as a token of its own.
const CLITICS: [&[u8]; 7] = [b"s", b"t", b"re", b"ve", b"ll", b"d", b"m"];

impl Segmenter {
    /// Calls `emit` with each token in order until it returns false. `buffer` is room for the
    /// lower-cased text, kept by the caller so that no call allocates.
    pub(crate) fn each(&self, text: &str, buffer: &mut String, mut emit: impl FnMut(&[u8]) -> bool) {
        let ascii = text.is_ascii();
        let text = self.normalise(text, ascii, buffer);
        let bytes = text.as_bytes();
        let mut start = 0;
        if ascii && self.words {
            self.ascii_words(bytes, &mut emit);
            return;
        }
        while start < bytes.len() {
            if bytes[start].is_ascii_whitespace() {
                start += 1;
                continue;
            }
            let rest = &bytes[start..];
            let length = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
            let chunk = &text[start..start + length];
            start += length;
            let go_on = match (self.words, chunk.is_ascii()) {
                (true, true) => self.ascii_words(chunk.as_bytes(), &mut emit),
                (true, false) => self.unicode_words(chunk, &mut emit),
                (false, _) => chunk.split_whitespace().all(|token| emit(token.as_bytes())),
            };
            if !go_on {
                return;
            }
        }
    }

    fn normalise<'a>(&self, text: &'a str, ascii: bool, buffer: &'a mut String) -> &'a str {
        let keep_digits = self.digits == Digits::Keep;
        if ascii && keep_digits && !self.lower_case {
            return text;
        }
        buffer.clear();
        if ascii && keep_digits {
            buffer.push_str(text);
            buffer.make_ascii_lowercase();
            return buffer;
        }
        for c in text.chars() {
            match c {
                '0'..='9' if !keep_digits => buffer.push('0'),
                '\u{2019}' if self.words => buffer.push('\''),
                _ if c.is_ascii() && self.lower_case => buffer.push(c.to_ascii_lowercase()),
                _ if self.lower_case => buffer.extend(c.to_lowercase()),
                _ => buffer.push(c),
            }
        }
        buffer
    }

    /// Cuts ASCII text. False as soon as `emit` has said stop.
    fn ascii_words(&self, text: &[u8], emit: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let mut start = 0;
        while start < text.len() {
            let (end, go_on) = match class(text[start]) {
                Class::Space => (start + 1, true),
                Class::Letter | Class::Digit | Class::Underscore => {
                    let end = ascii_word_end(text, start);
                    (end, self.word(&text[start..end], emit))
                }
                Class::Mark => {
                    let end = self.ascii_mark_end(text, start);
                    (end, self.mark(&text[start..end], emit))
                }
            };
            if !go_on {
                return false;
            }
            start = end;
        }
        true
    }

    /// The end of a clitic such as `'s` that stands alone, or of a run of one mark.
    fn ascii_mark_end(&self, text: &[u8], start: usize) -> usize {
        if text[start] == b'\'' && text.get(start + 1).is_some_and(|&b| class(b) == Class::Letter) {
            let end = ascii_word_end(text, start + 1);
            if is_clitic(&text[start + 1..end]) {
                return end;
            }
        }
        start + text[start..].iter().take_while(|&&byte| byte == text[start]).count()
    }

    fn unicode_words(&self, chunk: &str, emit: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let mut segments = chunk.split_word_bound_indices().peekable();
        while let Some((start, segment)) = segments.next() {
            if segment.chars().all(|c| c.is_whitespace() || c.is_control()) {
                continue;
            }
            if segment.chars().any(char::is_alphanumeric) || segment.starts_with('_') {
                if !self.word(segment.as_bytes(), emit) {
                    return false;
                }
                continue;
            }
            let mut end = start + segment.len();
            match segments.peek() {
                Some((_, next)) if segment == "'" && is_clitic(next.as_bytes()) => {
                    end += next.len();
                    segments.next();
                }
                _ if segment.len() == 1 => {
                    while segments.next_if(|(_, next)| *next == segment).is_some() {
                        end += 1;
                    }
                }
                _ => {}
            }
            if !self.mark(&chunk.as_bytes()[start..end], emit) {
                return false;
            }
        }
        true
    }

    /// A word, its clitics split off.
    fn word(&self, word: &[u8], emit: &mut impl FnMut(&[u8]) -> bool) -> bool {
        match clitic_start(word) {
            None => emit(word),
            Some(at) => self.word(&word[..at], emit) && emit(&word[at..]),
        }
    }

    /// A clitic on its own, a run of one mark, an emoji or another symbol.
    fn mark(&self, mark: &[u8], emit: &mut impl FnMut(&[u8]) -> bool) -> bool {
        match mark {
            [b'\'', letter, ..] if letter.is_ascii_alphabetic() => emit(mark),
            _ if !self.punctuation && is_punctuation(mark) => true,
            [first, _, _, _, ..] if mark.iter().all(|byte| byte == first) => emit(&mark[..3]),
            _ => emit(mark),
        }
    }
}

fn class(byte: u8) -> Class {
    CLASSES.get(byte as usize).copied().unwrap_or(Class::Mark)
}

/// UAX #29 within ASCII: letters, digits and `_` stick together, over `.` or `'` between letters,
/// over `.`, `,`, `;` or `'` between digits, and over `:` between letters.
fn ascii_word_end(text: &[u8], start: usize) -> usize {
    let mut end = start + 1;
    while end < text.len() {
        match class(text[end]) {
            Class::Letter | Class::Digit | Class::Underscore => end += 1,
            Class::Space => break,
            Class::Mark => {
                let before = class(text[end - 1]);
                let after = text.get(end + 1).map_or(Class::Space, |&byte| class(byte));
                let joins = match text[end] {
                    b'.' | b'\'' => before == after && matches!(after, Class::Letter | Class::Digit),
                    b':' => before == Class::Letter && after == Class::Letter,
                    b',' | b';' => before == Class::Digit && after == Class::Digit,
                    _ => false,
                };
                if !joins {
                    break;
                }
                end += 2;
            }
        }
    }
    end
}

fn is_clitic(letters: &[u8]) -> bool {
    letters.len() <= 2 && CLITICS.iter().any(|clitic| letters.eq_ignore_ascii_case(clitic))
}

/// Where the last clitic of a word starts: before `n't`, or at the apostrophe of `'s`.
fn clitic_start(word: &[u8]) -> Option<usize> {
    let tail = &word[word.len().saturating_sub(3)..];
    let apostrophe = word.len() - tail.len() + tail.iter().rposition(|&byte| byte == b'\'')?;
    let letters = &word[apostrophe + 1..];
    if letters.eq_ignore_ascii_case(b"t") {
        let before = apostrophe.checked_sub(1)?;
        return (before > 0 && word[before].eq_ignore_ascii_case(&b'n')).then_some(before);
    }
    (apostrophe > 0 && is_clitic(letters)).then_some(apostrophe)
}

/// ASCII marks, Latin-1's `¡«»¿`, the general and the ideographic punctuation blocks.
fn is_punctuation(mark: &[u8]) -> bool {
    match std::str::from_utf8(mark).ok().and_then(|mark| mark.chars().next()) {
        Some(c) => {
            c.is_ascii_punctuation()
                || matches!(c, '¡' | '«' | '»' | '¿' | '\u{2000}'..='\u{206f}' | '\u{3000}'..='\u{303f}')
        }
        None => true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WORDS: Segmenter = Segmenter { words: true, lower_case: true, punctuation: true, digits: Digits::Keep };

    fn cut(segmenter: Segmenter, text: &str) -> Vec<String> {
        let mut tokens = Vec::new();
        segmenter.each(text, &mut String::new(), |token| {
            tokens.push(String::from_utf8(token.to_vec()).unwrap());
            true
        });
        tokens
    }

    #[test]
    fn raw_and_treebank_english_give_the_same_tokens() {
        let raw = cut(WORDS, "It isn't the film's fault, they'd say: we've WON'T...");
        let treebank = cut(WORDS, "it is n't the film 's fault , they 'd say : we 've wo n't ...");
        assert_eq!(raw, treebank);
        assert_eq!(raw[1..3], ["is", "n't"]);
        assert_eq!(cut(WORDS, "wouldn't've"), ["would", "n't", "'ve"]);
        assert_eq!(cut(WORDS, "don’t"), ["do", "n't"]);
        assert_eq!(cut(WORDS, "don’t stop — café’s"), ["do", "n't", "stop", "—", "café", "'s"]);
    }

    #[test]
    fn numbers_marks_and_other_scripts() {
        assert_eq!(cut(WORDS, "3.14, 1,000 U.S.A. a_b"), ["3.14", ",", "1,000", "u.s.a", ".", "a_b"]);
        assert_eq!(cut(WORDS, "Wow!!!!!! ok--fine"), ["wow", "!!!", "ok", "--", "fine"]);
        assert_eq!(cut(WORDS, "ÉTÉ Straße 👍🏽👨‍👩‍👧"), ["été", "straße", "👍🏽", "👨‍👩‍👧"]);
        assert_eq!(cut(WORDS, "a:\u{20e3}\u{301} b"), ["a", ":\u{20e3}\u{301}", "b"]);
        assert_eq!(cut(WORDS, "映画は良い"), ["映", "画", "は", "良", "い"]);
        assert_eq!(cut(WORDS, "कितना अच्छा"), ["कितना", "अच्छा"]);
        assert_eq!(cut(WORDS, " \t\n\u{a0}\u{3000}"), [""; 0]);
    }

    #[test]
    fn options_are_obeyed() {
        let bare = Segmenter { punctuation: false, ..WORDS };
        assert_eq!(cut(bare, "it's fine, “really” … 😀!"), ["it", "'s", "fine", "really", "😀"]);
        let zero = Segmenter { digits: Digits::Zero, lower_case: false, ..WORDS };
        assert_eq!(cut(zero, "In 1984"), ["In", "0000"]);
        let white = Segmenter { words: false, ..WORDS };
        assert_eq!(cut(white, "Don't  STOP\u{3000}ÉTÉ, ok"), ["don't", "stop", "été,", "ok"]);
    }

    #[test]
    fn stops_when_told() {
        let mut seen = 0;
        WORDS.each("a b c d é f", &mut String::new(), |_| {
            seen += 1;
            seen < 3
        });
        assert_eq!(seen, 3);
    }

    proptest! {
        /// The hand-written ASCII rules are those of the library.
        #[test]
        fn ascii_rules_are_uax_29(text in "[ -~]{0,24}") {
            let by_hand = cut(WORDS, &text);
            let mut by_library = Vec::new();
            for chunk in text.to_ascii_lowercase().split_ascii_whitespace() {
                WORDS.unicode_words(chunk, &mut |token: &[u8]| {
                    by_library.push(String::from_utf8(token.to_vec()).unwrap());
                    true
                });
            }
            prop_assert_eq!(by_hand, by_library);
        }

        /// Nothing but white space and the length of runs is lost.
        #[test]
        fn words_lose_no_letters(text in "\\PC{0,24}") {
            let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            let keep = Segmenter { lower_case: false, ..WORDS };
            prop_assert_eq!(letters(&cut(keep, &text).concat()), letters(&text));
        }
    }
}
