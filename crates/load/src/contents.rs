//! What fills a tensor: random values of every data type of the protocol, or texts in turn.

use half::{bf16, f16};
use prost::bytes::Bytes;
use rand::distr::{Alphanumeric, SampleString as _};
use rand::{Rng as _, RngCore};
use tidemill_proto::tensor::{Datatype, TensorError, encode_bytes};

/// Bytes of a random text.
const TEXT_BYTES: usize = 16;
/// Integers are below this, so that they pass for the ids and indices that models mostly mean by them.
const INTEGERS: u8 = 100;

/// What fills BYTES tensors; numbers are random always.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Contents {
    /// Random values: floating-point numbers from 0 to 1, integers from 0 to 99, texts of 16 letters and digits.
    #[default]
    Random,
    /// These texts in turn, over all requests. At least one.
    Texts(Vec<String>),
}

impl Contents {
    /// The raw contents of `count` elements. `turn` is how many texts were used before.
    pub(crate) fn raw(
        &self,
        datatype: Datatype,
        count: usize,
        turn: usize,
        random: &mut impl RngCore,
    ) -> Result<Bytes, TensorError> {
        match (datatype, self) {
            (Datatype::Bytes, Contents::Texts(texts)) => {
                encode_bytes(texts.iter().cycle().skip(turn % texts.len().max(1)).take(count))
            }
            (Datatype::Bytes, Contents::Random) => {
                encode_bytes((0..count).map(|_| Alphanumeric.sample_string(random, TEXT_BYTES)))
            }
            _ => Ok(numbers(datatype, count, random).into()),
        }
    }
}

fn numbers(datatype: Datatype, count: usize, random: &mut impl RngCore) -> Vec<u8> {
    let mut raw = Vec::with_capacity(count.saturating_mul(datatype.size().unwrap_or(0)));
    for _ in 0..count {
        let integer = random.random_range(0..INTEGERS);
        let float: f64 = random.random();
        match datatype {
            Datatype::Bool => raw.push(integer & 1),
            Datatype::Uint8 | Datatype::Int8 => raw.push(integer),
            Datatype::Uint16 | Datatype::Int16 => raw.extend(u16::from(integer).to_le_bytes()),
            Datatype::Uint32 | Datatype::Int32 => raw.extend(u32::from(integer).to_le_bytes()),
            Datatype::Uint64 | Datatype::Int64 => raw.extend(u64::from(integer).to_le_bytes()),
            Datatype::Fp16 => raw.extend(f16::from_f64(float).to_le_bytes()),
            Datatype::Bf16 => raw.extend(bf16::from_f64(float).to_le_bytes()),
            Datatype::Fp32 => raw.extend((float as f32).to_le_bytes()),
            Datatype::Fp64 => raw.extend(float.to_le_bytes()),
            Datatype::Bytes => {}
        }
    }
    raw
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use tidemill_proto::tensor::decode_bytes;

    #[test]
    fn every_data_type_is_filled_to_its_size() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for datatype in Datatype::ALL {
            let raw = Contents::Random.raw(datatype, 5, 0, &mut random).unwrap();
            match datatype.size() {
                Some(size) => assert_eq!(raw.len(), 5 * size, "{datatype}"),
                None => assert_eq!(decode_bytes(&raw, 5).unwrap()[4].len(), TEXT_BYTES),
            }
        }
        let halves = Contents::Random.raw(Datatype::Bf16, 50, 0, &mut random).unwrap();
        let of = |pair: &[u8]| bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
        assert!(halves.chunks(2).all(|pair| (0.0..=1.0).contains(&of(pair))));
    }

    #[test]
    fn texts_take_turns_over_requests() {
        let texts = Contents::Texts(["a", "b", "c"].map(str::to_owned).to_vec());
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let raw = texts.raw(Datatype::Bytes, 2, 2, &mut random).unwrap();
        assert_eq!(decode_bytes(&raw, 2).unwrap(), [b"c", b"a"]);
    }
}
