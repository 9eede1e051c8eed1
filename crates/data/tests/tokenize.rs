//! What users of the tokenizers rely on: what is saved encodes the same, training is repeatable,
//! foreign files mean what they mean in Python, and nonsense is refused with a sentence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tidemill_data::{CharNgrams, Encoder, Preprocessing, TextCleaning, TokenizeError, TokenizerConfig, TokenizerKind};

const KINDS: [TokenizerKind; 5] = [
    TokenizerKind::Words,
    TokenizerKind::Whitespace,
    TokenizerKind::Bpe,
    TokenizerKind::Wordpiece,
    TokenizerKind::Unigram,
];

const SCRIPTS: [&str; 14] = [
    "The film's plot isn't bad; we've SEEN worse!!!",
    "  leading,  double\tspaces and\u{a0}no-break ",
    "Die Straße ist SCHÖN, l'été à la plage",
    "Это очень хороший фильм — правда",
    "Η ταινία είναι ΠΟΛΎ καλή",
    "映画はとても良いです。",
    "这部电影很好看，我喜欢",
    "영화가 정말 재미있어요",
    "यह फिल्म बहुत अच्छी है",
    "هذا الفيلم جيد جدا",
    "הסרט הזה טוב מאוד",
    "ภาพยนตร์เรื่องนี้ดีมาก",
    "👍🏽 👨‍👩‍👧 🇫🇷 ❤️ emoji 😀😀",
    "e\u{301} \u{301}alone <pad> <unk> [PAD] [UNK] ## ▁ Ġ \u{0} \u{feff}",
];

/// Sentences of made-up words, some of them rare.
fn sentences(count: usize, seed: u64) -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let syllables = ["ta", "ri", "mo", "el", "sch", "ung", "pre", "at", "ion", "ö", "и", "良", "k"];
    let mut sentence = || {
        let words = random.random_range(1..14);
        let mut word = || {
            let rank = (random.random::<f64>().powi(3) * 900.0) as u64;
            let mut letters = ChaCha8Rng::seed_from_u64(rank);
            let length = letters.random_range(1..5);
            (0..length).map(|_| syllables[letters.random_range(0..syllables.len())]).collect::<String>()
        };
        (0..words).map(|_| word()).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(|_| sentence()).collect()
}

fn config(kind: TokenizerKind) -> TokenizerConfig {
    TokenizerConfig { kind, vocabulary: 600, ..TokenizerConfig::default() }
}

fn train(config: &TokenizerConfig, texts: &[String]) -> Encoder {
    let mut texts = texts.iter().map(String::as_str);
    Encoder::train(config, TextCleaning::none(), &mut texts).unwrap()
}

fn corpus() -> Vec<String> {
    SCRIPTS.iter().map(|text| text.to_string()).chain(sentences(400, 1)).collect()
}

fn reload(encoder: &Encoder) -> Encoder {
    let manifest = toml::to_string(&encoder.preprocessing()).unwrap();
    let preprocessing: Preprocessing = toml::from_str(&manifest).unwrap();
    let json = serde_json::to_vec_pretty(&encoder.to_json()).unwrap();
    Encoder::load(&preprocessing, &json).unwrap()
}

#[test]
fn what_is_saved_encodes_the_same_in_every_script() {
    let corpus = corpus();
    let unseen = sentences(50, 2);
    for kind in KINDS {
        let mut config = config(kind);
        config.ngrams = 2;
        config.buckets = 1000;
        if kind.is_word_vocabulary() {
            config.char_ngrams = Some(CharNgrams { min: 2, max: 4 });
        }
        let encoder = train(&config, &corpus);
        let loaded = reload(&encoder);
        assert_eq!(loaded.vocab_size(), encoder.vocab_size());
        assert_eq!(loaded.to_json(), encoder.to_json());
        for text in corpus.iter().chain(&unseen) {
            let ids = encoder.encode(text);
            assert_eq!(loaded.encode(text), ids, "{} {text:?}", kind.name());
            assert!(ids.iter().all(|&id| (id as usize) < encoder.vocab_size()));
        }
        assert_eq!(encoder.pad_id(), 0);
        assert!(encoder.vocab_size() <= 600 + 1000);
    }
}

