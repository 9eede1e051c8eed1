//! The requests of a load: encoded once, framed as gRPC wants them, and sent again and again.

use std::collections::BTreeMap;

use prost::Message as _;
use prost::bytes::{BufMut as _, Bytes, BytesMut};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::inference::{ModelInferRequest, ModelMetadataResponse};
use tidemill_proto::tensor::{Datatype, element_count};

use crate::contents::Contents;
use crate::error::LoadError;

/// Most different requests, and most bytes of all of them; there is always one.
const MOST_REQUESTS: usize = 4096;
const MOST_RANDOM_REQUESTS: usize = 64;
const MOST_BYTES: usize = 64 << 20;
/// Most bytes of one request: what gRPC's four bytes of length can say.
const MOST_MESSAGE_BYTES: usize = u32::MAX as usize;

/// Requests to one model, encoded. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Requests {
    framed: std::sync::Arc<[Bytes]>,
}

impl Requests {
    /// Requests for a model by its metadata: raw contents, one tensor for each of its inputs.
    ///
    /// `shapes` has the shapes of inputs whose dimensions vary; a dimension that varies and is not given is 1. Random
    /// values are those of `seed`. There are as many different requests as it takes to use every text, 64 where values
    /// are random, and 64 MiB at most.
    ///
    /// # Errors
    /// A data type that is unknown, a shape that does not fit the model's, or one for an input that the model has not.
    pub fn for_model(
        metadata: &ModelMetadataResponse,
        shapes: &BTreeMap<String, Vec<i64>>,
        contents: &Contents,
        seed: u64,
    ) -> Result<Requests, LoadError> {
        let names: Vec<&str> = metadata.inputs.iter().map(|input| input.name.as_str()).collect();
        if let Some(unknown) = shapes.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(LoadError::input(unknown, format!("is not there; the model takes {}", names.join(", "))));
        }
        let mut inputs = Vec::new();
        for input in &metadata.inputs {
            let datatype: Datatype =
                input.datatype.parse().map_err(|error| LoadError::input(&input.name, format!("is odd: {error}")))?;
            let shape = shape(&input.name, &input.shape, shapes.get(&input.name))?;
            let count = element_count(&shape).map_err(|error| LoadError::input(&input.name, error.to_string()))?;
            if count.saturating_mul(datatype.size().unwrap_or(1)) > MOST_MESSAGE_BYTES {
                return Err(LoadError::input(&input.name, format!("would have {count} elements, more than a message")));
            }
            inputs.push((input.name.as_str(), datatype, shape, count));
        }
        let texts = inputs.iter().filter(|input| input.1 == Datatype::Bytes).map(|input| input.3).max();
        let wanted = match (contents, texts) {
            (Contents::Texts(texts), Some(count)) => texts.len().div_ceil(count.max(1)).min(MOST_REQUESTS),
            _ => MOST_RANDOM_REQUESTS,
        };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut framed, mut bytes) = (Vec::new(), 0);
        while framed.is_empty() || framed.len() < wanted && bytes < MOST_BYTES {
            let mut request = ModelInferRequest { model_name: metadata.name.clone(), ..ModelInferRequest::default() };
            for (name, datatype, shape, count) in &inputs {
                let turn = framed.len().saturating_mul(*count);
                let raw = contents.raw(*datatype, *count, turn, &mut random);
                let raw = raw.map_err(|error| LoadError::input(name, error.to_string()))?;
                request.raw_input_contents.push(raw);
                request.inputs.push(InferInputTensor {
                    name: (*name).to_owned(),
                    datatype: datatype.name().to_owned(),
                    shape: shape.clone(),
                    ..InferInputTensor::default()
                });
            }
            let message = frame(&request)?;
            bytes += message.len();
            framed.push(message);
        }
        Ok(Requests { framed: framed.into() })
    }

    /// These requests, in turn.
    ///
    /// # Errors
    /// None at all, or one that is too large for gRPC.
    pub fn of(requests: &[ModelInferRequest]) -> Result<Requests, LoadError> {
        if requests.is_empty() {
            return Err(LoadError::Setting { name: "requests", problem: "are none".to_owned() });
        }
        Ok(Requests { framed: requests.iter().map(frame).collect::<Result<_, _>>()? })
    }

    /// How many are different.
    pub fn different(&self) -> usize {
        self.framed.len()
    }

    /// Bytes of one, on average, without its frame.
    pub fn mean_bytes(&self) -> usize {
        self.framed.iter().map(|message| message.len() - FRAME).sum::<usize>() / self.framed.len().max(1)
    }

    /// Number `turn`, starting again after the last; not a copy.
    pub(crate) fn turn(&self, turn: u64) -> Bytes {
        let index = usize::try_from(turn % self.framed.len().max(1) as u64).unwrap_or(0);
        self.framed.get(index).cloned().unwrap_or_default()
    }
}

