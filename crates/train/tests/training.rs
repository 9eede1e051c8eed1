//! What a run does with bad input, and that accumulation, early stopping and class weights do what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod synthetic;

use std::path::Path;
use tidemill_train::{Event, Outcome, Override, Recipe, Silent, TrainError, TrainOptions, train};

const RECIPE: &str = r#"
name = "small"
threads = 1
[data]
train = "reviews.csv"
label = "label"
[model]
architecture = "bag_of_embeddings"
embedding_dim = 8
[training]
batch_size = 16
steps = 20
[optimiser]
learning_rate = 0.05
[evaluation]
bootstrap = 10
"#;

fn read(folder: &Path, overrides: &[&str]) -> Recipe {
    let overrides: Vec<Override> = overrides.iter().map(|set| set.parse().unwrap()).collect();
    Recipe::parse(RECIPE, &folder.join("recipe.toml"), &overrides).unwrap()
}

fn run(folder: &Path, overrides: &[&str]) -> Result<Outcome, TrainError> {
    train(&read(folder, overrides), &TrainOptions::new(folder.join("runs/run")), &mut Silent)
}

fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write(folder.path(), "reviews.csv", 0..200);
    folder
}

#[test]
fn the_same_recipe_and_seed_give_the_same_bytes() {
    let weights = |overrides: &[&str]| {
        let folder = data();
        let outcome = run(folder.path(), overrides).unwrap();
        std::fs::read(outcome.package.join("model.safetensors")).unwrap()
    };
    let once = weights(&[]);
    assert!(once == weights(&[]));
    assert!(once != weights(&["seed=1"]));
}

#[test]
fn a_run_that_cannot_start_leaves_nothing() {
    let nothing_left = |folder: &Path| assert!(!folder.join("runs").exists());

    let folder = tempfile::tempdir().unwrap();
    assert!(run(folder.path(), &[]).unwrap_err().to_string().contains("reviews.csv"));
    nothing_left(folder.path());

    std::fs::create_dir(folder.path().join("reviews.csv")).unwrap();
    run(folder.path(), &[]).unwrap_err();
    nothing_left(folder.path());

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reviews.csv"), "text,label\na b,x\nc d,x\ne f,x\ng h,x\n").unwrap();
    let error = run(folder.path(), &["split.validation=0.5", "split.test=0"]).unwrap_err();
    assert!(error.to_string().contains("`x`"), "{error}");
    nothing_left(folder.path());

    let folder = data();
    let error = run(folder.path(), &["split.validation=0", "split.test=0.1"]).unwrap_err();
    assert!(error.to_string().contains("validation"), "{error}");
    nothing_left(folder.path());

    let error = run(folder.path(), &["training.class_weights=[1, 2, 3]"]).unwrap_err();
    assert!(error.to_string().contains("3 weights") && error.to_string().contains("2 labels"), "{error}");
    nothing_left(folder.path());
}

#[test]
fn an_output_folder_that_cannot_be_is_a_sentence() {
    let folder = data();
    std::fs::write(folder.path().join("runs"), "a file").unwrap();
    let error = run(folder.path(), &[]).unwrap_err();
    assert!(matches!(error, TrainError::Write { .. }), "{error}");
    assert!(error.to_string().contains("cannot write"), "{error}");
}

#[test]
fn a_loss_that_is_no_number_stops_with_its_rows() {
    let folder = data();
    let error = run(folder.path(), &["optimiser.name=sgd", "optimiser.learning_rate=1e38"]).unwrap_err();
    let TrainError::NonFinite { step, rows, .. } = &error else { panic!("{error}") };
    assert!(*step > 1 && rows.0.len() == 16);
    assert!(rows.0[0].contains("reviews.csv:"), "{error}");
    assert!(error.to_string().contains("learning rate"), "{error}");
}

#[test]
fn early_stopping_ends_the_run_and_the_best_weights_are_packed() {
    let folder = data();
    let overrides =
        ["training.steps=400", "training.validate_every=5", "training.early_stopping={metric=\"accuracy\",patience=2}"];
    let mut best = 0;
    let mut steps = 0;
    let mut watch = |event: &Event<'_>| match event {
        Event::Validated { step, best: true, .. } => best = *step,
        Event::Step { step, .. } => steps = *step,
        _ => {}
    };
    let output = folder.path().join("run");
    let recipe = read(folder.path(), &overrides);
    train(&recipe, &TrainOptions::new(&output), &mut watch).unwrap();
    assert!(steps < 400);
    let link = std::fs::read_link(output.join("checkpoints/best")).unwrap();
    assert!(link.to_str().unwrap().ends_with(&format!("{best:010}")));
    let bytes = |path: &str| std::fs::read(output.join(path)).unwrap();
    assert!(bytes("package/model.safetensors") == bytes("checkpoints/best/model.safetensors"));
    let kept = train(
        &read(folder.path(), &["training.keep=last"]),
        &TrainOptions::new(folder.path().join("last")),
        &mut Silent,
    );
    let package = kept.unwrap().package.join("model.safetensors");
    assert!(
        std::fs::read(package).unwrap()
            == std::fs::read(folder.path().join("last/checkpoints/last/model.safetensors")).unwrap()
    );
}

#[test]
fn two_runs_in_one_folder_are_not_allowed() {
    let folder = data();
    let recipe = read(folder.path(), &["training.steps=10"]);
    let output = folder.path().join("run");
    std::fs::create_dir(&output).unwrap();
    let lock = std::fs::File::create(output.join(".lock")).unwrap();
    lock.lock().unwrap();
    let error = train(&recipe, &TrainOptions::new(&output), &mut Silent).unwrap_err();
    assert!(matches!(error, TrainError::InUse { .. }), "{error}");
}
