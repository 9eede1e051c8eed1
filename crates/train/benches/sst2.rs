//! Accuracy on SST-2's development set, mean of five seeds, by the recipes in `docs/recipes/`.
//!
//! Reads `../shared/data/sst2` beside the checkout. `TIDEMILL_BENCH_RECIPE` picks one recipe, `TIDEMILL_BENCH_SET` lays
//! keys over it (separated by spaces), `TIDEMILL_BENCH_SEEDS` changes the number of seeds. Prints one JSON object a goal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;
use std::path::Path;
use std::time::Instant;
use tidemill_train::{Override, Recipe, Silent, TrainOptions, train};

const RECIPES: [(&str, f64); 3] = [("sst2-text-cnn", 0.81), ("sst2-bag-of-embeddings", 0.81), ("sst2-best", 0.82)];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let data = root.join("../shared/data/sst2");
    if !data.exists() {
        println!("skipped: no ../shared/data");
        return;
    }
    let only = std::env::var("TIDEMILL_BENCH_RECIPE").ok();
    let seeds = std::env::var("TIDEMILL_BENCH_SEEDS").map_or(5, |text| text.parse().unwrap());
    for (name, goal) in RECIPES {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let start = Instant::now();
        let path = root.join("docs/recipes").join(name).with_extension("toml");
        let accuracies: Vec<f64> = (1..=seeds).map(|seed| accuracy(&path, &data, seed)).collect();
        let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
        let squares = accuracies.iter().map(|accuracy| (accuracy - mean).powi(2)).sum::<f64>();
        let spread = (squares / (accuracies.len() - 1).max(1) as f64).sqrt();
        let each: Vec<String> = accuracies.iter().map(|a| format!("{:.1}", 100.0 * a)).collect();
        let seconds = start.elapsed().as_secs();
        println!("{name}: {} %, deviation {:.2} points, {seconds} s", each.join(", "), 100.0 * spread);
        println!(
            "{}",
            json!({"name": format!("sst2 {name}: accuracy on dev, {seeds} seeds"), "unit": "", "peer": null,
                "ours": mean, "ratio": null, "goal": goal, "met": mean >= goal, "better": "higher"})
        );
    }
}

fn accuracy(path: &Path, data: &Path, seed: usize) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let mut overrides = vec![
        format!("data.train={}", data.join("train.tsv").display()),
        format!("data.validation={}", data.join("dev.tsv").display()),
        format!("seed={seed}"),
        "evaluation.bootstrap=0".to_owned(),
    ];
    let more = std::env::var("TIDEMILL_BENCH_SET").unwrap_or_default();
    overrides.extend(more.split_whitespace().map(str::to_owned));
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    let recipe = Recipe::read_with(path, &overrides).unwrap_or_else(|error| panic!("{error}"));
    let outcome = train(&recipe, &TrainOptions::new(folder.path().join("run")), &mut Silent)
        .unwrap_or_else(|error| panic!("{error}"));
    outcome.report.value("accuracy").unwrap()
}
