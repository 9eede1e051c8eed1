//! A GGUF file as a source of tensors under their Hugging Face names. Floats come as they are stored; blocks become
//! float32, or integers with scales for who can use them. What GGUF lays out otherwise is put back: rows of rotated heads,
//! fused heads, transposed matrices, norms with one added, experts in one tensor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use super::blocks::{Format, GgmlType};
use super::metadata::Metadata;
use super::names::{self, Layout};
use super::problem::Problem;
use super::reader::{Gguf, TensorInfo};
use crate::error::WeightsError;
use crate::weights::{self, Quantised, TensorSource};

/// More experts than any model has.
const MAX_EXPERTS: usize = 4096;

/// The tensors of a GGUF file, by the names that the architecture's Hugging Face checkpoints have.
pub struct GgufTensors {
    gguf: Arc<Gguf>,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    /// In the file.
    name: String,
    shape: Vec<i64>,
    kind: Kind,
    rows: RowOrder,
    change: Change,
}

/// Which row of the file's tensor a row of ours is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RowOrder {
    Stored,
    /// From this row on.
    From(usize),
    /// Within every head of `width` rows: pair after pair in the file, first halves and then second halves here.
    Rotary {
        width: usize,
    },
    /// In the file every head's query rows (`width` each) come first, then all keys, then all values.
    Fused {
        heads: usize,
        width: usize,
    },
}

