//! Tensors of the Open Inference Protocol: datatype names, shapes, and the length-prefixed form of BYTES.
//!
//! Everything here may come from a stranger: lengths are checked before anything is allocated, and no arithmetic can
//! overflow. Source: the protocol's "Tensor Data" pages, <https://kserve.github.io/open-inference-protocol/>.

use std::fmt;
use std::str::FromStr;

use prost::bytes::{BufMut as _, Bytes, BytesMut};

use crate::inference::{InferTensorContents, ModelMetadataResponse, model_metadata_response};

/// Bytes that precede each element of a raw BYTES tensor: its length, little-endian.
const PREFIX: usize = 4;

/// Why a tensor cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Not a datatype of the protocol.
    #[error("the datatype {0:?} is not one of {list}", list = Datatype::list())]
    UnknownDatatype(String),
    /// A dimension below zero.
    #[error("the shape {0:?} has a dimension below zero")]
    NegativeDimension(Vec<i64>),
    /// More elements than can be counted.
    #[error("the shape {0:?} has too many elements")]
    TooManyElements(Vec<i64>),
    /// The contents end inside an element.
    #[error("the contents end inside element {element}: {needed} bytes wanted, {left} left")]
    Truncated {
        /// Its index, from 0.
        element: usize,
        /// Bytes that the element, or its length, takes.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Fewer or more elements than the shape has.
    #[error("the shape has {expected} elements and the contents have {found}")]
    ElementCount {
        /// By the shape.
        expected: usize,
        /// In the contents.
        found: usize,
    },
    /// Bytes after the last element.
    #[error("the contents go on for {0} bytes after the last element")]
    TrailingBytes(usize),
    /// An element longer than its four-byte length can say.
    #[error("element {0} is longer than 4 GiB")]
    ElementTooLong(usize),
}

/// A datatype of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 1 byte.
    Uint8,
    /// Unsigned, 2 bytes.
    Uint16,
    /// Unsigned, 4 bytes.
    Uint32,
    /// Unsigned, 8 bytes.
    Uint64,
    /// Signed, 1 byte.
    Int8,
    /// Signed, 2 bytes.
    Int16,
    /// Signed, 4 bytes.
    Int32,
    /// Signed, 8 bytes.
    Int64,
    /// IEEE 754 binary16.
    Fp16,
    /// IEEE 754 binary32.
    Fp32,
    /// IEEE 754 binary64.
    Fp64,
    /// The upper half of a binary32.
    Bf16,
    /// Byte strings of any length.
    Bytes,
}

