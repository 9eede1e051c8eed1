//! Checkpoints: everything that a run needs to go on to the same bytes.
//!
//! `checkpoints/step-…/` holds `model.safetensors`, `optimiser.safetensors`, `average.safetensors` (where weights are
//! averaged) and `state.json`; `checkpoints/last` and `checkpoints/best` are links to two of them. A folder is written
//! beside, synced and renamed; then `last` is switched by renaming a link: whenever the process dies, `last` leads to a whole
//! checkpoint. Knows nothing of what the state means.

use crate::TrainError;
use crate::average::Average;
use crate::trainer::Trainer;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};
use tidemill_model::{Weights, files, weights};
use tidemill_torch::choice::KernelTable;

/// What is not a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Optimiser steps done.
    pub(crate) step: u64,
    /// Whether early stopping has ended the run.
    pub(crate) ended: bool,
    /// What has been summed up since the last line of the history.
    pub(crate) since: Since,
    /// The schedule's own state.
    pub(crate) schedule: serde_json::Value,
    /// The best validation so far.
    pub(crate) best: Option<Best>,
    /// The best figure that early stopping has seen, and validations since.
    pub(crate) watched: Option<f64>,
    /// See `watched`.
    pub(crate) without_improvement: u64,
    /// Length of `history.jsonl`.
    pub(crate) history_bytes: u64,
    /// Length of the event file.
    pub(crate) event_bytes: u64,
    /// The kernels that the run's matrix products took.
    pub(crate) kernels: KernelTable,
}

/// Sums over the steps since the last line of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Since {
    /// Each step's mean loss times its rows.
    pub(crate) loss: f64,
    /// Rows labelled right.
    pub(crate) correct: u64,
    /// Rows.
    pub(crate) rows: u64,
}

/// The best validation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Best {
    /// After which step; its checkpoint is kept.
    pub(crate) step: u64,
    /// The figure.
    pub(crate) figure: f64,
    /// The loss, which decides between equal figures.
    pub(crate) loss: f64,
}

impl State {
    /// The state before the first step.
    pub(crate) fn start() -> Self {
        Self {
            step: 0,
            ended: false,
            since: Since::default(),
            schedule: serde_json::Value::Null,
            best: None,
            watched: None,
            without_improvement: 0,
            history_bytes: 0,
            event_bytes: 0,
            kernels: KernelTable::default(),
        }
    }
}

