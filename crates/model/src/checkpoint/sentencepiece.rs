//! SentencePiece's model files (`source.spm`): the pieces with their scores and how a text is normalised, out of the protocol
//! buffer `sentencepiece_model.proto`. Knows nothing of what becomes of them.

/// A model file, as far as a tokeniser needs it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct SentencePieceModel {
    /// Normal pieces and those that the model's author defined, with their scores.
    pub(super) pieces: Vec<(String, f32)>,
    /// Whether it is a unigram model; the other common kind is BPE.
    pub(super) is_unigram: bool,
    /// Rules of normalisation, compiled as the library wants them; may be empty.
    pub(super) precompiled_charsmap: Vec<u8>,
    /// Whether a space is put before every text.
    pub(super) adds_space: bool,
}

impl SentencePieceModel {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn read(bytes: &[u8]) -> Result<SentencePieceModel, String> {
        let mut model = SentencePieceModel { is_unigram: true, adds_space: true, ..SentencePieceModel::default() };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.extend(read_piece(piece)?),
                (2, Value::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        if let (3, Value::Number(kind)) = field? {
                            model.is_unigram = kind == 1;
                        }
                    }
                }
                (3, Value::Bytes(normaliser)) => {
                    for field in Fields(normaliser) {
                        match field? {
                            (2, Value::Bytes(charsmap)) => model.precompiled_charsmap = charsmap.to_vec(),
                            (3, Value::Number(flag)) => model.adds_space = flag != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        match model.pieces.is_empty() {
            true => Err("has no pieces".to_string()),
            false => Ok(model),
        }
    }
}

/// A piece that a text may be cut into, and its score.
fn read_piece(bytes: &[u8]) -> Result<Option<(String, f32)>, String> {
    const NORMAL: u64 = 1;
    const USER_DEFINED: u64 = 4;
    let (mut text, mut score, mut kind) = (String::new(), 0.0, NORMAL);
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(piece)) => {
                text = String::from_utf8(piece.to_vec()).map_err(|_| "has a piece that is not UTF-8".to_string())?;
            }
            (2, Value::Float(number)) => score = number,
            (3, Value::Number(number)) => kind = number,
            _ => {}
        }
    }
    if !score.is_finite() {
        return Err("has a score that is not a finite number".to_string());
    }
    Ok((matches!(kind, NORMAL | USER_DEFINED) && !text.is_empty()).then_some((text, score)))
}

/// The fields of a protocol buffer's message, one after another.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.take(1)? else { return None };
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "is not a SentencePiece model, or is cut short".to_string()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A model of two normal pieces and a control piece, unigram, with rules and no space before a text.
    fn bytes() -> Vec<u8> {
        let piece = |text: &str, score: f32, kind: u8| {
            let mut bytes = vec![0x0a, text.len() as u8];
            bytes.extend(text.bytes());
            bytes.push(0x15);
            bytes.extend(score.to_le_bytes());
            bytes.extend([0x18, kind]);
            [vec![0x0a, bytes.len() as u8], bytes].concat()
        };
        let trainer = vec![0x12, 2, 0x18, 1];
        let normaliser = vec![0x1a, 7, 0x12, 3, 7, 8, 9, 0x18, 0];
        [piece("</s>", 0.0, 3), piece("\u{2581}a", -1.5, 1), piece("b", -2.0, 4), trainer, normaliser].concat()
    }

    #[test]
    fn pieces_scores_and_rules_are_read() {
        let model = SentencePieceModel::read(&bytes()).unwrap();
        let pieces = vec![("\u{2581}a".to_string(), -1.5), ("b".to_string(), -2.0)];
        let precompiled_charsmap = vec![7, 8, 9];
        assert_eq!(model, SentencePieceModel { pieces, is_unigram: true, precompiled_charsmap, adds_space: false });
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_refused() {
        let whole = bytes();
        let last = SentencePieceModel::read(&whole).unwrap();
        for length in 0..whole.len() {
            assert!(SentencePieceModel::read(&whole[..length]).map_or(true, |model| model != last), "{length}");
        }
        for other in [&b"GGUF\x03\0\0\0"[..], b"{\"a\": 1}", &[0xff; 40]] {
            assert!(SentencePieceModel::read(other).is_err());
        }
    }
}
