//! Training subword tokenizers. Normalising, cutting into words and the finished models are the
//! `tokenizers` library's, and so is Unigram's trainer. The merges of byte-pair encoding and
//! WordPiece are counted here: the library's own trainer walks hash maps with random seeds, which
//! orders WordPiece's alphabet and breaks ties between merges differently in every run. Here equal
//! texts give equal files, whatever the number of threads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, Lowercase};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::tokenizer::{Normalizer, OffsetReferential, PreTokenizer};
use tokenizers::{AddedToken, ModelWrapper, NormalizedString, OffsetType, PreTokenizedString, Tokenizer};

use super::interner::{Interner, hash_token};
use super::subword::{Pieces, each_piece};
use super::words::{by_frequency, count};
use super::{TokenizeError, TokenizerConfig, TokenizerKind};

/// Words longer than this many characters teach nothing; WordPiece calls them unknown anyway.
const LONGEST_WORD: usize = 100;

/// Learns a tokenizer from texts and returns its tokenizer.json.
pub(crate) fn train(config: &TokenizerConfig, texts: &mut dyn Iterator<Item = &str>) -> Result<Value, TokenizeError> {
    let kind = config.kind;
    let failed = |reason: String| TokenizeError::Training { kind: kind.name(), reason };
    let mut tokenizer = empty(kind, config.lower_cases()).map_err(|e| failed(e.to_string()))?;
    let words = count_words(&tokenizer, kind, texts, config.min_count).map_err(&failed)?;
    if words.counts.is_empty() {
        return Err(TokenizeError::NoTokens { texts: words.texts, min_count: config.min_count });
    }
    let specials: &[&str] = match kind {
        TokenizerKind::Bpe => &["<pad>"],
        TokenizerKind::Wordpiece => &["[PAD]", "[UNK]"],
        _ => &["<pad>", "<unk>"],
    };
    let model = match kind {
        TokenizerKind::Bpe => bpe(&words.counts, specials, config).map_err(&failed)?,
        TokenizerKind::Wordpiece => wordpiece(&words.counts, specials, config).map_err(&failed)?,
        _ => unigram(words.counts, specials, config.vocabulary).map_err(&failed)?,
    };
    tokenizer.with_model(model);
    tokenizer
        .add_special_tokens(specials.iter().map(|&name| AddedToken::from(name, true)))
        .map_err(|e| failed(e.to_string()))?;
    let json = tokenizer.to_string(false).map_err(|e| failed(e.to_string()))?;
    serde_json::from_str(&json).map_err(|e| failed(e.to_string()))
}

/// The pipeline around the model: normalizer, pre-tokenizer, decoder.
fn empty(kind: TokenizerKind, lower_case: bool) -> tokenizers::Result<Tokenizer> {
    let mut tokenizer = match kind {
        TokenizerKind::Bpe => Tokenizer::new(BPE::default()),
        TokenizerKind::Wordpiece => Tokenizer::new(WordPiece::default()),
        _ => Tokenizer::new(Unigram::default()),
    };
    match kind {
        TokenizerKind::Wordpiece => {
            // Accents stay: stripping them is cleaning, and the recipe's to ask for.
            tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, Some(false), lower_case)))?;
            tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
            tokenizer.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
        }
        TokenizerKind::Bpe => {
            tokenizer.with_pre_tokenizer(Some(ByteLevel::default()));
            tokenizer.with_decoder(Some(ByteLevel::default()));
        }
        _ => {
            let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
            tokenizer.with_pre_tokenizer(Some(metaspace.clone()));
            tokenizer.with_decoder(Some(metaspace));
        }
    }
    if lower_case && kind != TokenizerKind::Wordpiece {
        tokenizer.with_normalizer(Some(Lowercase))?;
    }
    Ok(tokenizer)
}

struct Words {
    texts: usize,
    /// Most frequent first, then in byte order.
    counts: Vec<(String, u64)>,
}

