//! The contents of tensors of every datatype, raw and typed: taken out of a request, checked against their shapes, and
//! put into an answer. Raw contents are slices of the message that came: nothing is copied here.

use tidemill_model::opaque::{MAX_DIMENSIONS, MAX_TENSORS};
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::inference::model_infer_response::InferOutputTensor;
use tidemill_proto::inference::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use tidemill_proto::tensor::{Datatype, decode_bytes, element_count, encode_bytes, filled_lists};
use tonic::codegen::Bytes;

use super::tensors::check_parameters;
use crate::refusal::Refusal;

/// A tensor of a request, checked, or of an answer.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) datatype: Datatype,
    pub(super) shape: Vec<i64>,
    pub(super) contents: Contents,
}

/// The elements, in one of the two forms that they travel in.
#[derive(Debug)]
pub(super) enum Contents {
    Raw(Bytes),
    Typed(InferTensorContents),
}

/// Takes the tensors out of a request, checked: how many they are, their dimensions, and contents against shapes.
pub(super) fn take(request: &mut ModelInferRequest) -> Result<Vec<Tensor>, Refusal> {
    let count = request.inputs.len();
    if count > MAX_TENSORS {
        return Err(Refusal::invalid("inputs", format!("has {count} tensors; a request may have {MAX_TENSORS}")));
    }
    let is_raw = is_raw(request);
    if is_raw && request.raw_input_contents.len() != count {
        let problem =
            format!("has {} elements for {count} tensors; send one for each", request.raw_input_contents.len());
        return Err(Refusal::invalid("raw_input_contents", problem));
    }
    let mut raw = std::mem::take(&mut request.raw_input_contents).into_iter();
    let inputs = std::mem::take(&mut request.inputs).into_iter().enumerate();
    inputs.map(|(index, input)| tensor(index, input, raw.next())).collect()
}

/// Whether the request's contents are raw, and so the answer's.
pub(super) fn is_raw(request: &ModelInferRequest) -> bool {
    !request.raw_input_contents.is_empty()
}

/// Puts tensors into an answer, as raw or as typed contents: raw also where a datatype has no typed form.
pub(super) fn put(response: &mut ModelInferResponse, tensors: Vec<Tensor>, is_raw: bool) -> Result<(), Refusal> {
    let is_raw = is_raw || tensors.iter().any(|tensor| list(tensor.datatype).is_none());
    for Tensor { name, datatype, shape, contents } in tensors {
        let mut output = InferOutputTensor { datatype: datatype.name().to_owned(), shape, ..Default::default() };
        match (contents, is_raw) {
            (Contents::Typed(contents), false) => output.contents = Some(contents),
            (Contents::Raw(raw), false) => output.contents = Some(typed(datatype, &raw)),
            (contents, true) => {
                let raw = contents.into_raw(datatype).map_err(|problem| Refusal::invalid(name.as_str(), problem))?;
                response.raw_output_contents.push(raw);
            }
        }
        output.name = name;
        response.outputs.push(output);
    }
    Ok(())
}

impl Contents {
    /// The elements little-endian, one after the other; those of BYTES each behind its length.
    pub(super) fn into_raw(self, datatype: Datatype) -> Result<Bytes, String> {
        match self {
            Contents::Raw(raw) => Ok(raw),
            Contents::Typed(contents) => raw(datatype, &contents),
        }
    }
}

// Checked in the order of its fields. What is wrong is said with the tensor's name.
fn tensor(index: usize, input: InferInputTensor, raw: Option<Bytes>) -> Result<Tensor, Refusal> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    let shown: String = name.chars().take(80).collect();
    let wrong = |part: &str, problem: String| {
        Refusal::invalid(format!("inputs[{index}].{part}"), format!("of the tensor {shown:?}: {problem}"))
    };
    let datatype: Datatype = datatype.parse().map_err(|error| wrong("datatype", format!("{error}")))?;
    check_parameters(parameters.keys(), || format!("inputs[{index}].parameters"))?;
    if shape.len() > MAX_DIMENSIONS {
        let problem = format!("there are {} dimensions; a tensor may have {MAX_DIMENSIONS}", shape.len());
        return Err(wrong("shape", problem));
    }
    let count = element_count(&shape).map_err(|error| wrong("shape", error.to_string()))?;
    let contents = match (raw, contents) {
        (Some(_), Some(_)) => {
            return Err(wrong("contents", "is set, and raw_input_contents too; send one of them".to_owned()));
        }
        (Some(raw), None) => {
            check_raw(datatype, count, &raw).map_err(|problem| {
                let field = format!("raw_input_contents[{index}]");
                Refusal::invalid(field, format!("of the tensor {shown:?}: {problem}"))
            })?;
            Contents::Raw(raw)
        }
        (None, contents) => {
            let contents = contents.unwrap_or_default();
            check_typed(datatype, count, &contents).map_err(|problem| wrong("contents", problem))?;
            Contents::Typed(contents)
        }
    };
    Ok(Tensor { name, datatype, shape, contents })
}

