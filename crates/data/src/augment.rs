//! Text augmentation: small seeded changes to training texts. It never sees validation or test: the loader of the
//! training side alone is given an [`Augmenter`].
//!
//! Sources: Wei and Zou 2019, "EDA: Easy Data Augmentation" (drop, swap, synonyms); Belinkov and Bisk 2018, "Synthetic
//! and Natural Noise Both Break Neural Machine Translation" (typing noise).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{BadRow, DataError, Place, RowProblem};
use crate::source::lines::Lines;

/// The `[augment]` section of a recipe. All rates are probabilities in 0 to 1, by default 0: nothing is changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Probability that an example is augmented at all. Default 1.
    pub probability: f64,
    /// Probability that a word is dropped; the last word left stays.
    pub word_drop: f64,
    /// Probability that a word changes places with the next.
    pub word_swap: f64,
    /// Probability that a word which the table knows is replaced by one of its synonyms.
    pub synonym: f64,
    /// Synonym table: a TSV file, a word and then its synonyms, which may be several words each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synonyms: Option<PathBuf>,
    /// Probability that a word changes case: to lower, upper or title case.
    pub case: f64,
    /// Probability that a word gets one typing error: a neighbouring key, two letters exchanged, one lost or doubled.
    pub typo: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self { probability: 1.0, word_drop: 0.0, word_swap: 0.0, synonym: 0.0, synonyms: None, case: 0.0, typo: 0.0 }
    }
}

impl AugmentConfig {
    /// Makes relative paths start at `folder`, the recipe's.
    pub fn resolve(&mut self, folder: &Path) {
        if let Some(path) = &mut self.synonyms {
            *path = folder.join(&*path);
        }
    }

    /// Whether anything would be changed.
    pub fn is_active(&self) -> bool {
        let rates = [self.word_drop, self.word_swap, self.synonym, self.case, self.typo];
        self.probability > 0.0 && rates.iter().any(|rate| *rate > 0.0)
    }

    /// Whether the values can be; the error names the key.
    pub fn check(&self) -> Result<(), DataError> {
        let rates = [
            ("probability", self.probability),
            ("word_drop", self.word_drop),
            ("word_swap", self.word_swap),
            ("synonym", self.synonym),
            ("case", self.case),
            ("typo", self.typo),
        ];
        for (key, rate) in rates {
            if !(0.0..=1.0).contains(&rate) {
                let problem = format!("{rate} is not a probability; give a number from 0 to 1");
                return Err(DataError::config("augment", key, problem));
            }
        }
        if self.synonym > 0.0 && self.synonyms.is_none() {
            let problem = "a rate is set but no table; set `synonyms` to a TSV file of words and their synonyms";
            return Err(DataError::config("augment", "synonym", problem));
        }
        Ok(())
    }
}

/// Changes texts as an [`AugmentConfig`] says. `Send`, `Sync`; the same text and seed give the same result.
///
/// ```
/// use tidemill_data::{AugmentConfig, Augmenter};
///
/// let augmenter = Augmenter::new(&AugmentConfig { word_drop: 0.5, ..AugmentConfig::default() })?;
/// let text = "a quiet and honest film";
/// assert_eq!(augmenter.apply(text, 7), augmenter.apply(text, 7));
/// # Ok::<(), tidemill_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Augmenter {
    config: AugmentConfig,
    synonyms: HashMap<String, Vec<String>>,
}

impl Augmenter {
    /// Checks the configuration and reads the synonym table.
    pub fn new(config: &AugmentConfig) -> Result<Self, DataError> {
        config.check()?;
        let synonyms = match &config.synonyms {
            Some(path) if config.synonym > 0.0 => read_synonyms(path)?,
            _ => HashMap::new(),
        };
        Ok(Self { config: config.clone(), synonyms })
    }

