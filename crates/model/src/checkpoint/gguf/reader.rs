//! The GGUF container, versions 2 and 3, little-endian: metadata by key, and where each tensor's bytes lie. The header is
//! held, tensors are read when they are asked for, and nothing is believed: every count and length is checked against the
//! bytes that are there before anything is allocated, so a lying file is an error that names the key or the tensor. Knows
//! nothing of what keys and tensors mean. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::blocks::GgmlType;
use super::problem::Problem;
use crate::error::WeightsError;
use crate::weights::StoredBytes;

/// All metadata and tensor descriptions end before this byte. The largest known take some 40 MB (vocabularies of 260,000
/// tokens with their merges).
const MAX_HEADER_BYTES: usize = 512 << 20;
/// A header is looked for in so many first bytes of the file, then in eight times as many, and so on.
const FIRST_HEADER_BYTES: usize = 1 << 20;
const MAX_KEY_BYTES: u64 = 65_535;
/// The format allows 64.
const MAX_TENSOR_NAME_BYTES: u64 = 256;
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A GGUF file whose header has been checked and whose tensors are read when they are asked for.
pub struct Gguf {
    file: PathBuf,
    /// At least all before the tensors.
    first_bytes: Vec<u8>,
    /// Where the tensors are, unless they are among the first bytes.
    stored: Option<StoredBytes>,
    header: Header,
}

/// One tensor's description.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// How its numbers are stored.
    pub(crate) kind: &'static GgmlType,
    /// Outermost dimension first, as everywhere in this program; the file has them the other way round.
    pub(crate) shape: Vec<usize>,
    /// Of its bytes, from the start of the file.
    pub(crate) bytes: Range<usize>,
}

