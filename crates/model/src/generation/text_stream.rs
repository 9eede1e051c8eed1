//! Tokens in, text out, as they come: never half a character, never a replacement character that a later token would
//! have turned into a letter, spaces as the whole text would have them. Decodes a few tokens at a time, so that the work
//! is linear in the output.

use std::sync::Arc;

use tokenizers::Tokenizer;

/// What stands for bytes that are no character, or not yet one.
const REPLACEMENT: char = '\u{FFFD}';

/// Tokens that may pass without completing a character: each brings a byte or more, and a character has at most four.
const PATIENCE: usize = 4;

/// Tokens of a prompt that settle how the output's first token is spaced.
const CONTEXT: usize = 6;

/// Tokens without text that are kept in mind, as they may bear on the next one's spacing.
const SILENT: usize = 64;

/// Why tokens could not be turned into text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer could not decode its own tokens: {0}")]
pub struct DecodeError(String);

/// What a [`TextStream`] needs of a tokenizer.
pub trait TextDecoder {
    /// The text of a few tokens, special ones included.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses.
    fn decode(&self, tokens: &[u32]) -> Result<String, DecodeError>;

    /// Whether a token is one of the special ones, which are usually no part of the text.
    fn is_special(&self, token: u32) -> bool;
}

impl TextDecoder for Tokenizer {
    fn decode(&self, tokens: &[u32]) -> Result<String, DecodeError> {
        (**self).decode(tokens, false).map_err(|error| DecodeError(error.to_string()))
    }

    fn is_special(&self, token: u32) -> bool {
        let added = self.get_added_vocabulary();
        added.simple_id_to_token(token).is_some_and(|content| added.is_special_token(&content))
    }
}

impl<D: TextDecoder + ?Sized> TextDecoder for &D {
    fn decode(&self, tokens: &[u32]) -> Result<String, DecodeError> {
        (**self).decode(tokens)
    }

    fn is_special(&self, token: u32) -> bool {
        (**self).is_special(token)
    }
}

impl<D: TextDecoder + ?Sized> TextDecoder for Arc<D> {
    fn decode(&self, tokens: &[u32]) -> Result<String, DecodeError> {
        (**self).decode(tokens)
    }

    fn is_special(&self, token: u32) -> bool {
        (**self).is_special(token)
    }
}

/// The text of one output, piece by piece.
#[derive(Clone, Debug)]
pub struct TextStream<D> {
    decoder: D,
    skip_special: bool,
    shown: Vec<u32>,
    /// The newest tokens: first those that only give context, then those whose text is not out yet.
    window: Vec<u32>,
    context: usize,
    /// The text of the window that is out already.
    given: String,
    waited: usize,
}

impl<D: TextDecoder> TextStream<D> {
    /// For a text that starts with the first token, as a chat's answer does: a space that the tokenizer puts before the
    /// first word is left out. Special tokens are skipped.
    pub fn new(decoder: D) -> TextStream<D> {
        TextStream {
            decoder,
            skip_special: true,
            shown: Vec::new(),
            window: Vec::new(),
            context: 0,
            given: String::new(),
            waited: 0,
        }
    }

    /// Whether special tokens are skipped. Default yes.
    pub fn skip_special(mut self, skip: bool) -> Self {
        self.skip_special = skip;
        self
    }

    /// Special tokens that are never skipped: those that mark tool calls.
    pub fn showing(mut self, tokens: &[u32]) -> Self {
        self.shown.extend_from_slice(tokens);
        self
    }

    /// For a text that goes on after `prompt`, as a completion does: the first token is spaced as it would be there.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses.
    pub fn after(mut self, prompt: &[u32]) -> Result<Self, DecodeError> {
        let start = prompt.len().saturating_sub(CONTEXT);
        let tail = prompt.get(start..).unwrap_or_default();
        self.window = tail.iter().copied().filter(|&token| !self.skips(token)).collect();
        self.settle()?;
        Ok(self)
    }

    fn skips(&self, token: u32) -> bool {
        self.skip_special && !self.shown.contains(&token) && self.decoder.is_special(token)
    }

