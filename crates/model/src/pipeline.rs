//! A loaded package with its task: texts in, probabilities out, a batch at a time. Evaluation and serving both call it,
//! so that what is measured is what is served. Knows nothing of sockets or metrics.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tch::{Device, Kind};
use tidemill_data::{EncodedRows, Encoder};

use crate::architectures::{self, TextClassifier};
use crate::error::ModelError;
use crate::manifest::{Manifest, Source};
use crate::package::{Package, PackageError};
use crate::parameters::Parameters;
use crate::text_input::TextInput;

/// How a package is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineOptions {
    /// Where the model runs. Default the CPU.
    pub device: Device,
    /// Whether every byte is checked against the manifest's digests. Default yes.
    pub verify_digests: bool,
}

impl Default for PipelineOptions {
    fn default() -> Self {
        PipelineOptions { device: Device::Cpu, verify_digests: true }
    }
}

/// Why texts could not be classified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The model refused the batch. It is unharmed.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// The model gave a score that is not a number.
    #[error(
        "the model gave scores that are not finite numbers for text {index} of {count}; its weights are damaged or its \
         training diverged"
    )]
    NotFinite {
        /// The text's place among those that were asked about, from 0.
        index: usize,
        /// How many were asked about.
        count: usize,
    },
}

/// What a model says of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    /// One probability a label, in the order of [`Pipeline::labels`]; they sum to 1.
    pub probabilities: Vec<f32>,
}

impl Classification {
    /// The likeliest label's index; the first of equals.
    pub fn label(&self) -> usize {
        let best = (0..self.probabilities.len())
            .rev()
            .max_by(|&a, &b| f32::total_cmp(&self.probability_of(a), &self.probability_of(b)));
        best.unwrap_or(0)
    }

    /// The likeliest label's probability.
    pub fn probability(&self) -> f32 {
        self.probability_of(self.label())
    }

    /// The `k` likeliest labels with their probabilities, likeliest first.
    pub fn top(&self, k: usize) -> Vec<(usize, f32)> {
        let mut ranked: Vec<(usize, f32)> = self.probabilities.iter().copied().enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.truncate(k);
        ranked
    }

    fn probability_of(&self, label: usize) -> f32 {
        self.probabilities.get(label).copied().unwrap_or_default()
    }
}

/// A model with its text cleaning, tokeniser and labels, ready to classify.
///
/// # Example
/// ```no_run
/// use tidemill_model::{Pipeline, PipelineOptions};
///
/// let pipeline = Pipeline::open("runs/reviews/package".as_ref(), &PipelineOptions::default())?;
/// for answer in pipeline.classify(&["a good film", "two hours of my life"])? {
///     println!("{} {:.3}", pipeline.labels()[answer.label()], answer.probability());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pipeline {
    manifest: Manifest,
    encoder: Arc<Encoder>,
    classifier: Box<dyn TextClassifier>,
    parameters: Parameters,
    bytes: u64,
}

/// Padded tokens of one pass: enough that products are large, little enough that intermediate tensors stay in cache
/// and memory is bounded whatever the request.
const TOKENS_A_PASS: usize = 8192;

/// Below this many texts a thread pool costs more than it saves.
const TEXTS_FOR_THREADS: usize = 256;

impl Pipeline {
    /// Opens a package: checks it, reads its weights, builds the model.
    ///
    /// # Errors
    /// [`PackageError`] that names the file or tensor and says what to do.
    pub fn open(folder: &Path, options: &PipelineOptions) -> Result<Pipeline, PackageError> {
        let package = if options.verify_digests { Package::open(folder)? } else { Package::open_unverified(folder)? };
        let model = |source| PackageError::Model { folder: folder.to_path_buf(), source };
        let weights = package.weights()?;
        let encoder = package.encoder()?;
        let parameters = Parameters::stored(Box::new(weights.clone()), options.device);
        let classifier = architectures::build(&parameters.root(), package.config()).map_err(model)?;
        if let Some(tensor) = parameters.unused(&weights).into_iter().next() {
            let problem = format!("is in {}, but the configuration has no place for it", weights.file().display());
            return Err(model(ModelError::Tensor { tensor, problem }));
        }
        check_vocabulary(package.config(), &encoder).map_err(model)?;
        Ok(Pipeline {
            manifest: package.manifest().clone(),
            encoder: Arc::new(encoder),
            classifier,
            parameters,
            bytes: package.bytes(),
        })
    }

    /// A pipeline over the parameters of a model that is being trained, for evaluation: it shares their memory, so it
    /// always answers with their present values.
    ///
    /// # Errors
    /// [`ModelError`] when configuration, labels, encoder and parameters do not belong together.
    pub fn from_parts(
        name: &str,
        labels: &[String],
        config: &Map<String, Value>,
        parameters: &Parameters,
        encoder: Arc<Encoder>,
    ) -> Result<Pipeline, ModelError> {
        check_vocabulary(config, &encoder)?;
        if config.get("num_labels").and_then(Value::as_u64) != Some(labels.len() as u64) {
            let problem = format!("\"num_labels\" must be {}, the number of labels", labels.len());
            return Err(ModelError::Config { architecture: name.to_string(), problem });
        }
        let parameters = parameters.shared()?;
        let classifier = architectures::build(&parameters.root(), config)?;
        let bytes = 4 * parameters.count() as u64;
        let preprocessing = encoder.preprocessing();
        let manifest = Manifest::text_classification(name, "0", labels, preprocessing, Source::default());
        Ok(Pipeline { manifest, encoder, classifier, parameters, bytes })
    }

