//! Dividing rows into training, validation and test sides. The same text (NFKC, lower case, white space collapsed) never
//! stands on two sides: rows with it move together. Everything follows from the seed, whatever the number of threads.
//!
//! It works on records alone: hashes, labels, times. It knows nothing of files.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::DataError;
use crate::examples::{Record, Store};
use crate::schema::DataConfig;

/// The `[split]` section of a recipe: how training files are divided when validation or test files are not given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// `stratified` (default), `random`, `group`, `time`, `hash` or `k-fold`.
    pub by: SplitBy,
    /// Share of the rows for validation. Default 0.1, or 0 when validation or test files are given. Not for `k-fold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Share of the rows for the test side. Default 0.1, or 0 when validation or test files are given, or for `k-fold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// For `k-fold`: how many folds, at least 2. Default 5.
    pub folds: usize,
    /// For `k-fold`: which fold is the validation side, from 1. Default 1.
    pub fold: usize,
    /// The same text on two sides: `drop` (default) from the side that learns, `stop`, or `keep`. Always reported.
    pub leakage: Leakage,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self { by: SplitBy::Stratified, validation: None, test: None, folds: 5, fold: 1, leakage: Leakage::Drop }
    }
}

/// What decides a row's side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitBy {
    /// Chance, the same share of every class.
    #[default]
    Stratified,
    /// Chance.
    Random,
    /// Chance, rows with the same `group` together.
    Group,
    /// `time`: the earliest rows train, the latest test. A text that repeats goes by its latest time.
    Time,
    /// A hash of the `group` column, or else of the text: a row keeps its side when rows are added.
    Hash,
    /// Chance, in `folds` parts of which one validates; classes spread evenly.
    KFold,
}

/// What happens to a text that stands on two sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leakage {
    /// Dropped from training (or, between validation and test, from validation).
    #[default]
    Drop,
    /// An error that names two such rows.
    Stop,
    /// Kept, and reported.
    Keep,
}

/// The sides' names, by number.
pub(crate) const SIDES: [&str; 3] = ["train", "validation", "test"];
const TRAIN: u8 = 0;
const VALIDATION: u8 = 1;
const TEST: u8 = 2;

/// Which share of the training files goes to validation and test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shares {
    pub(crate) validation: f64,
    pub(crate) test: f64,
    /// Whether validation is one of `folds` parts.
    pub(crate) folded: bool,
}

impl SplitConfig {
    /// Whether the values can be, together with the files that are given; the error names the key.
    pub fn check(&self, data: &DataConfig) -> Result<(), DataError> {
        self.shares(data).map(|_| ())
    }

    pub(crate) fn shares(&self, data: &DataConfig) -> Result<Shares, DataError> {
        let wrong = |key, problem: &str| Err(DataError::config("split", key, problem));
        let given = [("validation", self.validation, &data.validation), ("test", self.test, &data.test)];
        for (key, share, files) in given {
            if share.is_some_and(|share| !(0.0..1.0).contains(&share)) {
                return wrong(key, "a share is a number from 0 to below 1");
            }
            if files.is_some() && share.is_some_and(|share| share > 0.0) {
                return wrong(key, "a share is asked for, but [data] also names files; keep one of the two");
            }
        }
        let folded = self.by == SplitBy::KFold;
        if folded && (self.folds < 2 || self.fold == 0 || self.fold > self.folds) {
            return wrong("fold", "must lie between 1 and `folds`, and `folds` must be at least 2");
        }
        if folded && (self.validation.is_some() || data.validation.is_some()) {
            return wrong("validation", "k-fold takes the validation side from `folds`; leave validation out");
        }
        match self.by {
            SplitBy::Group if data.group.is_none() => {
                return wrong("by", "`group` needs `group` under [data], the column that holds the groups");
            }
            SplitBy::Time if data.time.is_none() => {
                return wrong("by", "`time` needs `time` under [data], the column that holds the times");
            }
            _ => {}
        }
        let default = if data.validation.is_some() || data.test.is_some() { 0.0 } else { 0.1 };
        let validation = if folded { 0.0 } else { self.validation.unwrap_or(default) };
        let test = self.test.unwrap_or(if folded { 0.0 } else { default });
        if validation + test >= 1.0 {
            return wrong("validation", "validation and test together leave nothing for training");
        }
        Ok(Shares { validation, test, folded })
    }

