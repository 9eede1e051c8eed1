//! CSV, TSV and other delimited text (RFC 4180). Fields are found in the read buffer and copied once, into the batch.
//!
//! Written here because a row must be bounded, a quote that is never closed must be an error with its line, and line
//! numbers must stay right behind blank lines and quoted line breaks; the `csv` crate, which the tests compare with,
//! does none of the three.

use std::path::{Path, PathBuf};

use super::lines::{Found, Lines, without_break};
use super::{Columns, Rows};
use crate::error::{BadRow, DataError, Place, RowProblem, listed, nearest};
use crate::schema::{Column, DataConfig, Quote};

pub(super) struct Delimited {
    path: PathBuf,
    lines: Lines,
    delimiter: u8,
    quote: Option<u8>,
    /// Fields of the first row.
    width: usize,
    /// Index of each configured column.
    wanted: Vec<usize>,
    header: Vec<String>,
    fields: Vec<Field>,
    /// Quoted fields that held doubled quotes, without them.
    unescaped: Vec<u8>,
    /// Bytes and line breaks of the row that was read last, still at the start of the buffer.
    behind: (usize, u64),
}

/// A field's place in the buffer, or in `unescaped`.
#[derive(Clone, Copy)]
struct Field {
    start: usize,
    end: usize,
    quoted: bool,
    unescaped: bool,
}

impl Delimited {
    pub(super) fn open(path: &Path, config: &DataConfig, delimiter: u8, quote: Option<u8>) -> Result<Self, DataError> {
        let delimiter = match config.delimiter {
            Some(delimiter) => u8::try_from(delimiter).unwrap_or(delimiter as u8),
            None => delimiter,
        };
        let mut rows = Self {
            path: path.to_path_buf(),
            lines: Lines::open(path, config.max_row_bytes)?,
            delimiter,
            quote: config.quote.map_or(quote, |Quote(quote)| quote),
            width: 0,
            wanted: Vec::new(),
            header: Vec::new(),
            fields: Vec::new(),
            unescaped: Vec::new(),
            behind: (0, 0),
        };
        if rows.quote == Some(delimiter) {
            return Err(DataError::config("data", "quote", "the quote and the delimiter are the same"));
        }
        let columns = config.columns();
        let named = columns.iter().find(|(_, column)| matches!(column, Column::Name(_)));
        if let (Some((key, column)), Some(false)) = (named, config.header) {
            let problem = format!("column {column} is given by name, but `header` is false; give its number");
            return Err(DataError::config("data", key, problem));
        }
        let has_header = config.header.unwrap_or(named.is_some());
        let Some(line) = rows.record()? else {
            return Err(DataError::EmptyFile { path: path.to_path_buf() });
        };
        rows.width = rows.fields.len();
        if has_header {
            for i in 0..rows.width {
                let name = rows.text(i, line)?.trim().to_owned();
                rows.header.push(name);
            }
        } else {
            rows.behind = (0, 0); // the first row is data: it is read again
        }
        rows.wanted = columns.iter().map(|(key, column)| rows.find(key, column, line)).collect::<Result<_, _>>()?;
        Ok(rows)
    }

    fn find(&self, key: &str, column: &Column, line: u64) -> Result<usize, DataError> {
        let found = match column {
            Column::Number(number) => Some(number - 1).filter(|index| *index < self.width),
            Column::Name(name) => self.header.iter().position(|other| other == name.trim()),
        };
        found.ok_or_else(|| DataError::UnknownColumn {
            place: Place::line(&self.path, line),
            column: format!("{column} (key `{key}`)").into(),
            nearest: match column {
                Column::Name(name) => nearest(name, self.header.iter().map(String::as_str)).map(Into::into),
                Column::Number(_) => None,
            },
            known: match self.header.is_empty() {
                true => format!("1 to {}", self.width).into(),
                false => listed(self.header.iter().map(String::as_str)).into(),
            },
        })
    }

    fn bad(&self, line: u64, column: Option<usize>, problem: RowProblem) -> DataError {
        let place = Place::line(&self.path, line);
        let place = match column {
            Some(index) => place.column(self.column_name(index)),
            None => place,
        };
        BadRow { place, problem }.into()
    }

    fn column_name(&self, index: usize) -> String {
        match self.header.get(index) {
            Some(name) => format!("{} (`{name}`)", index + 1),
            None => (index + 1).to_string(),
        }
    }

    /// Field `index` of the row read last, as text.
    fn text(&self, index: usize, line: u64) -> Result<&str, DataError> {
        std::str::from_utf8(self.bytes(index)).map_err(|error| {
            let column = format!("{}, byte {}", self.column_name(index), error.valid_up_to() + 1);
            let place = Place::line(&self.path, line).column(column);
            BadRow { place, problem: RowProblem::InvalidUtf8 }.into()
        })
    }

    fn bytes(&self, index: usize) -> &[u8] {
        let Some(field) = self.fields.get(index) else {
            return &[];
        };
        let bytes = match field.unescaped {
            true => &self.unescaped,
            false => self.lines.window(field.end),
        };
        bytes.get(field.start..field.end).unwrap_or_default()
    }

