//! The cleaning steps from text to text. A package carries a `TextCleaning`, so training and serving run these lines.
//!
//! A text that no step changes is returned as it came, without an allocation: one look at the bytes finds which steps
//! can have anything to do. Normalisation forms: Unicode Standard Annex 15.

use std::borrow::Cow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use unicode_normalization::{
    IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfd_quick, is_nfkc_quick, is_nfkd_quick,
};

use super::markup::without_markup;

/// A Unicode normalisation form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unicode {
    /// As it came.
    None,
    /// Canonical composition: `e` and an accent become `é`.
    #[default]
    Nfc,
    /// Canonical decomposition.
    Nfd,
    /// Compatibility composition: also `ﬁ` becomes `fi`, `①` becomes `1`.
    Nfkc,
    /// Compatibility decomposition.
    Nfkd,
}

/// What is done to letters' case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// As it came.
    #[default]
    Keep,
    /// Lower case.
    Lower,
    /// Upper case.
    Upper,
}

/// One text step, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// HTML removed.
    Html,
    /// Unicode normalised.
    Unicode,
    /// Control characters removed.
    Control,
    /// White space collapsed.
    WhiteSpace,
    /// Case changed.
    Case,
    /// Cut to `max_chars`.
    Truncate,
}

impl Step {
    /// All steps in running order.
    pub const ALL: [Self; 6] = [Self::Html, Self::Unicode, Self::Control, Self::WhiteSpace, Self::Case, Self::Truncate];

    /// What the step does, for reports.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Html => "HTML removed",
            Self::Unicode => "Unicode normalised",
            Self::Control => "control characters removed",
            Self::WhiteSpace => "white space collapsed",
            Self::Case => "case changed",
            Self::Truncate => "truncated",
        }
    }
}

/// The text steps of [`CleanConfig`](super::CleanConfig), as a package stores them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextCleaning {
    /// Remove HTML.
    pub html: bool,
    /// Normalisation form.
    pub unicode: Unicode,
    /// Remove control characters.
    pub control: bool,
    /// Collapse white space.
    pub white_space: bool,
    /// Change case.
    pub case: Case,
    /// Keep this many characters at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_chars: Option<usize>,
}

impl Default for TextCleaning {
    fn default() -> Self {
        super::CleanConfig::default().text()
    }
}

impl TextCleaning {
    /// A cleaning that changes nothing.
    pub fn none() -> Self {
        Self {
            html: false,
            unicode: Unicode::None,
            control: false,
            white_space: false,
            case: Case::Keep,
            max_chars: None,
        }
    }

    /// The cleaned text; borrowed, without an allocation, when no step changes anything but its ends.
    ///
    /// ```
    /// use std::borrow::Cow;
    /// use tidemill_data::TextCleaning;
    ///
    /// let cleaning = TextCleaning::default();
    /// assert_eq!(cleaning.apply(" so \t many   spaces\n"), "so many spaces");
    /// assert!(matches!(cleaning.apply("nothing to do"), Cow::Borrowed(_)));
    /// ```
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.traced(text, |_, _, _| ())
    }

    /// [`apply`](Self::apply) on many texts, on all threads of the current rayon pool; results in the order of the texts.
    pub fn apply_all<'a, T: AsRef<str> + Sync>(&self, texts: &'a [T]) -> Vec<Cow<'a, str>> {
        texts.par_iter().with_min_len(64).map(|text| self.apply(text.as_ref())).collect()
    }

    /// [`apply`](Self::apply), telling each step that changed the text, with the text before and after it.
    pub fn traced<'a>(&self, text: &'a str, mut changed: impl FnMut(Step, &str, &str)) -> Cow<'a, str> {
        let look = Look::at(text);
        let mut current = Cow::Borrowed(text);
        if self.html && look.markup {
            step(&mut current, Step::Html, without_markup, &mut changed);
        }
        if self.unicode != Unicode::None && !look.ascii {
            step(&mut current, Step::Unicode, |text| normalised(text, self.unicode), &mut changed);
        }
        // What HTML entities and normalisation brought in has to be looked at again.
        let look = if matches!(current, Cow::Owned(_)) { Look::at(&current) } else { look };
        if self.control && (look.control || !look.ascii) {
            step(&mut current, Step::Control, without_control, &mut changed);
        }
        if self.white_space && (look.loose_space || !look.ascii || look.control) {
            step(&mut current, Step::WhiteSpace, collapsed, &mut changed);
        }
        match self.case {
            Case::Lower if look.upper || !look.ascii => {
                step(&mut current, Step::Case, lower, &mut changed);
            }
            Case::Upper if look.lower || !look.ascii => {
                step(&mut current, Step::Case, upper, &mut changed);
            }
            _ => {}
        }
        if let Some(most) = self.max_chars.filter(|most| current.len() > *most) {
            step(&mut current, Step::Truncate, |text| truncated(text, most), &mut changed);
        }
        current
    }
}

