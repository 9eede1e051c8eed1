//! Where a served model comes from: a package's folder, or a classifier of the program's own. Knows nothing of queues.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use crate::classifier::Classifier;
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::executor::{self, Loading};
use crate::model::ModelInfo;

type Start = Box<dyn FnOnce(&ServerConfig) -> Result<Loading, ServeError> + Send>;

/// A model to be served, not yet open.
pub struct ModelSource {
    place: String,
    start: Start,
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSource").field("place", &self.place).finish_non_exhaustive()
    }
}

impl ModelSource {
    /// A package's folder. It is opened, its digests checked, and one text classified, before the server is ready.
    pub fn package(folder: impl Into<PathBuf>) -> ModelSource {
        let folder = folder.into();
        let place = folder.display().to_string();
        let label = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        let start: Start = Box::new(move |config| {
            let threads = config.threads.unwrap_or(1);
            executor::spawn(label, config, move || crate::package::open(&folder, threads))
        });
        ModelSource { place, start }
    }

    /// A classifier of the program's own. `open` runs on the thread that will own what it returns.
    ///
    /// ```
    /// use tidemill_serve::{ModelInfo, ModelSource};
    ///
    /// let info = ModelInfo {
    ///     name: "shouting".into(),
    ///     version: "1".into(),
    ///     labels: vec!["calm".into(), "loud".into()],
    /// };
    /// let source = ModelSource::classifier(info, || {
    ///     Ok(|texts: &[&str]| {
    ///         let loud = |text: &&str| if text.ends_with('!') { 1.0 } else { 0.0 };
    ///         Ok(texts.iter().map(loud).map(|loud| vec![1.0 - loud, loud]).collect())
    ///     })
    /// });
    /// ```
    pub fn classifier<C: Classifier>(
        info: ModelInfo,
        open: impl FnOnce() -> Result<C, Box<dyn Error + Send + Sync>> + Send + 'static,
    ) -> ModelSource {
        let start: Start = Box::new(move |config| {
            let label = info.name.clone();
            executor::spawn(label, config, move || match open() {
                Ok(classifier) => Ok((info, classifier)),
                Err(error) => Err(ServeError::Classifier { model: info.name, reason: error.to_string() }),
            })
        });
        ModelSource { place: String::new(), start }
    }

    /// Starts to open it, on its thread. Gives also where it comes from, for messages.
    pub(crate) fn start(self, config: &ServerConfig) -> Result<(Loading, String), ServeError> {
        Ok(((self.start)(config)?, self.place))
    }
}