    /// Takes the next token and gives the text that is certain now; often none.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses.
    pub fn push(&mut self, token: u32) -> Result<String, DecodeError> {
        if self.skips(token) {
            return Ok(String::new());
        }
        self.window.push(token);
        let mut text = self.decoder.decode(&self.window)?;
        let open = text.ends_with(REPLACEMENT);
        if !text.starts_with(&self.given) {
            if open && self.waited + 1 < PATIENCE {
                self.waited += 1;
                return Ok(String::new());
            }
            text = self.without_context()?;
        }
        let certain = text.trim_end_matches(REPLACEMENT).len().max(self.given.len());
        let mut piece = text.get(self.given.len()..certain).unwrap_or_default();
        if piece.is_empty() && open {
            self.waited += 1;
            if self.waited < PATIENCE {
                return Ok(String::new());
            }
            // Nothing that is here will become a character, but for the end of it.
            piece = text.get(self.given.len()..text.len() - REPLACEMENT.len_utf8()).unwrap_or_default();
        }
        let piece = piece.to_string();
        if piece.is_empty() && !open {
            if self.window.len() > SILENT {
                self.window.pop();
            }
            return Ok(piece);
        }
        self.window.drain(..self.context);
        self.settle()?;
        Ok(piece)
    }

    /// Gives what was held back, at the end of the output. Bytes that never became a character are replacement
    /// characters, as in the decoded whole.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses.
    pub fn finish(&mut self) -> Result<String, DecodeError> {
        let mut text = self.decoder.decode(&self.window)?;
        if !text.starts_with(&self.given) {
            text = self.without_context()?;
        }
        let rest = text.get(self.given.len()..).unwrap_or_default().to_string();
        self.given = text;
        Ok(rest)
    }

    /// The decoder reads earlier tokens otherwise now that others follow (a run of byte tokens that was cut short):
    /// they are out, so go on from the new tokens alone.
    fn without_context(&mut self) -> Result<String, DecodeError> {
        self.window.drain(..self.context);
        self.context = 0;
        self.given.clear();
        self.decoder.decode(&self.window)
    }