    /// How the sides are made, in words.
    pub(crate) fn describe(&self, data: &DataConfig, shares: Shares) -> String {
        if shares == (Shares { validation: 0.0, test: 0.0, folded: false }) {
            return "by files".to_owned();
        }
        let way = match self.by {
            SplitBy::Stratified => "stratified by label".to_owned(),
            SplitBy::Random => "at random".to_owned(),
            SplitBy::Group => "by group".to_owned(),
            SplitBy::Time => "by time, the latest last".to_owned(),
            SplitBy::Hash if data.group.is_some() => "by a hash of the group".to_owned(),
            SplitBy::Hash => "by a hash of the text".to_owned(),
            SplitBy::KFold => format!("fold {} of {} validates", self.fold, self.folds),
        };
        format!("{way}; the same text stays on one side")
    }
}

/// Rows that move together: those that share a text (or a group), by position in the list of rows.
struct Unit {
    members: Vec<u32>,
    label: u32,
    latest: i64,
}

/// The side of each of `rows`, in their order.
pub(crate) fn assign(store: &Store, rows: &[u32], config: &SplitConfig, shares: Shares, seed: u64) -> Vec<u8> {
    let mut sides = vec![TRAIN; rows.len()];
    if shares.validation == 0.0 && shares.test == 0.0 && !shares.folded {
        return sides;
    }
    let records: Vec<Record> = rows.par_iter().map(|row| store.record(*row)).collect();
    if config.by == SplitBy::Hash {
        sides.par_iter_mut().zip(&records).for_each(|(side, record)| *side = by_hash(record, shares, seed));
        return sides;
    }
    let mut units = units(&records, config.by == SplitBy::Group);
    let classes: Vec<Vec<Unit>> = match config.by {
        SplitBy::Time => {
            units.sort_by_key(|unit| std::cmp::Reverse((unit.latest, unit.members.first().copied())));
            vec![units]
        }
        SplitBy::Stratified | SplitBy::KFold => {
            units.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            units.sort_by_key(|unit| unit.label);
            let mut classes: Vec<Vec<Unit>> = Vec::new();
            for unit in units {
                match classes.last_mut().filter(|class| class[0].label == unit.label) {
                    Some(class) => class.push(unit),
                    None => classes.push(vec![unit]),
                }
            }
            classes
        }
        _ => {
            units.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            vec![units]
        }
    };
    let in_order = config.by == SplitBy::Time;
    let mut dealer = Dealer::new(shares, in_order, rows.len(), if shares.folded { config.folds } else { 0 });
    for class in &classes {
        dealer.class(class, config.fold, &mut sides);
    }
    sides
}

fn by_hash(record: &Record, shares: Shares, seed: u64) -> u8 {
    let hash = match record.group {
        0 => xxh3_64_with_seed(&record.folded.to_le_bytes(), seed),
        group => xxh3_64_with_seed(&group.to_le_bytes(), seed),
    };
    // The upper 53 bits as a number in [0, 1).
    let point = (hash >> 11) as f64 / (1_u64 << 53) as f64;
    if point < shares.test {
        TEST
    } else if point < shares.test + shares.validation {
        VALIDATION
    } else {
        TRAIN
    }
}

