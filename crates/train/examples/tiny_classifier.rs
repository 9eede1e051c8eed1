//! Trains a tiny classifier on rows that it makes itself, prints the report, and asks the package a question.
//!
//!     cargo run -p tidemill-train --example tiny_classifier

use std::error::Error;
use std::fmt::Write;
use tidemill_model::{Pipeline, PipelineOptions};
use tidemill_train::{Event, Recipe, TrainOptions, train};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut rows = String::from("text,label\n");
    for i in 0..400 {
        let (word, label) = [("sunny and warm", "good"), ("wet and cold", "bad")][i % 2];
        writeln!(rows, "day {i} on the coast was {word},{label}")?;
    }
    std::fs::write(folder.path().join("weather.csv"), rows)?;

    let text = r#"
        name = "weather"
        [data]
        train = "weather.csv"
        label = "label"
        [model]
        architecture = "bag_of_embeddings"
        [training]
        epochs = 5
        [optimiser]
        learning_rate = 0.02
    "#;
    let recipe = Recipe::parse(text, &folder.path().join("weather.toml"), &[])?;
    let options = TrainOptions::new(folder.path().join("run"));
    let outcome = train(&recipe, &options, &mut |event: &Event<'_>| {
        if let Event::Validated { step, point, .. } = event {
            println!("step {step}: {:?}", point.validation_metrics);
        }
    })?;
    println!("{}", outcome.report);

    let pipeline = Pipeline::open(&outcome.package, &PipelineOptions::default())?;
    for answer in pipeline.classify(&["the evening was warm"])? {
        let label = pipeline.labels().get(answer.label()).map_or("?", String::as_str);
        println!("the evening was warm: {label}, {:.0} %", 100.0 * answer.probability());
    }
    Ok(())
}
