//! Rows that repeat others: exact duplicates, the same text with several labels, near duplicates.
//!
//! Near duplicates by MinHash (Broder 1997, "On the resemblance and containment of documents") over word shingles, with
//! banding to find candidates (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3); a candidate counts
//! only when the Jaccard similarity of the two sets of shingles, computed exactly, reaches the threshold.
//! Memory: 20 bytes a row for exact duplicates, 128 for near ones, whatever the texts' lengths.

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::examples::Store;

/// A row that repeats an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeat {
    pub(crate) row: u32,
    pub(crate) of: u32,
}

/// Exact repeats among `rows`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Exact {
    /// Rows with the text and the label of an earlier row, by row.
    pub(crate) duplicates: Vec<Repeat>,
    /// For each text with more than one label, its rows; by first row.
    pub(crate) conflicts: Vec<Vec<u32>>,
}

pub(crate) fn exact(store: &Store, rows: &[u32]) -> Exact {
    let mut hashed: Vec<(u128, u32)> = rows.par_iter().map(|row| (store.record(*row).exact, *row)).collect();
    hashed.par_sort_unstable();
    let mut found = Exact::default();
    for run in hashed.chunk_by(|a, b| a.0 == b.0).filter(|run| run.len() > 1) {
        let mut firsts: Vec<(u32, u32)> = Vec::new();
        for (_, row) in run {
            let label = store.record(*row).label;
            match firsts.iter().find(|(known, _)| *known == label) {
                Some((_, of)) => found.duplicates.push(Repeat { row: *row, of: *of }),
                None => firsts.push((label, *row)),
            }
        }
        if firsts.len() > 1 {
            found.conflicts.push(run.iter().map(|(_, row)| *row).collect());
        }
    }
    found.duplicates.sort_unstable_by_key(|repeat| repeat.row);
    found.conflicts.sort_unstable();
    found
}

const BANDS: usize = 16;
/// Hashes a band: two texts of similarity s share a band with probability s^8, one of 16 with 1 - (1 - s^8)^16.
const BAND_HASHES: usize = 8;
/// Earlier kept rows of a band's bucket that a row is compared with.
const COMPARED: usize = 16;

/// Rows that are near duplicates of an earlier row that stays, by row.
pub(crate) fn near(store: &Store, rows: &[u32], threshold: f64, words: usize) -> Vec<Repeat> {
    let signatures: Vec<[u64; BANDS]> =
        rows.par_iter().with_min_len(16).map(|row| bands(store.text(*row), words)).collect();
    // Every candidate pair, band by band; then, in reading order, a row goes when an earlier one that stays is near.
    let mut candidates: Vec<(u32, u32)> = Vec::new();
    for band in 0..BANDS {
        let mut buckets: Vec<(u64, u32)> =
            (0..).zip(&signatures).map(|(position, signature)| (signature[band], position)).collect();
        buckets.par_sort_unstable();
        for bucket in buckets.chunk_by(|a, b| a.0 == b.0).filter(|bucket| bucket.len() > 1) {
            for (i, (_, later)) in bucket.iter().enumerate().skip(1) {
                let recent = i.saturating_sub(COMPARED - 1).max(1);
                candidates.push((*later, bucket[0].1));
                candidates.extend(bucket[recent..i].iter().map(|(_, earlier)| (*later, *earlier)));
            }
        }
        candidates.par_sort_unstable();
        candidates.dedup();
    }
    let near: Vec<bool> = candidates
        .par_iter()
        .map(|(later, earlier)| {
            let text = |position: &u32| store.text(rows[*position as usize]);
            similarity(text(later), text(earlier), words) >= threshold
        })
        .collect();
    let mut gone = vec![false; rows.len()];
    let mut repeats = Vec::new();
    for ((later, earlier), near) in candidates.into_iter().zip(near) {
        let (later, earlier) = (later as usize, earlier as usize);
        if near && !gone[later] && !gone[earlier] {
            gone[later] = true;
            repeats.push(Repeat { row: rows[later], of: rows[earlier] });
        }
    }
    repeats
}

