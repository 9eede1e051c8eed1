//! The languages of a checkpoint: which of its tokens name one, how requests may name them, and what they are called in
//! English, as T5 wants them called.

use std::collections::BTreeMap;

use tokenizers::Tokenizer;

use crate::tasks::generation::PrepareError;

/// How a vocabulary marks a language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LanguageMark {
    /// `en_XX`, `eng_Latn` (mBART, NLLB) and `__en__` (M2M100): the encoder is told the source's, the decoder the answer's.
    Framing,
    /// `>>deu<<` (Marian): the encoder is told the answer's, before the text.
    Leading,
}

/// The tokens of a vocabulary that name languages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Languages {
    tokens: BTreeMap<String, u32>,
    pub(crate) mark: Option<LanguageMark>,
}

impl Languages {
    /// Finds them among the tokeniser's special tokens, and Marian's among all of them.
    pub(crate) fn of(tokenizer: &Tokenizer, model_type: &str) -> Languages {
        if model_type == "marian" {
            let marked = tokenizer.get_vocab(true).into_iter().filter_map(|(text, id)| Some((leading(&text)?, id)));
            return Languages::new(marked.collect(), LanguageMark::Leading);
        }
        let added = tokenizer.get_added_tokens_decoder().into_iter();
        let named = added.filter(|(_, token)| token.special && is_framing(&token.content));
        Languages::new(named.map(|(id, token)| (token.content, id)).collect(), LanguageMark::Framing)
    }

    fn new(tokens: BTreeMap<String, u32>, mark: LanguageMark) -> Languages {
        let mark = (!tokens.is_empty()).then_some(mark);
        Languages { tokens, mark }
    }

    /// Whether this token names one.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.tokens.values().any(|&own| own == id)
    }

    /// The token of a language by the checkpoint's own name for it, without its marks, or by the part of that name that is
    /// the language alone where only one has it: `en_XX`, `en`, `eng_Latn`.
    pub(crate) fn find(&self, field: &'static str, name: &str) -> Result<u32, PrepareError> {
        let same = self.tokens.get(name).or_else(|| self.tokens.get(&format!("__{name}__")));
        if let Some(&id) = same {
            return Ok(id);
        }
        let of_language = |token: &&String| token.split_once('_').is_some_and(|(language, _)| language == name);
        let mut alike = self.tokens.keys().filter(of_language);
        if let (Some(token), None) = (alike.next(), alike.next())
            && let Some(&id) = self.tokens.get(token)
        {
            return Ok(id);
        }
        let names: Vec<&str> = self.tokens.keys().map(|token| bare(token)).collect();
        let hint = match tidemill_data::nearest(name, names.iter().copied()) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => format!("it has {}", self.some()),
        };
        Err(PrepareError::Language { field, problem: format!("is not one of the model's languages; {hint}") })
    }

    /// Some of the names, for messages.
    pub(crate) fn some(&self) -> String {
        let names: Vec<&str> = self.tokens.keys().take(8).map(|token| bare(token)).collect();
        let more = if self.tokens.len() > names.len() { ", …" } else { "" };
        format!("{}{more}", names.join(", "))
    }
}

fn bare(token: &str) -> &str {
    token.strip_prefix("__").and_then(|rest| rest.strip_suffix("__")).unwrap_or(token)
}

fn leading(token: &str) -> Option<String> {
    let name = token.strip_prefix(">>")?.strip_suffix("<<")?;
    (!name.is_empty()).then(|| name.to_string())
}

fn is_framing(token: &str) -> bool {
    let is_code = |code: &str| (2..=3).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_lowercase());
    if let Some(code) = token.strip_prefix("__").and_then(|rest| rest.strip_suffix("__")) {
        return is_code(code);
    }
    token.split_once('_').is_some_and(|(code, region)| {
        let mut letters = region.bytes();
        is_code(code)
            && (2..=4).contains(&region.len())
            && letters.next().is_some_and(|first| first.is_ascii_uppercase())
            && letters.all(|letter| letter.is_ascii_alphabetic())
    })
}

