//! The recipe: one TOML file that says everything about a training run, from source files to metrics.
//!
//! Owns the whole configuration, its defaults and its checks: this is the one place where they are documented. The
//! sections that belong to other crates are their types. Knows nothing of running. Every complaint names the file, the
//! line, the column and the key.

mod locate;
mod overrides;
mod training;

pub use overrides::Override;
pub use training::{ClassWeights, EarlyStopping, Keep, ListOrTable, NamedWeights, TrainingConfig};

use crate::optimisers;
use crate::schedules;
use crate::settings::{SettingError, Settings};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tidemill_data::{
    AugmentConfig, CleanConfig, DataConfig, DataError, SplitConfig, TokenizeError, TokenizerConfig, toml_file,
};
use tidemill_eval::EvaluationConfig;
use tidemill_model::architectures::Vocabulary;
use tidemill_model::{ModelError, Scheduling, architectures, files};

/// Everything about a training run.
///
/// ```no_run
/// let recipe = tidemill_train::Recipe::read("reviews.toml".as_ref()).unwrap();
/// println!("{} trains a {}", recipe.name, recipe.model.architecture);
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// `name`: the model's name, in the package and on the wire: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// `version`: the package's version. Default `1`.
    #[serde(default = "default_version")]
    pub version: String,
    /// `description`: a line for people. Default empty.
    #[serde(default)]
    pub description: String,
    /// `task`: what is learnt. Default, and so far the only one: `text-classification`.
    #[serde(default)]
    pub task: Task,
    /// `seed`: of the split, the initial weights, the order of rows, dropout and augmentation. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// `threads`: for libtorch, within one operation. Default: the processor's cores. Results depend on it in the last bits.
    #[serde(default)]
    pub threads: Option<i32>,
    /// `[data]`: the files, their format and their columns. Paths are relative to the recipe's folder.
    pub data: DataConfig,
    /// `[clean]`: what is done to texts and which rows are dropped. The text steps travel with the package.
    #[serde(default)]
    pub clean: CleanConfig,
    /// `[split]`: how a validation and a test side are made where `[data]` names no files for them.
    #[serde(default)]
    pub split: SplitConfig,
    /// `[augment]`: noise on the training side alone. Default none.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// `[tokenizer]`: how texts become numbers.
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// `[model]`: the architecture and its keys.
    pub model: ModelConfig,
    /// `[training]`: batches, length, regularisation, validation, checkpoints.
    #[serde(default)]
    pub training: TrainingConfig,
    /// `[optimiser]`: its name and its keys.
    #[serde(default)]
    pub optimiser: OptimiserConfig,
    /// `[schedule]`: the learning rate's course.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// `[evaluation]`: metrics, confidence intervals, bins.
    #[serde(default)]
    pub evaluation: EvaluationConfig,
    /// `[scheduling]`: how requests are scheduled when the package is served. Default: as the server says.
    #[serde(default, skip_serializing_if = "Scheduling::is_empty")]
    pub scheduling: Scheduling,
    /// See [`Recipe::digest`].
    #[serde(skip)]
    digest: String,
    /// The file it was read from.
    #[serde(skip)]
    path: PathBuf,
}

/// What is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A text to one of several labels.
    #[default]
    TextClassification,
}

/// `[model]`: one architecture of `tidemill_model::architectures` and its keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelConfig {
    /// `architecture`: its name.
    pub architecture: String,
    /// The architecture's own keys; each has a default there.
    #[serde(flatten)]
    pub settings: Settings,
}

/// `[optimiser]`: one optimiser of [`optimisers::ALL`], its keys, `learning_rate` and `decay_norms_and_biases`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OptimiserConfig {
    /// `name`. Default `adamw`.
    #[serde(default = "default_optimiser")]
    pub name: String,
    /// The optimiser's keys and those of [`optimisers::CommonConfig`].
    #[serde(flatten)]
    pub settings: Settings,
}