    /// What the package says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The labels, in the order of the probabilities.
    pub fn labels(&self) -> &[String] {
        &self.manifest.labels
    }

    /// Text cleaning and tokeniser.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// How many numbers the model has.
    pub fn parameters_count(&self) -> usize {
        self.parameters.count()
    }

    /// Length of the package's files in bytes, or of the parameters where there is no package.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Classifies raw texts: cleans, tokenises, runs, in the order given. An empty text is an unknown word.
    ///
    /// # Errors
    /// [`PipelineError`]; the pipeline stays usable.
    pub fn classify(&self, texts: &[&str]) -> Result<Vec<Classification>, PipelineError> {
        if texts.len() < TEXTS_FOR_THREADS {
            let ids: Vec<Vec<u32>> = texts.iter().map(|text| self.encoder.encode(text)).collect();
            return self.classify_ids(&ids);
        }
        self.classify_rows(&self.encoder.encode_many(texts))
    }

    /// Classifies texts that are clean already, as the sides of a split are.
    ///
    /// # Errors
    /// [`PipelineError`]; the pipeline stays usable.
    pub fn classify_clean(&self, texts: &[&str]) -> Result<Vec<Classification>, PipelineError> {
        let rows = self.encoder.encode_rows(texts.len(), |row| texts.get(row).copied().unwrap_or_default());
        self.classify_rows(&rows)
    }

    fn classify_rows(&self, rows: &EncodedRows) -> Result<Vec<Classification>, PipelineError> {
        let ids: Vec<&[u32]> = (0..rows.len()).map(|row| rows.get(row)).collect();
        self.classify_ids(&ids)
    }

    /// Classifies rows of token ids, as the encoder gives them. Rows of like length run together.
    ///
    /// # Errors
    /// [`PipelineError`]; the pipeline stays usable.
    pub fn classify_ids<Row: AsRef<[u32]>>(&self, rows: &[Row]) -> Result<Vec<Classification>, PipelineError> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.as_ref().len().max(1)).collect();
        let mut answers: Vec<Option<Classification>> = rows.iter().map(|_| None).collect();
        for group in passes(&lengths, TOKENS_A_PASS) {
            let ids: Vec<&[u32]> = group.iter().filter_map(|&index| rows.get(index)).map(AsRef::as_ref).collect();
            let probabilities = self.run(&ids)?;
            let labels = self.labels().len().max(1);
            for (&index, probabilities) in group.iter().zip(probabilities.chunks_exact(labels)) {
                if !probabilities.iter().all(|probability| probability.is_finite()) {
                    return Err(PipelineError::NotFinite { index, count: rows.len() });
                }
                if let Some(answer) = answers.get_mut(index) {
                    *answer = Some(Classification { probabilities: probabilities.to_vec() });
                }
            }
        }
        let answered: Option<Vec<Classification>> = answers.into_iter().collect();
        answered
            .ok_or_else(|| ModelError::Input("the model gave fewer answers than there were texts".to_string()).into())
    }

    /// One pass: `[batch · labels]` probabilities.
    fn run(&self, ids: &[&[u32]]) -> Result<Vec<f32>, ModelError> {
        let pad = i64::from(self.encoder.pad_id());
        let input = TextInput::from_ids(ids, pad, self.parameters.device())?;
        tch::no_grad(|| {
            let logits = self.classifier.forward(&input, false)?; // [batch, labels]
            let probabilities = logits.f_softmax(-1, Kind::Float)?.f_to_device(Device::Cpu)?;
            let count = probabilities.numel();
            let mut values = vec![0.0_f32; count];
            probabilities.f_contiguous()?.f_copy_data(&mut values, count)?;
            Ok(values)
        })
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Pipeline({} {})", self.manifest.name, self.manifest.version)
    }
}

/// Indices of rows, by length, in groups whose padded tokens stay within the budget; a longer row runs alone.
fn passes(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    let length = |index: usize| lengths.get(index).copied().unwrap_or(1);
    order.sort_by_key(|&index| length(index));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        // Rows come in rising length, so the newcomer is the longest of its group.
        match groups.last_mut().filter(|group| (group.len() + 1) * length(index) <= budget) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

/// The table must have a row for every id that the encoder can give.
fn check_vocabulary(config: &Map<String, Value>, encoder: &Encoder) -> Result<(), ModelError> {
    let rows = config.get("vocab_size").and_then(Value::as_u64).unwrap_or_default();
    let needed = encoder.vocab_size() as u64;
    if rows >= needed {
        return Ok(());
    }
    let architecture = config.get("model_type").and_then(Value::as_str).unwrap_or("the model");
    Err(ModelError::Config {
        architecture: architecture.to_string(),
        problem: format!("\"vocab_size\" is {rows}, but the tokeniser gives ids up to {}", needed.saturating_sub(1)),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn passes_cover_every_row_once_within_the_budget() {
        let lengths = [5, 1, 9, 3, 40, 2, 2, 7];
        let groups = passes(&lengths, 12);
        let mut seen: Vec<usize> = groups.concat();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7]);
        for group in &groups {
            let longest = group.iter().map(|&index| lengths[index]).max().unwrap();
            assert!(group.len() == 1 || group.len() * longest <= 12, "{group:?}");
        }
        assert!(passes(&[], 12).is_empty());
    }

    #[test]
    fn the_first_of_equal_labels_wins() {
        let tied = Classification { probabilities: vec![0.2, 0.4, 0.4] };
        assert_eq!((tied.label(), tied.probability()), (1, 0.4));
        assert_eq!(tied.top(2), [(1, 0.4), (2, 0.4)]);
        assert_eq!(tied.top(9).len(), 3);
    }
}
