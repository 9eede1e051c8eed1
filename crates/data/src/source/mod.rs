//! Reading: files of every format become Arrow record batches with the columns that a `DataConfig` names.
//!
//! Everything streams: a batch holds at most a few thousand rows or a few megabytes. Each format is one file here; all
//! of them append rows to `Columns` and report a row that cannot be used as a `BadRow`, after which reading goes on.

mod delimited;
mod json_lines;
pub(crate) mod lines;
mod open;
mod parquet;
mod plain;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{StringBuilder, UInt32Builder, UInt64Builder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::{BadRow, DataError, Place};
use crate::schema::{BadRows, DataConfig};
use crate::summary::Tally;

/// A file's format. Each may be gzipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Comma-separated values (RFC 4180, with any delimiter and quote).
    Csv,
    /// Tab-separated values.
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
    /// One text a line.
    Text,
}

impl Format {
    /// The format that a file's extension tells, `.gz` left aside.
    ///
    /// ```
    /// use tidemill_data::Format;
    /// assert_eq!(Format::of("reviews.CSV.gz".as_ref()), Some(Format::Csv));
    /// assert_eq!(Format::of("reviews.doc".as_ref()), None);
    /// ```
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "jsonl" | "ndjson" | "jl" => Some(Self::Jsonl),
            "parquet" | "pq" => Some(Self::Parquet),
            "txt" | "text" => Some(Self::Text),
            _ => None,
        }
    }

    /// What a row's number counts in this format.
    pub(crate) fn unit(self) -> &'static str {
        if self == Self::Parquet { "row" } else { "line" }
    }
}

/// Rows at most in a batch.
const BATCH_ROWS: usize = 4096;
/// Bytes of text after which a batch is full.
const BATCH_BYTES: usize = 4 << 20;

/// Reads files one after another as record batches. Streams: what a batch holds is all that is in memory.
///
/// A batch has the nullable text columns `text` and, as far as configured, `label`, `group`, `time`, as they stand in
/// the file; then `file` (index into the paths) and `line` (from 1). With `bad_rows = "skip"` rows that cannot be read
/// are left out and counted.
///
/// ```
/// use tidemill_data::{Column, DataConfig, Reader};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("a.csv");
/// std::fs::write(&path, "text,stars\nfine,5\n\"so, so\",3\n")?;
/// let rows: usize = Reader::open(&[path.clone()], &DataConfig::new(path))?
///     .map(|batch| batch.map(|batch| batch.num_rows()))
///     .sum::<Result<_, _>>()?;
/// assert_eq!(rows, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader {
    places: Places,
    config: DataConfig,
    schema: SchemaRef,
    /// Index of the file that is open, or that comes next.
    file: usize,
    source: Option<Box<dyn Rows>>,
    /// Rows, good and bad, seen in the open file.
    seen: u64,
    rows: u64,
    skipped: Vec<Tally>,
    failed: bool,
}

impl Reader {
    /// Checks the configuration and that every file is there, and opens the first.
    pub fn open(paths: &[PathBuf], config: &DataConfig) -> Result<Self, DataError> {
        config.check()?;
        for path in paths {
            open::open_file(path)?;
        }
        let names = config.columns();
        let mut fields: Vec<Field> = names.iter().map(|(role, _)| Field::new(*role, DataType::Utf8, true)).collect();
        fields.push(Field::new("file", DataType::UInt32, false));
        fields.push(Field::new("line", DataType::UInt64, false));
        let mut reader = Self {
            places: Places { paths: paths.into(), format: config.format },
            config: config.clone(),
            schema: Arc::new(Schema::new(fields)),
            file: 0,
            source: None,
            seen: 0,
            rows: 0,
            skipped: Vec::new(),
            failed: false,
        };
        reader.source = reader.open_next()?;
        Ok(reader)
    }

    /// The columns of the batches.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// How many rows were seen so far, bad ones included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The bad rows left out so far, by kind.
    pub fn skipped(&self) -> &[Tally] {
        &self.skipped
    }

    /// Where the rows of batches are, for messages.
    pub fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn config(&self) -> &DataConfig {
        &self.config
    }

    /// Counts a bad row, or gives it back as the error when bad rows stop.
    pub(crate) fn bad(&mut self, row: BadRow) -> Result<(), DataError> {
        match self.config.bad_rows {
            BadRows::Stop => Err(row.into()),
            BadRows::Skip => {
                Tally::count(&mut self.skipped, row.problem.kind(), || row.to_string());
                Ok(())
            }
        }
    }

