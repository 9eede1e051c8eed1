//! `history.jsonl`: one line a point, appended, and cut back to a checkpoint on resuming.

use crate::TrainError;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tidemill_eval::HistoryPoint;

/// The open file and its points.
pub(crate) struct History {
    path: PathBuf,
    file: File,
    bytes: u64,
    points: Vec<HistoryPoint>,
}

impl History {
    /// Opens `path`, keeping its first `bytes` and dropping what follows.
    pub(crate) fn open(path: &Path, bytes: u64) -> Result<Self, TrainError> {
        let file = open_at(path, bytes)?;
        let points = read(path)?;
        Ok(Self { path: path.to_owned(), file, bytes, points })
    }

    /// Adds a line.
    pub(crate) fn append(&mut self, point: HistoryPoint) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(&point).map_err(|error| TrainError::write(&self.path)(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(TrainError::write(&self.path))?;
        self.bytes += line.len() as u64;
        self.points.push(point);
        Ok(())
    }

    /// Makes the file durable and gives its length in bytes.
    pub(crate) fn sync(&mut self) -> Result<u64, TrainError> {
        self.file.sync_data().map_err(TrainError::write(&self.path))?;
        Ok(self.bytes)
    }

    /// All points.
    pub(crate) fn points(&self) -> &[HistoryPoint] {
        &self.points
    }
}

/// Opens `path` for writing after its first `bytes`, which it must have; what follows is cut off.
pub(crate) fn open_at(path: &Path, bytes: u64) -> Result<File, TrainError> {
    let mut file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(TrainError::write(path))?;
    let length = file.metadata().map_err(TrainError::read(path))?.len();
    if length < bytes {
        let problem = format!("it has {length} bytes, and the checkpoint knows of {bytes}");
        return Err(TrainError::damaged(path, problem));
    }
    file.set_len(bytes).map_err(TrainError::write(path))?;
    file.seek(SeekFrom::End(0)).map_err(TrainError::write(path))?;
    Ok(file)
}

fn read(path: &Path) -> Result<Vec<HistoryPoint>, TrainError> {
    let file = File::open(path).map_err(TrainError::read(path))?;
    let mut points = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(TrainError::read(path))?;
        let point = serde_json::from_str(&line)
            .map_err(|error| TrainError::damaged(path, format!("line {}: {error}", number + 1)))?;
        points.push(point);
    }
    Ok(points)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn it_is_cut_back_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let point = |step| HistoryPoint { step, train_loss: 0.1 + 0.2, ..HistoryPoint::default() };
        let mut history = History::open(&path, 0).unwrap();
        history.append(point(1)).unwrap();
        let kept = history.sync().unwrap();
        history.append(point(2)).unwrap();
        drop(history);
        let mut history = History::open(&path, kept).unwrap();
        assert_eq!(history.points(), [point(1)]);
        history.append(point(3)).unwrap();
        drop(history);
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert_eq!(History::open(&path, bytes).unwrap().points(), [point(1), point(3)]);
        assert!(matches!(History::open(&path, bytes + 1), Err(TrainError::Damaged { .. })));
    }
}