/// `[schedule]`: one schedule of [`schedules::ALL`], its keys, `warmup` and `warmup_start`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScheduleConfig {
    /// `name`. Default `constant`.
    #[serde(default = "default_schedule")]
    pub name: String,
    /// The schedule's keys and those of [`schedules::WarmupConfig`].
    #[serde(flatten)]
    pub settings: Settings,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self { name: default_optimiser(), settings: Settings::new() }
    }
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { name: default_schedule(), settings: Settings::new() }
    }
}

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read, is not TOML, or has an unknown or ill-typed key.
    #[error(transparent)]
    Toml(#[from] toml_file::TomlError),
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says; the message has it already.
        cause: std::io::Error,
    },
    /// `[clean]` or `[augment]` has a value that makes no sense.
    #[error("{place}: {problem}")]
    Data {
        /// The file, and the line and the column where the section stands there.
        place: String,
        /// The key and what is wrong with it.
        problem: Box<DataError>,
    },
    /// `[tokenizer]` has a value that makes no sense.
    #[error("{place}: [tokenizer] {problem}")]
    Tokenizer {
        /// The file, and the line and the column where the section stands there.
        place: String,
        /// The key and what is wrong with it.
        problem: Box<TokenizeError>,
    },
    /// A key whose value makes no sense.
    #[error("{place}: [{section}] {problem}")]
    Key {
        /// The file, and the line and the column where the key stands there.
        place: String,
        /// The section it is in.
        section: String,
        /// The key and what is wrong with it.
        problem: SettingError,
    },
    /// A `--set` that is not `section.key=value`, or that the recipe cannot take.
    #[error("--set {text}: {problem}")]
    Override {
        /// The override as it was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Recipe {
    /// Reads and checks the recipe in `path`. Nothing but this file is touched: not the data, not the model.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        Self::read_with(path, &[])
    }

    /// Like [`Recipe::read`], with `overrides` laid over the file's keys before they are checked.
    ///
    /// A path given by an override is relative to the working folder, one in the file to the file's folder.
    pub fn read_with(path: &Path, overrides: &[Override]) -> Result<Self, RecipeError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path, overrides),
            Err(error) => match toml_file::read::<Self>(path) {
                Err(problem) => Err(problem.into()),
                Ok(_) => Err(RecipeError::Unreadable { path: path.to_owned(), cause: error }),
            },
        }
    }

    /// The recipe in `text`, which stands in `path` or is to be spoken of as if it did.
    pub fn parse(text: &str, path: &Path, overrides: &[Override]) -> Result<Self, RecipeError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut recipe: Self = toml_file::parse(text, path)?;
        recipe.data.resolve(folder);
        recipe.augment.resolve(folder);
        recipe.tokenizer.resolve(folder);
        if !overrides.is_empty() {
            recipe = overrides::apply(&recipe, overrides, path)?;
        }
        recipe.path = path.to_owned();
        recipe.check(text)?;
        recipe.digest = recipe.digest_of_keys();
        Ok(recipe)
    }

    /// SHA-256 of every key as it takes effect, but for where files lie and how batches are made ready: two recipes with
    /// the same one ask for the same run on the same data.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The file the recipe was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The recipe as TOML, with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(&overrides::to_table(self)).unwrap_or_default()
    }

    fn check(&self, text: &str) -> Result<(), RecipeError> {
        let at = |section: &str, problem: SettingError| RecipeError::Key {
            place: locate::place(text, &self.path, section, &problem.key),
            section: section.to_owned(),
            problem,
        };
        self.check_name().map_err(|problem| at("", problem))?;
        let section = |name: &str| locate::place(text, &self.path, name, "");
        let data = |name: &str, problem| RecipeError::Data { place: section(name), problem: Box::new(problem) };
        self.clean.check().map_err(|problem| data("clean", problem))?;
        self.augment.check().map_err(|problem| data("augment", problem))?;
        let place = || section("tokenizer");
        self.tokenizer
            .check()
            .map_err(|problem| RecipeError::Tokenizer { place: place(), problem: Box::new(problem) })?;
        self.check_model().map_err(|problem| at("model", problem))?;
        self.training.check().map_err(|problem| at("training", problem))?;
        optimisers::check(&self.optimiser.name, &self.optimiser.settings)
            .map_err(|problem| at("optimiser", problem))?;
        let ScheduleConfig { name, settings } = &self.schedule;
        schedules::WithWarmup::build(name, settings, 1000, 100).map_err(|problem| at("schedule", problem))?;
        self.scheduling.check().map_err(|(key, problem)| at("scheduling", SettingError::new(key, problem)))?;
        Ok(())
    }

    fn check_name(&self) -> Result<(), SettingError> {
        for (key, value) in [("name", &self.name), ("version", &self.version)] {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if value.is_empty() || !value.chars().all(allowed) || value.starts_with('.') {
                let problem = "must be letters, digits, `-`, `_` and `.`, and not start with a dot";
                return Err(SettingError::new(key, problem));
            }
        }
        if self.threads.is_some_and(|threads| threads < 1) {
            return Err(SettingError::new("threads", "must be at least 1"));
        }
        Ok(())
    }

    /// The architecture and its keys, before any data are read: as if there were a vocabulary and two labels.
    fn check_model(&self) -> Result<(), SettingError> {
        let ModelConfig { architecture, settings } = &self.model;
        let labels = ["a".to_owned(), "b".to_owned()];
        let checked = architectures::complete_config(architecture, settings, Vocabulary::of_tokens(1000), &labels);
        checked.map(drop).map_err(|error| match error {
            ModelError::UnknownArchitecture { name, hint } => {
                SettingError::new("architecture", format!("says `{name}`, which is none; {hint}"))
            }
            ModelError::Config { problem, .. } => {
                let named = |key: &&String| problem.contains(&format!("\"{key}\""));
                let key = settings.keys().find(named).map_or("architecture", String::as_str);
                SettingError::new(key, format!("is refused: {problem}"))
            }
            other => SettingError::new("architecture", format!("is refused: {other}")),
        })
    }

    fn digest_of_keys(&self) -> String {
        // The files count by their contents (see `run_folder.rs`), and batches are the same whoever makes them.
        const LEFT_OUT: [(&str, &[&str]); 4] = [
            ("data", &["train", "validation", "test"]),
            ("augment", &["synonyms"]),
            ("tokenizer", &["path"]),
            ("training", &["prefetch", "loader_threads"]),
        ];
        let mut table = overrides::to_table(self);
        for (section, keys) in LEFT_OUT {
            if let Some(toml::Value::Table(section)) = table.get_mut(section) {
                section.retain(|key, _| !keys.contains(&key));
            }
        }
        let text = toml::to_string(&table).unwrap_or_default();
        files::sha256(text.as_bytes())
    }
}

/// Requires that `name`, the value of `key`, is a metric.
pub(crate) fn check_metric(key: &str, name: &str) -> Result<(), SettingError> {
    match tidemill_eval::metrics::find(name) {
        Ok(_) => Ok(()),
        Err(error) => Err(SettingError::new(key, format!("is unknown: {error}"))),
    }
}

fn default_version() -> String {
    "1".to_owned()
}

fn default_optimiser() -> String {
    "adamw".to_owned()
}

fn default_schedule() -> String {
    "constant".to_owned()
}
