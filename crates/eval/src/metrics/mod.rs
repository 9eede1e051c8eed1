//! The registry of classification metrics. One file a family; a family is plain functions on
//! [`Predictions`] or on a [`ConfusionMatrix`], and the list `METRICS` of those that have a name in
//! recipes. Knows nothing of models, reports or files. The numbers are scikit-learn's, checked by
//! `tests/fixtures/classification.json`.
//!
//! To add a metric: one new file with its `METRICS`, one line in `families!` below, one line in
//! `tests/fixtures/make_classification.py`.

use crate::Predictions;

/// A metric that needs the confusion matrix alone.
macro_rules! counted {
    ($name:literal, $summary:literal, $function:expr) => {
        $crate::metrics::Metric {
            name: $name,
            summary: $summary,
            higher_is_better: true,
            compute: |predictions| {
                const FUNCTION: $crate::metrics::FromMatrix = $function;
                FUNCTION(&predictions.confusion_matrix())
            },
            from_matrix: Some($function),
        }
    };
}

/// Declares the files of this folder and gathers their `METRICS`.
macro_rules! families {
    ($($family:ident,)*) => {
        $(pub mod $family;)*
        const FAMILIES: &[&[Metric]] = &[$($family::METRICS),*];
    };
}

// In the order in which `--help` and the documentation list them. `cargo fmt` does not look into
// macros: `rustfmt crates/eval/src/metrics/*.rs` formats these files.
families! {
    accuracy,
    precision_recall,
    confusion,
    roc,
    average_precision,
    log_loss,
    brier,
    matthews,
    kappa,
    top_k,
    calibration,
    jaccard,
}

pub use confusion::ConfusionMatrix;

/// A number that says how good predictions are, under the name that recipes use.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name in recipes and reports, such as `f1_macro`.
    pub name: &'static str,
    /// One sentence: what it measures.
    pub summary: &'static str,
    /// Whether a larger value is a better model.
    pub higher_is_better: bool,
    /// The metric of some predictions.
    pub compute: fn(&Predictions) -> Result<f64, MetricError>,
    /// The same from the confusion matrix alone, where that is enough: the bootstrap is then
    /// faster.
    pub from_matrix: Option<FromMatrix>,
}

/// A metric of a confusion matrix.
pub type FromMatrix = fn(&ConfusionMatrix) -> Result<f64, MetricError>;

/// Why a metric has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// The definition says nothing for these examples, as ROC AUC does when there is one class
    /// only.
    #[error("undefined, because {because}")]
    Undefined {
        /// The rest of a sentence that begins "undefined, because".
        because: String,
    },
    /// No metric has this name.
    #[error("there is no metric {name:?}{}; known are {known}", did_you_mean(nearest))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The known name nearest to it.
        nearest: Option<String>,
        /// All known names.
        known: String,
    },
}

impl MetricError {
    pub(crate) fn undefined(because: impl Into<String>) -> MetricError {
        MetricError::Undefined { because: because.into() }
    }
}

/// Every metric, family by family.
pub static ALL: &[Metric] = &REGISTRY;

static REGISTRY: [Metric; COUNT] = gather();

const COUNT: usize = {
    let (mut count, mut family) = (0, 0);
    while family < FAMILIES.len() {
        count += FAMILIES[family].len();
        family += 1;
    }
    count
};

const fn gather() -> [Metric; COUNT] {
    let mut all = [accuracy::METRICS[0]; COUNT];
    let (mut at, mut family) = (0, 0);
    while family < FAMILIES.len() {
        let mut member = 0;
        while member < FAMILIES[family].len() {
            all[at] = FAMILIES[family][member];
            at += 1;
            member += 1;
        }
        family += 1;
    }
    all
}

/// The metric of this name.
///
/// ```
/// use tidemill_eval::{Predictions, metrics};
/// let labels = vec!["negative".to_string(), "positive".to_string()];
/// let predictions = Predictions::new(labels, vec![0, 1], vec![0.9, 0.1, 0.6, 0.4])?;
/// let accuracy = metrics::find("accuracy")?;
/// assert_eq!((accuracy.compute)(&predictions)?, 0.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`MetricError::Unknown`] names the nearest metric and lists them all.
pub fn find(name: &str) -> Result<&'static Metric, MetricError> {
    ALL.iter().find(|metric| metric.name == name).ok_or_else(|| {
        let names = || ALL.iter().map(|metric| metric.name);
        MetricError::Unknown {
            name: name.to_string(),
            nearest: tidemill_data::nearest(name, names()).map(str::to_string),
            known: names().collect::<Vec<_>>().join(", "),
        }
    })
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(", did you mean {name:?}?")).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_summaries_are_sentences() {
        for (at, metric) in ALL.iter().enumerate() {
            assert!(ALL.iter().skip(at + 1).all(|other| other.name != metric.name), "{metric:?}");
            assert!(metric.summary.ends_with('.'), "{metric:?}");
        }
    }

    #[test]
    fn an_unknown_name_names_the_nearest() {
        let message = find("f1_marco").unwrap_err().to_string();
        assert!(message.contains("did you mean \"f1_macro\""), "{message}");
    }
}