impl Datatype {
    /// Every datatype, in the protocol's order.
    pub const ALL: [Datatype; 14] = [
        Datatype::Bool,
        Datatype::Uint8,
        Datatype::Uint16,
        Datatype::Uint32,
        Datatype::Uint64,
        Datatype::Int8,
        Datatype::Int16,
        Datatype::Int32,
        Datatype::Int64,
        Datatype::Fp16,
        Datatype::Fp32,
        Datatype::Fp64,
        Datatype::Bf16,
        Datatype::Bytes,
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Datatype::Bool => "BOOL",
            Datatype::Uint8 => "UINT8",
            Datatype::Uint16 => "UINT16",
            Datatype::Uint32 => "UINT32",
            Datatype::Uint64 => "UINT64",
            Datatype::Int8 => "INT8",
            Datatype::Int16 => "INT16",
            Datatype::Int32 => "INT32",
            Datatype::Int64 => "INT64",
            Datatype::Fp16 => "FP16",
            Datatype::Fp32 => "FP32",
            Datatype::Fp64 => "FP64",
            Datatype::Bf16 => "BF16",
            Datatype::Bytes => "BYTES",
        }
    }

    /// Bytes an element; `None` for BYTES, whose elements differ.
    pub fn size(self) -> Option<usize> {
        match self {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => Some(1),
            Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => Some(2),
            Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => Some(4),
            Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => Some(8),
            Datatype::Bytes => None,
        }
    }

    fn list() -> String {
        Datatype::ALL.map(Datatype::name).join(", ")
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Datatype {
    type Err = TensorError;

    fn from_str(name: &str) -> Result<Datatype, TensorError> {
        Datatype::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
            .ok_or_else(|| TensorError::UnknownDatatype(shortened(name)))
    }
}

/// How many elements a tensor of this shape has; 1 for a scalar, whose shape is empty.
///
/// # Errors
/// A dimension below zero, or a product that does not fit a `usize`.
pub fn element_count(shape: &[i64]) -> Result<usize, TensorError> {
    let too_many = || TensorError::TooManyElements(shape.iter().copied().take(8).collect());
    let mut count = 1usize;
    for &dimension in shape {
        if dimension < 0 {
            return Err(TensorError::NegativeDimension(shape.iter().copied().take(8).collect()));
        }
        let dimension = usize::try_from(dimension).map_err(|_| too_many())?;
        count = count.checked_mul(dimension).ok_or_else(too_many)?;
    }
    Ok(count)
}

/// Writes a raw BYTES tensor: each element preceded by its length, four bytes, little-endian.
///
/// # Errors
/// An element of 4 GiB or more.
pub fn encode_bytes<T: AsRef<[u8]>>(elements: impl IntoIterator<Item = T>) -> Result<Bytes, TensorError> {
    let mut raw = BytesMut::new();
    for (index, element) in elements.into_iter().enumerate() {
        let element = element.as_ref();
        let length = u32::try_from(element.len()).map_err(|_| TensorError::ElementTooLong(index))?;
        raw.reserve(PREFIX.saturating_add(element.len()));
        raw.put_u32_le(length);
        raw.put_slice(element);
    }
    Ok(raw.freeze())
}

/// Reads a raw BYTES tensor of `count` elements. The elements are slices of `raw`: nothing is copied.
///
/// # Errors
/// An element cut off, elements missing, or bytes left over.
pub fn decode_bytes(raw: &[u8], count: usize) -> Result<Vec<&[u8]>, TensorError> {
    // Every element takes its prefix at least, so a lying shape allocates nothing.
    let found_at_most = raw.len() / PREFIX;
    if count > found_at_most {
        return Err(TensorError::ElementCount { expected: count, found: found_at_most });
    }
    let mut elements = Vec::with_capacity(count);
    let mut rest = raw;
    for element in 0..count {
        let truncated = |needed: usize, left: &[u8]| TensorError::Truncated { element, needed, left: left.len() };
        let (prefix, after) = rest.split_first_chunk::<PREFIX>().ok_or_else(|| truncated(PREFIX, rest))?;
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        let (bytes, after) = after.split_at_checked(length).ok_or_else(|| truncated(length, after))?;
        elements.push(bytes);
        rest = after;
    }
    if rest.is_empty() { Ok(elements) } else { Err(TensorError::TrailingBytes(rest.len())) }
}

/// Writes an FP32 tensor's raw contents: four bytes each, little-endian. `count` says how many to make room for.
pub fn encode_fp32(values: impl IntoIterator<Item = f32>, count: usize) -> Bytes {
    let mut raw = BytesMut::with_capacity(count.saturating_mul(4));
    for value in values {
        raw.put_f32_le(value);
    }
    raw.freeze()
}

/// Reads an FP32 tensor's raw contents.
///
/// # Errors
/// Anything but `count` elements of four bytes.
pub fn decode_fp32(raw: &[u8], count: usize) -> Result<Vec<f32>, TensorError> {
    let (values, rest) = raw.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(TensorError::Truncated { element: values.len(), needed: 4, left: rest.len() });
    }
    if values.len() != count {
        return Err(TensorError::ElementCount { expected: count, found: values.len() });
    }
    Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Typed contents that hold these byte strings.
pub fn bytes_contents(elements: Vec<Bytes>) -> InferTensorContents {
    InferTensorContents { bytes_contents: elements, ..InferTensorContents::default() }
}

/// Typed contents that hold these FP32 values.
pub fn fp32_contents(values: Vec<f32>) -> InferTensorContents {
    InferTensorContents { fp32_contents: values, ..InferTensorContents::default() }
}

/// The names of the lists of `contents` that hold anything, in field order; a tensor uses the one of its datatype.
pub fn filled_lists(contents: &InferTensorContents) -> Vec<&'static str> {
    let lists = [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ];
    lists.into_iter().filter(|(_, length)| *length > 0).map(|(name, _)| name).collect()
}

