//! Parquet: the wanted columns, decoded batch by batch. Gzipped files are unpacked to an unnamed temporary file first,
//! because Parquet is read from its end.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::lines::gzip_trouble;
use super::open::{first_bytes, is_gzip, open, open_file};
use super::{Columns, Rows};
use crate::error::{BadRow, DataError, Place, RowProblem, listed, nearest};
use crate::schema::{Column, DataConfig};

const BATCH_ROWS: usize = 1024;

pub(super) struct ParquetRows {
    path: PathBuf,
    batches: ParquetRecordBatchReader,
    /// Paths of the wanted columns from the top of the schema.
    wanted: Vec<Vec<String>>,
    columns: Vec<ArrayRef>,
    rows: usize,
    next: usize,
    row: u64,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, config: &DataConfig) -> Result<Self, DataError> {
        let trouble = |error: parquet::errors::ParquetError| unreadable(path, 0, error);
        let file = plain_file(path)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(trouble)?;
        let schema = builder.schema().clone();
        let wanted: Vec<Vec<String>> =
            config.columns().iter().map(|(key, column)| find(path, &schema, key, column)).collect::<Result<_, _>>()?;
        let roots = wanted.iter().filter_map(|names| schema.index_of(names.first()?).ok());
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(trouble)?;
        let path = path.to_path_buf();
        Ok(Self { path, batches, wanted, columns: Vec::new(), rows: 0, next: 0, row: 0 })
    }

    fn column(&self, batch: &RecordBatch, names: &[String]) -> Option<ArrayRef> {
        let (root, below) = names.split_first()?;
        let mut column = batch.column_by_name(root)?.clone();
        for name in below {
            column = column.as_struct_opt()?.column_by_name(name)?.clone();
        }
        Some(column)
    }
}

impl Rows for ParquetRows {
    fn next_row(&mut self, columns: &mut Columns) -> Result<bool, DataError> {
        while self.next == self.rows {
            let Some(batch) = self.batches.next() else {
                return Ok(false);
            };
            let batch = batch.map_err(|error| unreadable(&self.path, self.row + 1, error))?;
            let wanted = self.wanted.iter().map(|names| {
                let gone = || unreadable(&self.path, self.row + 1, format!("column {} is gone", names.join(".")));
                self.column(&batch, names).ok_or_else(gone)
            });
            self.columns = wanted.collect::<Result<_, _>>()?;
            (self.rows, self.next) = (batch.num_rows(), 0);
        }
        let index = self.next;
        self.next += 1;
        self.row += 1;
        let mut values: [Option<Cow<'_, str>>; 4] = [None, None, None, None];
        for ((value, column), names) in values.iter_mut().zip(&self.columns).zip(&self.wanted) {
            *value = text(column, index).map_err(|problem| {
                let place = Place::row(&self.path, self.row).column(format!("`{}`", names.join(".")));
                BadRow { place, problem }
            })?;
        }
        columns.push(self.row, values.iter().map(Option::as_deref));
        Ok(true)
    }
}

fn unreadable(path: &Path, row: u64, error: impl ToString) -> DataError {
    let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
    DataError::Parquet { place: Place::row(path, row), reason }
}

/// The file itself, or what gzip held, unpacked.
fn plain_file(path: &Path) -> Result<File, DataError> {
    let mut file = open_file(path)?;
    let read = |source| DataError::io(path, "read", source);
    let magic = first_bytes(&mut file, path)?;
    if magic.is_empty() {
        return Err(DataError::EmptyFile { path: path.to_path_buf() });
    }
    if !is_gzip(&magic) {
        file.rewind().map_err(read)?;
        return Ok(file);
    }
    let folder = std::env::temp_dir();
    let full = |source| DataError::io(&folder, "unpack a gzipped Parquet file here", source);
    let mut unpacked = tempfile::tempfile().map_err(full)?;
    let mut opened = open(path)?;
    let mut chunk = vec![0; 1 << 16];
    loop {
        match opened.reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => unpacked.write_all(chunk.get(..length).unwrap_or_default()).map_err(full)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(gzip_trouble(true, Place::row(path, 0), error)),
        }
    }
    unpacked.rewind().map_err(full)?;
    Ok(unpacked)
}