fn step(
    current: &mut Cow<'_, str>,
    which: Step,
    run: impl Fn(&str) -> Cow<'_, str>,
    changed: &mut impl FnMut(Step, &str, &str),
) {
    match current {
        Cow::Borrowed(text) => {
            let after = run(text);
            if matches!(after, Cow::Owned(_)) || after.len() != text.len() {
                changed(which, text, &after);
                *current = after;
            }
        }
        Cow::Owned(text) => {
            let after = run(text);
            if matches!(after, Cow::Owned(_)) || after.len() != text.len() {
                changed(which, text, &after);
                *current = Cow::Owned(after.into_owned());
            }
        }
    }
}

/// What one pass over the bytes says about which steps can have work.
#[derive(Clone, Copy)]
struct Look {
    ascii: bool,
    markup: bool,
    control: bool,
    /// White space other than single spaces between words.
    loose_space: bool,
    upper: bool,
    lower: bool,
}

const NOT_ASCII: u8 = 1;
const MARKUP: u8 = 2;
const CONTROL: u8 = 4;
const LOOSE: u8 = 8;
const UPPER: u8 = 16;
const LOWER: u8 = 32;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'\t'..=b'\r' => LOOSE,
            0..=31 | 127 => CONTROL,
            b'<' | b'&' => MARKUP,
            b'A'..=b'Z' => UPPER,
            b'a'..=b'z' => LOWER,
            128.. => NOT_ASCII,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

impl Look {
    fn at(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut seen = 0;
        let mut after_space = true;
        let mut doubled = false;
        for &byte in bytes {
            seen |= CLASSES[byte as usize];
            let space = byte == b' ';
            doubled |= space & after_space;
            after_space = space;
        }
        let trailing = bytes.last() == Some(&b' ');
        Self {
            ascii: seen & NOT_ASCII == 0,
            markup: seen & MARKUP != 0,
            control: seen & CONTROL != 0,
            loose_space: seen & LOOSE != 0 || doubled || trailing,
            upper: seen & UPPER != 0,
            lower: seen & LOWER != 0,
        }
    }
}

pub(crate) fn normalised(text: &str, form: Unicode) -> Cow<'_, str> {
    let already = match form {
        Unicode::None => IsNormalized::Yes,
        Unicode::Nfc => is_nfc_quick(text.chars()),
        Unicode::Nfd => is_nfd_quick(text.chars()),
        Unicode::Nfkc => is_nfkc_quick(text.chars()),
        Unicode::Nfkd => is_nfkd_quick(text.chars()),
    };
    if already == IsNormalized::Yes {
        return Cow::Borrowed(text);
    }
    let after: String = match form {
        Unicode::None => text.to_owned(),
        Unicode::Nfc => text.nfc().collect(),
        Unicode::Nfd => text.nfd().collect(),
        Unicode::Nfkc => text.nfkc().collect(),
        Unicode::Nfkd => text.nfkd().collect(),
    };
    if after == text { Cow::Borrowed(text) } else { Cow::Owned(after) }
}

/// Controls that are not white space, soft hyphens, zero-width space and no-break, bidirectional controls, and the
/// code points that are no characters. Zero-width joiners stay: scripts and emoji need them.
fn is_control(c: char) -> bool {
    match c {
        '\u{AD}' | '\u{200B}' | '\u{2060}' | '\u{FEFF}' => true,
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => true,
        '\u{FDD0}'..='\u{FDEF}' => true,
        _ => (c.is_control() && !c.is_whitespace()) || (c as u32 & 0xFFFE) == 0xFFFE,
    }
}

fn without_control(text: &str) -> Cow<'_, str> {
    match text.find(is_control) {
        None => Cow::Borrowed(text),
        Some(first) => {
            let mut after = String::with_capacity(text.len());
            let (clean, rest) = text.split_at(first);
            after.push_str(clean);
            after.extend(rest.chars().filter(|c| !is_control(*c)));
            Cow::Owned(after)
        }
    }
}

