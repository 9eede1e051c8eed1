//! The report as text for a terminal or a log: aligned tables, no colours.

use std::fmt;

use serde::Serialize;

use super::{ClassRow, Estimate, Report};

/// More labels than this make a matrix too wide for a terminal; the most confused pairs are listed
/// then.
const MATRIX_LABELS: usize = 10;

/// Characters of a label in a table, and of a text among the mistakes.
const LABEL: usize = 24;
const TEXT: usize = 100;

/// Columns of running text.
const WIDTH: usize = 100;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "Evaluation" } else { &self.name };
        let side = if self.side.is_empty() { String::new() } else { format!(" on {}", self.side) };
        let examples = grouped(self.examples as u64);
        writeln!(f, "{}{}: {examples} examples, {} labels", plain(name), plain(&side), self.labels.len())?;
        metrics(self, f)?;
        classes(self, f)?;
        confusion(self, f)?;
        calibration(self, f)?;
        mistakes(self, f)?;
        diagnosis(self, f)
    }
}

fn metrics(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut table = Table::new("l l l");
    for metric in &report.metrics {
        let (value, interval) = match &metric.estimate {
            Estimate::Defined { value, .. } => (format!("{value:.4}"), interval(&metric.estimate)),
            Estimate::Undefined { undefined } => (format!("undefined, because {undefined}"), String::new()),
        };
        table.row([metric.name.clone(), value, interval]);
    }
    write!(f, "\n{table}")?;
    if report.bootstrap.resamples > 0 && !report.metrics.is_empty() {
        let (share, times) = (100.0 * report.bootstrap.confidence, report.bootstrap.resamples);
        let times = grouped(times as u64);
        writeln!(f, "  in brackets: {share} % intervals, percentile bootstrap of {times} resamples")?;
    }
    Ok(())
}

fn classes(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut table = Table::new("l r l l l");
    table.row(["", "examples", "precision", "recall", "F1"].map(String::from));
    for row in &report.classes {
        table.row(class_row(row));
    }
    table.row([const { String::new() }; 5]);
    for row in &report.averages {
        table.row(class_row(row));
    }
    write!(f, "\nBy class\n{table}")
}

fn class_row(row: &ClassRow) -> [String; 5] {
    let cell = |estimate: &Estimate| match estimate {
        Estimate::Defined { value, .. } => format!("{value:.3} {}", interval(estimate)).trim_end().to_string(),
        Estimate::Undefined { .. } => "undefined".to_string(),
    };
    let support = grouped(row.support);
    [short(&row.name, LABEL), support, cell(&row.precision), cell(&row.recall), cell(&row.f1)]
}

fn confusion(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if report.labels.len() > MATRIX_LABELS {
        let mut table = Table::new("r l");
        for pair in confused_pairs(report, 20) {
            let what = format!("{} taken for {}", short(&pair.target, LABEL), short(&pair.predicted, LABEL));
            table.row([grouped(pair.count), what]);
        }
        return write!(f, "\nMost often confused\n{table}");
    }
    let mut table = Table::new(&format!("l{}", " r".repeat(report.labels.len())));
    let labels = report.labels.iter().map(|label| short(label, LABEL));
    table.row(std::iter::once(String::new()).chain(labels.clone()));
    for (label, counts) in labels.zip(report.confusion_matrix.rows()) {
        table.row(std::iter::once(label).chain(counts.iter().map(|&count| grouped(count))));
    }
    write!(f, "\nConfusion matrix (rows: truth, columns: prediction)\n{table}")
}

fn calibration(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let calibration = &report.calibration;
    let mut table = Table::new("l r r r");
    table.row(["confidence", "examples", "mean", "accuracy"].map(String::from));
    for bin in calibration.bins.iter().filter(|bin| bin.count > 0) {
        table.row([
            format!("{:.2} to {:.2}", bin.lower, bin.upper),
            grouped(bin.count),
            format!("{:.3}", bin.confidence),
            format!("{:.3}", bin.accuracy),
        ]);
    }
    let (expected, maximum) = (calibration.expected_error, calibration.maximum_error);
    write!(f, "\nCalibration: expected error {expected:.4}, largest {maximum:.4}\n{table}")
}

fn mistakes(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if report.mistakes.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nMost confident mistakes")?;
    for mistake in &report.mistakes {
        let (said, is) = (short(&mistake.predicted, LABEL), short(&mistake.target, LABEL));
        writeln!(f, "  {:.3}  {said}, but it is {is}  ({})", mistake.confidence, plain(&mistake.row))?;
        writeln!(f, "         {}", short(&mistake.text, TEXT))?;
    }
    Ok(())
}

fn diagnosis(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if report.diagnosis.is_empty() {
        return writeln!(f, "\nDiagnosis: nothing stands out.");
    }
    writeln!(f, "\nDiagnosis")?;
    for finding in &report.diagnosis {
        writeln!(f, "  {} ({})", finding.kind, finding.severity)?;
        for line in wrapped(&finding.sentence).iter().chain(&wrapped(&format!("→ {}", finding.advice))) {
            writeln!(f, "    {line}")?;
        }
    }
    Ok(())
}

/// Two labels and how often the first was taken for the second.
#[derive(Serialize)]
pub(super) struct ConfusedPair {
    pub(super) target: String,
    pub(super) predicted: String,
    pub(super) count: u64,
}

/// The pairs that are confused most often.
pub(super) fn confused_pairs(report: &Report, most: usize) -> Vec<ConfusedPair> {
    let matrix = &report.confusion_matrix;
    let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
    for (target, counts) in matrix.rows().enumerate() {
        let wrong = counts.iter().enumerate().filter(|&(predicted, &n)| predicted != target && n > 0);
        pairs.extend(wrong.map(|(predicted, &count)| (count, target, predicted)));
    }
    pairs.sort_by_key(|&(count, target, predicted)| (std::cmp::Reverse(count), target, predicted));
    let label = |class: usize| report.labels.get(class).cloned().unwrap_or_default();
    pairs
        .into_iter()
        .take(most)
        .map(|(count, target, predicted)| ConfusedPair { target: label(target), predicted: label(predicted), count })
        .collect()
}

/// `[0.780, 0.834]`, or nothing.
fn interval(estimate: &Estimate) -> String {
    estimate.interval().map(|i| format!("[{:.3}, {:.3}]", i.lower, i.upper)).unwrap_or_default()
}

/// `12345` as `12,345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A text without control characters: what data holds must not steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The first characters of a text, without control characters.
fn short(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some(_) => plain(text).chars().take(characters - 1).chain(['…']).collect(),
        None => plain(text),
    }
}

/// Lines of at most [`WIDTH`] characters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in plain(text).split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// Rows of cells, aligned when printed: columns `l`eft or `r`ight, two blanks between.
struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(columns: &str) -> Table {
        Table { right: columns.split(' ').map(|column| column == "r").collect(), rows: Vec::new() }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).zip(&self.right);
            let padded = cells.map(|((cell, &width), &right)| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            writeln!(f, "{}", format!("  {}", padded.collect::<Vec<_>>().join("  ")).trim_end())?;
        }
        Ok(())
    }
}
