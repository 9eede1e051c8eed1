//! The data report: what was read, changed, dropped and divided, as serde values and as text for people.
//!
//! It only holds figures and prints them; reading, cleaning and splitting fill it in.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::error::shortened;

/// Examples kept of anything that is counted.
pub(crate) const EXAMPLES: usize = 3;

/// What reading, cleaning and splitting did. Its `Display` is what `tidemill data RECIPE` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// The files, in reading order.
    pub files: Vec<FileReport>,
    /// Rows seen, bad ones included.
    pub rows_read: u64,
    /// Bad rows that were left out (`bad_rows = "skip"`), by kind.
    pub skipped: Vec<Tally>,
    /// Each cleaning step that was on, in running order, with the rows it touched.
    pub steps: Vec<StepReport>,
    /// Texts that stand in the training files with different labels.
    pub conflicts: Conflicts,
    /// How the sides were made, in words.
    pub split: String,
    /// The same text on two sides, pair by pair; only pairs that share a text.
    pub leakage: Vec<LeakageReport>,
    /// Rows on all sides together, after everything.
    pub rows_kept: u64,
    /// The labels, in the order of their numbers.
    pub labels: Vec<String>,
    /// The sides: `train`, `validation`, `test`; or one, `data`, for files to evaluate on.
    pub sides: Vec<SideReport>,
    /// Lengths of the kept texts in words (runs without white space).
    pub lengths: Lengths,
    /// What a careful reader would point at.
    pub warnings: Vec<String>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// The file, as it was named.
    pub path: String,
    /// The list it stands in: `train`, `validation`, `test`, `data`.
    pub list: String,
    /// Rows of it that passed reading and cleaning by row (before duplicates and leakage).
    pub rows: u64,
}

/// A count with a few examples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// What was counted.
    pub what: String,
    /// How many rows.
    pub rows: u64,
    /// The first few, each naming its file and line.
    pub examples: Vec<String>,
}

impl Tally {
    pub(crate) fn count(list: &mut Vec<Self>, what: &str, example: impl FnOnce() -> String) {
        let index = list.iter().position(|tally| tally.what == what).unwrap_or_else(|| {
            list.push(Self { what: what.to_owned(), rows: 0, examples: Vec::new() });
            list.len() - 1
        });
        if let Some(tally) = list.get_mut(index) {
            tally.rows += 1;
            if tally.examples.len() < EXAMPLES {
                tally.examples.push(example());
            }
        }
    }
}

/// What a cleaning step does to the rows it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It changes the text.
    Changed,
    /// It drops the row.
    Dropped,
    /// It puts in a value that was missing.
    Filled,
}

/// One cleaning step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step.
    pub step: String,
    /// What it does.
    pub effect: Effect,
    /// Rows it touched.
    pub rows: u64,
    /// The first few.
    pub examples: Vec<StepExample>,
}

impl StepReport {
    pub(crate) fn new(step: &str, effect: Effect) -> Self {
        Self { step: step.to_owned(), effect, rows: 0, examples: Vec::new() }
    }

    pub(crate) fn wants_example(&self) -> bool {
        self.examples.len() < EXAMPLES
    }

    pub(crate) fn example(&mut self, row: String, before: &str, after: &str) {
        if self.wants_example() {
            let (before, after) = window(before, after);
            self.examples.push(StepExample { row, before, after });
        }
    }
}

/// Both texts, short, from a little before the place where they begin to differ.
fn window(before: &str, after: &str) -> (String, String) {
    let same = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).count();
    let skip = if before.chars().nth(60).is_some() { same.saturating_sub(20) } else { 0 };
    let cut = |text: &str| {
        let rest: String = text.chars().skip(skip).take(61).collect();
        let rest = shortened(&rest);
        if skip > 0 { format!("…{rest}") } else { rest }
    };
    (cut(before), cut(after))
}

/// A row that a step touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepExample {
    /// File and line.
    pub row: String,
    /// The text before, shortened.
    pub before: String,
    /// The text after, shortened; for a dropped row, why.
    pub after: String,
}

/// Texts with more than one label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflicts {
    /// Different texts.
    pub texts: u64,
    /// Rows that hold one of them.
    pub rows: u64,
    /// The first few: text, and the rows with their labels.
    pub examples: Vec<String>,
}

/// The same text on two sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakageReport {
    /// The side that learns of it.
    pub side: String,
    /// The side that is to be judged by it.
    pub with: String,
    /// Rows of `side` whose text stands on `with`.
    pub rows: u64,
    /// Whether they were dropped.
    pub dropped: bool,
    /// The first few pairs of rows.
    pub examples: Vec<String>,
}