    fn open_next(&mut self) -> Result<Option<Box<dyn Rows>>, DataError> {
        self.seen = 0;
        let Some(path) = self.places.paths.get(self.file) else {
            return Ok(None);
        };
        let Some(format) = self.config.format.or(Format::of(path)) else {
            return Err(DataError::UnknownFormat { path: path.clone() });
        };
        let source: Box<dyn Rows> = match format {
            Format::Csv => Box::new(delimited::Delimited::open(path, &self.config, b',', Some(b'"'))?),
            Format::Tsv => Box::new(delimited::Delimited::open(path, &self.config, b'\t', None)?),
            Format::Jsonl => Box::new(json_lines::JsonLines::open(path, &self.config)?),
            Format::Parquet => Box::new(parquet::ParquetRows::open(path, &self.config)?),
            Format::Text => Box::new(plain::Plain::open(path, &self.config)?),
        };
        Ok(Some(source))
    }

    fn read_batch(&mut self) -> Result<Option<RecordBatch>, DataError> {
        loop {
            let Some(mut source) = self.source.take() else {
                return Ok(None);
            };
            let mut columns = Columns::new(self.schema.fields().len() - 2, self.file);
            let mut at_end = false;
            while columns.rows < BATCH_ROWS && columns.bytes < BATCH_BYTES {
                match source.next_row(&mut columns) {
                    Ok(true) => self.seen += 1,
                    Ok(false) => {
                        at_end = true;
                        break;
                    }
                    Err(DataError::Row(row)) => {
                        self.seen += 1;
                        self.rows += 1;
                        self.bad(row)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            self.rows += columns.rows as u64;
            if at_end {
                if self.seen == 0 {
                    let path = self.places.paths.get(self.file).cloned().unwrap_or_default();
                    return Err(DataError::EmptyFile { path });
                }
                self.file += 1;
                self.source = self.open_next()?;
            } else {
                self.source = Some(source);
            }
            if columns.rows > 0 {
                return columns.finish(self.schema.clone()).map(Some);
            }
        }
    }
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = self.read_batch().transpose();
        self.failed = matches!(batch, Some(Err(_)));
        batch
    }
}

/// Turns a batch's `file` and `line` into a [`Place`].
#[derive(Clone, Debug)]
pub struct Places {
    paths: Arc<[PathBuf]>,
    format: Option<Format>,
}

impl Places {
    /// The place of a row.
    pub fn place(&self, file: u32, line: u64) -> Place {
        let path = self.paths.get(file as usize).cloned().unwrap_or_default();
        let unit = self.format.or(Format::of(&path)).map_or("line", Format::unit);
        Place { path, line, unit, column: None }
    }
}

/// One open file, row by row.
pub(crate) trait Rows: Send {
    /// Appends the next row; `false` at the end. After [`DataError::Row`] the next call goes on behind the bad row.
    fn next_row(&mut self, columns: &mut Columns) -> Result<bool, DataError>;
}

/// The batch that is being filled.
pub(crate) struct Columns {
    values: Vec<StringBuilder>,
    files: UInt32Builder,
    lines: UInt64Builder,
    file: u32,
    rows: usize,
    bytes: usize,
}

impl Columns {
    fn new(width: usize, file: usize) -> Self {
        Self {
            values: (0..width).map(|_| StringBuilder::new()).collect(),
            files: UInt32Builder::new(),
            lines: UInt64Builder::new(),
            file: u32::try_from(file).unwrap_or(u32::MAX),
            rows: 0,
            bytes: 0,
        }
    }

    /// Appends a row: one value a configured column, in their order.
    pub(crate) fn push<'v>(&mut self, line: u64, values: impl IntoIterator<Item = Option<&'v str>>) {
        let mut values = values.into_iter();
        for column in &mut self.values {
            let value = values.next().flatten();
            self.bytes += value.map_or(0, str::len);
            column.append_option(value);
        }
        self.files.append_value(self.file);
        self.lines.append_value(line);
        self.rows += 1;
    }

    fn finish(mut self, schema: SchemaRef) -> Result<RecordBatch, DataError> {
        let mut arrays: Vec<ArrayRef> =
            self.values.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        arrays.push(Arc::new(self.files.finish()));
        arrays.push(Arc::new(self.lines.finish()));
        RecordBatch::try_new(schema, arrays).map_err(|error| DataError::config("data", "train", error.to_string()))
    }
}
