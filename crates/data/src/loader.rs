//! Batches of encoded texts for training: shuffling by seed, grouping by length, prefetching.
//! Owns the order of an epoch and the threads that prepare its batches. Knows nothing of tensors.
//! The batch for (seed, epoch, step) is always the same, wherever one starts and however many
//! threads prepare it.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};
use rand::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::encoder::EncodedRows;
use crate::{Augmenter, Encoder, Examples};

/// Batches that are sorted by length together.
const POOL: usize = 50;

/// Why an epoch ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// Preparing a batch failed.
    #[error("preparing batch {step} of epoch {epoch} failed{}: {reason}", place(row))]
    Batch {
        /// The epoch, from 0.
        epoch: u64,
        /// The step within the epoch, from 0.
        step: usize,
        /// File and line of the text at fault, where it is one.
        row: Option<String>,
        /// What went wrong.
        reason: String,
    },
    /// The texts could not be encoded before the first batch.
    #[error("encoding the examples failed: {reason}")]
    Encoding {
        /// What went wrong.
        reason: String,
    },
    /// The system gave no thread.
    #[error("no thread to prepare batches on: {0}; set threads = 0 to prepare them in place")]
    Thread(#[source] std::io::Error),
    /// More examples than a loader can number.
    #[error("{0} examples are more than the 4294967295 that one loader takes")]
    TooMany(usize),
}

fn place(row: &Option<String>) -> String {
    row.as_ref().map(|row| format!(" at {row}")).unwrap_or_default()
}

/// Encoded texts side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextBatch {
    /// The ids of all texts, one after another.
    pub ids: Vec<i64>,
    /// Where each text starts in `ids`, and at last where the last one ends: batch + 1 numbers.
    pub offsets: Vec<usize>,
    /// Label indices; -1 where there is none.
    pub labels: Vec<i64>,
    /// Which of the examples these are.
    pub rows: Vec<usize>,
}

impl TextBatch {
    /// How many texts.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Ids of the longest text.
    pub fn longest(&self) -> usize {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// A rectangle `[batch, time]` in row order, filled up with `pad` on the right, and `time`.
    ///
    /// ```
    /// use tidemill_data::TextBatch;
    /// let mut batch = TextBatch::default();
    /// batch.push(&[5, 6, 7], None, 0);
    /// batch.push(&[8], Some(1), 1);
    /// assert_eq!(batch.padded(0), (vec![5, 6, 7, 8, 0, 0], 3));
    /// assert_eq!(batch.labels, [-1, 1]);
    /// ```
    pub fn padded(&self, pad: i64) -> (Vec<i64>, usize) {
        let time = self.longest();
        let mut padded = Vec::with_capacity(self.len() * time);
        for pair in self.offsets.windows(2) {
            let end = padded.len() + time;
            padded.extend_from_slice(&self.ids[pair[0]..pair[1]]);
            padded.resize(end, pad);
        }
        (padded, time)
    }

    /// Adds a text.
    pub fn push(&mut self, ids: &[u32], label: Option<usize>, row: usize) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.ids.extend(ids.iter().map(|&id| i64::from(id)));
        self.offsets.push(self.ids.len());
        self.labels.push(label.and_then(|label| i64::try_from(label).ok()).unwrap_or(-1));
        self.rows.push(row);
    }
}

/// How batches are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Texts a batch, 1 or more (0 counts as 1). Default 32.
    pub batch_size: usize,
    /// Decides the order of every epoch and the augmentation. Default 0.
    pub seed: u64,
    /// A new order every epoch. Default true; without it rows come in their own order.
    pub shuffle: bool,
    /// Texts of like length together, so that little is padding: within every 50 batches of the
    /// epoch's order the texts are sorted by length. Default true.
    pub group_by_length: bool,
    /// Batches prepared ahead. Default 4.
    pub prefetch: usize,
    /// Threads that prepare them; 0 prepares each batch when it is asked for. Default 1.
    pub threads: usize,
    /// Leave out the rows that fill no batch. Default false.
    pub drop_last: bool,
}

impl Default for LoaderConfig {
    fn default() -> LoaderConfig {
        LoaderConfig {
            batch_size: 32,
            seed: 0,
            shuffle: true,
            group_by_length: true,
            prefetch: 4,
            threads: 1,
            drop_last: false,
        }
    }
}