/// One side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideReport {
    /// Its name.
    pub side: String,
    /// Its rows.
    pub rows: u64,
    /// Rows a label, in the order of [`DataReport::labels`].
    pub classes: Vec<u64>,
    /// Rows without a label.
    pub unlabelled: u64,
}

/// A histogram of lengths in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Texts counted.
    pub texts: u64,
    /// Mean length.
    pub mean: f64,
    /// Half of the texts have at most this many words.
    pub median: u64,
    /// Ninety-five in a hundred have at most this many.
    pub percentile_95: u64,
    /// Ninety-nine in a hundred have at most this many.
    pub percentile_99: u64,
    /// The longest.
    pub longest: u64,
    /// Bins: the greatest length in it, and its texts. Bounds double: 0, 1, 2, 4, 8…
    pub bins: Vec<(u64, u64)>,
}

/// Lengths counted one by one up to here; beyond it quantiles answer with the longest.
const COUNTED: usize = 1 << 13;

/// Counts lengths in fixed memory.
pub(crate) struct LengthCount {
    exact: Vec<u64>,
    bins: [u64; 66],
    texts: u64,
    words: u64,
    longest: u64,
}

impl LengthCount {
    pub(crate) fn new() -> Self {
        Self { exact: vec![0; COUNTED], bins: [0; 66], texts: 0, words: 0, longest: 0 }
    }

    pub(crate) fn add(&mut self, length: u64) {
        if let Some(count) = usize::try_from(length).ok().and_then(|length| self.exact.get_mut(length)) {
            *count += 1;
        }
        let bin = if length == 0 { 0 } else { 1 + (u64::BITS - (length - 1).leading_zeros()) as usize };
        if let Some(count) = self.bins.get_mut(bin) {
            *count += 1;
        }
        self.texts += 1;
        self.words = self.words.saturating_add(length);
        self.longest = self.longest.max(length);
    }

    fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.texts as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (length, count) in (0..).zip(&self.exact) {
            seen += count;
            if seen >= wanted {
                return length;
            }
        }
        self.longest
    }

    pub(crate) fn finish(&self) -> Lengths {
        let last = self.bins.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        let first = self.bins.iter().position(|count| *count > 0).unwrap_or(0);
        let bound = |bin: usize| {
            if bin == 0 { 0 } else { 1_u64 << (bin - 1).min(63) }
        };
        Lengths {
            texts: self.texts,
            mean: if self.texts == 0 { 0.0 } else { self.words as f64 / self.texts as f64 },
            median: self.quantile(0.5),
            percentile_95: self.quantile(0.95),
            percentile_99: self.quantile(0.99),
            longest: self.longest,
            bins: (first..last).map(|bin| (bound(bin), self.bins.get(bin).copied().unwrap_or(0))).collect(),
        }
    }
}

impl Display for DataReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.print_reading(f)?;
        self.print_cleaning(f)?;
        self.print_split(f)?;
        self.print_classes(f)?;
        self.lengths.fmt(f)?;
        if !self.warnings.is_empty() {
            writeln!(f, "\nWarnings")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  {warning}"))
    }
}