    /// The changed text. White space between words becomes one space when anything is changed.
    pub fn apply(&self, text: &str, seed: u64) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        if !rng.random_bool(self.config.probability) {
            return text.to_owned();
        }
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        self.replace(&mut words, &mut rng);
        self.swap(&mut words, &mut rng);
        self.drop_words(&mut words, &mut rng);
        for word in &mut words {
            if rng.random_bool(self.config.case) {
                *word = other_case(word, &mut rng);
            }
            if rng.random_bool(self.config.typo) {
                *word = mistyped(word, &mut rng);
            }
        }
        words.join(" ")
    }

    fn replace(&self, words: &mut [String], rng: &mut ChaCha8Rng) {
        if self.config.synonym == 0.0 {
            return;
        }
        for word in words {
            let known = self.synonyms.get(&word.to_lowercase());
            if let Some(synonym) = known.filter(|_| rng.random_bool(self.config.synonym)).and_then(|s| s.choose(rng)) {
                synonym.clone_into(word);
            }
        }
    }

    fn swap(&self, words: &mut [String], rng: &mut ChaCha8Rng) {
        let mut i = 0;
        while self.config.word_swap > 0.0 && i + 1 < words.len() {
            if rng.random_bool(self.config.word_swap) {
                words.swap(i, i + 1);
                i += 1;
            }
            i += 1;
        }
    }

    fn drop_words(&self, words: &mut Vec<String>, rng: &mut ChaCha8Rng) {
        if self.config.word_drop == 0.0 || words.is_empty() {
            return;
        }
        let saved = rng.random_range(0..words.len());
        let stays: Vec<bool> =
            (0..words.len()).map(|i| !rng.random_bool(self.config.word_drop) || i == saved).collect();
        let mut stays = stays.iter();
        words.retain(|_| stays.next().copied().unwrap_or(true));
    }
}

fn read_synonyms(path: &Path) -> Result<HashMap<String, Vec<String>>, DataError> {
    let mut lines = Lines::open(path, 1 << 20)?;
    let mut table: HashMap<String, Vec<String>> = HashMap::new();
    while let Some(line) = lines.next_line()? {
        let number = line.number;
        let bad = |problem| BadRow { place: Place::line(path, number), problem };
        let text = line.text().map_err(|column| BadRow {
            place: Place::line(path, number).column(format!("byte {column}")),
            problem: RowProblem::InvalidUtf8,
        });
        let text = text?;
        if text.trim().is_empty() {
            continue;
        }
        let mut fields = text.split('\t').map(str::trim).filter(|field| !field.is_empty());
        let word = fields.next().unwrap_or_default().to_lowercase();
        let synonyms: Vec<String> = fields.map(str::to_owned).collect();
        if synonyms.is_empty() {
            return Err(bad(RowProblem::Ragged { found: 1, expected: 2 }).into());
        }
        table.entry(word).or_default().extend(synonyms);
    }
    if table.is_empty() {
        return Err(DataError::EmptyFile { path: path.to_path_buf() });
    }
    Ok(table)
}

fn other_case(word: &str, rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..3) {
        0 => word.to_lowercase(),
        1 => word.to_uppercase(),
        _ => {
            let mut chars = word.chars();
            let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
            first + &chars.as_str().to_lowercase()
        }
    }
}

/// One typing error in a word of two characters or more.
fn mistyped(word: &str, rng: &mut ChaCha8Rng) -> String {
    let mut chars: Vec<char> = word.chars().collect();
    if chars.len() < 2 {
        return word.to_owned();
    }
    let at = rng.random_range(0..chars.len());
    match rng.random_range(0..4) {
        0 => {
            let first = at.min(chars.len() - 2);
            chars.swap(first, first + 1);
        }
        1 => {
            chars.remove(at);
        }
        2 => chars.insert(at, chars[at]),
        _ => {
            if let Some(key) = neighbours(chars[at]).choose(rng) {
                chars[at] = if chars[at].is_uppercase() { key.to_ascii_uppercase() as char } else { *key as char };
            }
        }
    }
    chars.into_iter().collect()
}