/// Makes the batches of every epoch. Cheap to clone; clones share the encoded texts.
///
/// ```
/// use std::sync::Arc;
/// use tidemill_data::*;
/// let texts = ["a b", "b c", "c"];
/// let labels = [Some(0), Some(1), None];
/// let examples = Examples::from_texts(&texts, &labels, &["no".into(), "yes".into()]).unwrap();
/// let encoder = Encoder::train(
///     &TokenizerConfig::default(), TextCleaning::default(), &mut texts.into_iter())?;
/// let config = LoaderConfig { batch_size: 2, ..LoaderConfig::default() };
/// let loader = Loader::new(Arc::new(examples), Arc::new(encoder), None, config);
/// assert_eq!(loader.steps_per_epoch(), 2);
/// let batches: Vec<TextBatch> = loader.epoch(0, 0).map(Result::unwrap).collect();
/// let resumed: Vec<TextBatch> = loader.epoch(0, 1).map(Result::unwrap).collect();
/// assert_eq!(batches[1..], resumed);
/// # Ok::<(), TokenizeError>(())
/// ```
#[derive(Clone)]
pub struct Loader {
    source: Arc<Source>,
}

/// What every thread needs.
struct Source {
    examples: Arc<Examples>,
    encoder: Arc<Encoder>,
    augment: Option<Arc<Augmenter>>,
    config: LoaderConfig,
    encoded: OnceLock<EncodedRows>,
}

impl Loader {
    /// A loader over `examples`, whose texts are clean. With `augment`, each epoch's texts are made
    /// anew by (seed, epoch, row); without it they are encoded once, when the first epoch starts.
    pub fn new(
        examples: Arc<Examples>,
        encoder: Arc<Encoder>,
        augment: Option<Arc<Augmenter>>,
        mut config: LoaderConfig,
    ) -> Loader {
        config.batch_size = config.batch_size.max(1);
        let encoded = OnceLock::new();
        Loader { source: Arc::new(Source { examples, encoder, augment, config, encoded }) }
    }

    /// Batches an epoch has.
    pub fn steps_per_epoch(&self) -> usize {
        self.source.steps()
    }

    /// The configuration, as it is used.
    pub fn config(&self) -> &LoaderConfig {
        &self.source.config
    }

    /// The batches of `epoch` (from 0) from step `from_step` (from 0) on. Earlier ones are not
    /// prepared. Dropping the iterator stops its threads.
    pub fn epoch(&self, epoch: u64, from_step: usize) -> EpochBatches {
        let first = from_step.min(self.source.steps());
        EpochBatches { next: first, state: start(&self.source, epoch, first) }
    }
}

impl Source {
    fn kept(&self) -> usize {
        let rows = self.examples.len();
        if self.config.drop_last { rows - rows % self.config.batch_size } else { rows }
    }

    fn steps(&self) -> usize {
        self.kept().div_ceil(self.config.batch_size)
    }

    /// Ids of a text that is not augmented, encoded on first use.
    fn encoded(&self) -> Result<&EncodedRows, LoaderError> {
        if let Some(encoded) = self.encoded.get() {
            return Ok(encoded);
        }
        let encode = || self.encoder.encode_rows(self.examples.len(), |row| self.examples.text(row));
        let encoded = catch_unwind(AssertUnwindSafe(encode))
            .map_err(|panic| LoaderError::Encoding { reason: message(&*panic) })?;
        Ok(self.encoded.get_or_init(|| encoded))
    }

    /// The rows of an epoch in the order of its batches.
    fn order(&self, epoch: u64) -> Result<Vec<u32>, LoaderError> {
        let rows = self.examples.len();
        let count = u32::try_from(rows).map_err(|_| LoaderError::TooMany(rows))?;
        let mut random = ChaCha8Rng::seed_from_u64(mix(self.config.seed, epoch));
        let mut order: Vec<u32> = (0..count).collect();
        if self.config.shuffle {
            order.shuffle(&mut random);
        }
        order.truncate(self.kept());
        if self.config.group_by_length {
            let batch = self.config.batch_size;
            let lengths = self.lengths()?;
            for pool in order.chunks_mut(batch.saturating_mul(POOL)) {
                pool.sort_by_key(|&row| lengths(row));
            }
            if self.config.shuffle {
                order = shuffled_batches(&order, batch, &mut random);
            }
        }
        Ok(order)
    }

