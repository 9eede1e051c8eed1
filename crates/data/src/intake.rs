//! From files to the store: every row becomes an example, is cleaned on all threads, and is spooled in reading order.
//!
//! It knows nothing of splits: rows only remember which list of files they came from. Hashes for duplicates, leakage
//! and groups are taken here once (xxHash3, 128 and 64 bits).

mod names;
mod steps;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch, StringArray};
use rayon::prelude::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use self::names::{MOST_LABELS, Names, Numbered};
use self::steps::{Steps, Which};
use crate::clean::{CleanConfig, Missing, TextCleaning, TooLong, folded};
use crate::error::{BadRow, DataError, Place, RowProblem};
use crate::examples::{Record, RowId, Spool, Store, short_names};
use crate::schema::{DataConfig, LabelValue, time};
use crate::source::Reader;
use crate::summary::{DataReport, FileReport};

/// One row of a data set, by role, before cleaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Where it was read.
    pub row: RowId,
    /// The text as it stands in the file; empty when it is missing.
    pub text: String,
    /// The label, after `cut` and `map`.
    pub label: Option<String>,
    /// The value of the group column.
    pub group: Option<String>,
    /// The time: seconds since 1970 for dates, the number itself for numbers.
    pub time: Option<i64>,
}

impl Reader {
    /// The rows as [`Example`]s, in order; rows whose number lies in no interval of `label.cut` are left out.
    pub fn examples(self) -> impl Iterator<Item = Result<Example, DataError>> {
        let config = self.config().clone();
        let mut reader = self;
        std::iter::from_fn(move || {
            let batch = match reader.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(vec![Err(error)]),
            };
            let view = View::of(&batch);
            let mut examples = Vec::with_capacity(batch.num_rows());
            for i in 0..batch.num_rows() {
                let place = || reader.places().place(view.file(i), view.line(i));
                match view.example(i, &config, &place) {
                    Ok(example) => examples.extend(example.map(Ok)),
                    Err(row) => examples.extend(reader.bad(row).err().map(Err)),
                }
            }
            Some(examples)
        })
        .flatten()
    }
}

/// A batch's columns by role.
struct View<'b> {
    text: Option<&'b StringArray>,
    label: Option<&'b StringArray>,
    group: Option<&'b StringArray>,
    time: Option<&'b StringArray>,
    files: &'b [u32],
    lines: &'b [u64],
}

impl<'b> View<'b> {
    fn of(batch: &'b RecordBatch) -> Self {
        let strings = |name| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let files = batch.column_by_name("file").and_then(|column| column.as_primitive_opt::<UInt32Type>());
        let lines = batch.column_by_name("line").and_then(|column| column.as_primitive_opt::<UInt64Type>());
        Self {
            text: strings("text"),
            label: strings("label"),
            group: strings("group"),
            time: strings("time"),
            files: files.map_or(&[], |files| files.values()),
            lines: lines.map_or(&[], |lines| lines.values()),
        }
    }

