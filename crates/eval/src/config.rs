//! The `[evaluation]` section of a recipe: which metrics, how many resamples, how much to show.
//! Wrong values are refused while the file is read, so the message has their line and column.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Bootstrap;
use crate::metrics::{self, Metric, MetricError};

/// How a pipeline is evaluated. Everything has a default.
///
/// ```
/// use tidemill_eval::EvaluationConfig;
/// let text = r#"{"metrics": ["f1_macro"], "bootstrap": 200}"#;
/// let config: EvaluationConfig = serde_json::from_str(text)?;
/// assert_eq!(config.confidence, 0.95);
/// let wrong = serde_json::from_str::<EvaluationConfig>(r#"{"metrics": ["f1_marco"]}"#);
/// assert!(wrong.unwrap_err().to_string().contains("did you mean \"f1_macro\"?"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// Names of the metrics to report, see [`metrics::ALL`]; the first is the headline.
    #[serde(deserialize_with = "known_metrics")]
    pub metrics: Vec<String>,
    /// Number of bootstrap resamples behind the intervals; 0 for none.
    #[serde(deserialize_with = "resamples")]
    pub bootstrap: usize,
    /// Share of the resamples inside an interval, between 0 and 1.
    #[serde(deserialize_with = "confidence")]
    pub confidence: f64,
    /// Number of bins of the reliability diagram, 1 to 100.
    #[serde(deserialize_with = "bins")]
    pub bins: usize,
    /// Number of most confident mistakes shown with their texts; 0 keeps texts out of the report.
    pub mistakes: usize,
    /// Characters of a text that are shown.
    pub characters: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for EvaluationConfig {
    fn default() -> EvaluationConfig {
        let names = [
            "accuracy",
            "balanced_accuracy",
            "f1_macro",
            "f1_weighted",
            "roc_auc",
            "average_precision",
            "log_loss",
            "brier",
            "matthews",
            "cohen_kappa",
            "expected_calibration_error",
        ];
        EvaluationConfig {
            metrics: names.map(str::to_string).to_vec(),
            bootstrap: 1000,
            confidence: 0.95,
            bins: metrics::calibration::DEFAULT_BINS,
            mistakes: 20,
            characters: 280,
            seed: 0,
        }
    }
}

/// Why an [`EvaluationConfig`] made in code cannot be used; one read from a file was checked there.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A metric that does not exist.
    #[error("metrics: {0}")]
    Metric(#[from] MetricError),
    /// A number outside its range.
    #[error("{0}")]
    Range(String),
}

impl EvaluationConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`ConfigError`] names the field, and for a metric the nearest name.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.chosen()?;
        check_resamples(self.bootstrap).map_err(ConfigError::Range)?;
        check_confidence(self.confidence).map_err(ConfigError::Range)?;
        check_bins(self.bins).map_err(ConfigError::Range)
    }

    /// The metrics to report.
    ///
    /// # Errors
    /// [`MetricError::Unknown`] for a name that is none.
    pub fn chosen(&self) -> Result<Vec<&'static Metric>, MetricError> {
        self.metrics.iter().map(|name| metrics::find(name)).collect()
    }

    /// How the intervals are made.
    pub fn resampling(&self) -> Bootstrap {
        Bootstrap { resamples: self.bootstrap, confidence: self.confidence, seed: self.seed }
    }
}

fn check_resamples(resamples: usize) -> Result<(), String> {
    match resamples {
        0..=1_000_000 => Ok(()),
        many => Err(format!("bootstrap is {many}: at most 1000000 resamples; 1000 are usual")),
    }
}

fn check_confidence(confidence: f64) -> Result<(), String> {
    if confidence > 0.0 && confidence < 1.0 {
        return Ok(());
    }
    Err(format!("confidence is {confidence}: give a share between 0 and 1, such as 0.95"))
}

fn check_bins(bins: usize) -> Result<(), String> {
    match bins {
        1..=100 => Ok(()),
        bins => Err(format!("bins is {bins}: give 1 to 100; 10 and 15 are usual")),
    }
}

fn known_metrics<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    for name in &names {
        metrics::find(name).map_err(D::Error::custom)?;
    }
    Ok(names)
}

fn resamples<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    checked(from, |&value| check_resamples(value))
}

fn confidence<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    checked(from, |&value| check_confidence(value))
}

fn bins<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    checked(from, |&value| check_bins(value))
}

fn checked<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<T, D::Error> {
    let value = T::deserialize(from)?;
    check(&value).map_err(D::Error::custom)?;
    Ok(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_empty_input_gives_it() {
        EvaluationConfig::default().check().unwrap();
        let empty: EvaluationConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, EvaluationConfig::default());
    }

    #[test]
    fn wrong_values_are_refused_where_they_are_read() {
        for (text, part) in [
            (r#"{"confidence": 95}"#, "confidence is 95"),
            (r#"{"bins": 0}"#, "bins is 0"),
            (r#"{"bootstrap": 100000000}"#, "at most 1000000"),
            (r#"{"bootstraps": 10}"#, "unknown field `bootstraps`"),
            (r#"{"metrics": ["acuracy"]}"#, "did you mean \"accuracy\"?"),
        ] {
            let message = serde_json::from_str::<EvaluationConfig>(text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let wrong = EvaluationConfig { confidence: f64::NAN, ..EvaluationConfig::default() };
        assert!(wrong.check().unwrap_err().to_string().contains("NaN"));
    }
}