    /// How long each text is: in ids, or in bytes where augmentation will change the ids.
    fn lengths(&self) -> Result<Box<dyn Fn(u32) -> usize + '_>, LoaderError> {
        if self.augment.is_some() {
            return Ok(Box::new(|row| self.examples.text(row as usize).len()));
        }
        let encoded = self.encoded()?;
        Ok(Box::new(|row| encoded.get(row as usize).len()))
    }

    fn batch(&self, order: &[u32], epoch: u64, step: usize) -> Result<TextBatch, LoaderError> {
        let size = self.config.batch_size;
        let rows = order.get(step * size..order.len().min((step + 1) * size)).unwrap_or(&[]);
        let mut batch = TextBatch { offsets: vec![0], ..TextBatch::default() };
        for &row in rows {
            let row = row as usize;
            let add = || self.add(&mut batch, row, epoch);
            catch_unwind(AssertUnwindSafe(add)).map_err(|panic| LoaderError::Batch {
                epoch,
                step,
                row: Some(self.examples.describe_row(row)),
                reason: message(&*panic),
            })?;
        }
        Ok(batch)
    }

    fn add(&self, batch: &mut TextBatch, row: usize, epoch: u64) {
        let label = self.examples.label(row);
        match (&self.augment, self.encoded.get()) {
            (Some(augment), _) => {
                let seed = mix(mix(self.config.seed, epoch), row as u64);
                let text = augment.apply(self.examples.text(row), seed);
                batch.push(&self.encoder.encode_clean(&text), label, row);
            }
            (None, Some(encoded)) => batch.push(encoded.get(row), label, row),
            (None, None) => batch.push(&self.encoder.encode_clean(self.examples.text(row)), label, row),
        }
    }
}

/// The batches in another order, each left whole; the short one stays last.
fn shuffled_batches(order: &[u32], batch: usize, random: &mut impl Rng) -> Vec<u32> {
    let full = order.chunks_exact(batch);
    let rest = full.remainder();
    let mut batches: Vec<&[u32]> = full.collect();
    batches.shuffle(random);
    batches.push(rest);
    batches.concat()
}