#[test]
fn training_is_repeatable_whatever_the_threads() {
    let corpus = corpus();
    for kind in KINDS {
        let trained = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&config(kind), &corpus).to_json().to_string())
        };
        let first = trained(1);
        for threads in [1, 3] {
            assert_eq!(trained(threads), first, "{}", kind.name());
        }
    }
}

#[test]
fn words_are_ordered_by_count_then_spelling() {
    let texts = ["b a a c", "c d b", "<pad>"].map(String::from);
    let mut config = config(TokenizerKind::Whitespace);
    let json = train(&config, &texts).to_json();
    assert_eq!(json["vocabulary"], json!(["<pad>", "<unk>", "a", "b", "c", "d"]));
    config.min_count = 2;
    config.vocabulary = 4;
    let encoder = train(&config, &texts);
    assert_eq!(encoder.encode("b a c <pad>"), [3, 2, 1, 1]);
}

#[test]
fn many_texts_keep_their_order() {
    let corpus = corpus();
    let encoder = train(&config(TokenizerKind::Wordpiece), &corpus);
    let texts: Vec<&String> = corpus.iter().cycle().take(3000).collect();
    let many = encoder.encode_many(&texts);
    assert_eq!(many.len(), 3000);
    for (text, ids) in texts.iter().zip(many.iter()) {
        assert_eq!(encoder.encode(text), ids);
    }
}

#[test]
fn long_texts_are_cut_and_empty_ones_are_unknown() {
    let corpus = corpus();
    for kind in KINDS {
        let encoder = train(&TokenizerConfig { max_length: 5, ..config(kind) }, &corpus);
        let long = "tari mo el ".repeat(1000);
        assert_eq!(encoder.encode(&long).len(), 5);
        assert_eq!(encoder.encode(""), [encoder.unk_id().unwrap_or(0)]);
    }
}

/// The ids are part of every package with n-grams: they never change.
#[test]
fn hashed_ngrams_are_stable() {
    let texts = ["a good film", "not a bad one"].map(String::from);
    let mut config = config(TokenizerKind::Words);
    config.ngrams = 3;
    config.buckets = 1 << 16;
    let encoder = train(&config, &texts);
    let ids = encoder.encode("not a good film");
    let tokens = encoder.preprocessing().vocabulary as u32;
    assert_eq!(ids.len(), 4 + 3 + 2);
    assert!(ids[5..].iter().all(|&id| id < tokens));
    assert_eq!(ids[..5].iter().map(|id| id - tokens).collect::<Vec<_>>(), NGRAMS);
    let turned = encoder.encode("good a not film");
    assert!(ids[..5].iter().all(|id| !turned.contains(id)), "order matters");

    config.ngrams = 1;
    config.char_ngrams = Some(CharNgrams { min: 3, max: 3 });
    let encoder = train(&config, &texts);
    let ids = encoder.encode("bäd");
    assert_eq!(ids.len(), 1 + 3, "<bä bäd äd>");
    let two = encoder.encode("bäd film");
    assert_eq!(two[..4], ids[..], "each token is followed by its own");
    assert!(two[4] < tokens);
    assert_eq!(ids[1..].iter().map(|id| id - tokens).collect::<Vec<_>>(), CHAR_NGRAMS);
}

/// By Python's `xxhash` and the arithmetic of `fold` written again there.
const NGRAMS: [u32; 5] = [19229, 41586, 10227, 33382, 46743];
const CHAR_NGRAMS: [u32; 3] = [21221, 63266, 5873];

/// Cutting at white space and remembering pieces changes nothing against the library.
#[test]
fn trained_subwords_agree_with_the_library() {
    let corpus = corpus();
    for kind in [TokenizerKind::Bpe, TokenizerKind::Wordpiece, TokenizerKind::Unigram] {
        let encoder = train(&config(kind), &corpus);
        let bytes = encoder.to_json().to_string();
        let library = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        for text in corpus.iter().chain(&sentences(100, 3)) {
            let ids = library.encode(text.as_str(), true).unwrap().get_ids().to_vec();
            assert_eq!(encoder.encode(text), ids, "{} {text:?}", kind.name());
        }
    }
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/tokenizers.json")).unwrap()
}

