//! A package: a folder that can be served. Owns its layout (manifest, `config.json`, `model.safetensors`,
//! `tokenizer.json`, `report.json`), that it appears whole or not at all, and that what is opened is what was written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tidemill_data::{Encoder, TokenizeError};

use crate::error::{ModelError, WeightsError};
use crate::files::{beside, put_folder_in_place, remove_folder, sha256, sha256_file, sync_folder, write_and_sync};
use crate::manifest::{FileRecord, MANIFEST, Manifest, Source};
use crate::parameters::Parameters;
use crate::weights::{self, Weights};

/// The architecture's configuration.
pub const CONFIG: &str = "config.json";
/// The parameters.
pub const WEIGHTS: &str = "model.safetensors";
/// The tokeniser.
pub const TOKENIZER: &str = "tokenizer.json";
/// What evaluation said.
pub const REPORT: &str = "report.json";

/// Manifest, configuration and tokeniser are read into memory, so they have a bound.
const MAX_SMALL_FILE: u64 = 512 << 20;

/// Why a package could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The folder is not there, or it is a file.
    #[error("{}: {problem}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// The manifest is damaged or says something impossible.
    #[error("{}: {problem}", file.display())]
    Manifest {
        /// The manifest.
        file: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },

    /// A file is missing, cut short, or not the one that was packed.
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

    /// The weights are not a sound safetensors file.
    #[error(transparent)]
    Weights(#[from] WeightsError),

    /// Weights and configuration do not make a model.
    #[error("{}: {source}", folder.display())]
    Model {
        /// The package.
        folder: PathBuf,
        /// What does not fit.
        source: ModelError,
    },

    /// The tokeniser cannot be used.
    #[error("{}: {source}", file.display())]
    Tokenizer {
        /// The tokeniser's file.
        file: PathBuf,
        /// What is wrong with it.
        source: TokenizeError,
    },
}

/// What goes into a package.
#[derive(Debug)]
pub struct PackageParts<'a> {
    /// The model's name: letters, digits, `.`, `_` and `-`.
    pub name: &'a str,
    /// Its version, with the same characters.
    pub version: &'a str,
    /// The labels, in the order of the model's scores.
    pub labels: &'a [String],
    /// The whole configuration, as [`crate::architectures::complete_config`] gives it.
    pub config: &'a Map<String, Value>,
    /// The parameters.
    pub parameters: &'a Parameters,
    /// Text cleaning and tokeniser.
    pub encoder: &'a Encoder,
    /// Where the model came from.
    pub source: Source,
    /// The evaluation's report, as JSON.
    pub report_json: Option<&'a str>,
}

/// An open package: its manifest and configuration have been read and its files checked.
///
/// Most programs want a [`crate::Pipeline`], which opens a package and runs it.
pub struct Package {
    folder: PathBuf,
    manifest: Manifest,
    config: Map<String, Value>,
    tokenizer: Vec<u8>,
    bytes: u64,
}

impl Package {
    /// Opens a package and checks every byte of it against its manifest.
    ///
    /// # Errors
    /// [`PackageError`] that names the file and says what to do.
    pub fn open(folder: &Path) -> Result<Package, PackageError> {
        Package::read(folder, true)
    }

    /// As [`Package::open`], but takes the digests on trust and checks the files' lengths alone. For weights of many
    /// gigabytes on storage that is trusted.
    ///
    /// # Errors
    /// [`PackageError`] that names the file and says what to do.
    pub fn open_unverified(folder: &Path) -> Result<Package, PackageError> {
        Package::read(folder, false)
    }

