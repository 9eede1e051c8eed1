//! Small packages with random weights, for the tests beside this folder.

use std::error::Error;
use std::path::Path;

use serde_json::Map;
use tidemill_data::{Encoder, TextCleaning, TokenizerConfig};
use tidemill_model::manifest::Source;
use tidemill_model::{Package, PackageParts, Parameters, PipelineOptions, Scheduling, architectures};

pub(crate) const TEXTS: [&str; 4] = ["a good film", "bad", "", "good actors, <b>bad</b> script"];

/// Its weights are what `seed` makes of them.
pub(crate) fn write_package(folder: &Path, name: &str, seed: u64) -> Result<(), Box<dyn Error>> {
    write_scheduled_package(folder, name, seed, Scheduling::default())
}

/// The same, with what it says about scheduling.
pub(crate) fn write_scheduled_package(
    folder: &Path,
    name: &str,
    seed: u64,
    scheduling: Scheduling,
) -> Result<(), Box<dyn Error>> {
    let encoder = Encoder::train(&TokenizerConfig::default(), TextCleaning::default(), &mut TEXTS.into_iter())?;
    let labels = ["negative".to_owned(), "neutral".to_owned(), "positive".to_owned()];
    let config = architectures::complete_config(
        "bag_of_embeddings",
        &Map::new(),
        architectures::Vocabulary::of(&encoder),
        &labels,
    )?;
    let parameters = Parameters::new(seed, PipelineOptions::default().device);
    architectures::build(&parameters.root(), &config)?;
    let parts = PackageParts {
        name,
        version: "2",
        labels: &labels,
        config: &config,
        parameters: &parameters,
        encoder: &encoder,
        scheduling,
        source: Source::default(),
        report_json: None,
    };
    Ok(Package::write(folder, &parts)?)
}
