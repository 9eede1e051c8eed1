//! `tidemill eval PACKAGE DATA…`: a package measured on labelled rows, by the code that training uses.

use std::path::PathBuf;

use anyhow::Context as _;
use tidemill_data::{Case, CleanConfig, Column, DataConfig, Files, Format, LabelColumn, Missing, Repeats, Unicode};
use tidemill_eval::{Context, EvaluationConfig};
use tidemill_model::{Pipeline, PipelineOptions};

use crate::commands::print_json;

/// Measure a package on labelled data
///
/// Prints the report as text, or with --json as JSON; --html writes the page with plots.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The package's folder
    package: PathBuf,

    /// Files of labelled rows: CSV, TSV, JSON lines or Parquet, also gzipped
    #[arg(required = true, value_name = "DATA")]
    data: Vec<PathBuf>,

    /// Read columns, label rules and formats as this recipe's [data] says, instead of the options below
    #[arg(long, value_name = "RECIPE", conflicts_with_all = ["text", "label", "header", "format"])]
    recipe: Option<PathBuf>,

    /// The text's column, by name or number (1 is the first)
    #[arg(long, value_name = "COLUMN", default_value = "text", value_parser = column)]
    text: Column,

    /// The label's column, by name or number
    #[arg(long, value_name = "COLUMN", default_value = "label", value_parser = column)]
    label: Column,

    /// Whether the first line names the columns; default: yes when a column is given by name
    #[arg(long, value_name = "BOOL")]
    header: Option<bool>,

    /// Format, if the file's name does not tell: csv, tsv, jsonl, parquet
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    format: Option<Format>,

    /// Metrics to compute, by name; default: the usual ones
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    metrics: Vec<String>,

    /// Resamples for the confidence intervals; 0 for none
    #[arg(long, value_name = "N")]
    bootstrap: Option<usize>,

    /// Also write the report as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  tidemill eval run/package test.csv
  tidemill eval run/package test.tsv --header false --text 1 --label 2 --html report.html";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let pipeline = Pipeline::open(&arguments.package, &PipelineOptions::default())?;
    let data = data(&arguments)?;
    let spool = std::env::temp_dir();
    let labels = pipeline.labels();
    let (examples, read) = tidemill_data::read_examples(&arguments.data, &data, &untouched(), labels, &spool)?;
    let mut options = EvaluationConfig::default();
    if !arguments.metrics.is_empty() {
        options.metrics = arguments.metrics;
    }
    if let Some(bootstrap) = arguments.bootstrap {
        options.bootstrap = bootstrap;
    }
    let context = Context { data: Some(read), ..Context::default() };
    let report = tidemill_eval::evaluate(&pipeline, &examples, &options, context)?;
    if let Some(path) = &arguments.html {
        let page = report.to_html()?;
        tidemill_model::files::write_atomically(path, |file| file.write_all(page.as_bytes()))
            .with_context(|| format!("--html {}: cannot be written", path.display()))?;
    }
    if json {
        return print_json(&report);
    }
    println!("{report}");
    Ok(())
}

fn data(arguments: &Arguments) -> anyhow::Result<DataConfig> {
    if let Some(recipe) = &arguments.recipe {
        return Ok(tidemill_train::Recipe::read(recipe)?.data);
    }
    Ok(DataConfig {
        format: arguments.format,
        header: arguments.header,
        text: arguments.text.clone(),
        label: Some(LabelColumn::new(arguments.label.clone())),
        ..DataConfig::new(Files(arguments.data.clone()))
    })
}

/// No cleaning of rows: the pipeline cleans texts as it does when serving, and every row counts.
fn untouched() -> CleanConfig {
    CleanConfig {
        html: false,
        unicode: Unicode::None,
        control: false,
        white_space: false,
        case: Case::Keep,
        min_chars: 0,
        missing: Missing::Stop,
        duplicates: Repeats::Keep,
        ..CleanConfig::default()
    }
}

fn column(text: &str) -> Result<Column, String> {
    match text.parse() {
        Ok(0) => Err("columns are numbered from 1".to_owned()),
        Ok(number) => Ok(Column::Number(number)),
        Err(_) => Ok(Column::Name(text.to_owned())),
    }
}

fn format(text: &str) -> Result<Format, String> {
    let value = serde_json::Value::String(text.to_owned());
    serde_json::from_value(value).map_err(|error| error.to_string())
}
