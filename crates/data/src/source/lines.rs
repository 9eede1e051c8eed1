//! Lines out of a file of any size, with their numbers, in a buffer that never outgrows the bound on a row.
//!
//! Readers of delimited text look past a line's end here (quoted fields span lines); the others take line by line.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::open::{Opened, open};
use crate::error::{BadRow, DataError, Place, RowProblem};

/// Bytes asked of the file at a time.
const CHUNK: usize = 1 << 16;

/// A file as lines.
pub(crate) struct Lines {
    path: PathBuf,
    opened: Opened,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Number of the line at `start`.
    number: u64,
    limit: usize,
    at_end: bool,
}

/// One line without its line break.
pub(crate) struct Line<'a> {
    pub(crate) number: u64,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Line<'a> {
    /// The line as text, or the position, from 1, of the first byte that is not UTF-8.
    pub(crate) fn text(&self) -> Result<&'a str, usize> {
        std::str::from_utf8(self.bytes).map_err(|error| error.valid_up_to() + 1)
    }
}

/// What a look for a line's end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The line ends here: offset after its line break, counted from the row's start.
    Line(usize),
    /// No bytes are left.
    End,
    /// The row passes the bound.
    TooLong,
}

impl Lines {
    /// Opens a file, past its byte order mark; `limit` is the bound on a row in bytes.
    pub(crate) fn open(path: &Path, limit: usize) -> Result<Self, DataError> {
        let opened = open(path)?;
        let mut lines = Self {
            path: path.to_path_buf(),
            opened,
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            number: 1,
            limit,
            at_end: false,
        };
        while lines.end < 3 && !lines.at_end {
            lines.fill()?;
        }
        let head = lines.window(lines.end);
        if head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF]) {
            return Err(DataError::Utf16 { path: lines.path });
        }
        if head.starts_with(&[0xEF, 0xBB, 0xBF]) {
            lines.start = 3;
        }
        Ok(lines)
    }

    /// Number of the line that comes next.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The bound on a row in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Looks for the end of the line that begins `from` bytes after the row's start, reading on when needed.
    pub(crate) fn line_end(&mut self, from: usize) -> Result<Found, DataError> {
        let mut searched = from;
        loop {
            let unseen = self.buffer.get(self.start + searched..self.end).unwrap_or_default();
            if let Some(found) = memchr::memchr(b'\n', unseen) {
                let end = searched + found + 1;
                return Ok(if end > self.limit + 1 { Found::TooLong } else { Found::Line(end) });
            }
            searched = self.end - self.start;
            if searched > self.limit {
                return Ok(Found::TooLong);
            }
            if self.at_end {
                return Ok(if searched > from { Found::Line(searched) } else { Found::End });
            }
            self.fill()?;
        }
    }

    /// The first `length` bytes of what was looked at.
    pub(crate) fn window(&self, length: usize) -> &[u8] {
        self.buffer.get(self.start..(self.start + length).min(self.end)).unwrap_or_default()
    }

    /// Goes past the first `length` bytes, which hold `lines` line breaks.
    pub(crate) fn advance(&mut self, length: usize, lines: u64) {
        self.start = (self.start + length).min(self.end);
        self.number += lines;
    }

    /// Goes past the line at the start, however long it is.
    pub(crate) fn skip_line(&mut self) -> Result<(), DataError> {
        loop {
            let held = self.buffer.get(self.start..self.end).unwrap_or_default();
            if let Some(found) = memchr::memchr(b'\n', held) {
                self.advance(found + 1, 1);
                return Ok(());
            }
            self.start = self.end;
            if self.at_end {
                self.number += 1;
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// The next line. After a line that passes the bound, which is an error, the next call goes on behind it.
    pub(crate) fn next_line(&mut self) -> Result<Option<Line<'_>>, DataError> {
        match self.line_end(0)? {
            Found::End => Ok(None),
            Found::TooLong => {
                let place = Place::line(&self.path, self.number);
                self.skip_line()?;
                Err(BadRow { place, problem: RowProblem::TooLong { limit: self.limit } }.into())
            }
            Found::Line(end) => {
                let (start, number) = (self.start, self.number);
                self.advance(end, 1);
                let line = self.buffer.get(start..start + end).unwrap_or_default();
                Ok(Some(Line { number, bytes: without_break(line) }))
            }
        }
    }

    fn fill(&mut self) -> Result<(), DataError> {
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.buffer.len() - self.end < CHUNK {
                let wanted = (self.buffer.len() * 2).min(self.limit.saturating_add(2 * CHUNK));
                self.buffer.resize(wanted.max(self.end + CHUNK), 0);
            }
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match self.opened.reader.read(room) {
                Ok(0) => self.at_end = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.trouble(error)),
            }
            return Ok(());
        }
    }

    fn trouble(&self, error: std::io::Error) -> DataError {
        let held = self.buffer.get(self.start..self.end).unwrap_or_default();
        let breaks = memchr::memchr_iter(b'\n', held).count() as u64;
        gzip_trouble(self.opened.gzip, Place::line(&self.path, self.number + breaks), error)
    }
}

/// What a failed read of a file, gzipped or not, is called.
pub(crate) fn gzip_trouble(gzip: bool, place: Place, error: std::io::Error) -> DataError {
    match (gzip, error.kind()) {
        (true, ErrorKind::UnexpectedEof) => DataError::TruncatedGzip { place },
        (true, ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
            DataError::DamagedGzip { place, reason: error.to_string() }
        }
        _ => DataError::io(&place.path, "read", error),
    }
}

/// A line without the `\n` or `\r\n` that ends it.
pub(crate) fn without_break(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn lines_of(content: &[u8], limit: usize) -> Vec<Result<(u64, String), String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut lines = Lines::open(file.path(), limit).unwrap();
        let mut all = Vec::new();
        loop {
            match lines.next_line() {
                Ok(Some(line)) => all.push(Ok((line.number, line.text().unwrap().to_owned()))),
                Ok(None) => return all,
                Err(DataError::Row(row)) => all.push(Err(row.problem.kind().to_owned())),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn lines_come_with_numbers_and_without_breaks_or_mark() {
        let lines = lines_of(b"\xEF\xBB\xBFone\r\n\ntwo\nlast", 100);
        let wanted = [(1, "one"), (2, ""), (3, "two"), (4, "last")];
        assert_eq!(lines, wanted.map(|(n, text)| Ok((n, text.to_owned()))));
        assert!(lines_of(b"", 100).is_empty());
    }

    #[test]
    fn a_line_past_the_bound_is_one_error_and_costs_no_memory() {
        let mut content = b"a\n".to_vec();
        content.extend(std::iter::repeat_n(b'x', 5_000_000));
        content.extend(b"\nb\n");
        let lines = lines_of(&content, 1000);
        assert_eq!(lines, [Ok((1, "a".into())), Err("row too large".into()), Ok((3, "b".into()))]);
    }

    #[test]
    fn lines_longer_than_the_buffer_are_whole() {
        let long = "y".repeat(300_000);
        let lines = lines_of(format!("{long}\nz\n{long}").as_bytes(), 400_000);
        assert_eq!(lines, [Ok((1, long.clone())), Ok((2, "z".into())), Ok((3, long))]);
    }
}