/// Bytes before a message: whether it is compressed, and its length.
pub(crate) const FRAME: usize = 5;

fn frame(request: &ModelInferRequest) -> Result<Bytes, LoadError> {
    let length = request.encoded_len();
    let Ok(prefix) = u32::try_from(length) else {
        let problem = format!("of {length} bytes is longer than gRPC can carry");
        return Err(LoadError::Setting { name: "a request", problem });
    };
    let mut framed = BytesMut::with_capacity(FRAME + length);
    framed.put_u8(0);
    framed.put_u32(prefix);
    request.encode_raw(&mut framed);
    Ok(framed.freeze())
}

fn shape(name: &str, declared: &[i64], given: Option<&Vec<i64>>) -> Result<Vec<i64>, LoadError> {
    let Some(given) = given else {
        return Ok(declared.iter().map(|dimension| if *dimension < 0 { 1 } else { *dimension }).collect());
    };
    let fits = given.len() == declared.len()
        && given.iter().zip(declared).all(|(given, declared)| *given >= 0 && (*declared < 0 || given == declared));
    if !fits {
        return Err(LoadError::input(
            name,
            format!("has the shape {declared:?}, where -1 varies; the shape {given:?} does not fit it"),
        ));
    }
    Ok(given.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tidemill_proto::tensor::{decode_bytes, tensor_metadata};

    fn metadata() -> ModelMetadataResponse {
        let inputs =
            vec![tensor_metadata("x", Datatype::Fp32, &[-1, 3]), tensor_metadata("text", Datatype::Bytes, &[-1])];
        ModelMetadataResponse { name: "m".into(), inputs, ..ModelMetadataResponse::default() }
    }

    fn decode(message: &Bytes) -> ModelInferRequest {
        assert_eq!(message[0], 0);
        assert_eq!(u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize, message.len() - FRAME);
        ModelInferRequest::decode(&message[FRAME..]).unwrap()
    }

    #[test]
    fn a_request_has_a_tensor_for_every_input() {
        let texts = Contents::Texts(["a", "b", "c"].map(str::to_owned).to_vec());
        let shapes = BTreeMap::from([("text".to_owned(), vec![2])]);
        let requests = Requests::for_model(&metadata(), &shapes, &texts, 1).unwrap();
        assert_eq!(requests.different(), 2, "three texts, two at a time");
        let request = decode(&requests.turn(1));
        assert_eq!((request.model_name.as_str(), request.inputs[0].shape.as_slice()), ("m", &[1, 3][..]));
        assert_eq!(request.raw_input_contents[0].len(), 12);
        assert_eq!(decode_bytes(&request.raw_input_contents[1], 2).unwrap(), [b"c", b"a"]);
        assert_eq!(requests.turn(3), requests.turn(1));
        let again = Requests::for_model(&metadata(), &shapes, &texts, 1).unwrap();
        assert_eq!(again.turn(0), requests.turn(0), "a seed gives the same bytes");
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let problem = |name: &str, shape: &[i64]| {
            let shapes = BTreeMap::from([(name.to_owned(), shape.to_vec())]);
            Requests::for_model(&metadata(), &shapes, &Contents::Random, 1).unwrap_err().to_string()
        };
        assert!(problem("x", &[2, 4]).contains("[-1, 3]"));
        assert!(problem("x", &[2]).contains("does not fit"));
        assert!(problem("y", &[2]).contains("x, text"));
        assert!(problem("x", &[i64::MAX, 3]).contains("\"x\""));
    }

    #[test]
    fn large_requests_are_few() {
        let shapes = BTreeMap::from([("x".to_owned(), vec![1 << 20, 3])]);
        let requests = Requests::for_model(&metadata(), &shapes, &Contents::Random, 1).unwrap();
        assert_eq!(requests.different(), 6, "64 MiB and no more than one beyond");
        assert!(requests.mean_bytes() > 12 << 20);
    }
}
