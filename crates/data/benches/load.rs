//! Loading: CSV rows read, cleaned and tokenised, against `polars` plus `tokenizers` from Python on
//! the same rows (`load_peer.py`), both held to the same one core and then to the same two.
//!
//! Prints a JSON line a goal. `TIDEMILL_BENCH_ROWS` sets the rows (1,000,000),
//! `TIDEMILL_BENCH_PYTHON` the interpreter that has both packages (`python3`).

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tidemill_data::{
    Case, CleanConfig, Column, DataConfig, Encoder, Preprocessing, Reader, TextCleaning, TokenizerConfig, TokenizerKind,
};

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

const SEED: u64 = 4;
const TRAINING_ROWS: usize = 20_000;
/// Each side is run this often, in turn; the fastest run counts.
const RUNS: usize = 2;

fn main() -> AnyResult<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--child") {
        return child(Path::new(&arguments[at + 1]), &arguments[at + 2]);
    }
    let rows = match std::env::var("TIDEMILL_BENCH_ROWS") {
        Ok(rows) => rows.parse()?,
        Err(_) => 1_000_000,
    };
    let python = std::env::var("TIDEMILL_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let folder = tempfile::tempdir()?;
    write_csv(&folder.path().join("rows.csv"), rows)?;
    for (name, kind) in [("wordpiece", TokenizerKind::Wordpiece), ("words", TokenizerKind::Words)] {
        train(folder.path(), name, kind)?;
    }
    let cores = allowed_cores();
    for threads in [1, 2] {
        if cores.len() < threads {
            eprintln!("skipped: {threads} cores, and this process may use {}", cores.len());
            continue;
        }
        for name in ["wordpiece", "words"] {
            let goal = compare(folder.path(), name, &cores[..threads], &python)?;
            println!("{goal}");
        }
    }
    Ok(())
}

/// Runs both sides in turn on `cores` and says which was faster.
fn compare(folder: &Path, name: &str, cores: &[usize], python: &str) -> AnyResult<Value> {
    let program = std::env::current_exe()?;
    let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/load_peer.py");
    let tokenizer = folder.join(format!("{name}.peer.json"));
    let path = |path: &Path| path.display().to_string();
    let threads = cores.len();
    let ours = [path(&program), "--child".to_owned(), path(folder), name.to_owned()];
    let theirs =
        [python.to_owned(), path(&peer), path(&folder.join("rows.csv")), path(&tokenizer), threads.to_string()];
    let mut best = [0.0_f64; 2];
    let mut tokens = [0.0_f64; 2];
    for _ in 0..RUNS {
        for (side, command) in [&theirs[..], &ours[..]].into_iter().enumerate() {
            let result = run(command, cores)?;
            let figure = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
            best[side] = best[side].max(figure("rows") / figure("seconds") / threads as f64);
            tokens[side] = figure("tokens");
        }
    }
    // The same work: cleaning differs in detail (which control characters, which entities), and so
    // do the word rules of the two word vocabularies.
    let share = tokens[1] / tokens[0];
    if !(0.9..1.1).contains(&share) {
        return Err(format!("{name}: {} tokens here, {} there: not the same work", tokens[1], tokens[0]).into());
    }
    let ratio = best[1] / best[0];
    Ok(json!({
        "name": format!("load {name}, {threads} core{}, rows per core", if threads == 1 { "" } else { "s" }),
        "unit": "rows/s", "peer": best[0].round(), "ours": best[1].round(),
        "ratio": (ratio * 100.0).round() / 100.0, "goal": 1.0, "met": ratio >= 1.0,
    }))
}

fn run(command: &[String], cores: &[usize]) -> AnyResult<Value> {
    let list: Vec<String> = cores.iter().map(usize::to_string).collect();
    let threads = cores.len().to_string();
    let output = Command::new("taskset")
        .arg("-c")
        .arg(list.join(","))
        .args(command)
        .env("RAYON_NUM_THREADS", &threads)
        .env("POLARS_MAX_THREADS", &threads)
        .env("TOKENIZERS_PARALLELISM", if cores.len() > 1 { "true" } else { "false" })
        .output()
        .map_err(|e| format!("taskset (util-linux) holds both sides to the same cores: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} failed: {said}", command.join(" ")).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The cores that this process may run on.
fn allowed_cores() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.trim().parse().unwrap_or(0)..=last.trim().parse().unwrap_or(0)
    };
    list.unwrap_or("0").split(',').flat_map(range).collect()
}

/// One timed run of ours: read, clean, encode; one thread reads ahead.
fn child(folder: &Path, name: &str) -> AnyResult<()> {
    let preprocessing: Preprocessing =
        serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.preprocessing.json")))?)?;
    let encoder = Encoder::load(&preprocessing, &std::fs::read(folder.join(format!("{name}.json")))?)?;
    let start = Instant::now();
    let (sender, receiver) = std::sync::mpsc::sync_channel(4);
    let path = folder.join("rows.csv");
    let reading = std::thread::spawn(move || -> Result<(), tidemill_data::DataError> {
        for batch in Reader::open(std::slice::from_ref(&path), &data_config(path.clone()))? {
            if sender.send(batch?).is_err() {
                break;
            }
        }
        Ok(())
    });
    let (mut rows, mut tokens) = (0, 0);
    for batch in receiver {
        let texts = batch.column_by_name("text").ok_or("no column text")?;
        let texts = texts.as_any().downcast_ref::<arrow_array::StringArray>().ok_or("no strings")?;
        let texts: Vec<&str> = texts.iter().map(Option::unwrap_or_default).collect();
        let encoded = encoder.encode_many(&texts);
        rows += encoded.len();
        tokens += encoded.ids();
    }
    reading.join().map_err(|_| "the reading thread panicked")??;
    println!("{}", json!({ "rows": rows, "tokens": tokens, "seconds": start.elapsed().as_secs_f64() }));
    Ok(())
}

