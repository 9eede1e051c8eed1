//! Strings to small numbers, fast: one open-addressing table over one byte buffer.
//! Owns lookup by bytes with a hash that the caller already has (tokens are hashed once, for the
//! vocabulary and for n-grams alike). Knows nothing of tokens. Numbers are given out in the order
//! of insertion, so nothing that comes out of it depends on the hash.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The seed of every hash that ends up in a model (n-gram buckets). Part of the package format.
pub(crate) const HASH_SEED: u64 = 0x7469_6465_6d69_6c6c; // "tidemill"

/// The hash of a token, the same on every machine and in every version.
pub(crate) fn hash_token(token: &[u8]) -> u64 {
    xxh3_64_with_seed(token, HASH_SEED)
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    start: u32,
    length: u32,
}

/// Byte strings numbered 0, 1, 2… in the order in which they were first inserted.
#[derive(Clone)]
pub(crate) struct Interner {
    /// Number + 1 of the string in this slot; 0 is an empty slot. A power of two long.
    slots: Vec<u32>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl Interner {
    pub(crate) fn with_capacity(strings: usize) -> Interner {
        let slots = (strings.max(8) * 2).next_power_of_two();
        Interner { slots: vec![0; slots], entries: Vec::with_capacity(strings), bytes: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.slots.fill(0);
        self.entries.clear();
        self.bytes.clear();
    }

    pub(crate) fn get(&self, number: usize) -> &[u8] {
        self.entries.get(number).map_or(&[], |entry| self.slice(entry))
    }

    /// The number of `key`, whose hash is `hash`.
    #[inline]
    pub(crate) fn find(&self, key: &[u8], hash: u64) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            let entry = &self.entries[slot as usize - 1];
            if entry.hash == hash && self.slice(entry) == key {
                return Some(slot as usize - 1);
            }
            at = (at + 1) & mask;
        }
    }

    /// The number of `key`, inserted when it is new. `None` when 4 GiB of strings are held.
    pub(crate) fn insert(&mut self, key: &[u8], hash: u64) -> Option<usize> {
        if let Some(number) = self.find(key, hash) {
            return Some(number);
        }
        let start = u32::try_from(self.bytes.len()).ok()?;
        let length = u32::try_from(key.len()).ok()?;
        start.checked_add(length)?;
        let number = u32::try_from(self.entries.len()).ok().filter(|&n| n < u32::MAX - 1)?;
        if (self.entries.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        self.bytes.extend_from_slice(key);
        self.entries.push(Entry { hash, start, length });
        self.place(number, hash);
        Some(number as usize)
    }

    fn grow(&mut self) {
        let slots = self.slots.len() * 2;
        self.slots = vec![0; slots];
        for number in 0..self.entries.len() {
            self.place(number as u32, self.entries[number].hash);
        }
    }

    fn place(&mut self, number: u32, hash: u64) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = number + 1;
    }

    fn slice(&self, entry: &Entry) -> &[u8] {
        let start = entry.start as usize;
        &self.bytes[start..start + entry.length as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_insertion_and_survive_growth() {
        let mut interner = Interner::with_capacity(0);
        let words: Vec<String> = (0..5000).map(|i| format!("word {}", i * 7 % 5000)).collect();
        for (number, word) in words.iter().enumerate() {
            assert_eq!(interner.insert(word.as_bytes(), hash_token(word.as_bytes())), Some(number));
        }
        for (number, word) in words.iter().enumerate() {
            assert_eq!(interner.insert(word.as_bytes(), hash_token(word.as_bytes())), Some(number));
            assert_eq!(interner.get(number), word.as_bytes());
        }
        assert_eq!(interner.find(b"word", hash_token(b"word")), None);
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut interner = Interner::with_capacity(2);
        assert_eq!(interner.insert(b"a", 1), Some(0));
        assert_eq!(interner.insert(b"b", 1), Some(1));
        assert_eq!(interner.find(b"b", 1), Some(1));
        assert_eq!(interner.find(b"c", 1), None);
    }

    /// By Python's `xxhash`. Packages hold what follows from it.
    #[test]
    fn hashes_are_the_same_for_ever() {
        assert_eq!(hash_token(b"tide"), 0x39aa_3e6b_105c_9ff9);
    }
}
