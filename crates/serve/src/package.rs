//! Opening a package for serving: the one place where the server meets the model library.

use std::error::Error;
use std::path::Path;

use tidemill_model::{Pipeline, PipelineOptions};

use crate::classifier::Classifier;
use crate::error::ServeError;
use crate::model::ModelInfo;

/// A package's pipeline.
pub(crate) struct PipelineClassifier {
    pipeline: Pipeline,
}

/// Opens a package and classifies one text with it, so that what is done once (packing weights, measuring kernels) is done
/// before the first caller waits for it. To be called on the thread that will own the model: libtorch and OpenMP keep the
/// number of threads for each calling thread.
pub(crate) fn open(folder: &Path, threads: i32) -> Result<(ModelInfo, PipelineClassifier), ServeError> {
    tidemill_torch::set_threads(threads);
    let fail = |error: &dyn Error| ServeError::Package { folder: folder.to_owned(), reason: error.to_string() };
    let pipeline = Pipeline::open(folder, &PipelineOptions::default()).map_err(|e| fail(&e))?;
    pipeline.classify(&["A first text."]).map_err(|error| fail(&error))?;
    let manifest = pipeline.manifest();
    let info = ModelInfo {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        labels: pipeline.labels().to_vec(),
    };
    Ok((info, PipelineClassifier { pipeline }))
}

impl Classifier for PipelineClassifier {
    fn classify(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>> {
        let classifications = self.pipeline.classify(texts)?;
        Ok(classifications.into_iter().map(|text| text.probabilities).collect())
    }
}
