//! One training run from its recipe to its package: the order of things, and little of how each is done.

use crate::TrainError;
use crate::checkpoint::State;
use crate::observer::{Event, Observer};
use crate::recipe::{Keep, Recipe};
use crate::run_folder::{Identity, RunFolder};
use crate::training_loop::TrainingLoop;
use crate::validation;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tch::Device;
use tidemill_data::{DataError, Encoder, Examples, Prepared, prepare};
use tidemill_eval::{Context, HistoryPoint, Report};
use tidemill_torch::choice;

/// Where and how a run is made: everything that is not in the recipe.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// The run's folder. It is made where it does not exist.
    pub output: PathBuf,
    /// What to do with an earlier run in that folder.
    pub resume: Resume,
    /// Where tensors live. Default: the CPU.
    pub device: Device,
    /// Threads of libtorch; wins over the recipe's. Default: those of the run that is resumed, else the recipe's, else
    /// the processor's cores.
    pub threads: Option<i32>,
    /// Set to true from anywhere, it makes the run save a checkpoint and end with [`TrainError::Stopped`].
    pub stop: Option<Arc<AtomicBool>>,
}

impl TrainOptions {
    /// A run in `output`, resumed where there is something to resume, on the CPU.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        Self { output: output.into(), resume: Resume::default(), device: Device::Cpu, threads: None, stop: None }
    }
}

/// What to do with an earlier run in the output folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Go on from its last checkpoint, if it is the same run; refuse if it is another.
    #[default]
    Auto,
    /// Remove it and start from nothing.
    Never,
}

/// What a finished run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// The package's folder.
    pub package: PathBuf,
    /// The evaluation on the test side, or on the validation side where there is no test side.
    pub report: Report,
    /// The whole history.
    pub history: Vec<HistoryPoint>,
}

/// Runs of one process take turns: the number of threads and the random generator are the process's.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `recipe` in `options.output`, or goes on with the run that is there.
///
/// The folder holds `run.json` (what the run is), `checkpoints/last` and `checkpoints/best`, `history.jsonl`, an event
/// file for TensorBoard, and at the end `package/` and `report.json`, `report.txt` and `report.html`. Killed at any moment
/// and called again with the same arguments, it ends with the same bytes in `package/model.safetensors` as if it had been
/// left alone. A finished run called again evaluates and packs again.
///
/// Runs of one process take turns, as libtorch's threads and random numbers are the process's.
///
/// # Errors
///
/// See [`TrainError`]. A run that fails before its first step leaves no folder that was not there before.
pub fn train(recipe: &Recipe, options: &TrainOptions, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = RunFolder::open(options)?;
    let outcome = ready(recipe, options, &folder, observer).and_then(|run| run.go(recipe, options, &folder, observer));
    folder.leave(outcome.is_err());
    outcome
}

/// Data that are read, and where to go on.
struct Ready {
    identity: Identity,
    data: Prepared,
    encoder: Arc<Encoder>,
    state: State,
}

fn ready(
    recipe: &Recipe,
    options: &TrainOptions,
    folder: &RunFolder,
    observer: &mut dyn Observer,
) -> Result<Ready, TrainError> {
    let threads = threads(recipe, options, folder)?;
    tidemill_torch::set_threads(threads);
    let identity = Identity::of(recipe, threads, options.device)?;
    let earlier = folder.earlier(&identity, options.resume)?;
    let spool = folder.spool()?;
    let data = prepare(&recipe.data, &recipe.clean, &recipe.split, recipe.seed, &spool)?;
    observer.event(&Event::Prepared { report: &data.report });
    for message in data.report.warnings.iter().cloned() {
        observer.event(&Event::Warning { message });
    }
    check_sides(&data)?;
    let cleaning = recipe.clean.text();
    let encoder = Encoder::train(&recipe.tokenizer, cleaning, &mut data.train.texts())?;
    let state = match earlier {
        Some(state) => state,
        None => folder.begin(&identity)?,
    };
    choice::restore(&state.kernels);
    Ok(Ready { identity, data, encoder: Arc::new(encoder), state })
}

impl Ready {
    fn go(
        self,
        recipe: &Recipe,
        options: &TrainOptions,
        folder: &RunFolder,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        let Self { identity, data, encoder, state } = self;
        let mut training = TrainingLoop::new(recipe, options, folder, &data, Arc::clone(&encoder), state)?;
        training.go(observer)?;
        let kept = training.weights_to_keep(recipe.training.keep == Keep::Best)?;

        let (side, examples) = match data.test.is_empty() {
            true => ("validation", &data.validation),
            false => ("test", &data.test),
        };
        observer.event(&Event::Evaluating { side, rows: examples.len() });
        let pipeline = kept.pipeline()?;
        let context = Context {
            name: format!("{} {}", recipe.name, recipe.version),
            side: side.to_owned(),
            history: kept.history().to_vec(),
            train: validation::figures_on(&pipeline, &sample(&data.train)?)?,
            data: Some(data.report.clone()),
        };
        let report = tidemill_eval::evaluate(&pipeline, examples, &recipe.evaluation, context)?;
        let (json, html) = (report.to_json()?, report.to_html()?);
        folder.write("report.json", &json)?;
        folder.write("report.txt", &report.to_string())?;
        folder.write("report.html", &html)?;
        let package = folder.path("package");
        kept.pack(recipe, &identity, &package, &json)?;
        observer.event(&Event::Finished { package: package.clone() });
        Ok(Outcome { package, report, history: kept.history().to_vec() })
    }
}

fn threads(recipe: &Recipe, options: &TrainOptions, folder: &RunFolder) -> Result<i32, TrainError> {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get() as i32);
    let recorded = folder.recorded_threads(options.resume)?;
    Ok(options.threads.or(recorded).or(recipe.threads).unwrap_or_else(cores).max(1))
}

fn check_sides(data: &Prepared) -> Result<(), TrainError> {
    if data.train.is_empty() {
        let advice = "look at what [clean] drops, and at [split] and [data] train";
        return Err(TrainError::EmptySide { side: "training", advice });
    }
    if data.validation.is_empty() {
        let advice = "set [split] validation to a share of the rows, or [data] validation to a file";
        return Err(TrainError::EmptySide { side: "validation", advice });
    }
    let counts = data.train.class_counts();
    let mut present = data.labels.iter().zip(&counts).filter(|(_, count)| **count > 0);
    match (present.next(), present.next()) {
        (Some((label, _)), None) => Err(TrainError::OneClass { label: label.clone() }),
        _ => Ok(()),
    }
}

/// Rows for the training side's figures: all of them, or 2,000 spread evenly.
fn sample(train: &Examples) -> Result<Examples, DataError> {
    const ROWS: usize = 2000;
    let stride = train.len().div_ceil(ROWS).max(1);
    let rows = (0..train.len()).step_by(stride);
    let texts = rows.clone().map(|row| train.text(row).to_owned()).collect::<Vec<_>>();
    let labels = rows.map(|row| train.label(row)).collect::<Vec<_>>();
    Examples::from_texts(&texts, &labels, train.labels())
}
