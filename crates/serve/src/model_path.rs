//! Where a model lies, and what it is called if not as its file says: `PATH` or `NAME=PATH`.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a path to a model of the server's own begins with.
const BUILTIN: &str = "builtin:";

/// The folder of a package or a checkpoint, a model's file, or `builtin:NAME`; with the name that the model has on the wire, where it is
/// not to be the manifest's or the file's.
///
/// ```
/// use tidemill_serve::ModelPath;
///
/// let model: ModelPath = "chat=models/SmolLM2-135M-Instruct".into();
/// assert_eq!(model.name.as_deref(), Some("chat"));
/// assert_eq!(model.to_string(), "chat=models/SmolLM2-135M-Instruct");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPath {
    /// The name on the wire.
    pub name: Option<String>,
    /// The version on the wire, where it is not to be the manifest's or "1".
    pub version: Option<String>,
    /// The folder or file.
    pub path: PathBuf,
}

impl ModelPath {
    /// What the model is called when nothing else names it: the folder's name, or the file's without its ending.
    pub fn label(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        if let Some(name) = self.builtin() {
            return name.to_owned();
        }
        let is_file =
            self.path.extension().is_some_and(|ending| ["gguf", "pt", "pt2"].iter().any(|known| ending == *known));
        let name = if is_file { self.path.file_stem() } else { self.path.file_name() };
        name.unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The name of a model of the server's own, which no path leads to.
    pub fn builtin(&self) -> Option<&str> {
        self.path.to_str()?.strip_prefix(BUILTIN)
    }

    /// The same, a path that is relative taken from `folder`.
    pub fn within(&self, folder: &Path) -> ModelPath {
        if self.builtin().is_some() {
            return self.clone();
        }
        ModelPath { path: folder.join(&self.path), ..self.clone() }
    }
}

impl FromStr for ModelPath {
    type Err = Infallible;

    // What lies there is a path, whatever it is called.
    fn from_str(text: &str) -> Result<ModelPath, Infallible> {
        let named = text.split_once('=').filter(|(name, _)| !name.is_empty() && !name.contains('/'));
        Ok(match named {
            Some((name, path)) if !Path::new(text).exists() => {
                ModelPath { name: Some(name.to_owned()), version: None, path: path.into() }
            }
            _ => ModelPath { name: None, version: None, path: text.into() },
        })
    }
}

impl From<&str> for ModelPath {
    fn from(text: &str) -> ModelPath {
        let Ok(model) = text.parse();
        model
    }
}

impl From<PathBuf> for ModelPath {
    fn from(path: PathBuf) -> ModelPath {
        ModelPath { name: None, version: None, path }
    }
}

impl From<&Path> for ModelPath {
    fn from(path: &Path) -> ModelPath {
        ModelPath { name: None, version: None, path: path.to_owned() }
    }
}

impl fmt::Display for ModelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

impl Serialize for ModelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ModelPath, D::Error> {
        Ok(ModelPath::from(String::deserialize(deserializer)?.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_before_the_path_and_files_are_called_without_their_ending() {
        assert_eq!(ModelPath::from("models/SmolLM2-135M-Instruct.gguf").label(), "SmolLM2-135M-Instruct");
        assert_eq!(ModelPath::from("models/all-MiniLM-L6-v2").label(), "all-MiniLM-L6-v2");
        assert_eq!(ModelPath::from("models/v1.5").label(), "v1.5");
        assert_eq!(ModelPath::from("chat=a.gguf").label(), "chat");
        assert_eq!(ModelPath::from("/runs/lr=0.1/package").name, None);
        let within = ModelPath::from("chat=a.gguf").within(Path::new("/models"));
        assert_eq!(within.to_string(), "chat=/models/a.gguf");
        assert_eq!(ModelPath::from("a/scorer.pt2").label(), "scorer");
        let identity = ModelPath::from("builtin:identity").within(Path::new("/models"));
        assert_eq!((identity.builtin(), identity.label().as_str()), (Some("identity"), "identity"));
        assert_eq!(ModelPath::from("echo=builtin:identity").label(), "echo");
    }
}
