//! Which bytes each token is, read from a tokenizer's vocabulary and decoder, and the index over them that constraints
//! need. (`toktrie_hf_tokenizers` does the same for an older `tokenizers`, so its tokenizers cannot be ours.)

use std::sync::Arc;

use serde_json::Value;
use tokenizers::Tokenizer;
use tokenizers::normalizers::{NormalizerWrapper, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// Longer tokens (a thousand spaces) are never allowed: the index has no room for them.
const TOKEN_BYTES: usize = 512;

/// The index counts tokens in 24 bits, the last of which is taken.
const VOCABULARY: usize = (1 << 24) - 2;

/// How a decoder turns a token's name into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// Each character stands for a byte (GPT-2).
    ByteLevel,
    /// Text with a mark for spaces, and `<0x0A>` for a byte where `fallback` (SentencePiece).
    Marked { space: char, fallback: bool },
}

/// A tokenizer as `llguidance` sees it.
struct Environment {
    trie: TokTrie,
    tokenizer: Tokenizer,
    canonical: bool,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| match self.tokenizer.encode(text, false) {
            Ok(encoding) => encoding.get_ids().to_vec(),
            Err(_) => self.trie.greedy_tokenize(text.as_bytes()),
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

/// The index for a model with `vocabulary` logits.
pub(super) fn environment(tokenizer: &Tokenizer, vocabulary: usize, eos: &[u32]) -> Result<TokEnv, String> {
    let names = names(tokenizer)?;
    let size = vocabulary.max(tokenizer.get_vocab_size(true));
    if size > VOCABULARY {
        return Err(format!("its vocabulary has {size} tokens, and {VOCABULARY} are the most"));
    }
    let words = words(tokenizer, names, size);
    let eos: Vec<u32> = eos.iter().copied().filter(|&token| (token as usize) < size).collect();
    let info = TokRxInfo::new(size as u32, eos.first().copied().unwrap_or(INVALID_TOKEN));
    let mut trie = TokTrie::from(&info, &words);
    if eos.len() > 1 {
        trie = trie.with_eos_tokens(&eos);
    }
    let mut environment = Environment { trie, tokenizer: without_added_spaces(tokenizer)?, canonical: true };
    // Bytes are forced as tokens only if the tokenizer gives back what it is given.
    let probe = "{\"name\": \"x y\",\n  \"é\": [1.5, true]}";
    let tokens = environment.tokenize_bytes(probe.as_bytes());
    environment.canonical = environment.trie.decode_raw(&tokens) == probe.as_bytes();
    Ok(Arc::new(environment))
}

/// The bytes of every token. Special tokens are marked, so that no text is mistaken for one; so are those that only
/// look it, like `<tool_call>`.
fn words(tokenizer: &Tokenizer, names: Names, size: usize) -> Vec<Vec<u8>> {
    let alphabet = byte_alphabet();
    let added = tokenizer.get_added_tokens_decoder();
    let word = |token: u32| -> Vec<u8> {
        if let Some(added) = added.get(&token) {
            let content = added.content.as_bytes();
            let looks_special = content.starts_with(b"<") && content.ends_with(b">");
            let marker = (added.special || looks_special).then_some(TokTrie::SPECIAL_TOKEN_MARKER);
            return marker.into_iter().chain(content.iter().copied()).collect();
        }
        let Some(name) = tokenizer.id_to_token(token) else { return Vec::new() };
        match names {
            Names::ByteLevel => {
                let bytes: Option<Vec<u8>> = name.chars().map(|character| byte_of(&alphabet, character)).collect();
                bytes.unwrap_or_else(|| name.into_bytes())
            }
            Names::Marked { space, fallback } => match byte_token(&name).filter(|_| fallback) {
                Some(byte) => vec![byte],
                None => name.replace(space, " ").into_bytes(),
            },
        }
    };
    let fits = |word: &Vec<u8>| word.len() <= TOKEN_BYTES;
    (0..size as u32).map(|token| Some(word(token)).filter(fits).unwrap_or_default()).collect()
}

fn names(tokenizer: &Tokenizer) -> Result<Names, String> {
    let unknown = || Err("its tokenizer has no decoder that says which bytes its tokens are".to_string());
    let Some(decoder) = tokenizer.get_decoder() else { return unknown() };
    let decoder = serde_json::to_value(decoder).map_err(|error| error.to_string())?;
    let mut steps = Vec::new();
    flatten(&decoder, &mut steps);
    let step = |kind: &str| steps.iter().find(|step| step.get("type").and_then(Value::as_str) == Some(kind));
    let character = |value: Option<&Value>| value.and_then(Value::as_str).and_then(|text| text.chars().next());
    if step("ByteLevel").is_some() {
        return Ok(Names::ByteLevel);
    }
    let replaced = step("Replace").filter(|step| step.get("content").and_then(Value::as_str) == Some(" "));
    let replaced = replaced.and_then(|step| character(step.pointer("/pattern/String")));
    let metaspace = step("Metaspace").and_then(|step| character(step.get("replacement")));
    match (replaced.or(metaspace), step("ByteFallback").is_some()) {
        (None, false) => unknown(),
        (space, fallback) => Ok(Names::Marked { space: space.unwrap_or(' '), fallback }),
    }
}

/// The steps of a decoder, those of sequences in their place.
fn flatten<'a>(decoder: &'a Value, steps: &mut Vec<&'a Value>) {
    match decoder.get("decoders").and_then(Value::as_array) {
        Some(decoders) => decoders.iter().for_each(|decoder| flatten(decoder, steps)),
        None => steps.push(decoder),
    }
}

/// The tokenizer without what it puts in front of a text: what is forced goes on in the middle of one.
fn without_added_spaces(tokenizer: &Tokenizer) -> Result<Tokenizer, String> {
    let mut tokenizer = tokenizer.clone();
    let normalizer = tokenizer.get_normalizer().cloned().and_then(without_prepending);
    tokenizer.with_normalizer(normalizer).map_err(|error| error.to_string())?;
    let splitter = tokenizer.get_pre_tokenizer().cloned().map(unprefixed);
    tokenizer.with_pre_tokenizer(splitter);
    tokenizer.with_padding(None);
    tokenizer.set_encode_special_tokens(true);
    tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
    Ok(tokenizer)
}

fn without_prepending(normalizer: NormalizerWrapper) -> Option<NormalizerWrapper> {
    match normalizer {
        NormalizerWrapper::Prepend(_) => None,
        NormalizerWrapper::Sequence(sequence) => {
            let kept = sequence.as_ref().iter().cloned().filter_map(without_prepending);
            Some(NormalizerWrapper::Sequence(Normalizers::new(kept.collect())))
        }
        other => Some(other),
    }
}

fn unprefixed(splitter: PreTokenizerWrapper) -> PreTokenizerWrapper {
    match splitter {
        PreTokenizerWrapper::Metaspace(metaspace) => PreTokenizerWrapper::Metaspace(Metaspace::new(
            metaspace.get_replacement(),
            PrependScheme::Never,
            metaspace.get_split(),
        )),
        PreTokenizerWrapper::ByteLevel(mut byte_level) => {
            byte_level.add_prefix_space = false;
            PreTokenizerWrapper::ByteLevel(byte_level)
        }
        PreTokenizerWrapper::Sequence(sequence) => {
            let splitters = sequence.as_ref().iter().cloned().map(unprefixed);
            PreTokenizerWrapper::Sequence(PreTokenizers::new(splitters.collect()))
        }
        other => other,
    }
}

/// GPT-2's alphabet: the character that stands for each byte.
fn byte_alphabet() -> Vec<char> {
    let own = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = (0x100_u32..).filter_map(char::from_u32);
    (0..=u8::MAX).map(|byte| if own(byte) { char::from(byte) } else { others.next().unwrap_or(' ') }).collect()
}

fn byte_of(alphabet: &[char], character: char) -> Option<u8> {
    let byte = match u8::try_from(u32::from(character)) {
        Ok(byte) => usize::from(byte),
        Err(_) => alphabet.iter().position(|&other| other == character)?,
    };
    (alphabet.get(byte) == Some(&character)).then_some(byte as u8)
}

/// The byte of `<0x0A>`.
fn byte_token(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bytes() {
        let alphabet = byte_alphabet();
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of(&alphabet, alphabet[usize::from(byte)]), Some(byte));
        }
        assert_eq!((alphabet[usize::from(b' ')], byte_of(&alphabet, '漢'), byte_of(&alphabet, ' ')), ('Ġ', None, None));
        assert_eq!((byte_token("<0x0A>"), byte_token("<0xAB"), byte_token("<0xABC>")), (Some(10), None, None));
    }
}
