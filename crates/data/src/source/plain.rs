//! Plain text: a line is a text.

use std::path::{Path, PathBuf};

use super::lines::Lines;
use super::{Columns, Rows};
use crate::error::{BadRow, DataError, Place, RowProblem};
use crate::schema::DataConfig;

pub(super) struct Plain {
    path: PathBuf,
    lines: Lines,
}

impl Plain {
    pub(super) fn open(path: &Path, config: &DataConfig) -> Result<Self, DataError> {
        if let Some((key, _)) = config.columns().get(1) {
            let problem = format!("{} is plain text, which has no columns besides the text", path.display());
            return Err(DataError::config("data", key, problem));
        }
        Ok(Self { path: path.to_path_buf(), lines: Lines::open(path, config.max_row_bytes)? })
    }
}

impl Rows for Plain {
    fn next_row(&mut self, columns: &mut Columns) -> Result<bool, DataError> {
        let Some(line) = self.lines.next_line()? else {
            return Ok(false);
        };
        match line.text() {
            Ok(text) => columns.push(line.number, [Some(text)]),
            Err(byte) => {
                let place = Place::line(&self.path, line.number).column(byte.to_string());
                return Err(BadRow { place, problem: RowProblem::InvalidUtf8 }.into());
            }
        }
        Ok(true)
    }
}