pub(crate) fn collapsed(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    let mut after_space = false;
    let loose = text.chars().any(|c| {
        let space = c.is_whitespace();
        let loose = space && (after_space || c != ' ');
        after_space = space;
        loose
    });
    if !loose {
        return Cow::Borrowed(text);
    }
    let mut after = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !after.is_empty() {
            after.push(' ');
        }
        after.push_str(word);
    }
    Cow::Owned(after)
}

pub(crate) fn lower(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text),
        };
    }
    let after = text.to_lowercase();
    if after == text { Cow::Borrowed(text) } else { Cow::Owned(after) }
}

fn upper(text: &str) -> Cow<'_, str> {
    let after = text.to_uppercase();
    if after == text { Cow::Borrowed(text) } else { Cow::Owned(after) }
}

/// The first `most` characters, without white space at the cut.
fn truncated(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Borrowed(text.get(..end).unwrap_or(text).trim_end()),
        None => Cow::Borrowed(text),
    }
}

/// The text as leakage between splits sees it: NFKC, lower case, white space collapsed.
///
/// ```
/// assert_eq!(tidemill_data::folded("  A ﬁne\tFILM "), "a fine film");
/// ```
pub fn folded(text: &str) -> Cow<'_, str> {
    const FOLDING: TextCleaning = TextCleaning {
        html: false,
        unicode: Unicode::Nfkc,
        control: false,
        white_space: true,
        case: Case::Lower,
        max_chars: None,
    };
    FOLDING.apply(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> TextCleaning {
        TextCleaning {
            html: true,
            unicode: Unicode::Nfkc,
            control: true,
            white_space: true,
            case: Case::Lower,
            max_chars: Some(40),
        }
    }

    #[test]
    fn what_needs_nothing_is_borrowed() {
        for text in ["plain text", "", "naïve café — 日本", "x & y < z"] {
            let cleaning = TextCleaning { html: true, ..TextCleaning::default() };
            assert!(matches!(cleaning.apply(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn each_step_does_its_work_and_says_so() {
        let mut steps = Vec::new();
        let text = "<p>Ｆull\u{200B}  WIDTH</p>\u{7}&eacute; and a very long tail of words to be cut";
        let after = all().traced(text, |step, before, after| {
            assert_ne!(before, after);
            steps.push(step);
        });
        assert_eq!(after, "full width é and a very long tail of wor");
        assert_eq!(steps, Step::ALL);
    }

    #[test]
    fn normalisation_forms_are_the_standard_ones() {
        let apply = |unicode, text| TextCleaning { unicode, ..TextCleaning::none() }.apply(text).into_owned();
        assert_eq!(apply(Unicode::Nfc, "e\u{301}"), "\u{e9}");
        assert_eq!(apply(Unicode::Nfd, "\u{e9}"), "e\u{301}");
        assert_eq!(apply(Unicode::Nfkc, "ﬁ①"), "fi1");
        assert_eq!(apply(Unicode::Nfkd, "ﬁ\u{e9}"), "fie\u{301}");
        assert_eq!(apply(Unicode::None, "e\u{301}"), "e\u{301}");
    }

    #[test]
    fn joiners_stay_and_next_line_is_white_space() {
        let cleaning = TextCleaning::default();
        assert_eq!(cleaning.apply("👩\u{200D}🚀\u{85}go"), "👩\u{200D}🚀 go");
        assert_eq!(cleaning.apply("a\u{1F}\u{FFFF}b\u{B}c"), "ab c");
    }

    proptest! {
        /// The quick look must never hide a change that a step would make.
        #[test]
        fn the_quick_look_agrees_with_running_every_step(text in "(\\PC|[ \\t\\n\\x00<>&;aB\u{a0}\u{301}]){0,40}") {
            let cleaning = all();
            let mut slow = without_markup(&text).into_owned();
            slow = normalised(&slow, Unicode::Nfkc).into_owned();
            slow = without_control(&slow).into_owned();
            slow = collapsed(&slow).into_owned();
            slow = lower(&slow).into_owned();
            slow = truncated(&slow, 40).into_owned();
            prop_assert_eq!(cleaning.apply(&text).into_owned(), slow);
        }

        #[test]
        fn many_texts_give_what_one_at_a_time_gives(texts in proptest::collection::vec("[ a-zA-Z\\té]{0,12}", 0..200)) {
            let cleaning = all();
            let together = cleaning.apply_all(&texts);
            prop_assert_eq!(together.len(), texts.len());
            for (one, text) in together.iter().zip(&texts) {
                prop_assert_eq!(one, &cleaning.apply(text));
            }
        }
    }
}
