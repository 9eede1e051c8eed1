//! Numbers as GGML's blocks, rounded as the reference rounds (`quantize_row_*_ref` in `ggml-quants.c`), so that files agree
//! with llama.cpp's own to the byte: the other direction of `blocks.rs` for the formats that are written.

use half::{bf16, f16};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::blocks::{Format, GgmlType};
use super::problem::Problem;

/// Numbers in a block of the formats that are written.
pub(super) const BLOCK: usize = 32;

/// What the numbers of a GGUF file's matrices are written as. Lists, routers and positions stay F32, as llama.cpp wants.
#[allow(non_camel_case_types, reason = "the names are the format's own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// 16 bits, with float32's range.
    BF16,
    /// 8 bits, a scale for every 32.
    Q8_0,
    /// 5 bits around nought, a scale for every 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for every 32.
    Q5_1,
    /// 4 bits around nought, a scale for every 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for every 32.
    Q4_1,
}

impl GgufType {
    pub(super) fn id(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q4_0 => 2,
            GgufType::Q4_1 => 3,
            GgufType::Q5_0 => 6,
            GgufType::Q5_1 => 7,
            GgufType::Q8_0 => 8,
            GgufType::BF16 => 30,
        }
    }

    /// `general.file_type`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q4_0 => 2,
            GgufType::Q4_1 => 3,
            GgufType::Q8_0 => 7,
            GgufType::Q5_0 => 8,
            GgufType::Q5_1 => 9,
            GgufType::BF16 => 32,
        }
    }

    /// Whether its numbers are integers in blocks.
    pub(super) fn is_quantised(self) -> bool {
        !matches!(self, GgufType::F32 | GgufType::F16 | GgufType::BF16)
    }
}

/// Whole rows as bytes.
///
/// # Errors
/// [`Problem`] when a number cannot be held: not finite, or beyond the type's range.
pub(super) fn encode(kind: &GgmlType, floats: &[f32]) -> Result<Vec<u8>, Problem> {
    let bytes = match kind.format {
        Format::F32 => Some(floats.iter().flat_map(|number| number.to_le_bytes()).collect()),
        Format::F16 => floats
            .iter()
            .all(|number| f16::from_f32(*number).is_finite() || !number.is_finite())
            .then(|| floats.iter().flat_map(|number| f16::from_f32(*number).to_le_bytes()).collect()),
        Format::BF16 => Some(floats.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes()).collect()),
        Format::Q4_0 => blocks::<18>(floats, q4_0),
        Format::Q4_1 => blocks::<20>(floats, q4_1),
        Format::Q5_0 => blocks::<22>(floats, q5_0),
        Format::Q5_1 => blocks::<24>(floats, q5_1),
        Format::Q8_0 => blocks::<34>(floats, q8_0),
        _ => return Err(Problem::new(format!("cannot be written as {}", kind.name))),
    };
    bytes.ok_or_else(|| {
        Problem::new(format!("holds numbers that are not finite or too large for {}; choose F32 or BF16", kind.name))
    })
}

/// A block's bytes; nothing where its scale or minimum is beyond float16.
type Encode<const BYTES: usize> = fn(&[f32; BLOCK]) -> Option<[u8; BYTES]>;

fn blocks<const BYTES: usize>(floats: &[f32], encode: Encode<BYTES>) -> Option<Vec<u8>> {
    const PIECE: usize = 256;
    let blocks = floats.as_chunks::<BLOCK>().0;
    let mut bytes = vec![0; blocks.len() * BYTES];
    let pieces = bytes.par_chunks_mut(PIECE * BYTES).zip(blocks.par_chunks(PIECE));
    let whole = pieces.map(|(bytes, blocks)| {
        bytes.as_chunks_mut::<BYTES>().0.iter_mut().zip(blocks).all(|(bytes, block)| match encode(block) {
            Some(encoded) => {
                *bytes = encoded;
                true
            }
            None => false,
        })
    });
    whole.reduce(|| true, |one, other| one && other).then_some(bytes)
}

