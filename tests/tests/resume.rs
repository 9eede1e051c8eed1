//! A run killed at any moment and started again ends with the bytes of one that was left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tidemill_tests::{COMMAND_LIMIT, reviews, small_recipe, start, tidemill};

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reviews.tsv"), reviews(300)).unwrap();
    let extra = "\n[schedule]\nname = \"cosine\"\nwarmup = 5\n\n[augment]\nword_drop = 0.1\n";
    let recipe = small_recipe(extra).replace("epochs = 4", "epochs = 12\ncheckpoint_every = 7\nlog_every = 1");
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
    tidemill(folder, &["train", "recipe.toml", "--output", "whole"]).success();
    let history = |run: &str| std::fs::read_to_string(folder.join(run).join("history.jsonl")).unwrap_or_default();
    let steps = history("whole").lines().count();

    let mut kills = 0;
    for part in [0, 5, 17, 40, 60, 80, 95] {
        let mut child = start(folder, &["train", "recipe.toml", "--output", "killed"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed at a step, not at a time: machines differ, and the first run also measures kernels.
        let deadline = Instant::now() + COMMAND_LIMIT;
        while history("killed").lines().count() * 100 <= steps * part && Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(kills > 2, "runs were killed on their way, {kills} of them");
    tidemill(folder, &["train", "recipe.toml", "--output", "killed"]).success();
    assert!(weights(folder, "whole") == weights(folder, "killed"), "model.safetensors differs after {kills} kills");
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