impl RowOrder {
    pub(super) fn stored(self, row: usize) -> usize {
        match self {
            RowOrder::Stored => row,
            RowOrder::From(first) => first + row,
            RowOrder::Rotary { width } => {
                let (head, within) = (row / width, row % width);
                let (half, pair) = (within / (width / 2), within % (width / 2));
                head * width + 2 * pair + half
            }
            RowOrder::Fused { heads, width } => {
                let (head, part, within) = (row / (3 * width), row / width % 3, row % width);
                (part * heads + head) * width + within
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    None,
    MinusOne,
    Transpose,
}

impl GgufTensors {
    /// Places every tensor of the file under its Hugging Face name.
    ///
    /// # Errors
    /// [`WeightsError`] when the architecture is not supported, or a tensor is none of it, has a type that cannot be
    /// read, or a shape that does not go with the metadata.
    pub fn new(gguf: Arc<Gguf>) -> Result<GgufTensors, WeightsError> {
        let entries = place_all(&gguf).map_err(|problem| problem.in_file(gguf.file()))?;
        Ok(GgufTensors { gguf, entries })
    }

    fn entry(&self, name: &str) -> Result<(&Entry, &TensorInfo), WeightsError> {
        let entry = self.entries.get(name).and_then(|entry| Some((entry, self.gguf.tensor(&entry.name)?)));
        entry.ok_or_else(|| weights::missing(self.gguf.file(), name))
    }

    /// The bytes that an entry is made of, and how its rows lie in them: of a tensor of experts, those of one expert.
    fn stored(&self, entry: &Entry, info: &TensorInfo) -> Result<(Cow<'_, [u8]>, RowOrder), WeightsError> {
        let range = match (entry.rows, entry.shape.first()) {
            (RowOrder::From(first), Some(&count)) => {
                let rows = info.shape.iter().rev().skip(1).product::<usize>();
                let row = info.bytes.len().checked_div(rows).unwrap_or_default();
                let start = info.bytes.start + first * row;
                start..start + count as usize * row
            }
            _ => info.bytes.clone(),
        };
        let rows = if matches!(entry.rows, RowOrder::From(_)) { RowOrder::Stored } else { entry.rows };
        let bytes = self.gguf.bytes(range).map_err(|problem| self.refuse(entry, problem))?;
        Ok((bytes, rows))
    }

    fn refuse(&self, entry: &Entry, problem: Problem) -> WeightsError {
        problem.of_tensor(&entry.name).in_file(self.gguf.file())
    }

    fn torch(&self, source: TchError) -> WeightsError {
        WeightsError::Torch { file: self.gguf.file().to_path_buf(), source }
    }

    /// Blocks as float32 rows, in our order.
    fn dequantised(&self, entry: &Entry, info: &TensorInfo) -> Result<Tensor, WeightsError> {
        let row = info.shape.last().copied().unwrap_or(1);
        let numbers = entry.shape.iter().product::<i64>() as usize;
        let (bytes, rows) = self.stored(entry, info)?;
        let out = Tensor::f_empty([numbers as i64], (Kind::Float, Device::Cpu)).map_err(|error| self.torch(error))?;
        // SAFETY: `out` is a contiguous float32 tensor on the CPU of exactly so many numbers, just made and ours alone.
        let floats = unsafe { std::slice::from_raw_parts_mut(out.data_ptr().cast::<f32>(), numbers) };
        info.kind
            .dequantise(&bytes, row, |row| rows.stored(row), floats)
            .map_err(|problem| self.refuse(entry, problem))?;
        Ok(out)
    }

    /// A tensor of plain numbers, in our order.
    fn plain(&self, entry: &Entry, info: &TensorInfo) -> Result<Tensor, WeightsError> {
        let kind = plain_kind(info.kind).unwrap_or(entry.kind);
        let (bytes, rows) = self.stored(entry, info)?;
        let count = bytes.len().checked_div(kind.elt_size_in_bytes()).unwrap_or_default();
        let numbers = Tensor::f_from_data_size(&bytes, &[count as i64], kind).map_err(|error| self.torch(error))?;
        if rows == RowOrder::Stored {
            return Ok(numbers);
        }
        let ordered = numbers.f_view([-1, row_width(info) as i64]).and_then(|table| {
            let count = table.size().first().copied().unwrap_or_default();
            let order: Vec<i64> = (0..count).map(|row| rows.stored(row as usize) as i64).collect();
            table.f_index_select(0, &Tensor::f_from_slice(&order)?)
        });
        ordered.map_err(|error| self.torch(error))
    }

    fn changed(entry: &Entry, numbers: &Tensor) -> Result<Tensor, TchError> {
        match entry.change {
            Change::None => numbers.f_view(entry.shape.as_slice()),
            Change::MinusOne => numbers.f_to_kind(Kind::Float)?.f_sub_scalar(1)?.f_view(entry.shape.as_slice()),
            Change::Transpose => {
                let stored: Vec<i64> = entry.shape.iter().rev().copied().collect();
                numbers.f_view(stored.as_slice())?.f_transpose(0, 1)?.f_contiguous()
            }
        }
    }
}

impl TensorSource for GgufTensors {
    fn file_of(&self, _: &str) -> &Path {
        self.gguf.file()
    }

    fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[i64]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        self.entries.get(name).map(|entry| entry.kind)
    }

    fn tensor(&self, name: &str, device: Device) -> Result<Tensor, WeightsError> {
        let (entry, info) = self.entry(name)?;
        let numbers = match info.kind.is_quantised() {
            true => self.dequantised(entry, info)?,
            false => self.plain(entry, info)?,
        };
        let changed = Self::changed(entry, &numbers).and_then(|tensor| tensor.f_to_device(device));
        changed.map_err(|error| self.torch(error))
    }

    fn quantised(&self, name: &str) -> Result<Option<Quantised>, WeightsError> {
        let (entry, info) = self.entry(name)?;
        let sizes: Vec<usize> = match (entry.change, entry.shape.as_slice()) {
            (Change::None, [outputs, inputs]) => vec![*outputs as usize, *inputs as usize],
            (Change::Transpose, [inputs, outputs]) => vec![*outputs as usize, *inputs as usize],
            _ => return Ok(None),
        };
        let [outputs, inputs] = sizes[..] else {
            return Ok(None);
        };
        let (bytes, rows) = self.stored(entry, info)?;
        info.kind
            .quantised(&bytes, outputs, inputs, |row| rows.stored(row))
            .map_err(|problem| self.refuse(entry, problem))
    }
}

impl std::fmt::Debug for GgufTensors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "GgufTensors({}, {} tensors)", self.gguf.file().display(), self.entries.len())
    }
}

fn place_all(gguf: &Gguf) -> Result<BTreeMap<String, Entry>, Problem> {
    let metadata = Metadata::new(gguf)?;
    let architecture = names::of(&metadata)?;
    let heads = metadata.count("attention.head_count")?.unwrap_or_default() as usize;
    let key_heads = metadata.count("attention.head_count_kv")?.map_or(heads, |heads| heads as usize);
    let mut entries = BTreeMap::new();
    for stored in gguf.tensor_names() {
        let Some((name, layout)) = names::place(architecture, stored)? else {
            continue;
        };
        let Some(info) = gguf.tensor(stored) else {
            continue;
        };
        let placed = info.kind.check_readable().and_then(|()| match layout {
            Layout::Experts => experts(&name, stored, info, &metadata),
            Layout::RotaryKey => one(stored, info, layout, key_heads).map(|entry| vec![(name, entry)]),
            _ => one(stored, info, layout, heads).map(|entry| vec![(name, entry)]),
        });
        entries.extend(placed.map_err(|problem| problem.of_tensor(stored))?);
    }
    Ok(entries)
}