    /// Makes the window's tokens context, all that is certain of their text being out.
    fn settle(&mut self) -> Result<(), DecodeError> {
        self.waited = 0;
        self.given = self.decoder.decode(&self.window)?;
        self.context = self.window.len();
        if let Some(certain) = self.given.strip_suffix(REPLACEMENT) {
            // The last token begins a character that others will end.
            self.given.truncate(certain.len());
            self.context = self.context.saturating_sub(1);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokenizer(vocabulary: &[&str], decoder: serde_json::Value, special: &[&str]) -> Tokenizer {
        let vocab: serde_json::Map<String, serde_json::Value> =
            vocabulary.iter().enumerate().map(|(id, token)| (token.to_string(), json!(id))).collect();
        let added: Vec<serde_json::Value> = special
            .iter()
            .map(|token| {
                json!({"id": vocab[*token], "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true})
            })
            .collect();
        let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "vocab": vocab, "merges": []}});
        Tokenizer::from_bytes(serde_json::to_vec(&json).unwrap()).unwrap()
    }

    /// One token a byte, and some of several bytes that end in the middle of a character.
    fn byte_level() -> Tokenizer {
        let alphabet: Vec<String> = byte_alphabet().into_iter().map(String::from).collect();
        let joined = |bytes: &[u8]| bytes.iter().map(|&byte| alphabet[byte as usize].clone()).collect::<String>();
        let more = [joined(&[0x98, 0x80, 0xF0]), joined(&[0x9F, 0x98]), joined(&[0x80, 0xF0]), joined(b"he")];
        let mut vocabulary: Vec<&str> = alphabet.iter().map(String::as_str).collect();
        vocabulary.extend(more.iter().map(String::as_str));
        vocabulary.push("<|end|>");
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        tokenizer(&vocabulary, decoder, &["<|end|>"])
    }

    fn byte_alphabet() -> Vec<char> {
        let own = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut next = 0x100_u32..;
        (0..=255_u8)
            .map(|byte| if own(byte) { char::from(byte) } else { char::from_u32(next.next().unwrap()).unwrap() })
            .collect()
    }

    /// Llama 2's way: a mark for spaces, byte tokens for what is not in the vocabulary, one space off the front.
    fn byte_fallback() -> Tokenizer {
        let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut vocabulary: Vec<&str> = bytes.iter().map(String::as_str).collect();
        vocabulary.extend(["▁Hello", "▁world", "!", "▁", "é", "<s>", "</s>"]);
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        tokenizer(&vocabulary, decoder, &["<s>", "</s>"])
    }

    fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> (String, Vec<String>) {
        let mut stream = TextStream::new(tokenizer);
        let mut pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        (pieces.concat(), pieces)
    }

    #[test]
    fn characters_split_over_tokens_come_out_whole() {
        let tokenizer = byte_level();
        let text = "a 😀é漢字👩‍🚀 ok";
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        let (whole, pieces) = streamed(&tokenizer, &tokens);
        assert_eq!(whole, text);
        assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)));
        assert_eq!(&pieces[..6], ["a", " ", "", "", "", "😀"]);
        // 😀😀😀 as F0 9F | 98 80 F0 | 9F 98 | 80 F0 | 9F 98 | 80.
        let (whole, pieces) = streamed(&tokenizer, &[0xF0, 0x9F, 256, 257, 258, 257, 0x80]);
        assert_eq!(whole, "😀😀😀");
        assert_eq!(pieces, ["", "", "😀", "", "😀", "", "😀", ""]);
    }

    #[test]
    fn bytes_that_are_no_text_come_out_as_the_whole_is_decoded() {
        let tokenizer = byte_level();
        for tokens in [
            vec![0x80; 40],
            [vec![0x80; 11], vec![0xF0, 0x9F, 0x98, 0x80, 65]].concat(),
            vec![65, 0xF0, 0x9F, 66, 0xC3, 0xC3, 0xA9, 0xE2, 0x96],
            [vec![0xEF, 0xBF, 0xBD], vec![65]].concat(),
            vec![0xF0, 0x9F, 0x98],
        ] {
            let right = (*tokenizer).decode(&tokens, true).unwrap();
            let (whole, pieces) = streamed(&tokenizer, &tokens);
            assert_eq!(whole, right, "{tokens:x?}");
            let late = pieces.last().unwrap().chars().count();
            assert!(late <= PATIENCE, "{late} characters were held back to the end");
        }
    }

    #[test]
    fn spaces_are_those_of_the_whole_text() {
        let tokenizer = byte_fallback();
        let [hello, world, mark, space, accent, start, end] = [256, 257, 258, 259, 260, 261, 262];
        for tokens in [
            vec![hello, world, mark, end],
            vec![start, world, space, space, hello],
            vec![space, hello, 0xE2, 0x96, 0x81, accent, 0xF0, 0x9F, 0x98, 0x80, mark],
            vec![mark, end, world],
        ] {
            let right = (*tokenizer).decode(&tokens, true).unwrap();
            assert_eq!(streamed(&tokenizer, &tokens).0, right, "{tokens:?}");
        }
        let mut stream = TextStream::new(&tokenizer).after(&[start, hello]).unwrap();
        assert_eq!([stream.push(world).unwrap(), stream.push(mark).unwrap()], [" world", "!"]);
        let mut stream = TextStream::new(&tokenizer);
        assert_eq!([stream.push(world).unwrap(), stream.push(world).unwrap()], ["world", " world"]);
    }

    #[test]
    fn a_run_of_bytes_that_is_cut_short_takes_back_nothing() {
        let tokenizer = byte_fallback();
        let (whole, pieces) = streamed(&tokenizer, &[0xF0, 0x9F, 0x98, 0x80, 0xE2, 258, 256]);
        assert_eq!(whole, "😀\u{FFFD}! Hello");
        assert_eq!(pieces[3], "😀");
        let (whole, _) = streamed(&tokenizer, &[[258].as_slice(), &[0x80; 30]].concat());
        assert_eq!(whole.chars().count(), 31);
    }

    #[test]
    fn special_tokens_show_by_choice() {
        let tokenizer = byte_level();
        let end = 260;
        assert!(tokenizer.is_special(end) && !tokenizer.is_special(65));
        let shown = |stream: TextStream<&Tokenizer>| {
            let mut stream = stream;
            [65, end, 66].iter().map(|&token| stream.push(token).unwrap()).collect::<String>()
        };
        assert_eq!(shown(TextStream::new(&tokenizer)), "AB");
        assert_eq!(shown(TextStream::new(&tokenizer).skip_special(false)), "A<|end|>B");
        assert_eq!(shown(TextStream::new(&tokenizer).showing(&[end])), "A<|end|>B");
    }

    #[test]
    fn tokens_without_text_do_not_pile_up() {
        let tokenizer = byte_level();
        let mut stream = TextStream::new(&tokenizer);
        for _ in 0..1000 {
            assert_eq!(stream.push(70_000).unwrap(), "");
        }
        assert!(stream.window.len() <= SILENT + 1);
        assert_eq!(stream.push(65).unwrap(), "A");
    }
}