/// The keys around a letter on a QWERTY keyboard.
fn neighbours(letter: char) -> &'static [u8] {
    match letter.to_ascii_lowercase() {
        'a' => b"qwsz",
        'b' => b"vghn",
        'c' => b"xdfv",
        'd' => b"serfcx",
        'e' => b"wsdr",
        'f' => b"drtgvc",
        'g' => b"ftyhbv",
        'h' => b"gyujnb",
        'i' => b"ujko",
        'j' => b"huikmn",
        'k' => b"jiolm",
        'l' => b"kop",
        'm' => b"njk",
        'n' => b"bhjm",
        'o' => b"iklp",
        'p' => b"ol",
        'q' => b"wa",
        'r' => b"edft",
        's' => b"awedxz",
        't' => b"rfgy",
        'u' => b"yhji",
        'v' => b"cfgb",
        'w' => b"qase",
        'x' => b"zsdc",
        'y' => b"tghu",
        'z' => b"asx",
        _ => b"",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &str = "the quick brown fox jumps over the lazy dog and runs away again";

    fn with(config: AugmentConfig) -> Augmenter {
        Augmenter::new(&config).unwrap()
    }

    fn words(text: &str) -> Vec<&str> {
        let mut words: Vec<&str> = text.split(' ').collect();
        words.sort_unstable();
        words
    }

    #[test]
    fn nothing_is_changed_by_default_and_everything_follows_the_seed() {
        assert_eq!(with(AugmentConfig::default()).apply(TEXT, 3), TEXT);
        assert!(!AugmentConfig::default().is_active());
        let config = AugmentConfig { word_drop: 0.3, word_swap: 0.3, case: 0.3, typo: 0.3, ..Default::default() };
        let augmenter = with(config);
        assert_eq!(augmenter.apply(TEXT, 1), augmenter.apply(TEXT, 1));
        let distinct: std::collections::HashSet<String> = (0..20).map(|seed| augmenter.apply(TEXT, seed)).collect();
        assert!(distinct.len() > 15);
    }

    #[test]
    fn each_change_is_of_its_kind() {
        let swapped = with(AugmentConfig { word_swap: 0.5, ..Default::default() }).apply(TEXT, 1);
        assert_ne!(swapped, TEXT);
        assert_eq!(words(&swapped), words(TEXT));

        let cased = with(AugmentConfig { case: 1.0, ..Default::default() }).apply(TEXT, 1);
        assert_ne!(cased, TEXT);
        assert_eq!(cased.to_lowercase(), TEXT);

        let dropper = with(AugmentConfig { word_drop: 1.0, ..Default::default() });
        assert_eq!(dropper.apply(TEXT, 1).split(' ').count(), 1);
        assert_eq!(dropper.apply("word", 1), "word");
        assert_eq!(dropper.apply("", 1), "");

        let mistyped = with(AugmentConfig { typo: 1.0, ..Default::default() }).apply("keyboards", 5);
        assert!(strsim::damerau_levenshtein(&mistyped, "keyboards") <= 1, "{mistyped}");
    }

    #[test]
    fn drop_rate_is_about_what_was_asked() {
        let dropper = with(AugmentConfig { word_drop: 0.2, ..Default::default() });
        let total: usize = (0..2000).map(|seed| dropper.apply(TEXT, seed).split(' ').count()).sum();
        let kept = total as f64 / (2000.0 * 13.0);
        assert!((0.79..0.83).contains(&kept), "{kept}");
    }

    #[test]
    fn synonyms_come_from_the_table_and_a_bad_table_names_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("synonyms.tsv");
        let mut file = std::fs::File::create(&path).unwrap();
        writeln!(file, "Quick\tfast\tvery fast\n\nlazy\tidle").unwrap();
        let config = AugmentConfig { synonym: 1.0, synonyms: Some(path.clone()), ..Default::default() };
        let text = with(config.clone()).apply("the quick lazy dog", 2);
        assert!(text == "the fast idle dog" || text == "the very fast idle dog", "{text}");

        writeln!(file, "alone").unwrap();
        let error = Augmenter::new(&config).unwrap_err().to_string();
        assert!(error.contains("synonyms.tsv, line 4"), "{error}");
        let error = Augmenter::new(&AugmentConfig { synonyms: None, ..config }).unwrap_err().to_string();
        assert!(error.contains("[augment] synonym"), "{error}");
        let error = Augmenter::new(&AugmentConfig { typo: 1.5, ..Default::default() }).unwrap_err().to_string();
        assert!(error.contains("[augment] typo: 1.5"), "{error}");
    }
}