fn from_file(file: &Value, max_length: usize, special_tokens: bool) -> Result<Encoder, TokenizeError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let config = TokenizerConfig {
        kind: TokenizerKind::File,
        path: Some(path),
        max_length,
        special_tokens,
        ..TokenizerConfig::default()
    };
    Encoder::train(&config, TextCleaning::none(), &mut std::iter::empty())
}

#[test]
fn foreign_files_mean_what_they_mean_in_python() {
    let fixture = fixture();
    let texts: Vec<&str> = fixture["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let max_length = fixture["max_length"].as_u64().unwrap() as usize;
    let ids = |value: &Value| -> Vec<Vec<u32>> { serde_json::from_value(value.clone()).unwrap() };
    for (name, case) in fixture["cases"].as_object().unwrap() {
        let plain = from_file(&case["file"], 1000, false).unwrap();
        let framed = from_file(&case["file"], max_length, true).unwrap();
        for encoder in [&plain, &reload(&plain)] {
            for (text, expected) in texts.iter().zip(ids(&case["plain"])) {
                let unknown = vec![encoder.unk_id().unwrap_or(encoder.pad_id())];
                let expected = if expected.is_empty() { unknown } else { expected };
                assert_eq!(encoder.encode(text), expected, "{name} {text:?}");
            }
        }
        for encoder in [&framed, &reload(&framed)] {
            for (text, expected) in texts.iter().zip(ids(&case["truncated_with_special_tokens"])) {
                let unknown = vec![encoder.unk_id().unwrap_or(encoder.pad_id())];
                let expected = if expected.is_empty() { unknown } else { expected };
                assert_eq!(encoder.encode(text), expected, "{name} {text:?} with special tokens");
            }
        }
    }
}

#[test]
fn the_padding_id_comes_from_the_file() {
    let fixture = fixture();
    let pad = |name: &str| {
        let encoder = from_file(&fixture["cases"][name]["file"], 100, true).unwrap();
        (encoder.pad_id() as usize, encoder.vocab_size())
    };
    assert_eq!(pad("bert").0, 0);
    assert_eq!(pad("unigram").0, 0);
    let (roberta, _) = pad("roberta");
    let stated = &fixture["cases"]["roberta"]["file"]["padding"]["pad_id"];
    assert_eq!(roberta as u64, stated.as_u64().unwrap());
    // GPT-2 has no padding token: one more id is made.
    let (gpt2, size) = pad("gpt2");
    assert_eq!(gpt2 + 1, size);
}

#[test]
fn nonsense_files_are_refused_with_a_sentence() {
    let fixture = fixture();
    let good = &fixture["cases"]["bert"]["file"];
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file = good.clone();
        change(&mut file);
        from_file(&file, 100, true).unwrap_err().to_string()
    };
    let padding = |id: u64| {
        json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": id, "pad_type_id": 0,
            "pad_token": "[PAD]"})
    };
    let cases: Vec<(String, &str)> = vec![
        (with(&|f| *f = json!([1, 2])), "it has no \"model\": not a Hugging Face tokenizer.json"),
        (with(&|f| f["model"] = json!({"type": "Magic"})), "not a usable tokenizer"),
        (with(&|f| f["model"]["vocab"]["[UNK]"] = json!(0)), "\"[PAD]\" and \"[UNK]\" share the id 0"),
        (with(&|f| f["model"]["vocab"]["film"] = json!(4_000_000)), "id 4000000 is out of all proportion"),
        (with(&|f| f["model"]["unk_token"] = json!("[NIX]")), "\"[NIX]\" is not in the vocabulary"),
        (with(&|f| f["padding"] = padding(99_999)), "padding id 99999 is not in the vocabulary"),
        (from_file(good, 2, true).unwrap_err().to_string(), "2 leaves no room beside 2 special tokens"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn a_manifest_that_does_not_fit_its_tokenizer_is_refused() {
    let texts = ["a good film", "a bad film"].map(String::from);
    let encoder = train(&config(TokenizerKind::Words), &texts);
    let (preprocessing, json) = (encoder.preprocessing(), encoder.to_json());
    let refused = |preprocessing: &Preprocessing, json: &Value| {
        Encoder::load(preprocessing, json.to_string().as_bytes()).unwrap_err().to_string()
    };
    let changed = |change: &dyn Fn(&mut Preprocessing)| {
        let mut other = preprocessing.clone();
        change(&mut other);
        refused(&other, &json)
    };
    let file = |change: &dyn Fn(&mut Value)| {
        let mut other = json.clone();
        change(&mut other);
        refused(&preprocessing, &other)
    };
    let cases: Vec<(String, &str)> = vec![
        (changed(&|p| p.vocabulary = 7), "vocabulary: 7, but tokenizer.json has 6 ids"),
        (changed(&|p| p.max_length = 0), "max_length: 0 is not between 1 and"),
        (changed(&|p| p.max_length = usize::MAX), "is not between 1 and"),
        (changed(&|p| p.ngrams = 99), "ngrams: 99 is not between"),
        (changed(&|p| p.buckets = 5), "there are no n-grams to hash"),
        (changed(&|p| (p.ngrams, p.buckets) = (2, usize::MAX)), "is more than"),
        (changed(&|p| p.tokenizer = TokenizerKind::Whitespace), "but tokenizer.json is \"words\""),
        (changed(&|p| p.tokenizer = TokenizerKind::Bpe), "it has no \"model\""),
        (file(&|j| j["vocabulary"][3] = json!("a")), "token \"a\" has two ids, 2 and 3"),
        (file(&|j| j["vocabulary"][0] = json!("x")), "must begin with \"<pad>\", \"<unk>\""),
        (file(&|j| j["version"] = json!(2)), "version 2 is not \"tidemill-words\" version 1"),
        (file(&|j| j["surprise"] = json!(1)), "unknown field `surprise`"),
        (file(&|j| *j = json!("words")), "invalid type"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    let cut = &json.to_string().into_bytes()[..40];
    assert!(Encoder::load(&preprocessing, cut).is_err());
}

#[test]
fn settings_that_make_no_sense_name_their_key() {
    let refused = |toml: &str| {
        let config: TokenizerConfig = toml::from_str(toml).unwrap();
        let mut texts = ["a b"].into_iter();
        Encoder::train(&config, TextCleaning::none(), &mut texts).unwrap_err().to_string()
    };
    for (toml, expected) in [
        ("vocabulary = 1", "[tokenizer] vocabulary: 1 is not between 3 and"),
        ("min_count = 0", "[tokenizer] min_count: must be 1 or more"),
        ("min_count = 5", "no token occurs at least 5 time(s) in 1 text(s)"),
        ("ngrams = 2", "write buckets = 65536"),
        ("kind = 'file'", "[tokenizer] path: kind = \"file\" needs path"),
        ("kind = 'file'\npath = '/nowhere/t.json'", "/nowhere/t.json: cannot be read"),
        ("path = 't.json'", "only read with kind = \"file\""),
        ("kind = 'bpe'\nvocabulary = 100", "needs vocabulary = 257 at least"),
        ("kind = 'bpe'\nbuckets = 10\nchar_ngrams = { min = 2, max = 3 }", "need whole words"),
        ("buckets = 10\nchar_ngrams = { min = 3, max = 2 }", "must satisfy 1 <= min <= max"),
    ] {
        let message = refused(toml);
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    assert!(toml::from_str::<TokenizerConfig>("vocabulry = 5").is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]
    /// Whatever the text, cutting it at white space gives what the library gives for the whole.
    #[test]
    fn cutting_at_white_space_changes_nothing(text in "([ -~]|\\PC| |\u{a0}|\t|<mask>|\\[MASK\\]|the|film){0,20}") {
        thread_local! {
            static PAIRS: Vec<(String, Encoder, tokenizers::Tokenizer)> = fixture()["cases"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, case)| {
                    let mut file = case["file"].clone();
                    let encoder = from_file(&file, 1000, false).unwrap();
                    file["padding"] = Value::Null;
                    (name.clone(), encoder, tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap())
                })
                .collect();
        }
        PAIRS.with(|pairs| {
            for (name, encoder, library) in pairs {
                let expected = library.encode(text.as_str(), false).unwrap().get_ids().to_vec();
                if !expected.is_empty() {
                    proptest::prop_assert_eq!(encoder.encode(&text), expected, "{} {:?}", name, &text);
                }
            }
            Ok(())
        })?;
    }
}
