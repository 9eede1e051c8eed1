//! `cargo xtask parity`: models beside `transformers`, on small checkpoints that it makes; and a compiled package beside its
//! module.
//!
//! Owns the order of things and the table. What is made and what is expected is in
//! `xtask/peers/parity.py`; what is compared, in `crates/model/tests/parity/`; both say what came
//! out in JSON, an object a line. The stored cases among them are tested by `cargo xtask test` too.
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::environment::Peer;
use crate::manifest::{self, Depth};
use crate::{cache, checkout, progress, setup};

const PEER: Peer = Peer { name: "parity", imports: "torch, transformers, tokenizers, safetensors" };
/// Everything that decides what the checkpoints are.
const SCRIPTS: [&str; 4] = ["parity.py", "parity_cases.py", "parity_tokenizers.py", "parity.txt"];
/// Largest difference of a logit of what Tidemill wrote, as transformers reads it.
const LOGITS: f64 = 1e-4;

/// Options of `cargo xtask parity`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Keep the checkpoints and what was written beside them; the next run takes them as they are.
    #[arg(long)]
    keep: bool,
    /// Compare this case alone; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// What a case came to: what the test said, then what transformers said of the way back.
#[derive(Debug, Default, Deserialize)]
struct Row {
    case: String,
    #[serde(default)]
    outcome: String,
    logits: Option<f64>,
    cached: Option<f64>,
    greedy: Option<String>,
    beams: Option<String>,
    texts: Option<String>,
    problem: Option<String>,
    #[serde(skip)]
    exported: Option<Exported>,
}

/// What transformers said of a folder that Tidemill wrote.
#[derive(Debug, Deserialize)]
struct Exported {
    case: String,
    difference: Option<f64>,
    #[serde(default)]
    same_ids: bool,
    error: Option<String>,
}

/// Runs the subcommand.
pub(crate) fn run(options: &Options, cache_folder: Option<&Path>) -> Result<()> {
    let root = checkout::root()?;
    setup::ensure(cache_folder, Depth::Quick)?;
    let cache = cache::folder(cache_folder)?;
    let python = PEER.ready(&root, &cache)?;
    let script = root.join("xtask/peers/parity.py");
    let folder = cache.join("parity").join(key(&root)?);
    progress::heading("checkpoints, made by transformers");
    let names = names(&python, &script, &options.only)?;
    let missing: Vec<&String> = names.iter().filter(|name| !folder.join(name).is_dir()).collect();
    if !missing.is_empty() {
        let chosen = missing.iter().flat_map(|name| ["--only", name.as_str()]);
        // What it cannot make is told in the table.
        Command::new(&python).arg(&script).arg(&folder).args(chosen).status()?;
    }
    let (made, missing): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| folder.join(name).is_dir());
    if made.is_empty() {
        bail!("transformers' checkpoints could not be made: its words are above.");
    }
    // The test takes every case of a folder, so the chosen ones stand in one of their own.
    let chosen = folder.join("chosen");
    cache::remove(&chosen)?;
    fs::create_dir_all(&chosen).with_context(|| format!("{} cannot be made.", chosen.display()))?;
    for name in &made {
        copy(&folder.join(name), &chosen.join(name))?;
    }
    progress::heading("Tidemill beside transformers");
    let mut rows = compared(&root, &chosen)?;
    rows.extend(missing.iter().map(|name| ((*name).clone(), Row::not_made(name))));
    let exported = add_exported(&mut rows, &python, &script, &chosen);
    println!("{}", table(&rows));
    exported?;
    let compiled = if options.only.is_empty() { compiled(&root, &python, &folder) } else { Ok(()) };
    if !options.keep {
        cache::remove(&folder)?;
    }
    compiled?;
    let silent: Vec<&str> = names.iter().filter(|name| !rows.contains_key(*name)).map(String::as_str).collect();
    if !silent.is_empty() {
        bail!("The test said nothing of {}.", silent.join(", "));
    }
    let bad: Vec<&str> = rows.values().filter(|row| !row.agrees()).map(|row| row.case.as_str()).collect();
    if !bad.is_empty() {
        bail!("{} of {} cases do not agree: {}.", bad.len(), rows.len(), bad.join(", "));
    }
    Ok(())
}