/// One value of the metadata. Strings and arrays look into the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any of the unsigned integers.
    Unsigned(u64),
    /// Any of the signed integers.
    Signed(i64),
    /// A float of 32 bits.
    Float(f32),
    /// A float of 64 bits.
    Double(f64),
    /// A truth value.
    Bool(bool),
    /// A string, which the format wants to be UTF-8.
    Text(&'a [u8]),
    /// Values of one type.
    Array(Array<'a>),
}

/// Values of one type, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element: ElementType,
    count: usize,
    bytes: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ElementType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

/// Where everything is, after it has been checked.
struct Header {
    version: u32,
    values: BTreeMap<String, Place>,
    tensors: BTreeMap<String, TensorInfo>,
    /// Where the descriptions of the tensors end.
    end: usize,
}

struct Place {
    element: ElementType,
    /// For an array, how many.
    count: Option<usize>,
    bytes: Range<usize>,
}

impl Gguf {
    /// Opens a file and checks its header: sizes, that names are unique, types known, and that the tensors' bytes lie
    /// aligned inside the file without overlap.
    ///
    /// # Errors
    /// [`WeightsError`] that names the file, and the key or tensor where there is one.
    pub fn open(path: &Path) -> Result<Gguf, WeightsError> {
        let io = |source| WeightsError::Io { file: path.to_path_buf(), source };
        let stored = StoredBytes::open(path).map_err(io)?;
        if stored.length() == 0 {
            return Err(Problem::new("is empty").in_file(path));
        }
        let most = usize::try_from(stored.length()).unwrap_or(usize::MAX).min(MAX_HEADER_BYTES);
        let mut looked_at = FIRST_HEADER_BYTES.min(most);
        loop {
            let mut first_bytes = stored.read(0..looked_at).map_err(io)?;
            match Header::read(&first_bytes, stored.length()) {
                Ok(header) => {
                    first_bytes.truncate(header.end);
                    first_bytes.shrink_to_fit();
                    return Ok(Gguf { file: path.to_path_buf(), first_bytes, stored: Some(stored), header });
                }
                // It may be that the header only does not end where we stopped.
                Err(_) if looked_at < most => looked_at = looked_at.saturating_mul(8).min(most),
                Err(problem) => return Err(problem.in_file(path)),
            }
        }
    }

    /// As [`Gguf::open`], for bytes that are in memory. `name` stands for the file in errors.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Gguf, WeightsError> {
        let file = PathBuf::from(name);
        let header = Header::read(&bytes, bytes.len() as u64).map_err(|problem| problem.in_file(&file))?;
        Ok(Gguf { file, first_bytes: bytes, stored: None, header })
    }

    /// The file this was opened from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The file's length in bytes.
    pub fn length(&self) -> usize {
        self.stored.as_ref().map_or(self.first_bytes.len(), |stored| stored.length() as usize)
    }

    /// The metadata's keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.header.values.keys().map(String::as_str)
    }

    /// The value under a key of the metadata.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        let place = self.header.values.get(key)?;
        let bytes = self.first_bytes.get(place.bytes.clone())?;
        match place.count {
            Some(count) => Some(Value::Array(Array { element: place.element, count, bytes })),
            None => place.element.decode(&mut Cursor { bytes, at: 0 }),
        }
    }

    /// A value with its type as it stands in the file, to be written into another.
    pub(crate) fn encoded(&self, key: &str) -> Option<Vec<u8>> {
        const ARRAY: u32 = 9;
        let place = self.header.values.get(key)?;
        let (element, bytes) = (place.element.id().to_le_bytes(), self.first_bytes.get(place.bytes.clone())?);
        Some(match place.count {
            None => [&element, bytes].concat(),
            Some(count) => [&ARRAY.to_le_bytes(), &element, &(count as u64).to_le_bytes()[..], bytes].concat(),
        })
    }

    /// The tensors' names in the file, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape, outermost dimension first.
    pub fn tensor_shape(&self, name: &str) -> Option<&[usize]> {
        self.header.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// The name of a tensor's type: `F32`, `Q4_K`.
    pub fn tensor_type(&self, name: &str) -> Option<&'static str> {
        self.header.tensors.get(name).map(|info| info.kind.name)
    }

    /// A tensor's numbers as float32, in the order of its shape, whatever its blocks are. They are all in memory: this
    /// is for looking at a file; a model reads through a [`crate::TensorSource`].
    ///
    /// # Errors
    /// [`WeightsError`] when there is no such tensor or its type cannot be read.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let info = self.tensor(name).ok_or_else(|| crate::weights::missing(&self.file, name))?;
        let row = info.shape.last().copied().unwrap_or(1);
        let mut floats = vec![0.0; info.shape.iter().product()];
        self.tensor_bytes(info)
            .and_then(|bytes| info.kind.dequantise(&bytes, row, |row| row, &mut floats))
            .map_err(|problem| problem.of_tensor(name).in_file(&self.file))?;
        Ok(floats)
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(name)
    }

    /// All bytes of a tensor.
    pub(crate) fn tensor_bytes(&self, info: &TensorInfo) -> Result<Cow<'_, [u8]>, Problem> {
        self.bytes(info.bytes.clone())
    }

    /// Some bytes of a tensor.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, Problem> {
        match &self.stored {
            None => Ok(Cow::Borrowed(self.first_bytes.get(range).unwrap_or_default())),
            Some(stored) => {
                let read = stored.read(range).map_err(|error| Problem::new(format!("cannot be read: {error}")));
                read.map(Cow::Owned)
            }
        }
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { version, values, tensors, .. } = &self.header;
        write!(
            formatter,
            "Gguf({}, version {version}, {} keys, {} tensors)",
            self.file.display(),
            values.len(),
            tensors.len()
        )
    }
}

impl<'a> Array<'a> {
    /// How many values.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values one after another; none is an array.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> {
        let mut cursor = Cursor { bytes: self.bytes, at: 0 };
        let element = self.element;
        (0..self.count).map_while(move |_| element.decode(&mut cursor))
    }
}

