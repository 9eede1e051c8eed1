//! Every recipe under `docs/recipes/`, at small size on small data, to its package and back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod synthetic;

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tidemill_model::{Pipeline, PipelineOptions, architectures};
use tidemill_train::{Override, Recipe, Silent, TrainOptions, train};

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut recipes: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    recipes.sort();
    recipes
}

fn set(key: &str, value: impl std::fmt::Display) -> Override {
    format!("{key}={value}").parse().unwrap()
}

/// Keys that make a recipe small without changing what it does.
fn small(recipe: &Recipe, folder: &Path) -> Vec<Override> {
    let train = recipe.data.train.paths()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let file = synthetic::write(folder, &train, 0..240);
    let mut overrides = vec![
        set("data.train", file.display()),
        set("training.batch_size", 16),
        set("training.epochs", ""),
        set("training.steps", 24),
        set("training.validate_every", 8),
        set("evaluation.bootstrap", 20),
        set("threads", 1),
    ];
    if recipe.data.validation.is_some() {
        let file = synthetic::write(folder, "dev.tsv", 240..300);
        overrides.push(set("data.validation", file.display()));
    }
    if recipe.tokenizer.buckets > 0 {
        overrides.push(set("tokenizer.buckets", 500));
    }
    let defaults = (architectures::find(&recipe.model.architecture).unwrap().defaults)();
    shrink("model", &defaults, &mut overrides);
    overrides.push(set("tokenizer.vocabulary", 400));
    overrides
}

/// Every size that an architecture has, its parts' too, made small.
fn shrink(section: &str, keys: &Map<String, Value>, overrides: &mut Vec<Override>) {
    const SMALL: [(&str, i64); 6] = [
        ("embedding_dim", 16),
        ("filters", 8),
        ("hidden_dim", 16),
        ("layers", 1),
        ("heads", 2),
        ("feed_forward_dim", 32),
    ];
    for (key, default) in keys {
        let name = format!("{section}.{key}");
        match (default, SMALL.iter().find(|(small, _)| small == key)) {
            (Value::Object(part), _) => shrink(&name, part, overrides),
            // 0 says that there is none.
            (Value::Number(size), Some((_, small))) if size.as_i64() != Some(0) => overrides.push(set(&name, small)),
            _ => {}
        }
    }
}

#[test]
fn every_recipe_trains_and_its_package_answers() {
    let paths = recipes();
    assert!(paths.len() >= 8);
    for path in paths {
        let folder = tempfile::tempdir().unwrap();
        let overrides = small(&Recipe::read(&path).unwrap(), folder.path());
        let recipe = Recipe::read_with(&path, &overrides).unwrap();
        let output = folder.path().join("run");
        let outcome = train(&recipe, &TrainOptions::new(&output), &mut Silent)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(outcome.history.last().unwrap().step, 24);
        for name in ["report.json", "report.txt", "report.html", "history.jsonl", "run.json"] {
            assert!(output.join(name).exists(), "{} lacks {name}", path.display());
        }
        let pipeline = Pipeline::open(&outcome.package, &PipelineOptions::default()).unwrap();
        assert_eq!(pipeline.labels(), ["negative", "positive"]);
        let answer = pipeline.classify(&["a lovely warm film"]).unwrap();
        let sum: f32 = answer[0].probabilities.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5);
    }
}

#[test]
fn the_simplest_recipe_learns() {
    let folder = tempfile::tempdir().unwrap();
    let file = synthetic::write(folder.path(), "reviews.csv", 0..300);
    let text = format!(
        "name = \"small\"\nthreads = 1\n[data]\ntrain = {file:?}\nlabel = \"label\"\n[model]\narchitecture = \
         \"bag_of_embeddings\"\n[training]\nepochs = 6\n[optimiser]\nlearning_rate = 0.05\n[evaluation]\nbootstrap = 20\n"
    );
    let recipe = Recipe::parse(&text, Path::new("small.toml"), &[]).unwrap();
    let outcome = train(&recipe, &TrainOptions::new(folder.path().join("run")), &mut Silent).unwrap();
    assert!(outcome.report.value("accuracy").unwrap() > 0.95, "{}", outcome.report);
}
