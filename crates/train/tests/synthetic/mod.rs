//! Small data for tests, in every form that the recipes read: two kinds of sentence that a model tells apart at once.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

const GOOD: [&str; 6] = ["lovely", "great", "moving", "warm", "funny", "bright"];
const BAD: [&str; 6] = ["dull", "bad", "boring", "cold", "stale", "clumsy"];
const PLAIN: [&str; 9] = ["the", "film", "plot", "cast", "was", "and", "rather", "this", "ending"];

/// Row `i`: its text, and whether it is positive.
pub(crate) fn row(i: usize) -> (String, bool) {
    let positive = i.is_multiple_of(2);
    let tone = if positive { GOOD } else { BAD };
    let word = |k: usize| PLAIN[(i * 7 + k * k * 3 + i / 9) % PLAIN.len()];
    let first = tone[i % 6];
    let second = tone[(i / 6) % 6];
    let mut text = format!("{} {} {first} {}", word(1), word(2), word(3));
    for k in 0..i % 5 {
        write!(text, " {}", word(k + 4)).unwrap();
    }
    write!(text, " {second} no {i}").unwrap();
    (text, positive)
}

/// Writes `rows` rows as `folder/name` in the form that its name asks for.
pub(crate) fn write(folder: &Path, name: &str, rows: std::ops::Range<usize>) -> PathBuf {
    let label = |positive| if positive { "positive" } else { "negative" };
    let mut text = String::new();
    if name.ends_with(".csv") {
        text.push_str("text,label\n");
    }
    for i in rows {
        let (words, positive) = row(i);
        match name.rsplit('.').next().unwrap() {
            "csv" => writeln!(text, "{words},{}", label(positive)).unwrap(),
            "jsonl" => {
                let label = label(positive);
                writeln!(text, r#"{{"text":"{words}","label":"{label}","user":"{}"}}"#, i / 3).unwrap();
            }
            "tsv" => writeln!(text, "{words}\t{}", u8::from(positive)).unwrap(),
            "txt" => {
                let rating = [0.1, if positive { 2.5 } else { -1.75 }][usize::from(!i.is_multiple_of(10))];
                writeln!(text, "{i}\t{rating}\t{words}").unwrap();
            }
            other => panic!("no such form: {other}"),
        }
    }
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
