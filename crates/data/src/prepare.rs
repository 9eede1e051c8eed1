//! From a recipe's `[data]`, `[clean]` and `[split]` to the sides of a split and the report.
//!
//! Rows are read and cleaned once (`intake.rs`), then repeats are dropped, sides assigned, leakage removed, all on
//! hashes. Nothing here touches a text but the report's examples.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clean::repeats::{self, Repeat};
use crate::clean::{CleanConfig, Repeats};
use crate::error::{DataError, shortened};
use crate::examples::{Examples, Store};
use crate::intake::{Intake, take_in};
use crate::schema::DataConfig;
use crate::split::{Leak, Leakage, SIDES, Shares, SplitBy, SplitConfig, assign, leaks};
use crate::summary::{Conflicts, DataReport, EXAMPLES, Effect, LeakageReport, LengthCount, SideReport, StepReport};

/// What [`prepare`] gives.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The training side.
    pub train: Arc<Examples>,
    /// The validation side; empty when neither files nor a share were asked for.
    pub validation: Arc<Examples>,
    /// The test side; empty when neither files nor a share were asked for.
    pub test: Arc<Examples>,
    /// The labels in the order of their numbers.
    pub labels: Vec<String>,
    /// What was read, changed, dropped and divided.
    pub report: DataReport,
}

/// Reads, cleans and splits what a recipe names.
///
/// Duplicates are looked for in the training files alone, so that figures on given validation and test files stay
/// comparable. `spool` is a folder with room for the texts: they are kept in an unnamed file there and mapped. The same
/// files, configuration and `seed` give the same sides, whatever the number of threads.
///
/// Errors: every [`DataError`]; among them a side that was asked for and stays empty, and a single class.
///
/// ```
/// use tidemill_data::{CleanConfig, DataConfig, LabelColumn, SplitConfig, prepare};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("reviews.csv");
/// let rows: String = (0..40).map(|i| format!("film number {i},{}\n", i % 2)).collect();
/// std::fs::write(&path, format!("text,label\n{rows}"))?;
///
/// let mut data = DataConfig::new(path);
/// data.label = Some(LabelColumn::new("label"));
/// let prepared =
///     prepare(&data, &CleanConfig::default(), &SplitConfig::default(), 7, folder.path())?;
/// assert_eq!(prepared.train.len(), 32);
/// assert_eq!(prepared.labels, ["0", "1"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn prepare(
    data: &DataConfig,
    clean: &CleanConfig,
    split: &SplitConfig,
    seed: u64,
    spool: &Path,
) -> Result<Prepared, DataError> {
    let shares = split.shares(data)?;
    if data.label.is_none() {
        let problem = "no column is named; a classifier learns from labels";
        return Err(DataError::config("data", "label", problem));
    }
    let lists: Vec<(&str, &[PathBuf])> = [Some(&data.train), data.validation.as_ref(), data.test.as_ref()]
        .into_iter()
        .zip(SIDES)
        .map(|(files, side)| (side, files.map_or(&[] as &[PathBuf], |files| files.paths())))
        .collect();
    let needs_time = split.by == SplitBy::Time;
    let Intake { store, labels, renumbered, mut report } = take_in(&lists, data, clean, None, needs_time, spool)?;

    let mut sides: [Vec<u32>; 3] = Default::default();
    for row in 0..store.len() {
        if let Some(side) = sides.get_mut(store.record(row).side as usize) {
            side.push(row);
        }
    }
    let pool = std::mem::take(&mut sides[0]);
    let pool = without_repeats(&store, pool, clean, &labels, &renumbered, &mut report);
    let assigned = assign(&store, &pool, split, shares, seed);
    for (row, side) in pool.into_iter().zip(assigned) {
        if let Some(side) = sides.get_mut(usize::from(side)) {
            side.push(row);
        }
    }
    report.split = split.describe(data, shares);
    without_leaks(&store, &mut sides, split.leakage, &mut report)?;
    check_sides(&sides, data, shares)?;

    let store = Arc::new(store);
    let (renumbered, labels) = (Arc::new(renumbered), Arc::new(labels));
    let [train, validation, test] =
        sides.map(|rows| Arc::new(Examples::new(store.clone(), rows, renumbered.clone(), labels.clone())));
    finish(&mut report, &[("train", &*train), ("validation", &*validation), ("test", &*test)]);
    check_classes(&train, data)?;
    let labels = labels.to_vec();
    Ok(Prepared { train, validation, test, labels, report })
}

