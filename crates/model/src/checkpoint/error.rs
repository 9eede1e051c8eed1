//! Why a checkpoint could not be opened, as sentences that name the file and say what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::WeightsError;

/// Why a checkpoint could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is no checkpoint at this path, or none that can be read.
    #[error("{}: {problem}", path.display())]
    Path {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// A file of the checkpoint is missing or damaged.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// A file of tensors is not sound.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl CheckpointError {
    pub(crate) fn path(path: &Path, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::Path { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn file(file: &Path, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::File { file: file.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
        let path = path.to_path_buf();
        move |source| CheckpointError::Io { path, source }
    }
}
