//! Where a served model comes from: a package or a checkpoint on disk, or the program's own code. Knows nothing of queues.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::{fmt, fs};

use tidemill_model::Scheduling;

use crate::batch::{self, BatchHandle, BatchModel, Input, Opened};
use crate::classifier::{Classifier, Classifying};
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::generation::{self, Generator, OpenedGenerator};
use crate::metrics::Metrics;
use crate::model::{Model, TextToTextHandle};
use crate::model_info::ModelInfo;
use crate::model_path::ModelPath;
use crate::tasks::{EmbedInput, Entity, RerankInput, TextToTextAnswer, TextToTextInput};
use crate::thread::{Loading, Running, lock};

type Start = Box<dyn FnOnce(&ServerConfig, Arc<Metrics>) -> Result<Loading, ServeError> + Send>;
type OwnError = Box<dyn Error + Send + Sync>;

/// A model to be served, not yet open.
pub struct ModelSource {
    place: String,
    // Of its files.
    bytes: u64,
    start: Start,
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSource").field("place", &self.place).finish_non_exhaustive()
    }
}

impl ModelSource {
    /// A package or a checkpoint: what kind of model it is, its manifest or its config says. It is opened, and asked once,
    /// before the server is ready. A `.pt` or `.pt2` file is opened by [`ServerConfig::allow_code`] alone; `builtin:identity`
    /// is no file but the model that gives back what it is given.
    pub fn path(path: impl Into<ModelPath>) -> ModelSource {
        let path = path.into();
        let place = path.path.display().to_string();
        let bytes = bytes_of(&path.path);
        let start: Start = Box::new(move |config, metrics| {
            if let Some(name) = path.builtin() {
                return match name {
                    "identity" => crate::identity::start(&path, &metrics),
                    _ => {
                        let reason = "no such model is built in; there is builtin:identity".to_owned();
                        Err(ServeError::Open { path: path.path, reason })
                    }
                };
            }
            if crate::package::is_package(&path.path) {
                return crate::package::start(path, config, metrics);
            }
            let config = &config.of_model(&path.label(), &Scheduling::default());
            match tidemill_model::opaque::form(&path.path).filter(|_| !path.path.is_dir()) {
                Some(form) => crate::opaque::start(path, form, config, metrics),
                None => crate::checkpoint::start(path, config, metrics),
            }
        });
        ModelSource { place, bytes, start }
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
        open: impl FnOnce() -> Result<C, OwnError> + Send + 'static,
    ) -> ModelSource {
        let labels = info.labels.len();
        let open = move || Ok(Opened::unprepared(Classifying { classifier: open()?, labels }));
        batch_model(info, open, Model::Classifier)
    }

    /// A model of the program's own that embeds texts: a vector for each, all of one length.
    pub fn embedder<M: BatchModel<Answer = Vec<f32>>>(
        info: ModelInfo,
        open: impl FnOnce() -> Result<Opened<EmbedInput, M>, OwnError> + Send + 'static,
    ) -> ModelSource {
        batch_model(info, open, Model::Embedder)
    }

    /// A model of the program's own that scores texts by how well they answer a query: any number, the higher the better.
    pub fn reranker<M: BatchModel<Answer = f32>>(
        info: ModelInfo,
        open: impl FnOnce() -> Result<Opened<RerankInput, M>, OwnError> + Send + 'static,
    ) -> ModelSource {
        batch_model(info, open, Model::Reranker)
    }

    /// A model of the program's own that finds entities in texts.
    pub fn entities<M: BatchModel<Answer = Vec<Entity>>>(
        info: ModelInfo,
        open: impl FnOnce() -> Result<Opened<String, M>, OwnError> + Send + 'static,
    ) -> ModelSource {
        batch_model(info, open, Model::Entities)
    }

    /// A model of the program's own that summarises or translates texts.
    pub fn text_to_text<M: BatchModel<Answer = TextToTextAnswer>>(
        info: ModelInfo,
        open: impl FnOnce() -> Result<Opened<TextToTextInput, M>, OwnError> + Send + 'static,
    ) -> ModelSource {
        batch_model(info, open, |handle| Model::TextToText(TextToTextHandle::Batch(handle)))
    }

    /// A generator of the program's own.
    pub fn generator<G: Generator>(
        info: ModelInfo,
        open: impl FnOnce() -> Result<OpenedGenerator<G>, OwnError> + Send + 'static,
    ) -> ModelSource {
        own(info, open, |label, config, metrics, open| {
            generation::spawn(label, config, metrics, Model::Generator, open)
        })
    }

    /// Starts to open it, on its thread.
    pub(crate) fn start(self, config: &ServerConfig, metrics: Arc<Metrics>) -> Result<Starting, ServeError> {
        let loading = (self.start)(config, Arc::clone(&metrics))?;
        Ok(Starting { loading, metrics, place: self.place, bytes: self.bytes })
    }
}

/// A model that is being opened.
pub(crate) struct Starting {
    loading: Loading,
    metrics: Arc<Metrics>,
    /// Where it comes from, for messages.
    pub(crate) place: String,
    bytes: u64,
}

impl Starting {
    /// Waits until it is open. From then until its thread ends its memory is counted.
    pub(crate) async fn opened(self) -> Result<Running, ServeError> {
        let running = self.loading.opened().await?;
        let (memory, bytes) = (self.metrics.memory(running.model.info()), self.bytes as f64);
        let readiness = running.model.readiness().clone();
        memory.increment(bytes);
        tokio::spawn(async move {
            readiness.ended().await;
            memory.decrement(bytes);
        });
        Ok(running)
    }
}

// What a model's file, or the files in its folder, take. What cannot be read is reported when it is opened.
fn bytes_of(path: &Path) -> u64 {
    let length = |path: &Path| fs::metadata(path).map_or(0, |about| if about.is_file() { about.len() } else { 0 });
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| length(&entry.path())).sum(),
        Err(_) => length(path),
    }
}

// A batch model that the program's own code opens; it can do so once, so that there is one instance.
fn batch_model<I: Input, M: BatchModel>(
    info: ModelInfo,
    open: impl FnOnce() -> Result<Opened<I, M>, OwnError> + Send + 'static,
    wrap: impl FnOnce(BatchHandle<I, M::Answer>) -> Model + Send + 'static,
) -> ModelSource {
    own(info, open, |label, config, metrics, open| {
        let config = ServerConfig { instances: 1, ..config.of_model(&label, &Scheduling::default()) };
        let (open, model) = (Mutex::new(Some(open)), label.clone());
        let open = move || match lock(&open).take() {
            Some(open) => open(),
            None => Err(ServeError::Stopped { model: model.clone() }),
        };
        batch::spawn(label, &config, metrics, wrap, open)
    })
}

// A model that the program's own code opens, on the thread that `spawn` starts.
fn own<T: 'static>(
    info: ModelInfo,
    open: impl FnOnce() -> Result<T, OwnError> + Send + 'static,
    spawn: impl FnOnce(String, &ServerConfig, Arc<Metrics>, Open<T>) -> Result<Loading, ServeError> + Send + 'static,
) -> ModelSource {
    let start: Start = Box::new(move |config, metrics| {
        let label = info.name.clone();
        let open: Open<T> = Box::new(move || match open() {
            Ok(opened) => Ok((info, opened)),
            Err(error) => Err(ServeError::Own { model: info.name, reason: error.to_string() }),
        });
        spawn(label, config, metrics, open)
    });
    ModelSource { place: String::new(), bytes: 0, start }
}

type Open<T> = Box<dyn FnOnce() -> Result<(ModelInfo, T), ServeError> + Send>;