fn data_config(path: std::path::PathBuf) -> DataConfig {
    DataConfig { text: Column::from("text"), ..DataConfig::new(path) }
}

fn cleaning() -> TextCleaning {
    CleanConfig { html: true, case: Case::Lower, ..CleanConfig::default() }.text()
}

/// Trains a tokenizer on fresh rows and writes it for both sides.
fn train(folder: &Path, name: &str, kind: TokenizerKind) -> AnyResult<()> {
    let cleaning = cleaning();
    let mut writer = Writer::new(SEED + 1);
    let texts: Vec<String> = (0..TRAINING_ROWS).map(|_| cleaning.apply(&writer.text()).into_owned()).collect();
    let config = TokenizerConfig { kind, vocabulary: 20_000, ..TokenizerConfig::default() };
    let encoder = Encoder::train(&config, cleaning, &mut texts.iter().map(String::as_str))?;
    let json = encoder.to_json();
    let peer = match kind {
        TokenizerKind::Words => word_level(&json),
        _ => json.clone(),
    };
    std::fs::write(folder.join(format!("{name}.json")), json.to_string())?;
    std::fs::write(folder.join(format!("{name}.peer.json")), peer.to_string())?;
    let preprocessing = serde_json::to_vec(&encoder.preprocessing())?;
    std::fs::write(folder.join(format!("{name}.preprocessing.json")), preprocessing)?;
    Ok(())
}

/// The same words as a tokenizer of the `tokenizers` library.
fn word_level(words: &Value) -> Value {
    let tokens = words["vocabulary"].as_array().map_or(&[][..], Vec::as_slice);
    let vocabulary: BTreeMap<&str, usize> = tokens.iter().filter_map(Value::as_str).zip(0..).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "Lowercase" }, "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    })
}

fn write_csv(path: &Path, rows: usize) -> AnyResult<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let mut writer = Writer::new(SEED);
    writeln!(file, "id,label,text")?;
    for id in 0..rows {
        let text = writer.text().replace('"', "\"\"");
        writeln!(file, "{id},{},\"{text}\"", id % 2)?;
    }
    Ok(file.flush()?)
}

/// Writes reviews of made-up words: 60,000 of them, used as often as Zipf's law has it, with the
/// dirt that scraped text has.
struct Writer {
    random: ChaCha8Rng,
    lexicon: Vec<String>,
}

impl Writer {
    fn new(seed: u64) -> Writer {
        const SYLLABLES: [&str; 24] = [
            "a", "the", "in", "er", "re", "on", "st", "ar", "is", "or", "ti", "al", "ma", "ro", "li", "con", "ver",
            "de", "mo", "vie", "ful", "ing", "ed", "é",
        ];
        // The lexicon is the same for every seed.
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut word = |rank: usize| {
            let longest = 2 + (rank.ilog2() as usize) / 4;
            let syllables = random.random_range(1..=longest.min(5));
            (0..syllables).map(|_| SYLLABLES[random.random_range(0..SYLLABLES.len())]).collect()
        };
        let lexicon = (1..=60_000).map(&mut word).collect();
        Writer { random: ChaCha8Rng::seed_from_u64(seed), lexicon }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn text(&mut self) -> String {
        let mut text = String::new();
        let shouting = self.chance(0.05);
        for _ in 0..self.random.random_range(1..=4) {
            self.sentence(&mut text);
        }
        if self.chance(0.1) {
            text.push_str(
                ["<br /><br />", " &amp; more", " &quot;so&quot; ", " 😀", " 👍🏽 "][self.random.random_range(0..5)],
            );
        }
        if shouting { text.to_uppercase() } else { text }
    }

    fn sentence(&mut self, text: &mut String) {
        let words = self.random.random_range(4..=16);
        for at in 0..words {
            // Zipf: the rank of a word is the exponential of a uniform number.
            let rank = (self.lexicon.len() as f64).powf(self.random.random::<f64>()) as usize - 1;
            let mut word = self.lexicon[rank].clone();
            if at == 0 || self.chance(0.03) {
                word = capitalised(&word);
            }
            if self.chance(0.01) {
                // A slip of the keyboard: a word that no vocabulary knows.
                word.push(char::from(self.random.random_range(b'a'..=b'z')));
            }
            text.push_str(&word);
            let after = self.random.random_range(0..1000);
            text.push_str(match after {
                _ if at + 1 == words => [". ", "! ", "? ", "... "][after % 4],
                0..60 => ", ",
                60..75 => "'s ",
                75..85 => "n't ",
                85..95 => "  ",
                95..100 => "\t",
                100..104 => " <b>",
                104..108 => "</b> ",
                108..112 => "<br />",
                112..116 => " &amp; ",
                116..124 => " – ",
                124..130 => "’s ",
                130..134 => "\u{a0}",
                134..140 => " 7/10 ",
                _ => " ",
            });
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