/// One tensor of the file as one of ours.
fn one(stored: &str, info: &TensorInfo, layout: Layout, heads: usize) -> Result<Entry, Problem> {
    let mut shape: Vec<i64> = info.shape.iter().map(|dimension| *dimension as i64).collect();
    let rows = info.shape.first().copied().unwrap_or(1);
    let refuse = |parts: usize| {
        Problem::new(format!("has {rows} rows, which do not make {heads} heads of rows in groups of {parts}"))
    };
    let width = |parts: usize| {
        let whole = heads > 0 && rows.is_multiple_of(heads * parts) && rows >= heads * parts;
        // A list in blocks is one row, whose numbers cannot change places.
        if whole && !(info.kind.is_quantised() && info.shape.len() < 2) { Ok(rows / heads) } else { Err(refuse(parts)) }
    };
    let (order, change) = match layout {
        Layout::RotaryQuery | Layout::RotaryKey => (RowOrder::Rotary { width: width(2)? }, Change::None),
        Layout::FusedHeads => (RowOrder::Fused { heads, width: width(3)? / 3 }, Change::None),
        Layout::PlusOne => (RowOrder::Stored, Change::MinusOne),
        Layout::Transposed if shape.len() == 2 => {
            shape.reverse();
            (RowOrder::Stored, Change::Transpose)
        }
        Layout::Same | Layout::Transposed | Layout::Experts => (RowOrder::Stored, Change::None),
    };
    let kind = plain_kind(info.kind).filter(|_| change != Change::MinusOne).unwrap_or(Kind::Float);
    Ok(Entry { name: stored.to_string(), shape, kind, rows: order, change })
}

/// One tensor of the file `[experts, outputs, inputs]` as one of ours an expert.
fn experts(
    name: &str,
    stored: &str,
    info: &TensorInfo,
    metadata: &Metadata<'_>,
) -> Result<Vec<(String, Entry)>, Problem> {
    let claimed = metadata.needed("expert_count")? as usize;
    let (count, outputs, inputs) = match info.shape[..] {
        [count, outputs, inputs] if count == claimed && count <= MAX_EXPERTS => (count, outputs, inputs),
        _ => {
            return Err(Problem::new(format!(
                "has the shape {:?}, which is not one matrix for each of {claimed}",
                info.shape
            )));
        }
    };
    let expert = |number: usize| Entry {
        name: stored.to_string(),
        shape: vec![outputs as i64, inputs as i64],
        kind: plain_kind(info.kind).unwrap_or(Kind::Float),
        rows: RowOrder::From(number * outputs),
        change: Change::None,
    };
    Ok((0..count).map(|number| (name.replace('#', &number.to_string()), expert(number))).collect())
}

/// Numbers in a row: a list is one number a row, so that its numbers may change places as rows do.
fn row_width(info: &TensorInfo) -> usize {
    if info.shape.len() < 2 { 1 } else { info.shape.last().copied().unwrap_or(1) }
}

/// libtorch's name for a type without blocks.
fn plain_kind(kind: &GgmlType) -> Option<Kind> {
    Some(match kind.format {
        Format::F32 => Kind::Float,
        Format::F16 => Kind::Half,
        Format::BF16 => Kind::BFloat16,
        Format::F64 => Kind::Double,
        Format::I8 => Kind::Int8,
        Format::I16 => Kind::Int16,
        Format::I32 => Kind::Int,
        Format::I64 => Kind::Int64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// llama.cpp's own `permute`: `w.reshape(heads, 2, width / 2).swapaxes(1, 2)`, here on row numbers.
    #[test]
    fn rotated_rows_go_back_to_where_they_came_from() {
        let (heads, width) = (3, 8);
        let mut stored = vec![0; heads * width];
        for head in 0..heads {
            for half in 0..2 {
                for pair in 0..width / 2 {
                    stored[head * width + pair * 2 + half] = head * width + half * (width / 2) + pair;
                }
            }
        }
        let rows = RowOrder::Rotary { width };
        let ours: Vec<usize> = (0..heads * width).map(|row| stored[rows.stored(row)]).collect();
        assert_eq!(ours, (0..heads * width).collect::<Vec<_>>());
    }

    /// GPT-NeoX: `w.reshape(heads, 3, width)`, then all queries, keys and values one after another.
    #[test]
    fn fused_heads_come_together_again() {
        let (heads, width) = (2, 3);
        let stored: Vec<usize> = (0..3)
            .flat_map(|part| (0..heads).flat_map(move |h| (0..width).map(move |w| (h * 3 + part) * width + w)))
            .collect();
        let rows = RowOrder::Fused { heads, width };
        let ours: Vec<usize> = (0..stored.len()).map(|row| stored[rows.stored(row)]).collect();
        assert_eq!(ours, (0..stored.len()).collect::<Vec<_>>());
    }
}