    fn value(column: Option<&'b StringArray>, i: usize) -> Option<&'b str> {
        column.filter(|column| column.is_valid(i)).map(|column| column.value(i))
    }

    fn file(&self, i: usize) -> u32 {
        self.files.get(i).copied().unwrap_or_default()
    }

    fn line(&self, i: usize) -> u64 {
        self.lines.get(i).copied().unwrap_or_default()
    }

    fn example(&self, i: usize, config: &DataConfig, place: &impl Fn() -> Place) -> Result<Option<Example>, BadRow> {
        let raw = Self::value(self.label, i).map(str::trim).filter(|label| !label.is_empty());
        let label = match (raw, &config.label) {
            (Some(raw), Some(column)) => match column.value(raw) {
                Ok(LabelValue::Label(label)) => Some(label.into_owned()),
                Ok(LabelValue::Outside) => return Ok(None),
                Err(problem) => return Err(at(place, config, "label", problem)),
            },
            _ => None,
        };
        let time = Self::value(self.time, i).map(time).transpose();
        Ok(Some(Example {
            row: RowId { file: self.file(i), line: self.line(i) },
            text: Self::value(self.text, i).unwrap_or_default().to_owned(),
            label,
            group: Self::value(self.group, i).map(str::to_owned),
            time: time.map_err(|problem| at(place, config, "time", problem))?,
        }))
    }
}

/// A problem in the column that plays `role`.
fn at(place: &impl Fn() -> Place, config: &DataConfig, role: &str, problem: RowProblem) -> BadRow {
    let column = config.columns().into_iter().find(|(key, _)| *key == role);
    let column = column.map_or_else(|| role.to_owned(), |(_, column)| column.to_string());
    BadRow { place: place().column(column), problem }
}

/// Everything that was read: the rows, their labels' names in order, and the report so far.
pub(crate) struct Intake {
    pub(crate) store: Store,
    pub(crate) labels: Vec<String>,
    /// Label numbers in the store to label numbers in `labels`.
    pub(crate) renumbered: Vec<u32>,
    pub(crate) report: DataReport,
}

/// Reads and cleans `lists` of files, one after another.
///
/// `labels`, when given, are all that may occur. Otherwise the first list makes them, and the others may have no new
/// ones. With `needs_time`, rows without a time are missing a value.
pub(crate) fn take_in(
    lists: &[(&str, &[PathBuf])],
    data: &DataConfig,
    clean: &CleanConfig,
    labels: Option<&[String]>,
    needs_time: bool,
    spool: &Path,
) -> Result<Intake, DataError> {
    data.check()?;
    clean.check()?;
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut files: Vec<FileReport> = Vec::new();
    let mut sides: Vec<u32> = Vec::new();
    for (side, (list, list_paths)) in (0..).zip(lists) {
        for path in *list_paths {
            files.push(FileReport { path: path.display().to_string(), list: (*list).to_owned(), rows: 0 });
            paths.push(path.clone());
            sides.push(side);
        }
    }
    let mut reader = Reader::open(&paths, data)?;
    let mut intake = Rows {
        names: Names::new(labels.or(data.labels.as_deref())),
        steps: Steps::new(data, clean, needs_time),
        spool: Spool::in_folder(spool)?,
        files,
        names_of_files: short_names(paths.iter().map(PathBuf::as_path)),
        sides,
    };
    let cleaner = Cleaner { data, clean, cleaning: clean.text(), needs_time };
    while let Some(batch) = reader.next() {
        intake.batch(&batch?, &cleaner, &mut reader)?;
    }
    let (labels, renumbered) = intake.names.finish();
    let report = DataReport {
        files: intake.files,
        rows_read: reader.rows(),
        skipped: reader.skipped().to_vec(),
        steps: intake.steps.finish(),
        labels: labels.clone(),
        ..DataReport::default()
    };
    Ok(Intake { store: intake.spool.finish(paths)?, labels, renumbered, report })
}

/// What can be done to a row without knowing the others.
struct Cleaner<'c> {
    data: &'c DataConfig,
    clean: &'c CleanConfig,
    cleaning: TextCleaning,
    needs_time: bool,
}

/// What became of a row.
enum Outcome<'b> {
    Bad(BadRow),
    Dropped(Which),
    Kept(Kept<'b>),
}

struct Kept<'b> {
    text: Cow<'b, str>,
    label: Option<Cow<'b, str>>,
    record: Record,
    /// A bit a text step that changed the text.
    touched: u8,
    filled: [bool; 2],
}