fn check_raw(datatype: Datatype, count: usize, raw: &[u8]) -> Result<(), String> {
    let Some(size) = datatype.size() else {
        return decode_bytes(raw, count).map(drop).map_err(|error| error.to_string());
    };
    let found = raw.len();
    match count.checked_mul(size) {
        Some(bytes) if bytes == found => Ok(()),
        Some(bytes) => Err(format!("{count} elements of {datatype} take {bytes} bytes, and there are {found}")),
        None => Err(format!("{count} elements of {datatype} take more bytes than can be counted")),
    }
}

fn check_typed(datatype: Datatype, count: usize, contents: &InferTensorContents) -> Result<(), String> {
    let Some((list, found)) = list(datatype).map(|list| (list, length(datatype, contents))) else {
        return Err(format!("{datatype} has no typed contents; send raw_input_contents"));
    };
    let lists = filled_lists(contents);
    if lists.iter().any(|filled| *filled != list) {
        return Err(format!("it has {}; a tensor of {datatype} has {list} alone", lists.join(", ")));
    }
    if found != count {
        return Err(format!("the shape has {count} elements and {list} has {found}"));
    }
    let ints = |fits: fn(i32) -> bool| contents.int_contents.iter().all(|value| fits(*value));
    let uints = |fits: fn(u32) -> bool| contents.uint_contents.iter().all(|value| fits(*value));
    let fits = match datatype {
        Datatype::Int8 => ints(|value| i8::try_from(value).is_ok()),
        Datatype::Int16 => ints(|value| i16::try_from(value).is_ok()),
        Datatype::Uint8 => uints(|value| u8::try_from(value).is_ok()),
        Datatype::Uint16 => uints(|value| u16::try_from(value).is_ok()),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("{list} has a number that {datatype} has no room for")) }
}

// The list that a datatype's typed contents are in; FP16 and BF16 have none.
fn list(datatype: Datatype) -> Option<&'static str> {
    match datatype {
        Datatype::Bool => Some("bool_contents"),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some("int_contents"),
        Datatype::Int64 => Some("int64_contents"),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some("uint_contents"),
        Datatype::Uint64 => Some("uint64_contents"),
        Datatype::Fp32 => Some("fp32_contents"),
        Datatype::Fp64 => Some("fp64_contents"),
        Datatype::Bytes => Some("bytes_contents"),
        Datatype::Fp16 | Datatype::Bf16 => None,
    }
}

fn length(datatype: Datatype, contents: &InferTensorContents) -> usize {
    match datatype {
        Datatype::Bool => contents.bool_contents.len(),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => contents.int_contents.len(),
        Datatype::Int64 => contents.int64_contents.len(),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => contents.uint_contents.len(),
        Datatype::Uint64 => contents.uint64_contents.len(),
        Datatype::Fp32 => contents.fp32_contents.len(),
        Datatype::Fp64 => contents.fp64_contents.len(),
        Datatype::Bytes => contents.bytes_contents.len(),
        Datatype::Fp16 | Datatype::Bf16 => 0,
    }
}