/// The folder `checkpoints/` of a run.
pub(crate) struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// The checkpoints in `folder`, which need not exist.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The last checkpoint's state, if there is one.
    pub(crate) fn last(&self) -> Result<Option<State>, TrainError> {
        let path = self.folder.join("last").join("state.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(TrainError::read(&path)(error)),
        };
        let state = serde_json::from_slice(&bytes);
        state.map(Some).map_err(|error| TrainError::damaged(&path, error))
    }

    /// Writes `state` and the trainer's tensors, switches `last` to them, and removes what is no longer needed.
    pub(crate) fn save(
        &self,
        state: &State,
        trainer: &Trainer,
        average: Option<&Average>,
    ) -> Result<PathBuf, TrainError> {
        let folder = self.of(state.step);
        let beside = self.folder.join(format!(".{}.partial", name(state.step)));
        let written = self.write(&beside, state, trainer, average).and_then(|()| {
            remove(&folder)?;
            fs::rename(&beside, &folder).map_err(TrainError::write(&folder))
        });
        if written.is_err() {
            // The first error is the one to report; the leftover is only litter.
            let _ = fs::remove_dir_all(&beside);
        }
        written?;
        files::sync_folder(&self.folder).map_err(TrainError::write(&self.folder))?;
        self.link("last", state.step)?;
        if let Some(best) = state.best {
            self.link("best", best.step)?;
        }
        self.remove_others(state)?;
        Ok(folder)
    }

    fn write(
        &self,
        folder: &Path,
        state: &State,
        trainer: &Trainer,
        average: Option<&Average>,
    ) -> Result<(), TrainError> {
        remove(folder)?;
        fs::create_dir_all(folder).map_err(TrainError::write(folder))?;
        let refused = TrainError::write_weights;
        trainer.parameters().save(&folder.join(MODEL)).map_err(refused)?;
        weights::write(&folder.join(OPTIMISER), &trainer.optimiser_state()).map_err(refused)?;
        if let Some(average) = average {
            weights::write(&folder.join(AVERAGE), &average.named()).map_err(refused)?;
        }
        let path = folder.join("state.json");
        let text = serde_json::to_vec_pretty(state);
        let text = text.map_err(|error| TrainError::write(&path)(error.into()))?;
        files::write_atomically(&path, |file: &mut dyn Write| file.write_all(&text)).map_err(TrainError::write(&path))
    }

    /// Puts the tensors of the checkpoint after `step` back where they were.
    pub(crate) fn restore(&self, step: u64, trainer: &Trainer, average: Option<&Average>) -> Result<(), TrainError> {
        let folder = self.of(step);
        trainer.parameters().load_from(&Weights::open(&folder.join(MODEL))?)?;
        copy_into(&folder.join(OPTIMISER), &trainer.optimiser_state())?;
        match average {
            Some(average) => copy_into(&folder.join(AVERAGE), &average.named()),
            None => Ok(()),
        }
    }

    /// Puts the weights of the checkpoint after `step` into the model for good: the averages where there are.
    pub(crate) fn restore_weights(&self, step: u64, trainer: &Trainer) -> Result<(), TrainError> {
        let folder = self.of(step);
        trainer.parameters().load_from(&Weights::open(&folder.join(MODEL))?)?;
        let averages = folder.join(AVERAGE);
        match averages.exists() {
            true => copy_into(&averages, &trainer.parameters().trainable()),
            false => Ok(()),
        }
    }

    fn of(&self, step: u64) -> PathBuf {
        self.folder.join(name(step))
    }

    /// Makes `link` lead to the checkpoint after `step`, at once.
    fn link(&self, link: &str, step: u64) -> Result<(), TrainError> {
        let (path, beside) = (self.folder.join(link), self.folder.join(format!(".{link}.partial")));
        let switch = || -> std::io::Result<()> {
            if fs::symlink_metadata(&beside).is_ok() {
                fs::remove_file(&beside)?;
            }
            symlink(name(step), &beside)?;
            fs::rename(&beside, &path)?;
            files::sync_folder(&self.folder)
        };
        switch().map_err(TrainError::write(&path))
    }

    /// Removes checkpoints that neither `last` nor `best` leads to, and what a killed process left half written.
    fn remove_others(&self, state: &State) -> Result<(), TrainError> {
        let mut kept = vec!["last".to_owned(), "best".to_owned(), name(state.step)];
        kept.extend(state.best.map(|best| name(best.step)));
        for entry in fs::read_dir(&self.folder).map_err(TrainError::read(&self.folder))? {
            let entry = entry.map_err(TrainError::read(&self.folder))?;
            if !kept.iter().any(|name| entry.file_name() == name.as_str()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

const MODEL: &str = "model.safetensors";
const OPTIMISER: &str = "optimiser.safetensors";
const AVERAGE: &str = "average.safetensors";

fn name(step: u64) -> String {
    format!("step-{step:010}")
}

/// Copies the tensors of `file` into those of the same names.
fn copy_into(file: &Path, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
    let stored = Weights::open(file)?;
    for (name, tensor) in tensors {
        let from = stored.tensor(name, Device::Cpu)?;
        if from.size() != tensor.size() || from.kind() != tensor.kind() {
            return Err(TrainError::damaged(file, format!("`{name}` has another shape or type")));
        }
        tch::no_grad(|| tensor.shallow_clone().f_copy_(&from))?;
    }
    Ok(())
}

/// Removes a file or a folder, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), TrainError> {
    let result = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    result.map_err(TrainError::write(path))
}