    fn read(folder: &Path, verify: bool) -> Result<Package, PackageError> {
        let manifest = read_manifest(folder, verify)?;
        let mut bytes = 0;
        let read = |name: &str| -> Result<Vec<u8>, PackageError> {
            let record = manifest.files.get(name).ok_or_else(|| PackageError::Manifest {
                file: folder.join(MANIFEST),
                problem: format!("it does not list {name}, which every package has; pack the model again"),
            })?;
            read_checked(&folder.join(name), record, verify)
        };
        let (config_bytes, tokenizer) = (read(CONFIG)?, read(TOKENIZER)?);
        if !manifest.files.contains_key(WEIGHTS) {
            read(WEIGHTS)?;
        }
        for (name, record) in &manifest.files {
            bytes += record.bytes;
            if name != CONFIG && name != TOKENIZER {
                check_file(&folder.join(name), record, verify)?;
            }
        }
        let file = folder.join(CONFIG);
        let config: Map<String, Value> = serde_json::from_slice(&config_bytes)
            .map_err(|error| PackageError::File { file: file.clone(), problem: format!("not JSON: {error}") })?;
        let labels = config.get("num_labels").and_then(Value::as_u64);
        if labels != Some(manifest.labels.len() as u64) {
            let problem =
                format!("\"num_labels\" must be {}, the number of labels in {MANIFEST}", manifest.labels.len());
            return Err(PackageError::File { file, problem });
        }
        Ok(Package { folder: folder.to_path_buf(), manifest, config, tokenizer, bytes })
    }

    /// Writes a package. It appears whole or not at all: a folder beside is filled, synced and renamed; a package that
    /// was there before is exchanged for it. The same parts give the same bytes.
    ///
    /// # Errors
    /// [`PackageError`]; the folder is then as it was. A folder that is there and is no package is never replaced.
    pub fn write(folder: &Path, parts: &PackageParts<'_>) -> Result<(), PackageError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| PackageError::Io { path, source }
        };
        if folder.exists() && !is_replaceable(folder) {
            return Err(PackageError::Folder {
                folder: folder.to_path_buf(),
                problem: format!("it is there and is not a package (no {MANIFEST}), so it is not replaced"),
            });
        }
        let partial = beside(folder, "partial").map_err(io(folder))?;
        remove_folder(&partial).map_err(io(&partial))?;
        fs::create_dir_all(&partial).map_err(io(&partial))?;
        let written = fill(&partial, parts)
            .and_then(|()| sync_folder(&partial).map_err(io(&partial)))
            .and_then(|()| put_folder_in_place(&partial, folder).map_err(io(folder)));
        if written.is_err() {
            // The first error is the one to report; the leftover is only litter.
            let _ = remove_folder(&partial);
        }
        written
    }

    /// The package's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the package says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The architecture's configuration.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Length of all its files in bytes, the manifest not counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Text cleaning and tokeniser.
    ///
    /// # Errors
    /// [`PackageError::Tokenizer`] when `tokenizer.json` cannot be used.
    pub fn encoder(&self) -> Result<Encoder, PackageError> {
        Encoder::load(&self.manifest.preprocessing, &self.tokenizer)
            .map_err(|source| PackageError::Tokenizer { file: self.folder.join(TOKENIZER), source })
    }

    /// The weights, of which only the header has been read.
    ///
    /// # Errors
    /// [`PackageError::Weights`] when the file is not a sound safetensors file.
    pub fn weights(&self) -> Result<Weights, PackageError> {
        Ok(Weights::open(&self.folder.join(WEIGHTS))?)
    }

    /// The evaluation's report as JSON, if there is one.
    ///
    /// # Errors
    /// [`PackageError::Io`] for what the operating system says.
    pub fn report_json(&self) -> Result<Option<String>, PackageError> {
        if !self.manifest.files.contains_key(REPORT) {
            return Ok(None);
        }
        let path = self.folder.join(REPORT);
        fs::read_to_string(&path).map(Some).map_err(|source| PackageError::Io { path, source })
    }
}

impl std::fmt::Debug for Package {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Package({}, {} {})", self.folder.display(), self.manifest.name, self.manifest.version)
    }
}