/// The checkpoints' folder: another one when anything changes that they are made from.
fn key(root: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for script in SCRIPTS {
        let path = root.join("xtask/peers").join(script);
        hasher.update(fs::read(&path).with_context(|| format!("{} cannot be read.", path.display()))?);
        hasher.update([0]);
    }
    let digest = manifest::hex(&hasher.finalize());
    Ok(digest.get(..16).unwrap_or(&digest).to_owned())
}

/// The cases asked for, all when none is named.
fn names(python: &Path, script: &Path, only: &[String]) -> Result<Vec<String>> {
    let listed = Command::new(python).arg(script).arg("--list").stderr(Stdio::inherit()).output()?;
    if !listed.status.success() {
        bail!("{} cannot list its cases: its words are above.", script.display());
    }
    let all: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
    if let Some(unknown) = only.iter().find(|name| !all.contains(name)) {
        bail!("There is no case called {unknown}. There are: {}.", all.join(", "));
    }
    Ok(all.into_iter().filter(|name| only.is_empty() || only.contains(name)).collect())
}

/// A case's own files; nothing that an earlier run wrote beside them.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{} cannot be made.", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("{} cannot be read.", from.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Runs the test: what it said of each case. Whether it failed shows in that, and in what it did
/// not say.
fn compared(root: &Path, folder: &Path) -> Result<BTreeMap<String, Row>> {
    let mut child = checkout::cargo(root)
        .args(["test", "--package", "tidemill-model", "--test", "parity", "--", "--nocapture", "made_checkpoints"])
        .env("TIDEMILL_PARITY", folder)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo does not run")?;
    let output = child.stdout.take().context("cargo has no standard output")?;
    let mut rows = BTreeMap::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("The test's output cannot be read.")?;
        match serde_json::from_str::<Row>(&line) {
            Ok(row) => {
                println!("{}", one_line(&row));
                rows.insert(row.case.clone(), row);
            }
            Err(_) => eprintln!("{line}"),
        }
    }
    child.wait()?;
    Ok(rows)
}

/// Compares an AOTInductor package, which is a library for the processor at hand, with the module that it is made of.
fn compiled(root: &Path, python: &Path, folder: &Path) -> Result<()> {
    progress::heading("an AOTInductor package beside its module");
    let script = root.join("crates/model/tests/fixtures/make_opaque.py");
    let folder = folder.join("compiled");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made.", folder.display()))?;
    if !Command::new(python).arg(&script).arg("--pt2").arg(&folder).status()?.success() {
        bail!("A package could not be compiled: torch's words are above.");
    }
    let tested = checkout::cargo(root)
        .args(["test", "--package", "tidemill-model", "--test", "opaque", "--", "--ignored"])
        .env("TIDEMILL_PT2", &folder)
        .status()
        .context("cargo does not run")?;
    if !tested.success() {
        bail!("An AOTInductor package does not give what its module does.");
    }
    Ok(())
}

/// Lets transformers read what Tidemill wrote.
fn add_exported(rows: &mut BTreeMap<String, Row>, python: &Path, script: &Path, folder: &Path) -> Result<()> {
    let said =
        Command::new(python).arg(script).arg("--check-exported").arg(folder).stderr(Stdio::inherit()).output()?;
    if !said.status.success() {
        bail!("What Tidemill wrote could not be checked: transformers' words are above.");
    }
    for line in String::from_utf8_lossy(&said.stdout).lines() {
        let exported: Exported = serde_json::from_str(line).with_context(|| format!("not a finding: {line}"))?;
        if let Some(row) = rows.get_mut(&exported.case) {
            row.exported = Some(exported);
        }
    }
    Ok(())
}

