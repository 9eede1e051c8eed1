//! A run killed at any moment and started again ends with the bytes of one that was left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tidemill_tests::{reviews, small_recipe, start, tidemill};

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reviews.tsv"), reviews(300)).unwrap();
    let extra = "\n[schedule]\nname = \"cosine\"\nwarmup = 5\n\n[augment]\nword_drop = 0.1\n";
    let recipe = small_recipe(extra).replace("epochs = 4", "epochs = 6\ncheckpoint_every = 7");
    std::fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    folder
}

fn weights(folder: &Path, run: &str) -> Vec<u8> {
    std::fs::read(folder.join(run).join("package/model.safetensors")).unwrap()
}

#[test]
fn killed_and_resumed_gives_the_same_bytes() {
    let folder = folder();
    let folder = folder.path();
    let begun = Instant::now();
    tidemill(folder, &["train", "recipe.toml", "--output", "whole"]).success();
    let whole = begun.elapsed();

    let mut kills = 0;
    for part in [0.25, 0.45, 0.6, 0.7, 0.8, 0.9] {
        let mut child = start(folder, &["train", "recipe.toml", "--output", "killed"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * part));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(kills > 0, "at least one run was killed on its way");
    tidemill(folder, &["train", "recipe.toml", "--output", "killed"]).success();
    assert!(weights(folder, "whole") == weights(folder, "killed"), "model.safetensors differs after {kills} kills");
    let history = |run: &str| std::fs::read_to_string(folder.join(run).join("history.jsonl")).unwrap();
    assert_eq!(history("whole"), history("killed"));
}

#[test]
fn a_changed_recipe_does_not_resume() {
    let folder = folder();
    let folder = folder.path();
    tidemill(folder, &["train", "recipe.toml", "--output", "run"]).success();
    let recipe = std::fs::read_to_string(folder.join("recipe.toml")).unwrap();
    std::fs::write(folder.join("recipe.toml"), recipe.replace("seed = 5", "seed = 6")).unwrap();
    let refused = tidemill(folder, &["train", "recipe.toml", "--output", "run"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("recipe"), "{}", refused.stderr);
}