/// Joins rows with the same folded text, and with the same group when asked, in order of their first row.
fn units(records: &[Record], by_group: bool) -> Vec<Unit> {
    let mut parents: Vec<u32> = (0..).take(records.len()).collect();
    let mut join = |mut keys: Vec<(u128, u32)>| {
        keys.par_sort_unstable();
        for pair in keys.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let (a, b) = (root(&mut parents, pair[0].1), root(&mut parents, pair[1].1));
            parents[a.max(b) as usize] = a.min(b);
        }
    };
    join((0..).zip(records).map(|(at, record)| (record.folded, at)).collect());
    if by_group {
        let grouped = (0..).zip(records).filter(|(_, record)| record.group != 0);
        join(grouped.map(|(at, record)| (u128::from(record.group), at)).collect());
    }
    let mut units: Vec<Unit> = Vec::new();
    let mut unit_of = vec![0_u32; records.len()];
    for (at, record) in (0..).zip(records) {
        let first = root(&mut parents, at);
        if first == at {
            unit_of[at as usize] = units.len() as u32;
            units.push(Unit { members: vec![at], label: record.label, latest: record.time });
        } else if let Some(unit) = units.get_mut(unit_of[first as usize] as usize) {
            unit.members.push(at);
            unit.latest = unit.latest.max(record.time);
        }
    }
    units
}

/// The first row of the set that holds `at`; sets are joined to their least member.
fn root(parents: &mut [u32], mut at: u32) -> u32 {
    while parents[at as usize] != at {
        parents[at as usize] = parents[parents[at as usize] as usize];
        at = parents[at as usize];
    }
    at
}

/// Deals units to sides, class by class, so that the totals come out as asked.
struct Dealer {
    shares: Shares,
    /// Units come in an order that must not be broken: a side ends where the next begins.
    in_order: bool,
    rows: usize,
    dealt: usize,
    taken: [usize; 3],
    folds: Vec<usize>,
}

impl Dealer {
    fn new(shares: Shares, in_order: bool, rows: usize, folds: usize) -> Self {
        Self { shares, in_order, rows, dealt: 0, taken: [0; 3], folds: vec![0; folds] }
    }

    fn class(&mut self, units: &[Unit], fold: usize, sides: &mut [u8]) {
        let size: usize = units.iter().map(|unit| unit.members.len()).sum();
        self.dealt += size;
        // What the classes so far ought to have given, less what they gave: the rounding errors do not add up.
        let due = |share: f64, taken: usize| {
            let wanted = (share * self.dealt.min(self.rows) as f64).round() as usize;
            wanted.saturating_sub(taken)
        };
        let most = if units.len() > 1 { size.saturating_sub(1) } else { 0 };
        let test = due(self.shares.test, self.taken[TEST as usize]).min(most);
        let validation = due(self.shares.validation, self.taken[VALIDATION as usize]).min(most - test);
        let mut got = [0_usize; 3];
        let mut in_folds = vec![0_usize; self.folds.len()];
        let mut side = TEST;
        for unit in units {
            let length = unit.members.len();
            let fits = |wanted: usize, got: usize| got < wanted && got + length / 2 <= wanted;
            let chosen = if self.in_order {
                if side == TEST && got[2] >= test {
                    side = VALIDATION;
                }
                if side == VALIDATION && got[1] >= validation {
                    side = TRAIN;
                }
                side
            } else if fits(test, got[2]) {
                TEST
            } else if fits(validation, got[1]) {
                VALIDATION
            } else if self.folds.is_empty() {
                TRAIN
            } else {
                let least = (0..in_folds.len()).min_by_key(|f| (in_folds[*f], self.folds[*f])).unwrap_or(0);
                in_folds[least] += length;
                self.folds[least] += length;
                if least + 1 == fold { VALIDATION } else { TRAIN }
            };
            got[chosen as usize] += length;
            for member in &unit.members {
                if let Some(side) = sides.get_mut(*member as usize) {
                    *side = chosen;
                }
            }
        }
        for (taken, got) in self.taken.iter_mut().zip(got) {
            *taken += got;
        }
    }
}

/// A row whose text also stands on a side that judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leak {
    pub(crate) row: u32,
    pub(crate) side: u8,
    pub(crate) other: u32,
    pub(crate) with: u8,
}