/// Reads files to evaluate on: cleaned row by row like the training files, nothing dropped for being a duplicate.
///
/// `labels` are the model's; another label is a bad row that names its file and line. Without a label column in `data`
/// the examples have no labels. Errors when no row is left.
pub fn read_examples(
    paths: &[PathBuf],
    data: &DataConfig,
    clean: &CleanConfig,
    labels: &[String],
    spool: &Path,
) -> Result<(Examples, DataReport), DataError> {
    let intake = take_in(&[("data", paths)], data, clean, Some(labels), false, spool)?;
    let Intake { store, labels, renumbered, mut report } = intake;
    let rows: Vec<u32> = (0..store.len()).collect();
    if rows.is_empty() {
        let reason = "every row was dropped in cleaning; `tidemill data` shows by which step".to_owned();
        return Err(DataError::EmptySplit { side: "evaluation", reason });
    }
    let examples = Examples::new(Arc::new(store), rows, Arc::new(renumbered), Arc::new(labels));
    report.split = "none".to_owned();
    finish(&mut report, &[("data", &examples)]);
    Ok((examples, report))
}

fn without_repeats(
    store: &Store,
    mut rows: Vec<u32>,
    clean: &CleanConfig,
    labels: &[String],
    renumbered: &[u32],
    report: &mut DataReport,
) -> Vec<u32> {
    let exact = repeats::exact(store, &rows);
    report.conflicts = Conflicts {
        texts: exact.conflicts.len() as u64,
        rows: exact.conflicts.iter().map(|rows| rows.len() as u64).sum(),
        examples: exact.conflicts.iter().take(EXAMPLES).map(|rows| conflict(store, rows, labels, renumbered)).collect(),
    };
    let drop = |step: &str, gone: &[Repeat], rows: &mut Vec<u32>, report: &mut DataReport| {
        let mut step = StepReport::new(step, Effect::Dropped);
        step.rows = gone.len() as u64;
        for repeat in gone.iter().take(EXAMPLES) {
            let why = format!("as {}", store.describe(repeat.of));
            step.example(store.describe(repeat.row), store.text(repeat.row), &why);
        }
        report.steps.push(step);
        rows.retain(|row| gone.binary_search_by_key(row, |repeat| repeat.row).is_err());
    };
    if clean.conflicts == Repeats::Drop {
        let mut gone: Vec<Repeat> = exact
            .conflicts
            .iter()
            .flat_map(|rows| {
                let other = |row: u32| rows.iter().copied().find(|other| *other != row).unwrap_or(row);
                rows.iter().map(move |row| Repeat { row: *row, of: other(*row) })
            })
            .collect();
        gone.sort_unstable_by_key(|repeat| repeat.row);
        drop("same text, other label", &gone, &mut rows, report);
    }
    if clean.duplicates == Repeats::Drop {
        let gone: Vec<Repeat> =
            exact.duplicates.into_iter().filter(|repeat| rows.binary_search(&repeat.row).is_ok()).collect();
        drop("duplicates", &gone, &mut rows, report);
    }
    if clean.near_duplicates == Repeats::Drop {
        let gone = repeats::near(store, &rows, clean.near_threshold, clean.near_words);
        drop("near duplicates", &gone, &mut rows, report);
    }
    rows
}

fn conflict(store: &Store, rows: &[u32], labels: &[String], renumbered: &[u32]) -> String {
    let named = rows.iter().take(4).map(|row| {
        let label = renumbered.get(store.record(*row).label as usize);
        let label = label.and_then(|label| labels.get(*label as usize));
        format!("{} `{}`", store.describe(*row), shortened(label.map_or("", String::as_str)))
    });
    let text = rows.first().map_or("", |row| store.text(*row));
    format!("{:?}: {}", shortened(text), named.collect::<Vec<_>>().join(", "))
}