impl ElementType {
    const ALL: [(u32, ElementType); 12] = [
        (0, ElementType::U8),
        (1, ElementType::I8),
        (2, ElementType::U16),
        (3, ElementType::I16),
        (4, ElementType::U32),
        (5, ElementType::I32),
        (6, ElementType::F32),
        (7, ElementType::Bool),
        (8, ElementType::String),
        (10, ElementType::U64),
        (11, ElementType::I64),
        (12, ElementType::F64),
    ];

    fn from_id(id: u32) -> Option<ElementType> {
        ElementType::ALL.iter().find(|(known, _)| *known == id).map(|(_, element)| *element)
    }

    fn id(self) -> u32 {
        ElementType::ALL.iter().find(|(_, element)| *element == self).map_or(0, |(id, _)| *id)
    }

    /// Bytes that one value takes; for a string, its length alone.
    fn smallest(self) -> usize {
        match self {
            ElementType::U8 | ElementType::I8 | ElementType::Bool => 1,
            ElementType::U16 | ElementType::I16 => 2,
            ElementType::U32 | ElementType::I32 | ElementType::F32 => 4,
            ElementType::U64 | ElementType::I64 | ElementType::F64 | ElementType::String => 8,
        }
    }

    fn decode<'a>(self, cursor: &mut Cursor<'a>) -> Option<Value<'a>> {
        Some(match self {
            ElementType::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array()?).into()),
            ElementType::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array()?).into()),
            ElementType::U32 => Value::Unsigned(cursor.u32()?.into()),
            ElementType::U64 => Value::Unsigned(cursor.u64()?),
            ElementType::I8 => Value::Signed(i8::from_le_bytes(cursor.array()?).into()),
            ElementType::I16 => Value::Signed(i16::from_le_bytes(cursor.array()?).into()),
            ElementType::I32 => Value::Signed(i32::from_le_bytes(cursor.array()?).into()),
            ElementType::I64 => Value::Signed(i64::from_le_bytes(cursor.array()?)),
            ElementType::F32 => Value::Float(f32::from_le_bytes(cursor.array()?)),
            ElementType::F64 => Value::Double(f64::from_le_bytes(cursor.array()?)),
            ElementType::Bool => Value::Bool(cursor.array::<1>()? != [0]),
            ElementType::String => {
                let length = usize::try_from(cursor.u64()?).ok()?;
                Value::Text(cursor.take(length)?)
            }
        })
    }
}

/// Reads forward; nothing when the bytes end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// A name of at most so many bytes.
    fn name(&mut self, what: &str, most: u64) -> Result<String, Problem> {
        let cut = || Problem::new(format!("is cut short inside the name of {what}"));
        let length = self.u64().ok_or_else(cut)?;
        if length > most {
            return Err(Problem::new(format!("claims a name of {length} bytes for {what}, and {most} is the most")));
        }
        let bytes = self.take(length as usize).ok_or_else(cut)?;
        let name = str::from_utf8(bytes).map_err(|_| Problem::new(format!("the name of {what} is not UTF-8")))?;
        Ok(name.to_string())
    }
}

impl Header {
    /// Out of a file's first bytes and its length.
    fn read(bytes: &[u8], file_length: u64) -> Result<Header, Problem> {
        let limit = bytes.len().min(MAX_HEADER_BYTES);
        let mut cursor = Cursor { bytes: bytes.get(..limit).unwrap_or_default(), at: 0 };
        let version = read_version(&mut cursor)?;
        let cut = || Problem::new("is cut short: it ends inside its first 24 bytes");
        let (tensor_count, key_count) = (cursor.u64().ok_or_else(cut)?, cursor.u64().ok_or_else(cut)?);
        let values = read_metadata(&mut cursor, key_count)?;
        let raw = read_tensors(&mut cursor, tensor_count)?;
        let mut header = Header { version, values, tensors: BTreeMap::new(), end: cursor.at };
        let alignment = header.alignment(cursor.bytes)?;
        let data_start = (cursor.at as u64).next_multiple_of(alignment);
        header.tensors = place_tensors(raw, alignment, data_start, file_length)?;
        Ok(header)
    }

