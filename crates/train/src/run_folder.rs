//! A run's folder: what lies where, who may write there, and whether the run in it is the one that is asked for.
//!
//! Owns `run.json`, which tells recipe, data, seed, threads and versions apart, and the lock that keeps a second process out.

use crate::TrainError;
use crate::checkpoint::{Checkpoints, State, remove};
use crate::recipe::Recipe;
use crate::run::{Resume, TrainOptions};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use tidemill_model::files;
use tidemill_model::manifest::DataFile;

/// `run.json`: what a run is. Two runs with equal ones make equal weights on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Of the recipe's keys, see [`Recipe::digest`].
    pub(crate) recipe: String,
    /// SHA-256 of every file that the recipe names, in its order.
    pub(crate) data: Vec<DataFile>,
    /// Threads of libtorch.
    pub(crate) threads: i32,
    /// Where tensors live.
    pub(crate) device: String,
    /// The version of Tidemill.
    pub(crate) version: String,
}

impl Identity {
    /// What the run of `recipe` is, reading its files once.
    pub(crate) fn of(recipe: &Recipe, threads: i32, device: tch::Device) -> Result<Self, TrainError> {
        let data = &recipe.data;
        let sides = [Some(&data.train), data.validation.as_ref(), data.test.as_ref()];
        let tables = [recipe.augment.synonyms.as_ref(), recipe.tokenizer.path.as_ref()];
        let files = sides.into_iter().flatten().flat_map(|files| files.paths());
        let digest = |path: &PathBuf| {
            let (sha256, bytes) = files::sha256_file(path).map_err(TrainError::read(path))?;
            // Without its folder, so that the same run in another place writes the same package.
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(DataFile { file, bytes, sha256 })
        };
        Ok(Self {
            recipe: recipe.digest().to_owned(),
            data: files.chain(tables.into_iter().flatten()).map(digest).collect::<Result<_, TrainError>>()?,
            threads,
            device: format!("{device:?}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// Why a run with this identity is not the run with `other`, if it is not.
    fn differs(&self, other: &Self) -> Option<String> {
        let fresh = "choose another output folder, or start afresh in this one";
        if self.recipe != other.recipe {
            return Some(format!("the recipe has changed since. Change it back, {fresh}"));
        }
        if self.data != other.data {
            let changed = other.data.iter().find(|file| !self.data.contains(file));
            let name = changed.map_or("the data", |file| file.file.as_str());
            return Some(format!("{name} has changed since. Restore it, {fresh}"));
        }
        if self.threads != other.threads {
            let (was, now) = (self.threads, other.threads);
            return Some(format!(
                "it was made with {was} threads and {now} would round differently. Ask for {was}, {fresh}"
            ));
        }
        if (&self.device, &self.version) != (&other.device, &other.version) {
            return Some(format!(
                "it was made by Tidemill {} on {}, this is {} on {}; {fresh}",
                self.version, self.device, other.version, other.device
            ));
        }
        None
    }
}

/// The open folder, locked as long as this lives.
pub(crate) struct RunFolder {
    root: PathBuf,
    /// The folders that were made for it, innermost first.
    made: Vec<PathBuf>,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder where it does not exist, and locks it.
    pub(crate) fn open(options: &TrainOptions) -> Result<Self, TrainError> {
        let root = options.output.clone();
        let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let made = root.ancestors().take_while(missing).map(Path::to_owned).collect();
        fs::create_dir_all(&root).map_err(TrainError::write(&root))?;
        let path = root.join(LOCK);
        let lock = File::create(&path).map_err(TrainError::write(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, made, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(TrainError::InUse { folder: root }),
            Err(TryLockError::Error(error)) => Err(TrainError::write(&path)(error)),
        }
    }

    /// Threads that the run in the folder was started with, if there is one to resume.
    pub(crate) fn recorded_threads(&self, resume: Resume) -> Result<Option<i32>, TrainError> {
        if resume == Resume::Never || self.checkpoints().last()?.is_none() {
            return Ok(None);
        }
        Ok(self.identity()?.map(|identity| identity.threads))
    }

    /// The last checkpoint's state, if there is one to resume; an error if it is another run's.
    pub(crate) fn earlier(&self, identity: &Identity, resume: Resume) -> Result<Option<State>, TrainError> {
        let state = match resume {
            Resume::Auto => self.checkpoints().last()?,
            Resume::Never => None,
        };
        let Some(state) = state else { return Ok(None) };
        let reason = match self.identity()? {
            Some(recorded) => recorded.differs(identity),
            None => Some("its run.json is missing. Start afresh".to_owned()),
        };
        match reason {
            Some(reason) => Err(TrainError::OtherRun { folder: self.root.clone(), reason }),
            None => Ok(Some(state)),
        }
    }

    /// Removes what an earlier run left, and records what this one is.
    pub(crate) fn begin(&self, identity: &Identity) -> Result<State, TrainError> {
        for name in OWN {
            remove(&self.root.join(name))?;
        }
        let checkpoints = self.path("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(TrainError::write(&checkpoints))?;
        let text = serde_json::to_string_pretty(identity)
            .map_err(|error| TrainError::write(&self.path("run.json"))(error.into()))?;
        self.write("run.json", &text)?;
        Ok(State::start())
    }

    /// An empty folder for the cleaned texts, which [`RunFolder::leave`] removes.
    pub(crate) fn spool(&self) -> Result<PathBuf, TrainError> {
        let spool = self.path(SPOOL);
        remove(&spool)?;
        fs::create_dir_all(&spool).map_err(TrainError::write(&spool))?;
        Ok(spool)
    }

    /// Removes what only this process needed; after a failure before the first step, the folder too, if it was not
    /// there before.
    pub(crate) fn leave(self, failed: bool) {
        let removed = |name: &str| remove(&self.root.join(name)).is_ok();
        removed(SPOOL);
        let begun = fs::metadata(self.path("history.jsonl")).is_ok_and(|file| file.len() > 0);
        if failed && !begun && !self.root.join("package").exists() {
            for name in OWN.iter().chain(&[LOCK]) {
                removed(name);
            }
            // Folders that hold something stay.
            let _ = self.made.iter().try_for_each(fs::remove_dir);
        }
    }

    /// A path within the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The event file.
    pub(crate) fn events(&self) -> PathBuf {
        self.root.join(EVENTS)
    }

    /// The checkpoints.
    pub(crate) fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.path("checkpoints"))
    }

    /// Writes `text` as `name`, whole or not at all.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), TrainError> {
        let path = self.path(name);
        files::write_atomically(&path, |file: &mut dyn Write| file.write_all(text.as_bytes()))
            .map_err(TrainError::write(&path))
    }

    fn identity(&self) -> Result<Option<Identity>, TrainError> {
        let path = self.path("run.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(TrainError::read(&path)(error)),
        };
        let identity = serde_json::from_slice(&bytes);
        identity.map(Some).map_err(|error| TrainError::damaged(&path, error))
    }
}

/// What a run writes, and a new one removes.
const OWN: [&str; 8] =
    ["checkpoints", "history.jsonl", "package", "run.json", "report.json", "report.txt", "report.html", EVENTS];

/// Locked by the process that trains.
const LOCK: &str = ".lock";

/// Where cleaned texts lie while a run goes on.
const SPOOL: &str = ".spool";

/// TensorBoard takes any file whose name holds `tfevents`.
const EVENTS: &str = "events.out.tfevents.0.tidemill";