impl<'c> Cleaner<'c> {
    fn row<'b>(&self, view: &View<'b>, i: usize, place: &impl Fn() -> Place) -> Outcome<'b>
    where
        'c: 'b,
    {
        self.try_row(view, i, place).unwrap_or_else(Outcome::Bad)
    }

    fn try_row<'b>(&self, view: &View<'b>, i: usize, place: &impl Fn() -> Place) -> Result<Outcome<'b>, BadRow>
    where
        'c: 'b,
    {
        let wrong = |role: &str, problem| at(place, self.data, role, problem);
        let missing = |role: &str, which| match self.clean.missing {
            Missing::Stop => Err(wrong(role, RowProblem::Missing)),
            _ => Ok(Outcome::Dropped(which)),
        };
        let (text_filling, label_filling) = match &self.clean.missing {
            Missing::Fill { text, label } => (text.as_deref(), label.as_deref()),
            _ => (None, None),
        };
        let text = self.present(View::value(view.text, i));
        let Some(raw) = text.or(text_filling) else {
            return missing("text", Which::MissingText);
        };
        let mut filled = [text.is_none(), false];
        let label = match &self.data.label {
            None => None,
            Some(column) => {
                let value = self.present(View::value(view.label, i)).map(str::trim);
                match value.filter(|value| !value.is_empty()) {
                    Some(value) => match column.value(value).map_err(|problem| wrong("label", problem))? {
                        LabelValue::Label(label) => Some(label),
                        LabelValue::Outside => return Ok(Outcome::Dropped(Which::Outside)),
                    },
                    None => {
                        let Some(filling) = label_filling else {
                            return missing("label", Which::MissingLabel);
                        };
                        filled[1] = true;
                        Some(Cow::Borrowed(filling))
                    }
                }
            }
        };
        let when = self.present(View::value(view.time, i)).map(time).transpose();
        let when = when.map_err(|problem| wrong("time", problem))?;
        if self.needs_time && when.is_none() {
            return missing("time", Which::MissingTime);
        }
        let mut touched = 0;
        let text = self.cleaning.traced(raw, |step, _, _| touched |= 1 << step as u8);
        if let Some(which) = self.wrong_size(&text) {
            return Ok(Outcome::Dropped(which));
        }
        let group = self.present(View::value(view.group, i));
        let record = Record {
            file: view.file(i),
            line: view.line(i),
            time: when.unwrap_or_default(),
            group: group.map_or(0, |group| xxh3_64(group.as_bytes()).max(1)),
            exact: xxh3_128(text.as_bytes()),
            folded: xxh3_128(folded(&text).as_bytes()),
            ..Record::default()
        };
        Ok(Outcome::Kept(Kept { text, label, record, touched, filled }))
    }

    /// The value, unless it is one of those that mean "missing".
    fn present<'v>(&self, value: Option<&'v str>) -> Option<&'v str> {
        value.filter(|value| !self.clean.missing_values.iter().any(|missing| missing == value.trim()))
    }

    fn wrong_size(&self, text: &str) -> Option<Which> {
        let shorter = |bound: usize| text.len() < bound || (text.len() / 4 < bound && text.chars().count() < bound);
        if shorter(self.clean.min_chars) {
            return Some(if text.is_empty() { Which::Empty } else { Which::TooShort });
        }
        let most = self.clean.max_chars.filter(|_| self.clean.too_long == TooLong::Drop)?;
        (text.len() > most && text.chars().count() > most).then_some(Which::TooLong)
    }
}

/// What is written down while rows come in.
struct Rows {
    names: Names,
    steps: Steps,
    spool: Spool,
    files: Vec<FileReport>,
    /// What the report's rows call them.
    names_of_files: Vec<String>,
    sides: Vec<u32>,
}

/// A row's place in the report.
fn describe(names: &[String], file: u32, line: u64) -> String {
    format!("{}:{line}", names.get(file as usize).map_or("", String::as_str))
}

impl Rows {
    fn batch(&mut self, batch: &RecordBatch, cleaner: &Cleaner<'_>, reader: &mut Reader) -> Result<(), DataError> {
        let view = View::of(batch);
        let outcomes: Vec<Outcome<'_>> = {
            let places = reader.places();
            let one = |i| cleaner.row(&view, i, &|| places.place(view.file(i), view.line(i)));
            (0..batch.num_rows()).into_par_iter().with_min_len(64).map(one).collect()
        };
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let describe = || describe(&self.names_of_files, view.file(i), view.line(i));
            match outcome {
                // A missing value under `missing = "stop"` stops whatever `bad_rows` says.
                Outcome::Bad(row) if row.problem == RowProblem::Missing => return Err(row.into()),
                Outcome::Bad(row) => reader.bad(row)?,
                Outcome::Dropped(which) => {
                    let row = self.steps.wants(which).then(describe);
                    let raw = View::value(if which == Which::Outside { view.label } else { view.text }, i);
                    self.steps.dropped(which, row, raw.unwrap_or_default());
                }
                Outcome::Kept(kept) => {
                    let raw = View::value(view.text, i).unwrap_or_default();
                    self.keep(kept, raw, cleaner, reader)?;
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, kept: Kept<'_>, raw: &str, cleaner: &Cleaner<'_>, reader: &mut Reader) -> Result<(), DataError> {
        let mut record = kept.record;
        record.side = self.sides.get(record.file as usize).copied().unwrap_or_default();
        if let Some(label) = &kept.label {
            match self.names.number(label, record.side == 0) {
                Numbered::Known(number) => record.label = number,
                Numbered::Full => {
                    let place = reader.places().place(record.file, record.line);
                    return Err(DataError::TooManyLabels { place, limit: MOST_LABELS });
                }
                Numbered::Unknown => {
                    let place = || reader.places().place(record.file, record.line);
                    let bad = at(&place, cleaner.data, "label", self.names.unknown(label));
                    return reader.bad(bad);
                }
            }
        }
        let names = &self.names_of_files;
        let row = || describe(names, record.file, record.line);
        self.steps.kept(&kept, row, raw, &cleaner.cleaning);
        if let Some(file) = self.files.get_mut(record.file as usize) {
            file.rows += 1;
        }
        self.spool.push(&kept.text, record)
    }
}