/// Counts the words that the tokenizer's normalizer and pre-tokenizer make. Each distinct piece
/// between spaces goes through the library once.
fn count_words(
    tokenizer: &Tokenizer,
    kind: TokenizerKind,
    texts: &mut dyn Iterator<Item = &str>,
    min_count: u64,
) -> Result<Words, String> {
    let pieces = match kind {
        TokenizerKind::Wordpiece => Pieces::BetweenSpaces,
        _ => Pieces::BeforeSpace,
    };
    let (mut seen, mut counts) = (Interner::with_capacity(1 << 12), Vec::new());
    let mut read = 0;
    for text in texts {
        read += 1;
        each_piece(text, pieces, |piece| count(&mut seen, &mut counts, piece.as_bytes()));
    }
    let (mut words, mut word_counts) = (Interner::with_capacity(1 << 12), Vec::<u64>::new());
    for (number, &times) in counts.iter().enumerate() {
        let piece = String::from_utf8_lossy(seen.get(number));
        let mut normalized = NormalizedString::from(piece.as_ref());
        if let Some(normalizer) = tokenizer.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(|e| e.to_string())?;
        }
        let mut split = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split).map_err(|e| e.to_string())?;
        }
        for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            if word.chars().nth(LONGEST_WORD).is_some() {
                continue;
            }
            match words.insert(word.as_bytes(), hash_token(word.as_bytes())) {
                Some(number) if number < word_counts.len() => word_counts[number] += times,
                Some(_) => word_counts.push(times),
                None => return Err("the distinct words are longer than 4 GiB".to_owned()),
            }
        }
    }
    // For Unigram the threshold is on words; merges have theirs on pairs.
    let threshold = if kind == TokenizerKind::Unigram { min_count } else { 1 };
    let order = by_frequency(&words, &word_counts, threshold);
    let word = |number: usize| String::from_utf8_lossy(words.get(number)).into_owned();
    let counts = order.into_iter().map(|number| (word(number), word_counts[number])).collect();
    Ok(Words { texts: read, counts })
}

fn bpe(words: &[(String, u64)], specials: &[&str], config: &TokenizerConfig) -> Result<ModelWrapper, String> {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let symbols = alphabet.iter().map(|c| c.to_string());
    let mut tokens: Vec<String> = specials.iter().map(|s| (*s).to_owned()).chain(symbols).collect();
    if config.vocabulary < tokens.len() {
        let least = tokens.len();
        return Err(format!("byte-level BPE needs vocabulary = {least} at least: every byte is a token"));
    }
    let spelt = words.iter().map(|(word, times)| (word.chars().map(String::from).collect(), *times));
    let merges = merge(&mut tokens, spelt, None, config.vocabulary, config.min_count);
    let vocabulary: Vec<(String, u32)> = tokens.into_iter().zip(0..).collect();
    BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges)
        .build()
        .map(ModelWrapper::BPE)
        .map_err(|e| e.to_string())
}

fn wordpiece(words: &[(String, u64)], specials: &[&str], config: &TokenizerConfig) -> Result<ModelWrapper, String> {
    const PREFIX: &str = "##";
    let alphabet = alphabet(words, config.vocabulary / 4);
    let spelt: Vec<(Vec<String>, u64)> = words
        .iter()
        .filter(|(word, _)| word.chars().all(|c| alphabet.contains(&c)))
        .map(|(word, times)| {
            let symbol = |(at, c): (usize, char)| match at {
                0 => c.to_string(),
                _ => format!("{PREFIX}{c}"),
            };
            (word.chars().enumerate().map(symbol).collect(), *times)
        })
        .collect();
    let mut symbols: Vec<&String> = spelt.iter().flat_map(|(symbols, _)| symbols).collect();
    symbols.sort_unstable_by_key(|symbol| (symbol.starts_with(PREFIX), *symbol));
    symbols.dedup();
    let symbols = symbols.into_iter().cloned();
    let mut tokens: Vec<String> = specials.iter().map(|s| (*s).to_owned()).chain(symbols).collect();
    merge(&mut tokens, spelt.into_iter(), Some(PREFIX), config.vocabulary, config.min_count);
    let vocabulary: Vec<(String, u32)> = tokens.into_iter().zip(0..).collect();
    WordPiece::builder()
        .vocab(vocabulary.into_iter().collect::<Vocab>())
        .unk_token("[UNK]".to_owned())
        .build()
        .map(ModelWrapper::WordPiece)
        .map_err(|e| e.to_string())
}

/// The most frequent characters, `limit` at most; ties go to the smaller code point.
fn alphabet(words: &[(String, u64)], limit: usize) -> HashSet<char> {
    let mut counts: HashMap<char, u64> = HashMap::new();
    for (word, times) in words {
        for c in word.chars() {
            *counts.entry(c).or_default() += times;
        }
    }
    let mut order: Vec<(Reverse<u64>, char)> = counts.into_iter().map(|(c, times)| (Reverse(times), c)).collect();
    order.sort_unstable();
    order.into_iter().take(limit.max(1)).map(|(_, c)| c).collect()
}

type Pair = (u32, u32);