fn without_leaks(
    store: &Store,
    sides: &mut [Vec<u32>; 3],
    policy: Leakage,
    report: &mut DataReport,
) -> Result<(), DataError> {
    let found = leaks(store, sides);
    let name = |side: u8| SIDES.get(usize::from(side)).copied().unwrap_or_default();
    if let (Some(leak), Leakage::Stop) = (found.first(), policy) {
        return Err(DataError::Leakage {
            first: store.describe(leak.row),
            second: store.describe(leak.other),
            first_side: name(leak.side),
            second_side: name(leak.with),
            rows: found.len() as u64,
        });
    }
    for pair in found.chunk_by(|a, b| (a.side, a.with) == (b.side, b.with)) {
        let Some(first) = pair.first() else { continue };
        report.leakage.push(LeakageReport {
            side: name(first.side).to_owned(),
            with: name(first.with).to_owned(),
            rows: pair.len() as u64,
            dropped: policy == Leakage::Drop,
            examples: pair.iter().take(EXAMPLES).map(|leak| pair_of_rows(store, leak)).collect(),
        });
    }
    if policy == Leakage::Drop && !found.is_empty() {
        for (side, rows) in (0..).zip(sides.iter_mut()) {
            let mut gone: Vec<u32> = found.iter().filter(|leak| leak.side == side).map(|leak| leak.row).collect();
            gone.sort_unstable();
            rows.retain(|row| gone.binary_search(row).is_err());
        }
    }
    Ok(())
}

fn pair_of_rows(store: &Store, leak: &Leak) -> String {
    let text = shortened(store.text(leak.row));
    format!("{} and {}: {text:?}", store.describe(leak.row), store.describe(leak.other))
}

fn check_sides(sides: &[Vec<u32>; 3], data: &DataConfig, shares: Shares) -> Result<(), DataError> {
    let [train, validation, test] = sides;
    let counts = || format!("train {}, validation {}, test {} rows", train.len(), validation.len(), test.len());
    let files_named = [true, data.validation.is_some(), data.test.is_some()];
    let share_asked = [false, shares.validation > 0.0 || shares.folded, shares.test > 0.0];
    for (i, rows) in sides.iter().enumerate() {
        let named = files_named.get(i).copied().unwrap_or_default();
        let asked = share_asked.get(i).copied().unwrap_or_default();
        if rows.is_empty() && (named || asked) {
            let reason = if named {
                format!("its files gave no usable row, see `tidemill data`; {}", counts())
            } else {
                format!("{}; ask for a larger share under [split], or give more data", counts())
            };
            let side = SIDES.get(i).copied().unwrap_or_default();
            return Err(DataError::EmptySplit { side, reason });
        }
    }
    Ok(())
}

fn check_classes(train: &Examples, data: &DataConfig) -> Result<(), DataError> {
    let counts = train.class_counts();
    let mut present = train.labels().iter().zip(&counts).filter(|(_, count)| **count > 0);
    let (first, second) = (present.next(), present.next());
    match (first, second) {
        (Some((label, _)), None) => {
            let files = data.train.paths().iter().map(|path| path.display().to_string());
            let from = files.collect::<Vec<_>>().join(", ");
            Err(DataError::OneClass { from, rows: train.len(), label: shortened(label) })
        }
        _ => Ok(()),
    }
}

/// Fills in what can be said once the sides are final.
fn finish(report: &mut DataReport, sides: &[(&str, &Examples)]) {
    let mut lengths = LengthCount::new();
    for (name, examples) in sides {
        let classes = examples.class_counts();
        let labelled: u64 = classes.iter().sum();
        let rows = examples.len() as u64;
        let unlabelled = rows.saturating_sub(labelled);
        report.sides.push(SideReport { side: (*name).to_owned(), rows, classes, unlabelled });
        report.rows_kept += rows;
        for text in examples.texts() {
            lengths.add(text.split_whitespace().count() as u64);
        }
    }
    report.lengths = lengths.finish();
    let Some(train) = report.sides.first().filter(|side| side.side == "train") else {
        return;
    };
    for (label, count) in report.labels.iter().zip(&train.classes) {
        let label = shortened(label);
        match count {
            0 => report.warnings.push(format!("no training example has the label `{label}`")),
            1..10 => report.warnings.push(format!("only {count} training examples have the label `{label}`")),
            _ => {}
        }
    }
    if report.conflicts.texts > 0 && !report.steps.iter().any(|step| step.step == "same text, other label") {
        let warning = "texts with more than one label were kept; `conflicts = \"drop\"` under [clean] drops them";
        report.warnings.push(warning.to_owned());
    }
    for leak in report.leakage.iter().filter(|leak| !leak.dropped) {
        report.warnings.push(format!("{} rows of {} leak into {}", leak.rows, leak.side, leak.with));
    }
}
