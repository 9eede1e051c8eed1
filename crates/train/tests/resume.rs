//! A run that is killed or stopped and started again ends with the bytes of one that was left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod synthetic;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemill_train::{Event, Recipe, Resume, Silent, TrainError, TrainOptions, train};

/// Everything that has a state: dropout, augmentation, momentum, averaged weights, a schedule that follows validations,
/// early stopping, accumulation, a part of an epoch at every kill.
const RECIPE: &str = r#"
name = "resumed"
seed = 3
threads = 1
[data]
train = "reviews.csv"
label = "label"
[augment]
word_drop = 0.2
[tokenizer]
ngrams = 2
buckets = 500
[model]
architecture = "text_cnn"
embedding_dim = 24
filters = 8
embedding_dropout = 0.2
[training]
batch_size = 7
accumulation = 2
epochs = 6
clip_norm = 1.0
label_smoothing = 0.1
average = 0.9
validate_every = 9
checkpoint_every = 4
log_every = 5
[training.early_stopping]
patience = 50
[optimiser]
name = "adamw"
learning_rate = 0.004
[schedule]
name = "reduce_on_plateau"
patience = 0
gamma = 0.7
warmup = 5
[evaluation]
bootstrap = 10
"#;

fn recipe(folder: &Path) -> PathBuf {
    synthetic::write(folder, "reviews.csv", 0..260);
    let path = folder.join("recipe.toml");
    std::fs::write(&path, RECIPE).unwrap();
    path
}

const WHERE: &str = "TIDEMILL_TEST_RESUME";

/// Not a test of its own: the process that `killed_at_any_moment` kills.
#[test]
fn the_run_that_is_killed() {
    let Some(folder) = std::env::var_os(WHERE).map(PathBuf::from) else { return };
    let recipe = Recipe::read(&folder.join("recipe.toml")).unwrap();
    train(&recipe, &TrainOptions::new(folder.join("run")), &mut Silent).unwrap();
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_run_that_is_killed"])
        .env(WHERE, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("package/model.safetensors")).unwrap()
}

fn alone(folder: &Path) -> Vec<u8> {
    assert!(start(folder).wait().unwrap().success());
    weights(&folder.join("run"))
}

#[test]
fn killed_at_any_moment() {
    let (left_alone, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    recipe(left_alone.path());
    recipe(killed.path());
    let expected = alone(left_alone.path());
    let history = |folder: &Path| std::fs::read(folder.join("run/history.jsonl")).unwrap_or_default();

    let (mut kills, mut seen) = (0, 0);
    loop {
        let mut child = start(killed.path());
        // Let it get a little further than the last time, then kill it at whatever it is doing.
        let until = Instant::now() + Duration::from_secs(60);
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if kills < 8 && history(killed.path()).len() > seen || Instant::now() > until {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match ended {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => {
                std::thread::sleep(Duration::from_millis(3 * kills));
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                seen = history(killed.path()).len();
            }
        }
    }
    assert!(kills >= 3, "it was killed {kills} times only");
    assert!(weights(&killed.path().join("run")) == expected);
    assert_eq!(history(killed.path()), history(left_alone.path()));
    let report = |folder: &Path| std::fs::read(folder.join("run/report.json")).unwrap();
    assert_eq!(report(killed.path()).len(), report(left_alone.path()).len());
}

#[test]
fn stopped_on_demand_and_gone_on() {
    let (left_alone, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = recipe(left_alone.path());
    recipe(stopped.path());
    let recipe = Recipe::read(&path).unwrap();
    train(&recipe, &TrainOptions::new(left_alone.path().join("run")), &mut Silent).unwrap();

    let flag = Arc::new(AtomicBool::new(false));
    let output = stopped.path().join("run");
    let options = TrainOptions { stop: Some(Arc::clone(&flag)), ..TrainOptions::new(&output) };
    let mut stop_at_17 = |event: &Event<'_>| {
        if matches!(event, Event::Step { step: 17, .. }) {
            flag.store(true, Ordering::Relaxed);
        }
    };
    let error = train(&recipe, &options, &mut stop_at_17).unwrap_err();
    assert!(matches!(error, TrainError::Stopped { step: 17, .. }), "{error}");
    assert!(!output.join("package").exists());

    let mut started_at = None;
    let mut started = |event: &Event<'_>| {
        if let Event::Started { step, .. } = event {
            started_at = Some(*step);
        }
    };
    train(&recipe, &TrainOptions::new(&output), &mut started).unwrap();
    assert_eq!(started_at, Some(17));
    assert!(weights(&output) == weights(&left_alone.path().join("run")));

    // Once more on a finished run: evaluated and packed again, the same.
    train(&recipe, &TrainOptions::new(&output), &mut Silent).unwrap();
    assert!(weights(&output) == weights(&left_alone.path().join("run")));

    // Another recipe, other data, other threads: refused with a sentence, nothing touched.
    let other: Recipe = Recipe::read_with(&path, &["seed=4".parse().unwrap()]).unwrap();
    let refusal = |recipe: &Recipe, options: &TrainOptions| {
        let error = train(recipe, options, &mut Silent).unwrap_err();
        assert!(matches!(error, TrainError::OtherRun { .. }), "{error}");
        error.to_string()
    };
    assert!(refusal(&other, &TrainOptions::new(&output)).contains("the recipe has changed"));
    let two = TrainOptions { threads: Some(2), ..TrainOptions::new(&output) };
    assert!(refusal(&recipe, &two).contains("1 threads"));
    synthetic::write(left_alone.path(), "reviews.csv", 0..259);
    assert!(refusal(&recipe, &TrainOptions::new(&output)).contains("reviews.csv has changed"));
    assert!(output.join("package/model.safetensors").exists());

    // Afresh, on demand.
    let fresh = TrainOptions { resume: Resume::Never, ..TrainOptions::new(&output) };
    train(&recipe, &fresh, &mut Silent).unwrap();
    assert!(weights(&output) != weights(&left_alone.path().join("run")));
}