/// One row of a model's metadata. A dimension of -1 varies.
pub fn tensor_metadata(name: &str, datatype: Datatype, shape: &[i64]) -> model_metadata_response::TensorMetadata {
    model_metadata_response::TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.name().to_owned(),
        shape: shape.to_vec(),
    }
}

/// The input or output of this name in a model's metadata.
pub fn find_tensor<'a>(
    metadata: &'a ModelMetadataResponse,
    name: &str,
) -> Option<&'a model_metadata_response::TensorMetadata> {
    metadata.inputs.iter().chain(&metadata.outputs).find(|tensor| tensor.name == name)
}

// A stranger's name in an error: never the whole of a megabyte.
fn shortened(name: &str) -> String {
    name.chars().take(32).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shapes_are_counted_and_refused() {
        assert_eq!(element_count(&[]), Ok(1));
        assert_eq!(element_count(&[3, 0, 7]), Ok(0));
        assert_eq!(element_count(&[2, 5]), Ok(10));
        assert_eq!(element_count(&[2, -1]), Err(TensorError::NegativeDimension(vec![2, -1])));
        assert!(matches!(element_count(&[i64::MAX, 4]), Err(TensorError::TooManyElements(_))));
    }

    #[test]
    fn a_cut_off_tensor_says_where() {
        let raw = encode_bytes(["ab", "cdef"]).unwrap();
        assert_eq!(
            decode_bytes(&raw[..raw.len() - 1], 2),
            Err(TensorError::Truncated { element: 1, needed: 4, left: 3 })
        );
        assert_eq!(decode_bytes(&raw, 1), Err(TensorError::TrailingBytes(8)));
        assert_eq!(decode_bytes(&raw, usize::MAX), Err(TensorError::ElementCount { expected: usize::MAX, found: 3 }));
        assert_eq!(
            decode_bytes(&[0xff, 0xff, 0xff, 0xff], 1),
            Err(TensorError::Truncated { element: 0, needed: u32::MAX as usize, left: 0 })
        );
    }

    #[test]
    fn datatypes_have_the_protocol_s_names() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.name().parse(), Ok(datatype));
        }
        let error = "fp32".parse::<Datatype>().unwrap_err();
        assert!(error.to_string().contains("FP32"), "{error}");
    }

    #[test]
    fn the_form_of_bytes_is_the_public_one() {
        assert_eq!(&encode_bytes(["a", ""]).unwrap()[..], b"\x01\0\0\0a\0\0\0\0");
        assert_eq!(&encode_fp32([1.0], 1)[..], [0, 0, 0x80, 0x3f]);
        assert_eq!(decode_fp32(&[0, 0, 0x80, 0x3f], 1), Ok(vec![1.0]));
        assert!(decode_fp32(&[0, 0, 0x80, 0x3f], 2).is_err());
        assert!(decode_fp32(&[0, 0, 0x80], 1).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(elements: Vec<Vec<u8>>) {
            let raw = encode_bytes(&elements).unwrap();
            prop_assert_eq!(decode_bytes(&raw, elements.len()).unwrap(), elements);
        }

        #[test]
        fn any_bytes_are_answered(raw: Vec<u8>, count in 0usize..40) {
            if let Ok(elements) = decode_bytes(&raw, count) {
                prop_assert_eq!(encode_bytes(elements).unwrap(), raw);
            }
        }
    }
}