/// ISO 639-1 codes and what T5 and Flan-T5 call these languages.
const ENGLISH_NAMES: [(&str, &str); 36] = [
    ("ar", "Arabic"),
    ("bg", "Bulgarian"),
    ("bn", "Bengali"),
    ("ca", "Catalan"),
    ("cs", "Czech"),
    ("da", "Danish"),
    ("de", "German"),
    ("el", "Greek"),
    ("en", "English"),
    ("es", "Spanish"),
    ("et", "Estonian"),
    ("fa", "Persian"),
    ("fi", "Finnish"),
    ("fr", "French"),
    ("he", "Hebrew"),
    ("hi", "Hindi"),
    ("hr", "Croatian"),
    ("hu", "Hungarian"),
    ("id", "Indonesian"),
    ("it", "Italian"),
    ("ja", "Japanese"),
    ("ko", "Korean"),
    ("lt", "Lithuanian"),
    ("lv", "Latvian"),
    ("nl", "Dutch"),
    ("no", "Norwegian"),
    ("pl", "Polish"),
    ("pt", "Portuguese"),
    ("ro", "Romanian"),
    ("ru", "Russian"),
    ("sv", "Swedish"),
    ("th", "Thai"),
    ("tr", "Turkish"),
    ("uk", "Ukrainian"),
    ("vi", "Vietnamese"),
    ("zh", "Chinese"),
];

/// The English name of a language that was given by its code or by its name.
pub(crate) fn english_name(language: &str) -> Option<&'static str> {
    let same = |(code, name): &&(&str, &str)| *code == language || name.eq_ignore_ascii_case(language);
    ENGLISH_NAMES.iter().find(same).map(|(_, name)| *name)
}

/// The code of a language that was given by its code or by its name.
pub(crate) fn code(language: &str) -> Option<&'static str> {
    let name = english_name(language)?;
    ENGLISH_NAMES.iter().find(|(_, own)| *own == name).map(|(code, _)| *code)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn languages(names: &[&str]) -> Languages {
        Languages::new(names.iter().map(|name| (*name).to_string()).zip(10..).collect(), LanguageMark::Framing)
    }

    #[test]
    fn languages_are_known_by_their_marks_alone() {
        for token in ["en_XX", "zh_CN", "eng_Latn", "__en__", "__ceb__"] {
            assert!(is_framing(token), "{token}");
        }
        for token in ["<mask>", "</s>", "en_", "__", "____", "a_b", "word_Long", "en_xx", "<extra_id_0>"] {
            assert!(!is_framing(token), "{token}");
        }
        assert_eq!(leading(">>deu<<").as_deref(), Some("deu"));
        assert_eq!((leading(">><<"), leading("deu")), (None, None));
    }

    #[test]
    fn a_language_is_found_by_each_of_its_names() {
        let found = languages(&["en_XX", "zh_CN", "zh_TW", "__de__"]);
        for (name, id) in [("en_XX", 10), ("en", 10), ("zh_TW", 12), ("de", 13), ("__de__", 13)] {
            assert_eq!(found.find("target_language", name).unwrap(), id, "{name}");
        }
        let problem = |name| found.find("target_language", name).unwrap_err().to_string();
        assert_eq!(problem("en_XY"), "target_language: is not one of the model's languages; did you mean \"en_XX\"?");
        assert!(problem("zh").ends_with("it has de, en_XX, zh_CN, zh_TW"), "{}", problem("zh"));
    }

    #[test]
    fn names_and_codes_are_two_ways_to_say_one_thing() {
        assert_eq!((english_name("de"), english_name("german")), (Some("German"), Some("German")));
        assert_eq!((code("German"), code("de"), code("tlh")), (Some("de"), Some("de"), None));
    }
}
