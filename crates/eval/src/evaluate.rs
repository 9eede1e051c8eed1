//! A pipeline on a labelled data set: the texts through the same code that serves, the answers into
//! [`Predictions`], those into a [`Report`]. The only file of this crate that knows of models.

use tidemill_data::Examples;
use tidemill_model::{Pipeline, PipelineError};

use crate::{ConfigError, Context, EvaluationConfig, Predictions, PredictionsError, Report, Shown};

/// Texts handed to the pipeline at once: enough to sort by length, little to hold.
const CHUNK: usize = 4096;

/// Why a pipeline could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// An example without a label.
    #[error("{row} has no label: evaluation needs the true label of every example")]
    Unlabelled {
        /// File and line.
        row: String,
    },
    /// A label that the model does not know.
    #[error(
        "{row} is labelled {label:?}, which the model cannot predict: it knows {known}. Map the \
         label in [data] label.map, or drop these rows"
    )]
    UnknownLabel {
        /// File and line.
        row: String,
        /// The label.
        label: String,
        /// The model's labels.
        known: String,
    },
    /// The pipeline failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// What it answered cannot be measured.
    #[error(transparent)]
    Predictions(#[from] PredictionsError),
    /// The options are wrong.
    #[error("[evaluation] {0}")]
    Config(#[from] ConfigError),
}

/// What the pipeline says about every example, in their order. Labels are matched by name. The
/// texts go the whole way that a request goes, cleaning included.
///
/// # Errors
/// [`EvaluationError`]: an example without a label or with one that the model does not know, a
/// pipeline that fails, or no examples at all.
pub fn predict(pipeline: &Pipeline, examples: &Examples) -> Result<Predictions, EvaluationError> {
    let targets = targets(pipeline.labels(), examples)?;
    let mut probabilities = Vec::with_capacity(targets.len() * pipeline.labels().len());
    for start in (0..examples.len()).step_by(CHUNK) {
        let end = (start + CHUNK).min(examples.len());
        let texts: Vec<&str> = (start..end).map(|example| examples.text(example)).collect();
        for answer in pipeline.classify(&texts)? {
            probabilities.extend(answer.probabilities.iter().map(|&p| f64::from(p)));
        }
    }
    Ok(Predictions::new(pipeline.labels().to_vec(), targets, probabilities)?)
}

/// Runs the pipeline on the examples and reports on it.
///
/// `context` says what is known besides, for the title (the package's name and version when it is
/// empty), the learning curves and the diagnosis; everything in it is optional.
///
/// # Errors
/// As [`predict`], and when `options` are wrong.
pub fn evaluate(
    pipeline: &Pipeline,
    examples: &Examples,
    options: &EvaluationConfig,
    mut context: Context,
) -> Result<Report, EvaluationError> {
    options.check()?;
    if context.name.is_empty() {
        let manifest = pipeline.manifest();
        context.name = format!("{} {}", manifest.name, manifest.version);
    }
    let predictions = predict(pipeline, examples)?;
    let shown = |example| Some(Shown { row: examples.describe_row(example), text: examples.text(example).to_string() });
    Ok(Report::new(&predictions, options, context, shown)?)
}

fn targets(known: &[String], examples: &Examples) -> Result<Vec<usize>, EvaluationError> {
    let place = |label: &String| known.iter().position(|other| other == label);
    let places: Vec<Option<usize>> = examples.labels().iter().map(place).collect();
    (0..examples.len())
        .map(|example| {
            let row = || examples.describe_row(example);
            let label = examples.label(example).ok_or_else(|| EvaluationError::Unlabelled { row: row() })?;
            places.get(label).copied().flatten().ok_or_else(|| EvaluationError::UnknownLabel {
                row: row(),
                label: examples.labels().get(label).cloned().unwrap_or_default(),
                known: known.join(", "),
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn examples(labels: &[Option<usize>]) -> Examples {
        let texts: Vec<String> = labels.iter().map(|_| "so it goes".to_string()).collect();
        Examples::from_texts(&texts, labels, &["good".into(), "bad".into()]).unwrap()
    }

    #[test]
    fn labels_are_matched_by_name_not_by_position() {
        let known = ["bad".to_string(), "good".to_string()];
        assert_eq!(targets(&known, &examples(&[Some(0), Some(1)])).unwrap(), [1, 0]);
    }

    #[test]
    fn a_missing_or_strange_label_names_its_row() {
        let known = ["good".to_string()];
        let strange = targets(&known, &examples(&[Some(0), Some(1)])).unwrap_err().to_string();
        assert!(strange.contains("\"bad\"") && strange.contains("it knows good"), "{strange}");
        let missing = targets(&known, &examples(&[None])).unwrap_err().to_string();
        assert!(missing.contains("has no label"), "{missing}");
    }
}