/// Two numbers into one seed (SplitMix64's finaliser).
fn mix(seed: u64, with: u64) -> u64 {
    let mut z = seed ^ with.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

/// The batches of one epoch, in order. After an error there is nothing more.
pub struct EpochBatches {
    next: usize,
    state: State,
}

enum State {
    /// Each batch is prepared when it is asked for.
    InPlace {
        source: Arc<Source>,
        order: Vec<u32>,
        epoch: u64,
    },
    /// Thread `i` of `n` prepares the steps first + i, first + i + n, … into its own channel, so
    /// that reading the channels in turn gives the batches in order.
    Threads(Workers),
    Failed(LoaderError),
    Done,
}

struct Workers {
    first: usize,
    steps: usize,
    epoch: u64,
    batches: Vec<Receiver<Result<TextBatch, LoaderError>>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

fn start(source: &Arc<Source>, epoch: u64, first: usize) -> State {
    let steps = source.steps();
    if first >= steps {
        return State::Done;
    }
    let cached = if source.augment.is_none() { source.encoded().map(|_| ()) } else { Ok(()) };
    let order = match cached.and_then(|()| source.order(epoch)) {
        Ok(order) => order,
        Err(error) => return State::Failed(error),
    };
    let count = source.config.threads.min(steps - first);
    if count == 0 {
        return State::InPlace { source: Arc::clone(source), order, epoch };
    }
    let prefetch = source.config.prefetch;
    let source = Arc::clone(source);
    let prepare = move |step| source.batch(&order, epoch, step);
    match Workers::start(prepare, epoch, first..steps, count, prefetch) {
        Ok(workers) => State::Threads(workers),
        Err(error) => State::Failed(LoaderError::Thread(error)),
    }
}

impl Workers {
    /// `count` threads (1 or more) that `prepare` the batches of `steps`, `prefetch` ahead.
    fn start(
        prepare: impl Fn(usize) -> Result<TextBatch, LoaderError> + Send + Sync + 'static,
        epoch: u64,
        steps: Range<usize>,
        count: usize,
        prefetch: usize,
    ) -> std::io::Result<Workers> {
        let prepare = Arc::new(prepare);
        let stop = Arc::new(AtomicBool::new(false));
        let (batches, threads) = (Vec::new(), Vec::new());
        let Range { start: first, end: steps } = steps;
        let mut workers = Workers { first, steps, epoch, batches, threads, stop };
        for worker in 0..count {
            let (sender, receiver) = bounded(prefetch.div_ceil(count).max(1));
            let (prepare, stop) = (Arc::clone(&prepare), Arc::clone(&workers.stop));
            let work = move || {
                for step in (first + worker..steps).step_by(count) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let batch = catch_unwind(AssertUnwindSafe(|| prepare(step))).unwrap_or_else(|panic| {
                        let reason = message(&*panic);
                        Err(LoaderError::Batch { epoch, step, row: None, reason })
                    });
                    let failed = batch.is_err();
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            };
            let builder = std::thread::Builder::new().name(format!("loader {worker}"));
            // On failure `workers` is dropped, which stops those that run.
            workers.threads.push(builder.spawn(work)?);
            workers.batches.push(receiver);
        }
        Ok(workers)
    }

    fn receive(&self, step: usize) -> Option<Result<TextBatch, LoaderError>> {
        if step >= self.steps {
            return None;
        }
        let channel = &self.batches[(step - self.first) % self.batches.len()];
        Some(channel.recv().unwrap_or_else(|_| {
            let reason = "its thread ended".to_owned();
            Err(LoaderError::Batch { epoch: self.epoch, step, row: None, reason })
        }))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Threads that wait to send wake up when nobody can receive any more.
        self.batches.clear();
        for thread in self.threads.drain(..) {
            // A panic has been reported already: it ended the channel.
            let _ = thread.join();
        }
    }
}

impl Iterator for EpochBatches {
    type Item = Result<TextBatch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match std::mem::replace(&mut self.state, State::Done) {
            State::Done => None,
            State::Failed(error) => Some(Err(error)),
            State::InPlace { source, order, epoch } => {
                let item = (self.next < source.steps()).then(|| source.batch(&order, epoch, self.next));
                self.state = State::InPlace { source, order, epoch };
                item
            }
            State::Threads(workers) => {
                let item = workers.receive(self.next);
                self.state = State::Threads(workers);
                item
            }
        };
        self.next += 1;
        if !matches!(item, Some(Ok(_))) {
            self.state = State::Done;
        }
        item
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::{Duration, Instant};

    fn batch(step: usize) -> TextBatch {
        let mut batch = TextBatch::default();
        batch.push(&[7], None, step);
        batch
    }

    fn epoch(workers: Workers) -> EpochBatches {
        EpochBatches { next: workers.first, state: State::Threads(workers) }
    }

    #[test]
    fn batches_come_in_order_though_threads_race() {
        let slow = |step: usize| {
            std::thread::sleep(Duration::from_micros((step as u64 * 7919) % 400));
            Ok(batch(step))
        };
        let workers = Workers::start(slow, 0, 5..100, 3, 4).unwrap();
        let rows: Vec<usize> = epoch(workers).map(|batch| batch.unwrap().rows[0]).collect();
        assert_eq!(rows, (5..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_becomes_an_error_and_ends_the_epoch() {
        let faulty = |step: usize| match step {
            3 => panic!("bad text"),
            _ => Ok(batch(step)),
        };
        let workers = Workers::start(faulty, 2, 0..10, 2, 4).unwrap();
        let items: Vec<_> = epoch(workers).collect();
        assert_eq!(items.len(), 4);
        let error = items[3].as_ref().unwrap_err().to_string();
        assert_eq!(error, "preparing batch 3 of epoch 2 failed: bad text");
    }

    #[test]
    fn prefetching_is_bounded_and_dropping_stops_it() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let prepare = move |step| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(batch(step))
        };
        let mut batches = epoch(Workers::start(prepare, 0, 0..1_000_000, 2, 6).unwrap());
        batches.next().unwrap().unwrap();
        let start = Instant::now();
        while made.load(Ordering::Relaxed) < 7 && start.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        drop(batches);
        // One taken, six waiting, and one in the hands of each thread at most.
        assert!((7..=9).contains(&made.load(Ordering::Relaxed)));
        assert_eq!(Arc::strong_count(&made), 1, "the threads are gone");
    }
}