impl DataReport {
    fn print_reading(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "Reading")?;
        for file in &self.files {
            writeln!(f, "  {} ({}): {} usable", file.path, file.list, rows(file.rows))?;
        }
        let bad: u64 = self.skipped.iter().map(|tally| tally.rows).sum();
        writeln!(
            f,
            "  {} read, {} bad and skipped, {} kept in the end",
            rows(self.rows_read),
            grouped(bad),
            grouped(self.rows_kept)
        )?;
        for tally in &self.skipped {
            writeln!(f, "  skipped {}: {}", tally.what, rows(tally.rows))?;
            tally.examples.iter().try_for_each(|example| writeln!(f, "      {example}"))?;
        }
        Ok(())
    }

    fn print_cleaning(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nCleaning")?;
        for step in &self.steps {
            let verb = match step.effect {
                Effect::Changed => "changed",
                Effect::Dropped => "dropped",
                Effect::Filled => "filled",
            };
            writeln!(f, "  {:<34} {verb} {:>10}", step.step, rows(step.rows))?;
            for example in &step.examples {
                writeln!(f, "      {}  {:?} → {:?}", example.row, example.before, example.after)?;
            }
        }
        if self.conflicts.texts > 0 {
            let (texts, total) = (grouped(self.conflicts.texts), rows(self.conflicts.rows));
            writeln!(f, "  {texts} texts have more than one label ({total})")?;
            self.conflicts.examples.iter().try_for_each(|example| writeln!(f, "      {example}"))?;
        }
        Ok(())
    }

    fn print_split(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nSplit: {}", self.split)?;
        let total = self.rows_kept.max(1) as f64;
        for side in &self.sides {
            let share = side.rows as f64 / total;
            writeln!(f, "  {:<12} {:>12}  {:>5.1} %  {}", side.side, rows(side.rows), share * 100.0, bar(share))?;
        }
        for leak in &self.leakage {
            let fate = if leak.dropped { "dropped there" } else { "kept" };
            writeln!(f, "  {} of {} stand on {} too: {fate}", rows(leak.rows), leak.side, leak.with)?;
            leak.examples.iter().try_for_each(|example| writeln!(f, "      {example}"))?;
        }
        Ok(())
    }

    fn print_classes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.labels.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nClasses ({})", self.sides.iter().map(|s| s.side.as_str()).collect::<Vec<_>>().join(", "))?;
        let total = |i: usize| self.sides.iter().filter_map(|side| side.classes.get(i)).sum::<u64>();
        let all: u64 = (0..self.labels.len()).map(total).sum::<u64>().max(1);
        let width = self.labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).min(32);
        for (i, label) in self.labels.iter().enumerate().take(100) {
            let share = total(i) as f64 / all as f64;
            let counts: Vec<String> =
                self.sides.iter().map(|s| format!("{:>9}", grouped(s.classes.get(i).copied().unwrap_or(0)))).collect();
            writeln!(
                f,
                "  {:<width$} {}  {:>5.1} %  {}",
                shortened(label),
                counts.join(" "),
                share * 100.0,
                bar(share)
            )?;
        }
        if self.labels.len() > 100 {
            writeln!(f, "  … and {} more", self.labels.len() - 100)?;
        }
        Ok(())
    }
}

impl Display for Lengths {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nLengths in words")?;
        let most = self.bins.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        let mut low = self.bins.first().map_or(0, |(bound, _)| bound / 2 + 1).min(1);
        for (bound, count) in &self.bins {
            let first = if *bound <= 1 { *bound } else { bound / 2 + 1 };
            low = low.max(first);
            let range = if low == *bound { bound.to_string() } else { format!("{low} to {bound}") };
            writeln!(f, "  {range:>14} {:>12}  {}", grouped(*count), bar(*count as f64 / most as f64))?;
        }
        writeln!(
            f,
            "  mean {:.1}, median {}, 95 % within {}, 99 % within {}, longest {}",
            self.mean, self.median, self.percentile_95, self.percentile_99, self.longest
        )
    }
}

fn rows(count: u64) -> String {
    format!("{} {}", grouped(count), if count == 1 { "row" } else { "rows" })
}

/// A number with its thousands apart: `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bar of up to forty blocks for a share of 0 to 1.
fn bar(share: f64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * 320.0).round() as usize;
    let part = PARTS.get(eighths % 8).copied().unwrap_or_default();
    "█".repeat(eighths / 8) + part
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_exactly() {
        let mut count = LengthCount::new();
        (1..=100).for_each(|length| count.add(length));
        count.add(1 << 40);
        let lengths = count.finish();
        assert_eq!((lengths.median, lengths.percentile_95, lengths.percentile_99), (51, 96, 100));
        assert_eq!((lengths.texts, lengths.longest), (101, 1 << 40));
        assert_eq!(lengths.bins[..4], [(1, 1), (2, 1), (4, 2), (8, 4)]);
        assert_eq!(lengths.bins.iter().map(|(_, n)| n).sum::<u64>(), 101);
        let text = lengths.to_string();
        assert!(text.contains("3 to 4 "), "{text}");
        assert!(text.contains("mean"), "{text}");
        assert_eq!(LengthCount::new().finish(), Lengths::default());
    }

    #[test]
    fn examples_show_where_texts_differ() {
        let before = format!("{}\tx", "word ".repeat(30));
        let after = before.replace('\t', "");
        let (before, after) = window(&before, &after);
        assert_eq!(before, "…word word word word  x");
        assert_eq!(after, "…word word word word x");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn a_report_survives_json() {
        let mut report = DataReport { rows_read: 3, ..DataReport::default() };
        report.steps.push(StepReport::new("HTML removed", Effect::Changed));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<DataReport>(&json).unwrap(), report);
    }
}
