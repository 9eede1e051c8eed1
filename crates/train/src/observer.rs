//! What a training run tells while it goes: for a progress bar, a log, or a server's job.

use std::path::PathBuf;
use std::time::Duration;
use tidemill_data::DataReport;
use tidemill_eval::HistoryPoint;

/// Hears what happens in a run, in order, on the thread that trains. It must return quickly.
pub trait Observer {
    /// One thing that happened.
    fn event(&mut self, event: &Event<'_>);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event<'_>) {}
}

impl<F: FnMut(&Event<'_>)> Observer for F {
    fn event(&mut self, event: &Event<'_>) {
        self(event);
    }
}

/// One thing that happened in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The data are read, cleaned and split.
    Prepared {
        /// What was read, dropped and kept.
        report: &'a DataReport,
    },
    /// Training begins, or goes on.
    Started {
        /// Steps done before: 0, or those of the checkpoint that is resumed.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// Steps in one epoch.
        steps_per_epoch: u64,
        /// Rows on the training side.
        rows: usize,
        /// Trainable numbers in the model.
        parameters: usize,
    },
    /// One optimiser step is done.
    Step {
        /// Which, from 1.
        step: u64,
        /// Of how many.
        of: u64,
        /// The epoch it belongs to, from 1.
        epoch: u64,
        /// Its mean loss over the batch.
        loss: f64,
        /// The share of the batch that was labelled right.
        accuracy: f64,
        /// The learning rate it was made with.
        learning_rate: f64,
        /// Rows a second over the last steps.
        samples_per_second: f64,
        /// How long the rest will take at this pace; not before the pace is known.
        time_left: Option<Duration>,
    },
    /// A line was added to the history; after a validation it has the validation's figures.
    Logged {
        /// The line.
        point: &'a HistoryPoint,
    },
    /// The validation side was classified.
    Validated {
        /// After which step.
        step: u64,
        /// The line of the history.
        point: &'a HistoryPoint,
        /// Whether these are the best weights so far.
        best: bool,
    },
    /// A checkpoint is on disk.
    Saved {
        /// Its step.
        step: u64,
        /// Its folder.
        folder: PathBuf,
    },
    /// Something that the user should know; the run goes on.
    Warning {
        /// A sentence.
        message: String,
    },
    /// The steps are done; what remains is the evaluation and the package.
    Evaluating {
        /// Which side is evaluated: `test`, or `validation` where there is no test side.
        side: &'static str,
        /// Its rows.
        rows: usize,
    },
    /// Everything is written.
    Finished {
        /// The package.
        package: PathBuf,
    },
}