/// Byte-pair merging (Sennrich 2016): joins the most frequent pair of neighbours until `tokens`
/// holds `limit` tokens or no pair occurs `min_count` times. Ties go to the pair of smallest ids.
/// Returns the merges in order.
fn merge(
    tokens: &mut Vec<String>,
    spelt: impl Iterator<Item = (Vec<String>, u64)>,
    prefix: Option<&str>,
    limit: usize,
    min_count: u64,
) -> Vec<(String, String)> {
    let mut ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut words: Vec<(Vec<u32>, u64)> =
        spelt.map(|(word, times)| (word.iter().filter_map(|s| ids.get(s).copied()).collect(), times)).collect();
    let mut counts: HashMap<Pair, u64> = HashMap::new();
    let mut places: HashMap<Pair, Vec<u32>> = HashMap::new();
    for (at, (word, times)) in words.iter().enumerate() {
        for pair in word.windows(2).map(|w| (w[0], w[1])) {
            *counts.entry(pair).or_default() += times;
            places.entry(pair).or_default().push(at as u32);
        }
    }
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        counts.iter().map(|(&pair, &times)| (times, Reverse(pair))).collect();
    let mut merges = Vec::new();
    let mut merged: HashSet<Pair> = HashSet::new();
    while let Some((times, Reverse(pair))) = queue.pop() {
        let now = counts.get(&pair).copied().unwrap_or(0);
        if now < times {
            if now > 0 {
                queue.push((now, Reverse(pair)));
            }
            continue;
        }
        if tokens.len() >= limit || times < min_count {
            break;
        }
        let (left, right) = (&tokens[pair.0 as usize], &tokens[pair.1 as usize]);
        let tail = prefix.and_then(|p| right.strip_prefix(p)).unwrap_or(right);
        let joined = format!("{left}{tail}");
        if merged.insert(pair) {
            merges.push((left.clone(), right.clone()));
        }
        let id = *ids.entry(joined).or_insert_with_key(|joined| {
            tokens.push(joined.clone());
            tokens.len() as u32 - 1
        });
        let mut places_of_pair = places.remove(&pair).unwrap_or_default();
        places_of_pair.sort_unstable();
        places_of_pair.dedup();
        let mut grown: Vec<Pair> = Vec::new();
        for at in places_of_pair {
            let (word, times) = &mut words[at as usize];
            for old in word.windows(2).map(|w| (w[0], w[1])) {
                if let Some(count) = counts.get_mut(&old) {
                    *count = count.saturating_sub(*times);
                }
            }
            join(word, pair, id);
            for new in word.windows(2).map(|w| (w[0], w[1])) {
                *counts.entry(new).or_default() += *times;
                if new.0 == id || new.1 == id {
                    places.entry(new).or_default().push(at);
                    grown.push(new);
                }
            }
        }
        counts.remove(&pair);
        grown.sort_unstable();
        grown.dedup();
        queue.extend(grown.into_iter().filter_map(|p| Some((*counts.get(&p)?, Reverse(p)))));
    }
    merges
}

/// Replaces each `pair` in `word`, from the left, by `id`.
fn join(word: &mut Vec<u32>, pair: Pair, id: u32) {
    let (mut read, mut write) = (0, 0);
    while read < word.len() {
        if word[read] == pair.0 && word.get(read + 1) == Some(&pair.1) {
            word[write] = id;
            read += 2;
        } else {
            word[write] = word[read];
            read += 1;
        }
        write += 1;
    }
    word.truncate(write);
}

fn unigram(mut words: Vec<(String, u64)>, specials: &[&str], vocabulary: usize) -> Result<ModelWrapper, String> {
    let alphabet = alphabet(&words, vocabulary.saturating_sub(specials.len()) / 2);
    words.retain(|(word, _)| word.chars().all(|c| alphabet.contains(&c)));
    let total: u64 = words.iter().map(|(_, times)| times).sum();
    // The library adds the counts up in 32 bits.
    let scale = total / (u64::from(u32::MAX) / 2) + 1;
    let sentences = words
        .into_iter()
        .map(|(word, times)| (word, u32::try_from((times / scale).max(1)).unwrap_or(u32::MAX)))
        .collect();
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size(u32::try_from(vocabulary).unwrap_or(u32::MAX))
        .special_tokens(specials.iter().map(|&name| AddedToken::from(name, true)).collect())
        .unk_token(Some("<unk>".to_owned()))
        .build()
        .map_err(|e| e.to_string())?;
    // The library splits its sums by the number of threads: one thread, one result.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|e| e.to_string())?;
    let mut model = Unigram::default();
    let trained =
        pool.install(|| catch_unwind(AssertUnwindSafe(|| trainer.do_train(sentences, &mut model).map(|_| ()))));
    match trained {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => {
            return Err("the tokenizers library's Unigram trainer failed on this text".into());
        }
    }
    let pieces = in_fixed_order(model.iter().cloned().collect(), specials.len());
    let unk = specials.iter().position(|&name| name == "<unk>");
    Unigram::from(pieces, unk, false).map(ModelWrapper::Unigram).map_err(|e| e.to_string())
}