fn find(path: &Path, schema: &Schema, key: &str, column: &Column) -> Result<Vec<String>, DataError> {
    let fields = schema.fields();
    let found = match column {
        Column::Number(number) => fields.get(number - 1).map(|field| vec![field.name().clone()]),
        Column::Name(name) if fields.find(name).is_some() => Some(vec![name.clone()]),
        Column::Name(name) => dotted(fields, name),
    };
    let names = || fields.iter().map(|field| field.name().as_str());
    found.ok_or_else(|| DataError::UnknownColumn {
        place: Place::row(path, 0),
        column: format!("{column} (key `{key}`)").into(),
        nearest: match column {
            Column::Name(name) => nearest(name, names()).map(Into::into),
            Column::Number(_) => None,
        },
        known: listed(names()).into(),
    })
}

/// The parts of a dotted path through structs, when it leads somewhere.
fn dotted(fields: &arrow_schema::Fields, name: &str) -> Option<Vec<String>> {
    if fields.find(name).is_some() {
        return Some(vec![name.to_owned()]);
    }
    name.match_indices('.').find_map(|(at, _)| {
        let (first, rest) = (name.get(..at)?, name.get(at + 1..)?);
        let DataType::Struct(inner) = fields.find(first)?.1.data_type() else {
            return None;
        };
        let mut parts = dotted(inner, rest)?;
        parts.insert(0, first.to_owned());
        Some(parts)
    })
}

/// One value as text; `None` for null. Times are seconds since 1970.
fn text(array: &dyn Array, row: usize) -> Result<Option<Cow<'_, str>>, RowProblem> {
    if array.is_null(row) {
        return Ok(None);
    }
    let utf8 = |bytes| std::str::from_utf8(bytes).map_err(|_| RowProblem::InvalidUtf8);
    let text = match array.data_type() {
        DataType::Utf8 => Cow::Borrowed(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Cow::Borrowed(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Cow::Borrowed(array.as_string_view().value(row)),
        DataType::Binary => Cow::Borrowed(utf8(array.as_binary::<i32>().value(row))?),
        DataType::LargeBinary => Cow::Borrowed(utf8(array.as_binary::<i64>().value(row))?),
        DataType::BinaryView => Cow::Borrowed(utf8(array.as_binary_view().value(row))?),
        DataType::Boolean => Cow::Borrowed(if array.as_boolean().value(row) { "true" } else { "false" }),
        DataType::Int8 => plain::<Int8Type>(array, row),
        DataType::Int16 => plain::<Int16Type>(array, row),
        DataType::Int32 => plain::<Int32Type>(array, row),
        DataType::Int64 => plain::<Int64Type>(array, row),
        DataType::UInt8 => plain::<UInt8Type>(array, row),
        DataType::UInt16 => plain::<UInt16Type>(array, row),
        DataType::UInt32 => plain::<UInt32Type>(array, row),
        DataType::UInt64 => plain::<UInt64Type>(array, row),
        DataType::Float32 => plain::<Float32Type>(array, row),
        DataType::Float64 => plain::<Float64Type>(array, row),
        DataType::Date32 => seconds(i64::from(array.as_primitive::<Date32Type>().value(row)).saturating_mul(86_400), 1),
        DataType::Date64 => seconds(array.as_primitive::<Date64Type>().value(row), 1000),
        DataType::Timestamp(TimeUnit::Second, _) => seconds(array.as_primitive::<TimestampSecondType>().value(row), 1),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            seconds(array.as_primitive::<TimestampMillisecondType>().value(row), 1000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            seconds(array.as_primitive::<TimestampMicrosecondType>().value(row), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            seconds(array.as_primitive::<TimestampNanosecondType>().value(row), 1_000_000_000)
        }
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let Some(key) = dictionary.normalized_keys().get(row).copied() else {
                return Ok(None);
            };
            let value = text(dictionary.values().as_ref(), key)?;
            return Ok(value.map(|value| Cow::Owned(value.into_owned())));
        }
        other => {
            return Err(RowProblem::NotScalar { found: format!("a value of type {other}") });
        }
    };
    Ok(Some(text))
}

fn plain<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Cow<'_, str>
where
    T::Native: std::fmt::Debug,
{
    Cow::Owned(format!("{:?}", array.as_primitive::<T>().value(row)))
}

fn seconds(value: i64, per_second: i64) -> Cow<'static, str> {
    Cow::Owned(value.div_euclid(per_second).to_string())
}