/// Hashes of the runs of `words` words, sorted, each once; of all words together when there are fewer.
fn shingles(text: &str, words: usize) -> Vec<u64> {
    let lower = super::folded(text);
    let hashes: Vec<u64> = lower.split_whitespace().map(|word| xxh3_64_with_seed(word.as_bytes(), 0)).collect();
    let size = words.min(hashes.len()).max(1);
    let mut shingles: Vec<u64> = hashes
        .windows(size)
        .map(|run| run.iter().fold(0, |hash: u64, word| mixed(hash.rotate_left(5) ^ word)))
        .collect();
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

fn bands(text: &str, words: usize) -> [u64; BANDS] {
    let mut least = [u64::MAX; BANDS * BAND_HASHES];
    for shingle in shingles(text, words) {
        for (i, least) in (1..).zip(least.iter_mut()) {
            // One multiply and shift a hash: the shingle is well mixed, each odd factor gives another order.
            let factor = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let hash = (shingle ^ (shingle >> 29)).wrapping_mul(factor);
            *least = (*least).min(hash ^ (hash >> 32));
        }
    }
    let mut bands = [0; BANDS];
    for (band, hashes) in bands.iter_mut().zip(least.chunks_exact(BAND_HASHES)) {
        *band = hashes.iter().fold(0, |band: u64, hash| mixed(band.rotate_left(7) ^ hash));
    }
    bands
}

/// The finaliser of SplitMix64.
fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

/// Jaccard similarity of the two texts' shingles; 1 for two empty texts.
fn similarity(a: &str, b: &str, words: usize) -> f64 {
    let (a, b) = (shingles(a, words), shingles(b, words));
    let shared = a.iter().filter(|shingle| b.binary_search(shingle).is_ok()).count();
    let all = a.len() + b.len() - shared;
    if all == 0 { 1.0 } else { shared as f64 / all as f64 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;
    use crate::examples::{Record, Spool};

    fn store(rows: &[(&str, u32)]) -> (Store, Vec<u32>) {
        let mut spool = Spool::in_memory();
        for (text, label) in rows {
            let exact = xxh3_128(text.as_bytes());
            spool.push(text, Record { label: *label, exact, ..Record::default() }).unwrap();
        }
        (spool.finish(Vec::new()).unwrap(), (0..rows.len() as u32).collect())
    }

    #[test]
    fn exact_duplicates_keep_the_first_and_conflicts_are_told_apart() {
        let (store, rows) = store(&[("a", 0), ("b", 0), ("a", 0), ("a", 1), ("c", 1), ("a", 1)]);
        let found = exact(&store, &rows);
        assert_eq!(found.duplicates, [Repeat { row: 2, of: 0 }, Repeat { row: 5, of: 3 }]);
        assert_eq!(found.conflicts, [vec![0, 2, 3, 5]]);
    }

    #[test]
    fn near_duplicates_are_found_whatever_their_distance_in_the_file() {
        let words: Vec<String> = (0..3000).map(|i| format!("w{}", mixed(i) % 5000)).collect();
        let mut texts: Vec<String> = words.chunks(30).map(|chunk| chunk.join(" ")).collect();
        let changed = texts[7].replacen(' ', " new ", 1);
        assert!(similarity(&texts[7], &changed, 3) > 0.85);
        texts.push(changed);
        texts.push(texts[40].to_uppercase());
        let labelled: Vec<(&str, u32)> = texts.iter().map(|text| (text.as_str(), 0)).collect();
        let (store, rows) = store(&labelled);
        let found = near(&store, &rows, 0.8, 3);
        assert_eq!(found, [Repeat { row: 100, of: 7 }, Repeat { row: 101, of: 40 }]);
    }

    #[test]
    fn short_and_empty_texts_are_compared_too() {
        let (store, rows) = store(&[("good film", 0), ("Good  film", 0), ("bad film", 0), ("", 0), ("", 0)]);
        let found = near(&store, &rows, 0.8, 3);
        assert_eq!(found, [Repeat { row: 1, of: 0 }, Repeat { row: 4, of: 3 }]);
    }
}
