//! Why a training run ended without a package, as sentences for people.

use crate::optimisers::BuildError;
use crate::settings::SettingError;
use std::io;
use std::path::{Path, PathBuf};
use tch::TchError;
use tidemill_data::{DataError, LoaderError, TokenizeError};
use tidemill_eval::report::HtmlError;
use tidemill_eval::{EvaluationError, MetricError};
use tidemill_model::{ModelError, PackageError, WeightsError};

/// Why a training run ended without a package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Reading, cleaning or splitting the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Building the tokenizer.
    #[error("[tokenizer] {0}")]
    Tokenizer(#[from] TokenizeError),
    /// Making a batch.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// The loader ended before its epoch.
    #[error("step {step} got no batch, though its epoch is not over")]
    NoBatch {
        /// The optimiser step, from 1.
        step: u64,
    },
    /// Building or running the model.
    #[error("[model] {0}")]
    Model(#[from] ModelError),
    /// Writing the package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Reading or writing weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Evaluating the finished model.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// Computing a validation's figures.
    #[error("validation: {0}")]
    Metric(#[from] MetricError),
    /// Drawing the report's plots.
    #[error("the report: {0}")]
    Html(#[from] HtmlError),
    /// Writing the report as JSON.
    #[error("the report: {0}")]
    Json(#[from] serde_json::Error),
    /// libtorch refused an operation of the optimiser or of the loss.
    #[error("libtorch refused an operation: {0}")]
    Torch(#[from] TchError),
    /// A key of the recipe that only the data show to be wrong.
    #[error("[{section}] {problem}")]
    Setting {
        /// The section of the recipe.
        section: &'static str,
        /// The key and what is wrong with it.
        problem: SettingError,
    },
    /// A side of the split without rows.
    #[error("the {side} side has no rows: {advice}")]
    EmptySide {
        /// `training` or `validation`.
        side: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Nothing to tell apart.
    #[error(
        "the training side has one class only, `{label}`: a classifier needs rows of at least two. Look at \
         [data] label, and at what [clean] drops"
    )]
    OneClass {
        /// The one label.
        label: String,
    },
    /// A loss or a gradient that is no number.
    #[error(
        "step {step}: the {what} is not finite, at learning rate {learning_rate}, in the batch of {rows}. Lower \
         [optimiser] learning_rate, set [training] clip_norm, or look at these rows"
    )]
    NonFinite {
        /// `loss` or `gradient`.
        what: &'static str,
        /// The optimiser step, from 1.
        step: u64,
        /// The learning rate of the step.
        learning_rate: f64,
        /// The rows, as `file:line`.
        rows: Rows,
    },
    /// The folder for the run cannot be made or written.
    #[error("cannot write {}: {}", path.display(), reason(cause))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says; the message has it already.
        cause: io::Error,
    },
    /// A file of an earlier run cannot be read.
    #[error("cannot read {}: {}", path.display(), reason(cause))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says; the message has it already.
        cause: io::Error,
    },
    /// A file of an earlier run holds something else than this program writes.
    #[error("{} is damaged: {problem}. Delete the run's folder, or start afresh in another", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The folder holds a run that is not this one.
    #[error("{} holds a run that cannot be resumed: {reason}", folder.display())]
    OtherRun {
        /// The run's folder.
        folder: PathBuf,
        /// What differs and what to do.
        reason: String,
    },
    /// Another process trains in the folder.
    #[error("{} is in use by another training run", folder.display())]
    InUse {
        /// The run's folder.
        folder: PathBuf,
    },
    /// Stopped on demand, with a checkpoint.
    #[error(
        "stopped after step {step} of {steps}; a checkpoint is in {}. The same command goes on from there",
        folder.display()
    )]
    Stopped {
        /// Steps done.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// The run's folder.
        folder: PathBuf,
    },
}

impl TrainError {
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Write { path, cause }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Read { path, cause }
    }

    /// A failure to write weights; a full disk in the words for full disks.
    pub(crate) fn write_weights(error: WeightsError) -> Self {
        match error {
            WeightsError::Io { file, source } => Self::Write { path: file, cause: source },
            other => other.into(),
        }
    }

    /// A failure to write the package; likewise.
    pub(crate) fn write_package(error: PackageError) -> Self {
        match error {
            PackageError::Io { path, source } => Self::Write { path, cause: source },
            PackageError::Weights(error) => Self::write_weights(error),
            other => other.into(),
        }
    }

    pub(crate) fn damaged(path: &Path, problem: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.to_string() }
    }
}

impl From<BuildError> for TrainError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Setting(problem) => Self::Setting { section: "optimiser", problem },
            BuildError::Torch(error) => Self::Torch(error),
        }
    }
}

/// The rows of a batch, as `file:line`; shown shortened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows(pub Vec<String>);

impl std::fmt::Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 64;
        let shown = self.0.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => write!(f, "{shown}"),
            Some(more) => write!(f, "{shown} and {more} more rows"),
        }
    }
}

/// The system's error in words, with what to do where it is clear.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "no space is left there. Free some or choose another output folder".to_owned()
        }
        io::ErrorKind::PermissionDenied => "permission denied. Choose another output folder".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only. Choose another output folder".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_forbidden_folder_are_sentences() {
        let says = |kind: io::ErrorKind| TrainError::write(Path::new("run"))(kind.into()).to_string();
        assert!(says(io::ErrorKind::StorageFull).starts_with("cannot write run: no space is left there"));
        assert!(says(io::ErrorKind::PermissionDenied).starts_with("cannot write run: permission denied"));
    }

    #[test]
    fn many_rows_are_shown_shortened() {
        let rows = Rows((0..70).map(|row| format!("a.tsv:{row}")).collect());
        assert!(rows.to_string().ends_with("a.tsv:63 and 6 more rows"));
    }
}