impl Row {
    /// A case that transformers could not make.
    fn not_made(name: &str) -> Row {
        Row { case: name.to_owned(), outcome: "not made".to_owned(), ..Row::default() }
    }

    fn agrees(&self) -> bool {
        let is_tokenizer = self.case.starts_with("tokenizer_");
        self.outcome == "agrees" && (is_tokenizer || self.exported.as_ref().is_some_and(Exported::agrees))
    }

    fn cells(&self) -> [String; 8] {
        let figure = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1e}"));
        let count = |count: &Option<String>| count.clone().unwrap_or_else(|| "-".to_owned());
        let exported = match &self.exported {
            None => "-".to_owned(),
            Some(exported) if exported.error.is_some() => "does not load".to_owned(),
            Some(exported) if !exported.same_ids => "other ids".to_owned(),
            Some(exported) => figure(exported.difference),
        };
        [
            self.case.clone(),
            figure(self.logits),
            figure(self.cached),
            count(&self.greedy),
            count(&self.beams),
            count(&self.texts),
            exported,
            self.outcome.clone(),
        ]
    }
}

impl Exported {
    fn agrees(&self) -> bool {
        self.error.is_none() && self.same_ids && self.difference.is_some_and(|difference| difference <= LOGITS)
    }
}

fn one_line(row: &Row) -> String {
    let problem = row.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    format!("{}: {}{problem}", row.case, row.outcome)
}

/// All rows below a heading, and below them what transformers could not load.
fn table(rows: &BTreeMap<String, Row>) -> String {
    let heading = ["case", "logits", "with cache", "greedy", "beams", "texts", "exported", ""].map(str::to_owned);
    let cells: Vec<[String; 8]> = std::iter::once(heading).chain(rows.values().map(Row::cells)).collect();
    let mut widths = [0; 8];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 7 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let errors = rows.values().filter_map(|row| {
        let error = row.exported.as_ref()?.error.as_ref()?;
        Some(format!("{}, exported: {error}", row.case))
    });
    cells.iter().map(line).chain(errors).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(line: &str) -> Row {
        serde_json::from_str(line).unwrap()
    }

    fn exported(line: &str) -> Option<Exported> {
        Some(serde_json::from_str(line).unwrap())
    }

    #[test]
    fn a_case_agrees_when_both_ways_do() {
        let line = r#"{"case":"llama","outcome":"agrees","logits":2e-6,"cached":3e-6,"greedy":"6 of 6",
                       "beams":"12 of 12","texts":"2 of 2","exported":true,"problem":null}"#;
        let mut llama = row(&line.replace('\n', " "));
        assert!(!llama.agrees());
        llama.exported = exported(r#"{"case":"llama","check":"exported","difference":0.0,"same_ids":true}"#);
        assert!(llama.agrees());
        llama.exported = exported(r#"{"case":"llama","check":"exported","error":"OSError: no config.json"}"#);
        assert!(!llama.agrees());
        assert!(row(r#"{"case":"tokenizer_unigram","outcome":"agrees","texts":"18 of 18"}"#).agrees());
        assert!(!row(r#"{"case":"t5","outcome":"not built yet"}"#).agrees());
        assert!(!Row::not_made("tokenizer_unigram").agrees());
    }

    #[test]
    fn the_table_is_aligned_and_ends_with_what_does_not_load() {
        let mut llama = row(r#"{"case":"llama","outcome":"agrees","logits":2e-6}"#);
        llama.exported = exported(r#"{"case":"llama","error":"OSError: no config.json"}"#);
        let rows = BTreeMap::from([(llama.case.clone(), llama)]);
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "llama  2.0e-6           -       -      -      -  does not load  agrees");
        assert_eq!(lines[2], "llama, exported: OSError: no config.json");
    }

    #[test]
    fn every_script_is_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        assert!(SCRIPTS.iter().all(|script| folder.join(script).is_file()));
    }
}