    /// Finds the next row's fields; its line number, or `None` at the end.
    fn record(&mut self) -> Result<Option<u64>, DataError> {
        loop {
            let (bytes, breaks) = std::mem::take(&mut self.behind);
            self.lines.advance(bytes, breaks);
            let line = self.lines.number();
            let end = match self.lines.line_end(0)? {
                Found::End => return Ok(None),
                Found::TooLong => {
                    let limit = self.lines.limit();
                    self.lines.skip_line()?;
                    return Err(self.bad(line, None, RowProblem::TooLong { limit }));
                }
                Found::Line(end) => end,
            };
            self.behind = (end, 1);
            let content = without_break(self.lines.window(end));
            if content.is_empty() {
                continue;
            }
            self.fields.clear();
            match self.quote.filter(|quote| memchr::memchr(*quote, content).is_some()) {
                Some(quote) => self.split_quoted(line, end, quote)?,
                None => {
                    let plain = |start, end| Field { start, end, quoted: false, unescaped: false };
                    let mut start = 0;
                    for at in memchr::memchr_iter(self.delimiter, content) {
                        self.fields.push(plain(start, at));
                        start = at + 1;
                    }
                    self.fields.push(plain(start, content.len()));
                }
            }
            return Ok(Some(line));
        }
    }

    /// Splits a row with quotes in it, which may go on over the line that ends at `end`.
    fn split_quoted(&mut self, line: u64, mut end: usize, quote: u8) -> Result<(), DataError> {
        self.unescaped.clear();
        let mut breaks = 1;
        let mut at = 0;
        loop {
            let index = self.fields.len();
            if self.lines.window(end).get(at) != Some(&quote) {
                let content = without_break(self.lines.window(end));
                let rest = content.get(at..).unwrap_or_default();
                let length = memchr::memchr(self.delimiter, rest);
                let stop = at + length.unwrap_or(rest.len());
                self.fields.push(Field { start: at, end: stop, quoted: false, unescaped: false });
                if length.is_none() {
                    break;
                }
                at = stop + 1;
                continue;
            }
            let closed = self.close_quote(line, at + 1, &mut end, &mut breaks, quote, index)?;
            let window = self.lines.window(end);
            match window.get(closed) {
                Some(byte) if *byte == self.delimiter => at = closed + 1,
                _ if without_break(window.get(closed..).unwrap_or_default()).is_empty() => break,
                _ => return Err(self.bad(line, Some(index), RowProblem::AfterQuote)),
            }
        }
        self.behind = (end, breaks);
        Ok(())
    }

    /// Pushes the quoted field that begins at `start`; the offset behind its closing quote.
    fn close_quote(
        &mut self,
        line: u64,
        start: usize,
        end: &mut usize,
        breaks: &mut u64,
        quote: u8,
        index: usize,
    ) -> Result<usize, DataError> {
        let unescaped_from = self.unescaped.len();
        let mut part = start;
        let mut at = start;
        loop {
            let window = self.lines.window(*end);
            let Some(found) = memchr::memchr(quote, window.get(at..).unwrap_or_default()) else {
                at = *end;
                match self.lines.line_end(*end)? {
                    Found::Line(next) => (*end, *breaks) = (next, *breaks + 1),
                    Found::End => {
                        return Err(self.bad(line, Some(index), RowProblem::UnclosedQuote));
                    }
                    Found::TooLong => {
                        let limit = self.lines.limit();
                        return Err(self.bad(line, Some(index), RowProblem::TooLong { limit }));
                    }
                }
                continue;
            };
            let found = at + found;
            if window.get(found + 1) == Some(&quote) {
                self.unescaped.extend_from_slice(window.get(part..=found).unwrap_or_default());
                (part, at) = (found + 2, found + 2);
                continue;
            }
            let field = if part == start {
                Field { start, end: found, quoted: true, unescaped: false }
            } else {
                self.unescaped.extend_from_slice(window.get(part..found).unwrap_or_default());
                Field { start: unescaped_from, end: self.unescaped.len(), quoted: true, unescaped: true }
            };
            self.fields.push(field);
            return Ok(found + 1);
        }
    }
}

impl Rows for Delimited {
    fn next_row(&mut self, columns: &mut Columns) -> Result<bool, DataError> {
        let Some(line) = self.record()? else {
            return Ok(false);
        };
        if self.fields.len() != self.width {
            let problem = RowProblem::Ragged { found: self.fields.len(), expected: self.width };
            return Err(self.bad(line, None, problem));
        }
        let mut values: [Option<&str>; 4] = [None; 4];
        for (value, index) in values.iter_mut().zip(&self.wanted) {
            let text = self.text(*index, line)?;
            let quoted = self.fields.get(*index).is_some_and(|field| field.quoted);
            *value = Some(text).filter(|text| quoted || !text.is_empty());
        }
        columns.push(line, values);
        Ok(true)
    }
}