/// The library gives the characters that training dropped their places and scores, the lowest
/// ones, in the order of a random hash. The same scores, given out in the order of the characters.
fn in_fixed_order(mut pieces: Vec<(String, f64)>, specials: usize) -> Vec<(String, f64)> {
    let (_, learnt) = pieces.split_at_mut(specials);
    let is_char = |piece: &str| piece.chars().nth(1).is_none();
    let chars = learnt.iter().filter(|(piece, _)| is_char(piece)).count();
    let floor = learnt.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let ceiling = floor + 0.0001 * (chars as f64 + 1.0);
    let low = |(piece, score): &(String, f64)| is_char(piece) && *score <= ceiling;
    let mut scores: Vec<f64> = learnt.iter().filter(|p| low(p)).map(|(_, score)| *score).collect();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut given: Vec<&mut (String, f64)> = learnt.iter_mut().filter(|p| low(p)).collect();
    given.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (piece, score) in given.into_iter().zip(scores) {
        piece.1 = score;
    }
    learnt.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    pieces
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use tokenizers::Model;
    use tokenizers::models::bpe::BpeTrainer;

    fn words(text: &[(&str, u64)]) -> Vec<(String, u64)> {
        text.iter().map(|(word, times)| (word.to_string(), *times)).collect()
    }

    fn spelt(words: &[(String, u64)]) -> impl Iterator<Item = (Vec<String>, u64)> {
        words.iter().map(|(word, times)| (word.chars().map(String::from).collect(), *times))
    }

    /// Where no two pairs are equally frequent, the library's trainer has no choice either.
    #[test]
    fn merges_are_those_of_the_library() {
        let words = words(&[
            ("roses", 101),
            ("rose", 53),
            ("are", 207),
            ("area", 29),
            ("red", 59),
            ("aaaa", 31),
            ("aaaaa", 13),
            ("violets", 67),
            ("violet", 11),
            ("blue", 83),
            ("bluest", 7),
            ("banana", 41),
        ]);
        let mut tokens: Vec<String> = ('a'..='z').map(String::from).collect();
        tokens.retain(|c| words.iter().any(|(word, _)| word.contains(c.as_str())));
        merge(&mut tokens, spelt(&words), None, 45, 2);

        let counts = words.iter().map(|(word, times)| (word.as_str().into(), *times)).collect();
        let trainer = BpeTrainer::builder().show_progress(false).vocab_size(45).min_frequency(2).build();
        let mut library = BPE::default();
        trainer.do_train(&counts, &mut library).unwrap();
        let mut theirs: Vec<(String, u32)> = Model::get_vocab(&library).into_iter().collect();
        theirs.sort_unstable_by_key(|(_, id)| *id);
        let theirs: Vec<String> = theirs.into_iter().map(|(token, _)| token).collect();
        assert_eq!(tokens, theirs);
    }

    #[test]
    fn ties_go_to_the_first_pair_and_runs_merge_from_the_left() {
        let words = words(&[("abcd", 3), ("cdab", 3)]);
        let mut tokens: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
        let merges = merge(&mut tokens, spelt(&words), None, 6, 1);
        assert_eq!(merges, [("a", "b"), ("c", "d")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        let mut word = vec![1, 1, 1, 2];
        join(&mut word, (1, 1), 9);
        assert_eq!(word, [9, 1, 2]);
    }

    #[test]
    fn rare_pairs_are_not_merged() {
        let mut tokens: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let words = words(&[("ab", 5), ("bc", 1)]);
        merge(&mut tokens, spelt(&words), None, 100, 2);
        assert_eq!(tokens, ["a", "b", "c", "ab"]);
    }

    #[test]
    fn low_scores_are_given_out_in_the_order_of_characters() {
        let piece = |piece: &str, score: f64| (piece.to_owned(), score);
        let special = || piece("<unk>", 0.0);
        let one = vec![special(), piece("ab", -1.0), piece("z", -9.0001), piece("y", -9.0)];
        let other = vec![special(), piece("ab", -1.0), piece("y", -9.0001), piece("z", -9.0)];
        assert_eq!(in_fixed_order(one.clone(), 1), in_fixed_order(other, 1));
        assert_eq!(in_fixed_order(one, 1)[2], piece("y", -9.0));
    }
}
