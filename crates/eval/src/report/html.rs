//! The report as one page: the template `page.html` filled in. Every text that comes from data is
//! escaped by the template engine; only our own plots are inserted as they are.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use super::{HtmlError, Report, plots};
use crate::HistoryPoint;
use crate::metrics;

/// A plot with its title and the names of its lines, in the order of the colours.
#[derive(Serialize)]
struct Figure {
    title: String,
    svg: Value,
    legend: Vec<String>,
    note: Option<String>,
}

impl Figure {
    fn new(title: &str, svg: String, legend: Vec<String>) -> Figure {
        let svg = Value::from_safe_string(svg);
        Figure { title: title.to_string(), svg, legend, note: None }
    }
}

pub(super) fn page(report: &Report) -> Result<String, HtmlError> {
    let mut environment = Environment::new();
    environment.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_filter("percent", |share: f64| format!("{:.1} %", 100.0 * share));
    environment.add_filter("grouped", super::grouped);
    environment.add_filter("spaced", |name: String| name.replace('_', " "));
    // The name's ending turns escaping on.
    environment.add_template("page.html", include_str!("page.html"))?;
    let summaries: BTreeMap<&str, &str> = metrics::ALL.iter().map(|m| (m.name, m.summary)).collect();
    let kinds: Vec<String> = report.diagnosis.iter().map(|f| f.kind.to_string()).collect();
    let page = environment.get_template("page.html")?.render(context! {
        report => Serde(report),
        summaries => Serde(summaries),
        kinds => kinds,
        stand_ins => plots::stand_ins(),
        learning => Serde(learning(report)?),
        curves => Serde(curves(report)?),
        confusion => confusion(report)?,
        confused => Serde(super::text::confused_pairs(report, 12)),
        reliability => Value::from_safe_string(plots::reliability(&report.calibration)?),
        data => report.data.as_ref().map(ToString::to_string),
    })?;
    Ok(page)
}

fn learning(report: &Report) -> Result<Vec<Figure>, HtmlError> {
    if report.history.is_empty() {
        return Ok(Vec::new());
    }
    let mut figures = vec![Figure::new(
        "Loss",
        plots::history(
            "loss over the steps",
            report,
            &[&|point| Some(point.train_loss), &|point| point.validation_loss],
        )?,
        names(report, &[("training", &|p| Some(p.train_loss)), ("validation", &|p| p.validation_loss)]),
    )];
    figures.extend(scores(report)?);
    figures.push(Figure::new(
        "Learning rate",
        plots::history("learning rate over the steps", report, &[&|p| Some(p.learning_rate)])?,
        Vec::new(),
    ));
    Ok(figures)
}

type Series<'a> = (&'a str, plots::Value<'a>);

/// Names of the series, up to the last that has values; those before keep the colours in step.
fn names(report: &Report, series: &[Series<'_>]) -> Vec<String> {
    let filled = |(_, value): &&Series<'_>| report.history.iter().any(|point| value(point).is_some());
    series.iter().filter(filled).map(|(name, _)| (*name).to_string()).collect()
}

/// Training accuracy and the validation metrics that are shares, in one plot.
fn scores(report: &Report) -> Result<Option<Figure>, HtmlError> {
    let higher = |name: &&String| metrics::find(name).is_ok_and(|metric| metric.higher_is_better);
    let measured = report.history.iter().flat_map(|point| point.validation_metrics.keys());
    let measured: BTreeSet<&String> = measured.filter(higher).collect();
    let measured: Vec<&String> = measured.into_iter().take(plots::SERIES - 1).collect();
    let of: Vec<_> =
        measured.iter().map(|name| move |point: &HistoryPoint| point.validation_metrics.get(*name).copied()).collect();
    let train = |point: &HistoryPoint| point.train_accuracy;
    let titles: Vec<String> = measured.iter().map(|name| format!("validation {name}")).collect();
    let mut series: Vec<Series<'_>> = Vec::new();
    if report.history.iter().any(|point| point.train_accuracy.is_some()) {
        series.push(("training accuracy", &train));
    }
    for (title, value) in titles.iter().zip(&of) {
        series.push((title, value));
    }
    if series.is_empty() {
        return Ok(None);
    }
    let values: Vec<_> = series.iter().map(|(_, value)| *value).collect();
    let svg = plots::history("scores over the steps", report, &values)?;
    Ok(Some(Figure::new("Scores", svg, names(report, &series))))
}

fn curves(report: &Report) -> Result<Vec<Figure>, HtmlError> {
    let shown = &report.curves[..report.curves.len().min(plots::SERIES)];
    let legend = |area: fn(&super::ClassCurves) -> &super::Estimate, name: &str| -> Vec<String> {
        let of = |curve| match area(curve) {
            super::Estimate::Defined { value, .. } => format!("{}: {name} {value:.3}", curve.label),
            super::Estimate::Undefined { undefined } => {
                format!("{}: undefined, because {undefined}", curve.label)
            }
        };
        shown.iter().map(of).collect()
    };
    let mut roc = Figure::new("ROC", plots::roc(report)?, legend(|curve| &curve.roc_auc, "area"));
    roc.note = Some("Each label against the rest. The dashed line is chance.".into());
    let mut precision_recall = Figure::new(
        "Precision and recall",
        plots::precision_recall(report)?,
        legend(|curve| &curve.average_precision, "average precision"),
    );
    if report.curves.len() > shown.len() {
        let note = format!("The first {} of {} labels.", shown.len(), report.curves.len());
        precision_recall.note = Some(note);
    }
    Ok(vec![roc, precision_recall])
}

fn confusion(report: &Report) -> Result<Option<Value>, HtmlError> {
    if report.labels.len() > plots::HEAT_MAP_LABELS {
        return Ok(None);
    }
    let svg = plots::heat_map(&report.confusion_matrix, &report.labels)?;
    Ok(Some(Value::from_safe_string(svg)))
}