fn read_manifest(folder: &Path, verify: bool) -> Result<Manifest, PackageError> {
    let refuse = |problem: &str| PackageError::Folder { folder: folder.to_path_buf(), problem: problem.to_string() };
    if !folder.exists() {
        return Err(refuse("there is no such folder; give the folder that `tidemill train` wrote"));
    }
    if !folder.is_dir() {
        return Err(refuse("it is a file; a package is a folder"));
    }
    let file = folder.join(MANIFEST);
    if !file.is_file() {
        return Err(refuse("it is not a package: it has no tidemill.toml; give the folder that has one"));
    }
    let problem = |problem: String| PackageError::Manifest { file: file.clone(), problem };
    let bytes = read_bounded(&file)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| problem("it is not UTF-8: it was changed after the package was written".to_string()))?;
    Manifest::from_text(&text, verify).map_err(problem)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, PackageError> {
    let io = |source| PackageError::Io { path: path.to_path_buf(), source };
    let length = fs::metadata(path).map_err(io)?.len();
    if length > MAX_SMALL_FILE {
        let problem = format!("it has {length} bytes, more than such a file can need");
        return Err(PackageError::File { file: path.to_path_buf(), problem });
    }
    fs::read(path).map_err(io)
}

/// Reads a small file and checks the very bytes that are used.
fn read_checked(path: &Path, record: &FileRecord, verify: bool) -> Result<Vec<u8>, PackageError> {
    check_length(path, record)?;
    let bytes = read_bounded(path)?;
    if verify {
        compare(path, record, &sha256(&bytes))?;
    }
    Ok(bytes)
}

fn check_file(path: &Path, record: &FileRecord, verify: bool) -> Result<(), PackageError> {
    check_length(path, record)?;
    if verify {
        let (digest, _) = sha256_file(path).map_err(|source| PackageError::Io { path: path.to_path_buf(), source })?;
        compare(path, record, &digest)?;
    }
    Ok(())
}

fn check_length(path: &Path, record: &FileRecord) -> Result<(), PackageError> {
    let refuse = |problem: String| PackageError::File { file: path.to_path_buf(), problem };
    match fs::metadata(path) {
        Ok(about) if !about.is_file() => Err(refuse("it is not a file".to_string())),
        Ok(about) if about.len() != record.bytes => Err(refuse(format!(
            "it has {} bytes and the manifest says {}: it was cut or changed; take an unchanged copy of the package",
            about.len(),
            record.bytes
        ))),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(refuse("it is missing; take a whole copy of the package".to_string()))
        }
        Err(source) => Err(PackageError::Io { path: path.to_path_buf(), source }),
    }
}

fn compare(path: &Path, record: &FileRecord, digest: &str) -> Result<(), PackageError> {
    if digest == record.sha256 {
        return Ok(());
    }
    Err(PackageError::File {
        file: path.to_path_buf(),
        problem: format!(
            "it was changed after the package was written: its SHA-256 is {digest} and the manifest says {}; take an \
             unchanged copy of the package",
            record.sha256
        ),
    })
}

fn is_replaceable(folder: &Path) -> bool {
    let is_empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    folder.is_dir() && (folder.join(MANIFEST).is_file() || is_empty())
}

/// Every file of the package into `folder`, the manifest last.
fn fill(folder: &Path, parts: &PackageParts<'_>) -> Result<(), PackageError> {
    let mut manifest = Manifest::text_classification(
        parts.name,
        parts.version,
        parts.labels,
        parts.encoder.preprocessing(),
        parts.source.clone(),
    );
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        write_and_sync(&path, |out| out.write_all(bytes)).map_err(|source| PackageError::Io { path, source })
    };
    put(CONFIG, pretty(&Value::Object(parts.config.clone())).as_bytes())?;
    put(TOKENIZER, pretty(&parts.encoder.to_json()).as_bytes())?;
    if let Some(report) = parts.report_json {
        put(REPORT, report.as_bytes())?;
    }
    weights::write_in_place(&folder.join(WEIGHTS), &parts.parameters.named())?;
    let names = [CONFIG, TOKENIZER, WEIGHTS].into_iter().chain(parts.report_json.map(|_| REPORT));
    for name in names {
        let path = folder.join(name);
        let (sha256, bytes) = sha256_file(&path).map_err(|source| PackageError::Io { path, source })?;
        manifest.files.insert(name.to_string(), FileRecord { bytes, sha256 });
    }
    let text = manifest.to_text().map_err(|problem| PackageError::Manifest { file: folder.join(MANIFEST), problem })?;
    put(MANIFEST, text.as_bytes())
}

fn pretty(value: &Value) -> String {
    // `{:#}` of a JSON value is its indented text.
    format!("{value:#}\n")
}
