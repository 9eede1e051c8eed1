//! What a classifier is worth: metrics that agree with scikit-learn's, bootstrap intervals,
//! evaluation of a pipeline on a data set, and a report as JSON, text and one self-contained HTML
//! page, with a diagnosis in words.
//!
//! The metrics work on plain arrays ([`Predictions`]) and need no model; only [`evaluate()`] and
//! [`predict`] know of pipelines.
//!
//! ```
//! use tidemill_eval::{Context, EvaluationConfig, Predictions, Report};
//! let labels = vec!["negative".to_string(), "positive".to_string()];
//! let predictions = Predictions::new(labels, vec![0, 1, 1], vec![0.9, 0.1, 0.2, 0.8, 0.7, 0.3])?;
//! let config = EvaluationConfig::default();
//! let report = Report::new(&predictions, &config, Context::default(), |_| None)?;
//! assert!(report.value("accuracy").is_some_and(|accuracy| accuracy > 0.66));
//! println!("{report}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod bootstrap;
mod config;
pub mod diagnosis;
mod evaluate;
mod history;
pub mod metrics;
mod predictions;
pub mod report;

pub use bootstrap::{Bootstrap, Interval};
pub use config::{ConfigError, EvaluationConfig};
pub use diagnosis::{Finding, Kind, Severity};
pub use evaluate::{EvaluationError, evaluate, predict};
pub use history::HistoryPoint;
pub use metrics::{Metric, MetricError};
pub use predictions::{Predictions, PredictionsError};
pub use report::{Context, Estimate, Report, Shown};
