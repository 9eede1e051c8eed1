//! Writes the GGUF container, version 3, little-endian: metadata, descriptions of tensors, and where their bytes go. Knows
//! nothing of what keys and tensors mean; `reader.rs` is the other direction.

use super::blocks::GgmlType;

const VERSION: u32 = 3;
/// Where tensors may begin, from the start of the data, and where the data may begin.
const ALIGNMENT: u64 = 32;

const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The metadata and the tensors of a file to be, in the order in which they are added.
#[derive(Debug, Default)]
pub(crate) struct Header {
    /// Keys with their types and values as they stand in the file.
    values: Vec<(String, Vec<u8>)>,
    tensors: Vec<Announced>,
}

#[derive(Debug)]
struct Announced {
    name: String,
    /// Outermost dimension first.
    shape: Vec<usize>,
    kind: &'static GgmlType,
}

impl Header {
    fn put(&mut self, key: &str, parts: &[&[u8]]) {
        self.values.retain(|(there, _)| there != key);
        self.values.push((key.to_string(), parts.concat()));
    }

    pub(crate) fn count(&mut self, key: &str, value: u32) {
        self.put(key, &[&U32.to_le_bytes(), &value.to_le_bytes()]);
    }

    pub(crate) fn integer(&mut self, key: &str, value: i32) {
        self.put(key, &[&I32.to_le_bytes(), &value.to_le_bytes()]);
    }

    pub(crate) fn number(&mut self, key: &str, value: f32) {
        self.put(key, &[&F32.to_le_bytes(), &value.to_le_bytes()]);
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) {
        self.put(key, &[&BOOL.to_le_bytes(), &[u8::from(value)]]);
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.put(key, &[&TEXT.to_le_bytes(), &string(value)]);
    }

    pub(crate) fn texts<'a>(&mut self, key: &str, values: impl ExactSizeIterator<Item = &'a str>) {
        let count = values.len();
        let bytes: Vec<u8> = values.flat_map(string).collect();
        self.array(key, TEXT, count, &bytes);
    }

    pub(crate) fn numbers(&mut self, key: &str, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, F32, values.len(), &bytes);
    }

    pub(crate) fn integers(&mut self, key: &str, values: &[i32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, I32, values.len(), &bytes);
    }

    fn array(&mut self, key: &str, element: u32, count: usize, bytes: &[u8]) {
        self.put(key, &[&ARRAY.to_le_bytes(), &element.to_le_bytes(), &(count as u64).to_le_bytes(), bytes]);
    }

    /// A value with its type as another file holds it.
    pub(crate) fn encoded(&mut self, key: &str, bytes: &[u8]) {
        self.put(key, &[bytes]);
    }

    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], kind: &'static GgmlType) {
        self.tensors.push(Announced { name: name.to_string(), shape: shape.to_vec(), kind });
    }

    /// The header up to the first tensor's bytes, and the length of the whole file.
    pub(crate) fn bytes(&self) -> (Vec<u8>, u64) {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            bytes.extend(string(key));
            bytes.extend(value);
        }
        let mut offset = 0;
        for Announced { name, shape, kind } in &self.tensors {
            bytes.extend(string(name));
            bytes.extend((shape.len() as u32).to_le_bytes());
            for dimension in shape.iter().rev() {
                bytes.extend((*dimension as u64).to_le_bytes());
            }
            bytes.extend(kind.id().to_le_bytes());
            bytes.extend(u64::to_le_bytes(offset));
            offset += padded(kind.bytes_of(shape));
        }
        bytes.resize(padded(bytes.len() as u64) as usize, 0);
        let length = bytes.len() as u64 + offset;
        (bytes, length)
    }
}

/// A tensor's length with what is put after it, so that the next is aligned.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}