// Typed contents that were checked, as raw ones: numbers fit their datatype.
fn raw(datatype: Datatype, contents: &InferTensorContents) -> Result<Bytes, String> {
    fn bytes<T: Copy, const N: usize>(values: &[T], one: impl Fn(T) -> [u8; N]) -> Bytes {
        values.iter().flat_map(|value| one(*value)).collect::<Vec<u8>>().into()
    }
    let (ints, uints) = (&contents.int_contents, &contents.uint_contents);
    Ok(match datatype {
        Datatype::Bool => bytes(&contents.bool_contents, |value| [u8::from(value)]),
        Datatype::Int8 => bytes(ints, |value| (value as i8).to_le_bytes()),
        Datatype::Int16 => bytes(ints, |value| (value as i16).to_le_bytes()),
        Datatype::Int32 => bytes(ints, i32::to_le_bytes),
        Datatype::Int64 => bytes(&contents.int64_contents, i64::to_le_bytes),
        Datatype::Uint8 => bytes(uints, |value| (value as u8).to_le_bytes()),
        Datatype::Uint16 => bytes(uints, |value| (value as u16).to_le_bytes()),
        Datatype::Uint32 => bytes(uints, u32::to_le_bytes),
        Datatype::Uint64 => bytes(&contents.uint64_contents, u64::to_le_bytes),
        Datatype::Fp32 => bytes(&contents.fp32_contents, f32::to_le_bytes),
        Datatype::Fp64 => bytes(&contents.fp64_contents, f64::to_le_bytes),
        Datatype::Bytes => encode_bytes(&contents.bytes_contents).map_err(|error| error.to_string())?,
        Datatype::Fp16 | Datatype::Bf16 => Bytes::new(),
    })
}

// Raw contents of a whole number of elements as typed ones.
fn typed(datatype: Datatype, raw: &Bytes) -> InferTensorContents {
    fn values<T, const N: usize>(raw: &[u8], one: impl Fn([u8; N]) -> T) -> Vec<T> {
        raw.as_chunks::<N>().0.iter().map(|bytes| one(*bytes)).collect()
    }
    let mut contents = InferTensorContents::default();
    match datatype {
        Datatype::Bool => contents.bool_contents = values(raw, |[byte]| byte != 0),
        Datatype::Int8 => contents.int_contents = values(raw, |bytes| i32::from(i8::from_le_bytes(bytes))),
        Datatype::Int16 => contents.int_contents = values(raw, |bytes| i32::from(i16::from_le_bytes(bytes))),
        Datatype::Int32 => contents.int_contents = values(raw, i32::from_le_bytes),
        Datatype::Int64 => contents.int64_contents = values(raw, i64::from_le_bytes),
        Datatype::Uint8 => contents.uint_contents = values(raw, |bytes| u32::from(u8::from_le_bytes(bytes))),
        Datatype::Uint16 => contents.uint_contents = values(raw, |bytes| u32::from(u16::from_le_bytes(bytes))),
        Datatype::Uint32 => contents.uint_contents = values(raw, u32::from_le_bytes),
        Datatype::Uint64 => contents.uint64_contents = values(raw, u64::from_le_bytes),
        Datatype::Fp32 => contents.fp32_contents = values(raw, f32::from_le_bytes),
        Datatype::Fp64 => contents.fp64_contents = values(raw, f64::from_le_bytes),
        // No model gives BYTES raw; FP16 and BF16 have no typed form.
        Datatype::Bytes | Datatype::Fp16 | Datatype::Bf16 => {}
    }
    contents
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn typed_and_raw_contents_are_two_forms_of_one_tensor() {
        let contents = InferTensorContents { int_contents: vec![-128, 0, 127], ..Default::default() };
        for datatype in [Datatype::Int8, Datatype::Int16, Datatype::Int32] {
            check_typed(datatype, 3, &contents).unwrap();
            let raw = raw(datatype, &contents).unwrap();
            check_raw(datatype, 3, &raw).unwrap();
            assert_eq!(typed(datatype, &raw), contents);
        }
        let contents = InferTensorContents { uint_contents: vec![0, 200], ..Default::default() };
        for datatype in [Datatype::Uint8, Datatype::Uint16, Datatype::Uint32] {
            check_typed(datatype, 2, &contents).unwrap();
            assert_eq!(typed(datatype, &raw(datatype, &contents).unwrap()), contents);
        }
    }

    #[test]
    fn contents_that_do_not_fit_are_refused() {
        let contents = InferTensorContents { int_contents: vec![128], ..Default::default() };
        assert!(check_typed(Datatype::Int8, 1, &contents).unwrap_err().contains("no room"));
        assert!(check_typed(Datatype::Int16, 2, &contents).unwrap_err().contains("2 elements"));
        assert!(check_typed(Datatype::Fp32, 1, &contents).unwrap_err().contains("fp32_contents alone"));
        assert!(check_typed(Datatype::Bf16, 1, &contents).unwrap_err().contains("raw_input_contents"));
        assert!(check_raw(Datatype::Fp64, usize::MAX, &[]).unwrap_err().contains("counted"));
        assert!(check_raw(Datatype::Fp16, 2, &[0; 3]).unwrap_err().contains("4 bytes"));
        assert!(check_raw(Datatype::Fp16, 0, &[]).is_ok());
    }
}