/// Every row of training whose text stands in validation or test, and of validation whose text stands in test, by row.
pub(crate) fn leaks(store: &Store, sides: &[Vec<u32>; 3]) -> Vec<Leak> {
    let mut keys: Vec<(u128, u8, u32)> = Vec::new();
    for (side, rows) in (0..).zip(sides) {
        keys.par_extend(rows.par_iter().map(|row| (store.record(*row).folded, side, *row)));
    }
    keys.par_sort_unstable();
    let mut leaks = Vec::new();
    for run in keys.chunk_by(|a, b| a.0 == b.0) {
        for (_, side, row) in run {
            for with in side + 1..=TEST {
                if let Some((_, _, other)) = run.iter().find(|(_, other, _)| *other == with) {
                    leaks.push(Leak { row: *row, side: *side, other: *other, with });
                }
            }
        }
    }
    leaks.sort_unstable_by_key(|leak| (leak.side, leak.with, leak.row));
    leaks
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::examples::Spool;

    fn store(records: &[Record]) -> (Store, Vec<u32>) {
        let mut spool = Spool::in_memory();
        records.iter().for_each(|record| spool.push("", *record).unwrap());
        (spool.finish(Vec::new()).unwrap(), (0..records.len() as u32).collect())
    }

    fn record(text: u32, label: u32, group: u64) -> Record {
        let folded = xxhash_rust::xxh3::xxh3_128(&text.to_le_bytes());
        Record { label, group, folded, time: i64::from(text), ..Record::default() }
    }

    fn shares(validation: f64, test: f64) -> Shares {
        Shares { validation, test, folded: false }
    }

    fn by(by: SplitBy) -> SplitConfig {
        SplitConfig { by, ..SplitConfig::default() }
    }

    fn counts(sides: &[u8]) -> [usize; 3] {
        [0, 1, 2].map(|wanted| sides.iter().filter(|side| **side == wanted).count())
    }

    #[test]
    fn stratified_gives_every_class_its_share_and_totals_come_out() {
        let records: Vec<Record> = (0..1000).map(|i| record(i, u32::from(i % 10 == 0), 0)).collect();
        let (store, rows) = store(&records);
        let sides = assign(&store, &rows, &by(SplitBy::Stratified), shares(0.2, 0.1), 5);
        assert_eq!(counts(&sides), [700, 200, 100]);
        let rare: Vec<u8> = sides.iter().step_by(10).copied().collect();
        assert_eq!(counts(&rare), [70, 20, 10]);
        assert_eq!(sides, assign(&store, &rows, &by(SplitBy::Stratified), shares(0.2, 0.1), 5));
        assert_ne!(sides, assign(&store, &rows, &by(SplitBy::Stratified), shares(0.2, 0.1), 6));
    }

    #[test]
    fn a_class_of_one_row_trains() {
        let records: Vec<Record> = (0..30).map(|i| record(i, i, 0)).collect();
        let (store, rows) = store(&records);
        let sides = assign(&store, &rows, &by(SplitBy::Stratified), shares(0.4, 0.4), 1);
        assert_eq!(counts(&sides), [30, 0, 0]);
    }

    #[test]
    fn time_cuts_without_holes() {
        let records: Vec<Record> = (0..50).map(|i| record((i * 7) % 50, 0, 0)).collect();
        let (store, rows) = store(&records);
        let sides = assign(&store, &rows, &by(SplitBy::Time), shares(0.2, 0.1), 1);
        for (side, record) in sides.iter().zip(&records) {
            let wanted = if record.time >= 45 {
                TEST
            } else if record.time >= 35 {
                VALIDATION
            } else {
                TRAIN
            };
            assert_eq!(*side, wanted, "time {}", record.time);
        }
    }

    #[test]
    fn by_hash_a_row_keeps_its_side_when_data_grow() {
        let records: Vec<Record> = (0..4000).map(|i| record(i, 0, 0)).collect();
        let (all, rows) = store(&records);
        let (some, few) = store(&records[1000..1500]);
        let config = by(SplitBy::Hash);
        let grown = assign(&all, &rows, &config, shares(0.1, 0.1), 3);
        assert_eq!(assign(&some, &few, &config, shares(0.1, 0.1), 3), grown[1000..1500]);
        let [train, validation, test] = counts(&grown);
        assert!(train > 3000 && (300..500).contains(&validation) && (300..500).contains(&test));
    }

    #[test]
    fn every_row_validates_in_exactly_one_fold() {
        let records: Vec<Record> = (0..103).map(|i| record(i / 2, i % 3, 0)).collect();
        let (store, rows) = store(&records);
        let mut validated = vec![0; rows.len()];
        for fold in 1..=4 {
            let config = SplitConfig { by: SplitBy::KFold, folds: 4, fold, ..SplitConfig::default() };
            let folded = Shares { validation: 0.0, test: 0.0, folded: true };
            let sides = assign(&store, &rows, &config, folded, 9);
            assert!((23..=29).contains(&counts(&sides)[1]), "{:?}", counts(&sides));
            for (count, side) in validated.iter_mut().zip(&sides) {
                *count += usize::from(*side == VALIDATION);
            }
        }
        assert!(validated.iter().all(|count| *count == 1), "{validated:?}");
    }

    #[test]
    fn shares_and_files_are_checked_together() {
        let mut data = DataConfig::new("a.csv");
        let check = |split: SplitConfig, data: &DataConfig| split.check(data).unwrap_err().to_string();
        assert!(check(by(SplitBy::Group), &data).contains("[split] by"));
        assert!(check(SplitConfig { test: Some(1.5), ..Default::default() }, &data).contains("[split] test"));
        let all = SplitConfig { validation: Some(0.5), test: Some(0.5), ..Default::default() };
        assert!(check(all, &data).contains("nothing for training"));
        assert_eq!(SplitConfig::default().shares(&data).unwrap(), shares(0.1, 0.1));
        data.validation = Some("b.csv".into());
        assert_eq!(SplitConfig::default().shares(&data).unwrap(), shares(0.0, 0.0));
        let both = SplitConfig { validation: Some(0.1), ..Default::default() };
        assert!(check(both, &data).contains("keep one"));
    }

    proptest! {
        /// Whatever the way of splitting, a text (and, by group, a group) never stands on two sides.
        #[test]
        fn no_text_stands_on_two_sides(
            texts in proptest::collection::vec((0_u32..40, 0_u32..3, 0_u64..12), 1..200),
            way in 0_usize..6,
            seed in 0_u64..1000,
        ) {
            let records: Vec<Record> = texts.iter().map(|(text, label, group)| record(*text, *label, *group)).collect();
            let (store, rows) = store(&records);
            let way = [SplitBy::Random, SplitBy::Stratified, SplitBy::Group, SplitBy::Time, SplitBy::KFold, SplitBy::Hash][way];
            let records = if way == SplitBy::Hash {
                records.iter().map(|record| Record { group: 0, ..*record }).collect()
            } else {
                records
            };
            let (store, rows) = if way == SplitBy::Hash { self::store(&records) } else { (store, rows) };
            let shares = Shares { folded: way == SplitBy::KFold, ..shares(if way == SplitBy::KFold { 0.0 } else { 0.2 }, 0.2) };
            let sides = assign(&store, &rows, &by(way), shares, seed);
            let mut lists: [Vec<u32>; 3] = Default::default();
            for (row, side) in rows.iter().zip(&sides) {
                lists[*side as usize].push(*row);
            }
            prop_assert_eq!(leaks(&store, &lists), Vec::<Leak>::new());
            if way == SplitBy::Group {
                for (a, one) in records.iter().zip(&sides) {
                    for (b, two) in records.iter().zip(&sides) {
                        prop_assert!(a.group == 0 || a.group != b.group || one == two);
                    }
                }
            }
        }
    }
}