    fn alignment(&self, bytes: &[u8]) -> Result<u64, Problem> {
        let Some(place) = self.values.get("general.alignment") else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        let value = match (place.count, bytes.get(place.bytes.clone())) {
            (None, Some(bytes)) => place.element.decode(&mut Cursor { bytes, at: 0 }),
            _ => None,
        };
        match value {
            Some(Value::Unsigned(alignment)) if alignment.is_power_of_two() && alignment <= 1 << 20 => Ok(alignment),
            _ => Err(Problem::new("key \"general.alignment\" must be a power of two of at most 1048576")),
        }
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, Problem> {
    if cursor.take(4) != Some(b"GGUF".as_slice()) {
        return Err(Problem::new("is not a GGUF file: it does not start with \"GGUF\""));
    }
    let version = cursor.u32().ok_or_else(|| Problem::new("is cut short: it ends after \"GGUF\""))?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=16) => {
            Err(Problem::new("is a big-endian GGUF file, which is not supported; take the little-endian one"))
        }
        _ => Err(Problem::new(format!(
            "is a GGUF file of version {version}, and 2 and 3 are supported; convert the model again with a current \
             llama.cpp"
        ))),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Place>, Problem> {
    // Each key takes at least its own length, its type and one byte.
    if count > (cursor.remaining() / 13) as u64 {
        return Err(Problem::new(format!("claims {count} keys, more than its {} bytes can hold", cursor.bytes.len())));
    }
    let mut values = BTreeMap::new();
    for number in 1..=count {
        let key = cursor.name(&format!("key {number}"), MAX_KEY_BYTES)?;
        let place = read_place(cursor).map_err(|what| Problem::new(format!("key {key:?} {what}")))?;
        if values.contains_key(&key) {
            return Err(Problem::new(format!("key {key:?} comes twice")));
        }
        values.insert(key, place);
    }
    Ok(values)
}

fn read_place(cursor: &mut Cursor<'_>) -> Result<Place, String> {
    const ARRAY: u32 = 9;
    let cut = || "is cut short".to_string();
    let unknown = |id: u32| format!("has a value of type {id}, which the format does not have");
    let id = cursor.u32().ok_or_else(cut)?;
    if id != ARRAY {
        let element = ElementType::from_id(id).ok_or_else(|| unknown(id))?;
        let start = cursor.at;
        element.decode(cursor).ok_or_else(cut)?;
        return Ok(Place { element, count: None, bytes: start..cursor.at });
    }
    let id = cursor.u32().ok_or_else(cut)?;
    if id == ARRAY {
        return Err("is an array of arrays, which is not supported".to_string());
    }
    let element = ElementType::from_id(id).ok_or_else(|| unknown(id))?;
    let claimed = cursor.u64().ok_or_else(cut)?;
    let count = usize::try_from(claimed).ok().filter(|count| *count <= cursor.remaining() / element.smallest());
    let count = count.ok_or_else(|| {
        format!("claims {claimed} values, more than the {} bytes after it can hold", cursor.remaining())
    })?;
    let start = cursor.at;
    if element == ElementType::String {
        for number in 0..count {
            element.decode(cursor).ok_or_else(|| format!("is cut short at its string {number}"))?;
        }
    } else {
        cursor.take(count * element.smallest()).ok_or_else(cut)?;
    }
    Ok(Place { element, count: Some(count), bytes: start..cursor.at })
}

/// A tensor's description before its bytes have been placed.
struct RawTensor {
    name: String,
    kind: &'static GgmlType,
    shape: Vec<usize>,
    length: u64,
    offset: u64,
}

fn read_tensors(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<RawTensor>, Problem> {
    // Each takes at least its name's length, its dimensions' number, its type and its offset.
    if count > (cursor.remaining() / 24) as u64 {
        return Err(Problem::new(format!(
            "claims {count} tensors, more than its {} bytes can hold",
            cursor.bytes.len()
        )));
    }
    let mut tensors = Vec::new();
    for number in 1..=count {
        let name = cursor.name(&format!("tensor {number}"), MAX_TENSOR_NAME_BYTES)?;
        let tensor = read_tensor(cursor, &name).map_err(|problem| problem.of_tensor(&name))?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor(cursor: &mut Cursor<'_>, name: &str) -> Result<RawTensor, Problem> {
    let cut = || Problem::new("is described in a header that is cut short");
    let rank = cursor.u32().ok_or_else(cut)?;
    if rank > MAX_DIMENSIONS {
        return Err(Problem::new(format!("claims {rank} dimensions, and {MAX_DIMENSIONS} is the most")));
    }
    let mut dimensions = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        dimensions.push(cursor.u64().ok_or_else(cut)?);
    }
    let id = cursor.u32().ok_or_else(cut)?;
    let offset = cursor.u64().ok_or_else(cut)?;
    let kind = GgmlType::from_id(id)
        .ok_or_else(|| Problem::new(format!("has the type number {id}, which the format does not have")))?;
    let (elements, block_bytes) = (kind.elements, kind.bytes);
    let row = dimensions.first().copied().unwrap_or(1);
    if !row.is_multiple_of(elements as u64) {
        return Err(Problem::new(format!(
            "has rows of {row} numbers, which blocks of {elements} ({}) do not divide",
            kind.name
        )));
    }
    let absurd = || Problem::new(format!("has an absurd shape, {dimensions:?}"));
    if dimensions.contains(&0) {
        return Err(absurd());
    }
    let mut shape = Vec::with_capacity(dimensions.len());
    let mut numbers = 1_u64;
    for &dimension in dimensions.iter().rev() {
        numbers = numbers.checked_mul(dimension).ok_or_else(absurd)?;
        shape.push(usize::try_from(dimension).ok().filter(|d| i64::try_from(*d).is_ok()).ok_or_else(absurd)?);
    }
    let length = (numbers / elements as u64).checked_mul(block_bytes as u64).ok_or_else(absurd)?;
    // As float32 too it must be something that memory could hold.
    numbers.checked_mul(8).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(absurd)?;
    Ok(RawTensor { name: name.to_string(), kind, shape, length, offset })
}

/// Checks that every tensor lies aligned inside the file and that no two share a byte.
fn place_tensors(
    mut raw: Vec<RawTensor>,
    alignment: u64,
    data_start: u64,
    file_length: u64,
) -> Result<BTreeMap<String, TensorInfo>, Problem> {
    raw.sort_by_key(|tensor| (tensor.offset, tensor.length));
    let available = file_length.saturating_sub(data_start);
    let mut tensors = BTreeMap::new();
    let mut free_from = 0;
    for RawTensor { name, kind, shape, length, offset } in raw {
        let refuse = |text: String| Err(Problem::new(text).of_tensor(&name));
        if !offset.is_multiple_of(alignment) {
            return refuse(format!("starts at byte {offset}, which is not a multiple of {alignment}"));
        }
        let end = offset.checked_add(length).filter(|end| *end <= available);
        let Some(end) = end else {
            return refuse(format!(
                "claims {length} bytes at {offset}, but the file holds {available} bytes of tensors: it is cut short or \
                 its header is wrong"
            ));
        };
        if offset < free_from {
            return refuse(format!("overlaps the tensor before it: it starts at byte {offset} and not at {free_from}"));
        }
        free_from = end;
        let bytes = (data_start + offset) as usize..(data_start + end) as usize;
        if tensors.contains_key(&name) {
            return refuse("comes twice".to_string());
        }
        tensors.insert(name, TensorInfo { kind, shape, bytes });
    }
    Ok(tensors)
}
