//! One output from its tokens to its text and its end: [`TextStream`] and [`StopScanner`] together with the tokens and
//! lengths at which a request ends. What is given out may be sent at once; none of it is ever taken back.

use super::sampling::SamplingConfig;
use super::stop::{FinishReason, StopScanner};
use super::text_stream::{DecodeError, TextDecoder, TextStream};

/// Text that is certain, and why the output ended if it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The text; often empty.
    pub text: String,
    /// Why this was the last piece.
    pub finish: Option<FinishReason>,
}

/// Turns the chosen tokens of one output into text until the output ends.
#[derive(Clone, Debug)]
pub struct Output<D> {
    text: TextStream<D>,
    stops: StopScanner,
    eos: Vec<u32>,
    stop_tokens: Vec<u32>,
    min_tokens: usize,
    max_tokens: usize,
    tokens: usize,
    finish: Option<FinishReason>,
}

impl<D: TextDecoder> Output<D> {
    /// For an output of at most `max_tokens` tokens, or as many as the configuration allows if that is less, from a
    /// model whose own end-of-sequence tokens are `eos`.
    pub fn new(text: TextStream<D>, config: &SamplingConfig, eos: &[u32], max_tokens: usize) -> Output<D> {
        Output {
            text,
            stops: StopScanner::new(&config.stop),
            eos: if config.ignore_eos { Vec::new() } else { eos.to_vec() },
            stop_tokens: config.stop_token_ids.clone(),
            min_tokens: config.min_tokens,
            max_tokens: config.max_tokens.map_or(max_tokens, |most| most.min(max_tokens)),
            tokens: 0,
            finish: None,
        }
    }

    /// How many tokens came, one that ended the output included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Why the output ended, once it has.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Takes the next token. One that ends the output is no part of its text. After the end nothing more is given.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses.
    pub fn push(&mut self, token: u32) -> Result<Piece, DecodeError> {
        if self.finish.is_some() {
            return Ok(Piece { text: String::new(), finish: self.finish });
        }
        self.tokens += 1;
        if self.eos.contains(&token) {
            return self.end(FinishReason::Stop);
        }
        if self.stop_tokens.contains(&token) {
            return self.end(FinishReason::StopToken(token));
        }
        let text = self.text.push(token)?;
        let mut piece = self.scan(&text);
        if piece.finish.is_none() && self.tokens >= self.max_tokens {
            let rest = self.end(FinishReason::Length)?;
            piece = Piece { text: piece.text + &rest.text, finish: rest.finish };
        }
        Ok(piece)
    }

    /// Ends the output for a reason that no token tells, such as [`FinishReason::Cancelled`], and gives what was held
    /// back.
    ///
    /// # Errors
    /// When the tokenizer's decoder refuses.
    pub fn end(&mut self, reason: FinishReason) -> Result<Piece, DecodeError> {
        if self.finish.is_some() {
            return Ok(Piece { text: String::new(), finish: self.finish });
        }
        let text = self.text.finish()?;
        let mut piece = self.scan(&text);
        if piece.finish.is_none() {
            piece = Piece { text: piece.text + &self.stops.finish(), finish: Some(reason) };
        }
        self.finish = piece.finish;
        Ok(piece)
    }

    fn scan(&mut self, text: &str) -> Piece {
        if self.tokens <= self.min_tokens {
            return Piece { text: self.stops.pass(text), finish: None };
        }
        let (text, found) = self.stops.push(text);
        self.finish = found.map(FinishReason::StopString);
        Piece { text, finish: self.finish }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// Tokens that are characters, each with the number of its code point.
    #[derive(Clone, Copy, Debug)]
    struct Characters;

    impl TextDecoder for Characters {
        fn decode(&self, tokens: &[u32]) -> Result<String, DecodeError> {
            Ok(tokens.iter().filter_map(|&token| char::from_u32(token)).collect())
        }

        fn is_special(&self, token: u32) -> bool {
            token == 0
        }
    }

    fn run(config: SamplingConfig, tokens: &str, most: usize) -> (String, Option<FinishReason>, usize) {
        let mut output = Output::new(TextStream::new(Characters), &config, &[u32::from('$')], most);
        let mut text = String::new();
        for token in tokens.chars() {
            let piece = output.push(u32::from(token)).unwrap();
            text.push_str(&piece.text);
            if piece.finish.is_some() {
                break;
            }
        }
        (text, output.finish_reason(), output.tokens())
    }

    #[test]
    fn an_output_ends_by_what_comes_first() {
        let config = || SamplingConfig { stop: vec!["END".to_string()], ..SamplingConfig::default() };
        let text = |text: &str, reason, tokens| (text.to_string(), Some(reason), tokens);
        assert_eq!(run(config(), "abcEND", 99), text("abc", FinishReason::StopString(0), 6));
        assert_eq!(run(config(), "abcEN$", 99), text("abcEN", FinishReason::Stop, 6));
        assert_eq!(run(config(), "abcENDx", 5), text("abcEN", FinishReason::Length, 5));
        assert_eq!(run(config(), "abcEND", 6), text("abc", FinishReason::StopString(0), 6));
        let stops = SamplingConfig { stop_token_ids: vec![u32::from('c')], ..config() };
        assert_eq!(run(stops, "abcd", 99), text("ab", FinishReason::StopToken(u32::from('c')), 3));
        let ignoring = SamplingConfig { ignore_eos: true, ..config() };
        assert_eq!(run(ignoring, "a$b$cd", 4), text("a$b$", FinishReason::Length, 4));
        assert_eq!(run(SamplingConfig { max_tokens: Some(2), ..config() }, "abc", 99).2, 2);
    }

    #[test]
    fn stop_strings_count_after_the_least_length() {
        let config = SamplingConfig { stop: vec!["b".to_string()], min_tokens: 3, ..SamplingConfig::default() };
        assert_eq!(run(config, "abcdb", 99), ("abcd".to_string(), Some(FinishReason::StopString(0)), 5));
    }

    #[test]
    fn a_cancelled_output_gives_what_was_held_back_once() {
        let config = SamplingConfig { stop: vec!["bcd".to_string()], ..SamplingConfig::default() };
        let mut output = Output::new(TextStream::new(Characters), &config, &[], 99);
        assert_eq!(output.push(u32::from('b')).unwrap().text, "");
        let piece = output.end(FinishReason::Cancelled).unwrap();
        assert_eq!(piece, Piece { text: "b".to_string(), finish: Some(FinishReason::Cancelled) });
        assert_eq!(output.push(u32::from('b')).unwrap().text, "");
        assert_eq!(output.end(FinishReason::Stop).unwrap().finish, Some(FinishReason::Cancelled));
    }
}
