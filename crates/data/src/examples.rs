//! Cleaned examples, spooled to a file and memory-mapped, so that a data set need not fit in memory.
//!
//! A `Store` holds every row that was read once; the sides of a split are lists of row numbers on it. Files are
//! anonymous (already unlinked), so nothing is left behind whatever happens. It knows nothing of formats or splitting.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::DataError;

/// Where an example was read: which file, and which line (which row in Parquet).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    /// Index into the files read.
    pub file: u32,
    /// Line in the file, the first is 1.
    pub line: u64,
}

/// One side of a split: texts with their labels, read from a memory-mapped spool. `Send`, `Sync`, cheap to clone.
///
/// ```
/// use tidemill_data::Examples;
///
/// let names = ["bad".to_owned(), "good".to_owned()];
/// let examples = Examples::from_texts(&["fine film", "dull"], &[Some(1), Some(0)], &names)?;
/// assert_eq!(examples.len(), 2);
/// assert_eq!(examples.text(0), "fine film");
/// assert_eq!(examples.label(1), Some(0));
/// # Ok::<(), tidemill_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Examples {
    store: Arc<Store>,
    rows: Vec<u32>,
    /// Label number in the store to label number in `labels`; empty when they are the same.
    renumbered: Arc<Vec<u32>>,
    labels: Arc<Vec<String>>,
}

impl Examples {
    /// Examples held in memory, for library users and tests.
    ///
    /// `labels` has one entry a text, an index into `names` or `None`. Errors when lengths differ or an index is out of
    /// range.
    pub fn from_texts<T: AsRef<str>>(
        texts: &[T],
        labels: &[Option<usize>],
        names: &[String],
    ) -> Result<Self, DataError> {
        if texts.len() != labels.len() {
            let problem = format!("{} texts and {} labels", texts.len(), labels.len());
            return Err(DataError::config("data", "labels", problem));
        }
        let mut spool = Spool::in_memory();
        for (line, (text, label)) in (1_u64..).zip(texts.iter().zip(labels)) {
            let label = match label {
                Some(label) if *label >= names.len() => {
                    let problem = format!("text {line} has label number {label} of {}", names.len());
                    return Err(DataError::config("data", "labels", problem));
                }
                Some(label) => u32::try_from(*label).unwrap_or(NO_LABEL),
                None => NO_LABEL,
            };
            let record = Record { line, label, ..Record::default() };
            spool.push(text.as_ref(), record)?;
        }
        let store = Arc::new(spool.finish(vec![PathBuf::from("text")])?);
        let rows = (0..store.len()).collect();
        Ok(Self::new(store, rows, Arc::default(), Arc::new(names.to_vec())))
    }

    pub(crate) fn new(store: Arc<Store>, rows: Vec<u32>, renumbered: Arc<Vec<u32>>, labels: Arc<Vec<String>>) -> Self {
        Self { store, rows, renumbered, labels }
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The cleaned text of example `i`; empty when `i` is out of range.
    pub fn text(&self, i: usize) -> &str {
        self.rows.get(i).map_or("", |row| self.store.text(*row))
    }

    /// The label of example `i` as an index into [`labels`](Self::labels); `None` when it has none.
    pub fn label(&self, i: usize) -> Option<usize> {
        let label = self.store.record(*self.rows.get(i)?).label;
        if label == NO_LABEL {
            return None;
        }
        let renumbered = self.renumbered.get(label as usize).copied().unwrap_or(label);
        (renumbered != NO_LABEL).then_some(renumbered as usize)
    }

    /// Where example `i` was read.
    pub fn row(&self, i: usize) -> RowId {
        self.rows.get(i).map_or_else(RowId::default, |row| {
            let record = self.store.record(*row);
            RowId { file: record.file, line: record.line }
        })
    }

    /// Where example `i` was read, as `file:line`; the file without its folder, unless two files have one name.
    pub fn describe_row(&self, i: usize) -> String {
        self.rows.get(i).map_or_else(String::new, |row| self.store.describe(*row))
    }

    /// The labels' names, in the order of their numbers.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The files that the examples were read from; [`RowId::file`] counts them from 0.
    pub fn files(&self) -> &[PathBuf] {
        &self.store.files
    }

    /// The texts in order.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        self.rows.iter().map(|row| self.store.text(*row))
    }

