//! Opening a package for serving: its pipeline as a classifier.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_model::{Package, Pipeline, PipelineError, PipelineOptions};

use crate::batch::{self, Opened};
use crate::classifier::{Classifier, Classifying};
use crate::config::{ServerConfig, Threads};
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::model_info::ModelInfo;
use crate::model_path::ModelPath;
use crate::thread::Loading;

/// A batch of 64 messages that one thread runs in less is not worth several.
const SHORT: Duration = Duration::from_millis(10);

/// A package's pipeline.
pub(crate) struct PipelineClassifier {
    pipeline: Pipeline,
}

/// Whether a package lies there, by its manifest.
pub(crate) fn is_package(path: &Path) -> bool {
    path.join("tidemill.toml").is_file()
}

/// Starts threads that open the package and serve it: as its manifest says where the configuration says nothing else.
pub(crate) fn start(path: ModelPath, config: &ServerConfig, metrics: Arc<Metrics>) -> Result<Loading, ServeError> {
    let manifest = Package::manifest_of(&path.path)
        .map_err(|error| ServeError::Open { path: path.path.clone(), reason: error.to_string() })?;
    let name = path.name.as_ref().unwrap_or(&manifest.name);
    let config = config.of_model(name, &manifest.scheduling);
    let threads = config.threads();
    batch::spawn(path.label(), &config, metrics, Model::Classifier, move || open(&path, threads))
}

/// Opens a package and classifies one text with it, so that what is done once (packing weights, measuring kernels) is done
/// before the first caller waits for it. To be called on the thread that will own the model: libtorch and OpenMP keep the
/// number of threads for each calling thread.
fn open(
    path: &ModelPath,
    threads: Threads,
) -> Result<(ModelInfo, Opened<String, Classifying<PipelineClassifier>>), ServeError> {
    tidemill_torch::set_threads(threads.most());
    let fail = |error: &dyn Error| ServeError::Open { path: path.path.clone(), reason: error.to_string() };
    let pipeline = Pipeline::open(&path.path, &PipelineOptions::default()).map_err(|e| fail(&e))?;
    pipeline.classify(&["A first text."]).map_err(|error| fail(&error))?;
    if let Threads::UpTo(2..) = threads {
        tidemill_torch::set_threads(worthwhile(&pipeline, threads.most()).map_err(|error| fail(&error))?);
    }
    let manifest = pipeline.manifest();
    let info = ModelInfo {
        name: path.name.clone().unwrap_or_else(|| manifest.name.clone()),
        version: path.version.clone().unwrap_or_else(|| manifest.version.clone()),
        labels: pipeline.labels().to_vec(),
    };
    let labels = info.labels.len();
    Ok((info, Opened::unprepared(Classifying { classifier: PipelineClassifier { pipeline }, labels })))
}

// One thread where it runs a batch in no time, else the most that there may be. Every operation of libtorch waits for the
// slowest of its threads, and spins while it does: beside connections and other models one of them is always late, and a
// batch of a small model then takes a hundred times as long.
fn worthwhile(pipeline: &Pipeline, most: i32) -> Result<i32, PipelineError> {
    const TEXT: &str = "A text of about as many words as a message has, to see how many threads pay.";
    tidemill_torch::set_threads(1);
    let texts = [TEXT; 64];
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        pipeline.classify(&texts)?;
        best = best.min(started.elapsed());
        if best > 2 * SHORT {
            break;
        }
    }
    Ok(if best < SHORT { 1 } else { most })
}

impl Classifier for PipelineClassifier {
    fn classify(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>> {
        let classifications = self.pipeline.classify(texts)?;
        Ok(classifications.into_iter().map(|text| text.probabilities).collect())
    }
}