fn half(number: f32) -> Option<[u8; 2]> {
    let half = f16::from_f32(number);
    half.is_finite().then(|| half.to_le_bytes())
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The number that lies furthest from nought, the first of several, with its sign.
fn furthest(block: &[f32; BLOCK]) -> f32 {
    block
        .iter()
        .fold(0.0, |most: f32, number| if number.abs() > most.abs() || number.is_nan() { *number } else { most })
}

fn least_and_most(block: &[f32; BLOCK]) -> (f32, f32) {
    let nan = block.iter().any(|number| number.is_nan());
    let least = block.iter().copied().fold(f32::INFINITY, f32::min);
    let most = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if nan { (f32::NAN, f32::NAN) } else { (least, most) }
}

/// `number * inverse + offset` without its fraction: one rounding, as the reference is compiled where there is a fused
/// multiply-add, and as `gguf` computes it everywhere.
fn around(number: f32, inverse: f32, offset: f64, most: u8) -> u8 {
    ((f64::from(number) * f64::from(inverse) + offset) as f32 as u8).min(most)
}

fn above(number: f32, least: f32, inverse: f32, most: u8) -> u8 {
    (((number - least) * inverse + 0.5) as u8).min(most)
}

/// First halves in the lower four bits, second halves in the upper, then the fifth bits, one a value, lowest first.
fn nibbles(values: &[u8; BLOCK]) -> ([u8; 16], [u8; 4]) {
    let (low, high) = values.split_at(16);
    let mut packed = [0; 16];
    for ((packed, low), high) in packed.iter_mut().zip(low).zip(high) {
        *packed = low & 15 | (high & 15) << 4;
    }
    let fifth = values.iter().enumerate().fold(0_u32, |bits, (at, value)| bits | u32::from(value >> 4 & 1) << at);
    (packed, fifth.to_le_bytes())
}

/// Parts one after another.
fn joined<const BYTES: usize>(parts: &[&[u8]]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (byte, part) in bytes.iter_mut().zip(parts.iter().copied().flatten()) {
        *byte = *part;
    }
    bytes
}

fn q4_0(block: &[f32; BLOCK]) -> Option<[u8; 18]> {
    let scale = furthest(block) / -8.0;
    let (packed, _) = nibbles(&block.map(|number| around(number, inverse(scale), 8.5, 15)));
    Some(joined(&[&half(scale)?, &packed]))
}

fn q5_0(block: &[f32; BLOCK]) -> Option<[u8; 22]> {
    let scale = furthest(block) / -16.0;
    let (packed, fifth) = nibbles(&block.map(|number| around(number, inverse(scale), 16.5, 31)));
    Some(joined(&[&half(scale)?, &fifth, &packed]))
}

fn q4_1(block: &[f32; BLOCK]) -> Option<[u8; 20]> {
    let (least, most) = least_and_most(block);
    let scale = (most - least) / 15.0;
    let (packed, _) = nibbles(&block.map(|number| above(number, least, inverse(scale), 15)));
    Some(joined(&[&half(scale)?, &half(least)?, &packed]))
}

fn q5_1(block: &[f32; BLOCK]) -> Option<[u8; 24]> {
    let (least, most) = least_and_most(block);
    let scale = (most - least) / 31.0;
    let (packed, fifth) = nibbles(&block.map(|number| above(number, least, inverse(scale), 31)));
    Some(joined(&[&half(scale)?, &half(least)?, &fifth, &packed]))
}

fn q8_0(block: &[f32; BLOCK]) -> Option<[u8; 34]> {
    let scale = furthest(block).abs() / 127.0;
    let inverse = inverse(scale);
    // Away from nought at halves, as `roundf`.
    let values = block.map(|number| (number * inverse).round() as i8 as u8);
    Some(joined(&[&half(scale)?, &values]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use tch::{Device, Tensor};

    use super::*;
    use crate::weights::Weights;

    #[test]
    fn bytes_are_those_of_llama_cpp() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/rounded.safetensors");
        let expected = Weights::open(&file).unwrap();
        let flat = |name: &str| -> Tensor { expected.tensor(name, Device::Cpu).unwrap().contiguous().view(-1) };
        let floats = Vec::<f32>::try_from(flat("floats")).unwrap();
        let kinds = [
            (GgufType::F16, "F16"),
            (GgufType::BF16, "BF16"),
            (GgufType::Q8_0, "Q8_0"),
            (GgufType::Q5_0, "Q5_0"),
            (GgufType::Q5_1, "Q5_1"),
            (GgufType::Q4_0, "Q4_0"),
            (GgufType::Q4_1, "Q4_1"),
        ];
        for (kind, name) in kinds {
            let encoded = encode(GgmlType::from_id(kind.id()).unwrap(), &floats).unwrap();
            let bytes = Vec::<u8>::try_from(flat(name)).unwrap();
            let differs = encoded.iter().zip(&bytes).position(|(one, other)| one != other);
            assert_eq!((encoded.len(), differs), (bytes.len(), None), "{name}");
        }
    }

    #[test]
    fn numbers_that_a_type_cannot_hold_are_refused() {
        for (kind, number) in [
            (GgufType::F16, 70_000.0),
            (GgufType::Q8_0, f32::NAN),
            (GgufType::Q4_0, f32::INFINITY),
            (GgufType::Q4_1, f32::NAN),
            (GgufType::Q5_1, 1e30),
        ] {
            let mut floats = [1.0; BLOCK];
            floats[7] = number;
            assert!(encode(GgmlType::from_id(kind.id()).unwrap(), &floats).is_err(), "{kind:?}");
        }
    }
}