    /// How many examples each label has, in the order of [`labels`](Self::labels).
    pub fn class_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.labels.len()];
        for label in (0..self.len()).filter_map(|i| self.label(i)) {
            if let Some(count) = counts.get_mut(label) {
                *count += 1;
            }
        }
        counts
    }
}

/// The label number of a row that has no label.
pub(crate) const NO_LABEL: u32 = u32::MAX;

/// What a store knows of a row besides its text. All fixed width, so that the index is mapped too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) label: u32,
    pub(crate) file: u32,
    /// Which of the configured file lists the row came from.
    pub(crate) side: u32,
    pub(crate) line: u64,
    pub(crate) time: i64,
    /// Hash of the group column; 0 when the row has none.
    pub(crate) group: u64,
    /// Hash of the cleaned text as it is.
    pub(crate) exact: u128,
    /// Hash of the text as leakage sees it: NFKC, lower case, white space collapsed.
    pub(crate) folded: u128,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            offset: 0,
            length: 0,
            label: NO_LABEL,
            file: 0,
            side: 0,
            line: 0,
            time: 0,
            group: 0,
            exact: 0,
            folded: 0,
        }
    }
}

/// Bytes a record takes in the index.
const RECORD_BYTES: usize = 80;

impl Record {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let (numbers, hashes) = bytes.split_at_mut(48);
        let fields = [
            self.offset,
            u64::from(self.length) | u64::from(self.label) << 32,
            u64::from(self.file) | u64::from(self.side) << 32,
            self.line,
            self.time.cast_unsigned(),
            self.group,
        ];
        for (place, field) in numbers.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        for (place, hash) in hashes.chunks_exact_mut(16).zip([self.exact, self.folded]) {
            place.copy_from_slice(&hash.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        let word = |i: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let low = |word: u64| (word & u64::from(u32::MAX)) as u32;
        let wide = |i: usize| u128::from(word(i)) | u128::from(word(i + 1)) << 64;
        Self {
            offset: word(0),
            length: low(word(1)),
            label: (word(1) >> 32) as u32,
            file: low(word(2)),
            side: (word(2) >> 32) as u32,
            line: word(3),
            time: word(4).cast_signed(),
            group: word(5),
            exact: wide(6),
            folded: wide(8),
        }
    }
}

/// Bytes that can be read at random: a mapped file, or memory for small sets.
#[derive(Debug)]
enum Bytes {
    Held(Vec<u8>),
    Mapped(Mmap),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Self::Held(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

/// Every row that was kept, in reading order: texts and an index of fixed-width records.
#[derive(Debug)]
pub(crate) struct Store {
    texts: Bytes,
    index: Bytes,
    files: Vec<PathBuf>,
    /// What rows call them.
    names: Vec<String>,
}

impl Store {
    /// How many rows there are.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.index.all().len() / RECORD_BYTES).unwrap_or(u32::MAX)
    }

    pub(crate) fn record(&self, row: u32) -> Record {
        let (records, _) = self.index.all().as_chunks::<RECORD_BYTES>();
        records.get(row as usize).map_or_else(Record::default, Record::from_bytes)
    }

    pub(crate) fn text(&self, row: u32) -> &str {
        let record = self.record(row);
        let start = usize::try_from(record.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(record.length as usize);
        let bytes = self.texts.all().get(start..end).unwrap_or_default();
        // SAFETY: `Spool::push` wrote exactly these bytes from a `&str`, to memory or to a file that has no name and that
        // no one else can open, so they are valid UTF-8 still.
        unsafe { std::str::from_utf8_unchecked(bytes) }
    }

    pub(crate) fn describe(&self, row: u32) -> String {
        let record = self.record(row);
        let name = self.names.get(record.file as usize).map_or("", String::as_str);
        format!("{name}:{}", record.line)
    }
}

/// What rows call their files: the bare name, or the whole path where two files have the same name.
pub(crate) fn short_names<'p>(files: impl Iterator<Item = &'p Path> + Clone) -> Vec<String> {
    let bare = |path: &'p Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut seen: HashMap<_, u32> = HashMap::new();
    files.clone().for_each(|path| *seen.entry(bare(path)).or_default() += 1);
    let name = |path| match bare(path) {
        Some(name) if seen.get(&Some(name.clone())) == Some(&1) => name,
        _ => path.display().to_string(),
    };
    files.map(name).collect()
}

/// Where bytes go: an unnamed file, or memory.
enum Sink {
    Held(Vec<u8>),
    File { writer: BufWriter<File>, folder: PathBuf, written: u64 },
}

impl Sink {
    fn in_folder(folder: &Path) -> Result<Self, DataError> {
        let file = tempfile::tempfile_in(folder)
            .map_err(|source| DataError::io(folder, "make a temporary file here", source))?;
        let writer = BufWriter::with_capacity(1 << 18, file);
        Ok(Self::File { writer, folder: folder.to_path_buf(), written: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        match self {
            Self::Held(held) => held.extend_from_slice(bytes),
            Self::File { writer, folder, written } => {
                writer.write_all(bytes).map_err(|source| full(folder, source))?;
                *written += bytes.len() as u64;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Bytes, DataError> {
        match self {
            Self::Held(held) => Ok(Bytes::Held(held)),
            Self::File { written: 0, .. } => Ok(Bytes::Held(Vec::new())),
            Self::File { writer, folder, .. } => {
                let file = writer.into_inner().map_err(|error| full(&folder, error.into_error()))?;
                // SAFETY: the file has no name, so no other process can change or shorten it while it is mapped.
                let map = unsafe { Mmap::map(&file) };
                Ok(Bytes::Mapped(map.map_err(|source| full(&folder, source))?))
            }
        }
    }
}

fn full(folder: &Path, source: std::io::Error) -> DataError {
    DataError::io(folder, "write the temporary copy of the examples here", source)
}

/// Writes rows one after another and becomes a [`Store`].
pub(crate) struct Spool {
    texts: Sink,
    index: Sink,
    offset: u64,
    rows: u64,
}

impl Spool {
    pub(crate) fn in_folder(folder: &Path) -> Result<Self, DataError> {
        let (texts, index) = (Sink::in_folder(folder)?, Sink::in_folder(folder)?);
        Ok(Self { texts, index, offset: 0, rows: 0 })
    }

    pub(crate) fn in_memory() -> Self {
        Self { texts: Sink::Held(Vec::new()), index: Sink::Held(Vec::new()), offset: 0, rows: 0 }
    }

    pub(crate) fn push(&mut self, text: &str, mut record: Record) -> Result<(), DataError> {
        let limit = u64::from(u32::MAX - 1);
        if self.rows >= limit {
            return Err(DataError::TooManyRows { limit });
        }
        record.offset = self.offset;
        record.length = u32::try_from(text.len())
            .map_err(|_| DataError::config("data", "max_row_bytes", "a text may have 4 GiB at most"))?;
        self.texts.write(text.as_bytes())?;
        self.index.write(&record.to_bytes())?;
        self.offset += text.len() as u64;
        self.rows += 1;
        Ok(())
    }

    pub(crate) fn finish(self, files: Vec<PathBuf>) -> Result<Store, DataError> {
        let names = short_names(files.iter().map(PathBuf::as_path));
        Ok(Store { texts: self.texts.finish()?, index: self.index.finish()?, files, names })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_bytes() {
        let record = Record {
            offset: 1 << 40,
            length: 7,
            label: 3,
            file: 9,
            side: 2,
            line: 12,
            time: -5,
            group: 99,
            exact: u128::MAX - 4,
            folded: 1 << 100,
        };
        assert_eq!(format!("{record:?}"), format!("{:?}", Record::from_bytes(&record.to_bytes())));
    }

    #[test]
    fn a_spool_gives_back_what_went_in_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::in_folder(folder.path()).unwrap();
        let texts = ["one", "", "zwölf — 12", "\u{1F600}"];
        for (line, text) in (1..).zip(texts) {
            spool.push(text, Record { line, label: 1, ..Record::default() }).unwrap();
        }
        let store = spool.finish(vec!["a.csv".into()]).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(store.len(), 4);
        let read: Vec<&str> = (0..4).map(|row| store.text(row)).collect();
        assert_eq!(read, texts);
        assert_eq!(store.describe(2), "a.csv:3");
    }

    #[test]
    fn a_spool_folder_that_is_not_there_is_named() {
        let error = Spool::in_folder(Path::new("/nowhere/at/all")).err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/at/all: cannot make a temporary file"), "{error}");
    }

    #[test]
    fn wrong_labels_are_refused() {
        assert!(Examples::from_texts(&["a"], &[], &[]).is_err());
        assert!(Examples::from_texts(&["a"], &[Some(2)], &["x".into()]).is_err());
        assert_eq!(Examples::from_texts(&["a"], &[None], &[]).unwrap().label(0), None);
    }
}
