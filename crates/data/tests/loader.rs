//! What users of the loader rely on: every row once, the same batches again wherever one starts and
//! however many threads work, little padding, and threads that stop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use tidemill_data::{
    AugmentConfig, Augmenter, Encoder, Examples, Loader, LoaderConfig, TextBatch, TextCleaning, TokenizerConfig,
};

const ROWS: usize = 997;

fn texts() -> Vec<String> {
    let words = ["tide", "mill", "grain", "salt", "moon", "quay"];
    let text = |row: usize| {
        let length = 1 + row * 7919 % 40;
        (0..length).map(|at| words[(row + at * at) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    (0..ROWS).map(text).collect()
}

fn loader(config: LoaderConfig, augment: bool) -> Loader {
    let texts = texts();
    let labels: Vec<Option<usize>> = (0..ROWS).map(|row| (row % 3 < 2).then_some(row % 3)).collect();
    let names = ["no".to_owned(), "yes".to_owned()];
    let examples = Examples::from_texts(&texts, &labels, &names).unwrap();
    let mut words = texts.iter().map(String::as_str);
    let encoder = Encoder::train(&TokenizerConfig::default(), TextCleaning::none(), &mut words).unwrap();
    let augment = augment.then(|| {
        let config = AugmentConfig { probability: 1.0, word_drop: 0.3, ..AugmentConfig::default() };
        Arc::new(Augmenter::new(&config).unwrap())
    });
    Loader::new(Arc::new(examples), Arc::new(encoder), augment, config)
}

fn config() -> LoaderConfig {
    LoaderConfig { batch_size: 8, seed: 3, ..LoaderConfig::default() }
}

fn batches(loader: &Loader, epoch: u64, from: usize) -> Vec<TextBatch> {
    loader.epoch(epoch, from).map(Result::unwrap).collect()
}

fn rows(batches: &[TextBatch]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.rows.iter().copied()).collect()
}

#[test]
fn every_row_comes_once_with_its_own_ids_and_label() {
    let loader = loader(config(), false);
    let epoch = batches(&loader, 0, 0);
    assert_eq!(epoch.len(), loader.steps_per_epoch());
    let mut seen = rows(&epoch);
    assert_ne!(seen, (0..ROWS).collect::<Vec<_>>(), "shuffled");
    seen.sort_unstable();
    assert_eq!(seen, (0..ROWS).collect::<Vec<_>>());
    let texts = texts();
    for batch in &epoch {
        for (at, &row) in batch.rows.iter().enumerate() {
            let length = batch.offsets[at + 1] - batch.offsets[at];
            assert_eq!(length, texts[row].split(' ').count());
            assert_eq!(batch.labels[at], [0, 1, -1][row % 3]);
        }
        let (padded, time) = batch.padded(0);
        assert_eq!(padded.len(), batch.len() * time);
        assert_eq!(padded.iter().filter(|&&id| id != 0).count(), batch.ids.len());
    }
}

#[test]
fn a_batch_depends_on_seed_epoch_and_step_alone() {
    for augment in [false, true] {
        let whole = batches(&loader(config(), augment), 2, 0);
        for threads in [0, 1, 3] {
            let loader = loader(LoaderConfig { threads, prefetch: 5, ..config() }, augment);
            for from in [0, 1, 57, whole.len() - 1, whole.len(), whole.len() + 9] {
                let resumed = batches(&loader, 2, from);
                assert_eq!(resumed, whole[from.min(whole.len())..], "{threads} threads from {from}");
            }
        }
        let other_seed = loader(LoaderConfig { seed: 4, ..config() }, augment);
        assert_ne!(rows(&batches(&other_seed, 2, 0)), rows(&whole));
        assert_ne!(rows(&batches(&loader(config(), augment), 3, 0)), rows(&whole));
    }
}

#[test]
fn augmentation_differs_from_epoch_to_epoch() {
    let loader = loader(LoaderConfig { shuffle: false, group_by_length: false, ..config() }, true);
    let (first, second) = (batches(&loader, 0, 0), batches(&loader, 1, 0));
    assert_eq!(rows(&first), rows(&second));
    assert_ne!(first, second);
}

#[test]
fn grouping_by_length_saves_padding_and_still_mixes() {
    let padding = |group_by_length| {
        let loader = loader(LoaderConfig { group_by_length, ..config() }, false);
        let epoch = batches(&loader, 0, 0);
        let padded: usize = epoch.iter().map(|batch| batch.padded(0).0.len()).sum();
        let ids: usize = epoch.iter().map(|batch| batch.ids.len()).sum();
        let longest: Vec<usize> = epoch.iter().map(TextBatch::longest).collect();
        (1.0 - ids as f64 / padded as f64, longest)
    };
    let (grouped, lengths) = padding(true);
    let (mixed, _) = padding(false);
    assert!(grouped < 0.05 && mixed > 0.3, "{grouped} {mixed}");
    assert!(!lengths.is_sorted(), "batches are shuffled");
}

#[test]
fn the_rest_comes_last_or_not_at_all() {
    let kept = loader(config(), false);
    let epoch = batches(&kept, 0, 0);
    assert_eq!(epoch.len(), ROWS.div_ceil(8));
    assert!(epoch[..epoch.len() - 1].iter().all(|batch| batch.len() == 8));
    let dropped = loader(LoaderConfig { drop_last: true, ..config() }, false);
    assert_eq!(dropped.steps_per_epoch(), ROWS / 8);
    let epoch = batches(&dropped, 0, 0);
    assert_eq!(epoch.len(), ROWS / 8);
    assert!(epoch.iter().all(|batch| batch.len() == 8));
}

#[test]
fn without_shuffling_rows_keep_their_order() {
    let loader = loader(LoaderConfig { shuffle: false, group_by_length: false, ..config() }, false);
    assert_eq!(rows(&batches(&loader, 0, 0)), (0..ROWS).collect::<Vec<_>>());
}

#[test]
fn nothing_gives_no_batches() {
    let examples = Examples::from_texts::<&str>(&[], &[], &["a".to_owned()]).unwrap();
    let mut words = ["a"].into_iter();
    let encoder = Encoder::train(&TokenizerConfig::default(), TextCleaning::none(), &mut words).unwrap();
    let loader = Loader::new(Arc::new(examples), Arc::new(encoder), None, config());
    assert_eq!(loader.steps_per_epoch(), 0);
    assert!(loader.epoch(0, 0).next().is_none());
}
