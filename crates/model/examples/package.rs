//! Builds a small classifier, packs it, opens the package and classifies a few texts:
//!
//!     cargo run -p tidemill-model --example package
//!
//! Its weights are as they were drawn, so its answers mean nothing: `tidemill-train` makes them mean something.

use serde_json::Map;
use tch::Device;
use tidemill_data::{Encoder, TextCleaning, TokenizerConfig};
use tidemill_model::architectures::Vocabulary;
use tidemill_model::manifest::Source;
use tidemill_model::{Package, PackageParts, Parameters, Pipeline, PipelineOptions, architectures};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let texts = ["a good film", "a bad film", "good actors, bad script"];
    let encoder = Encoder::train(&TokenizerConfig::default(), TextCleaning::default(), &mut texts.into_iter())?;

    // A configuration is the architecture's defaults with your own keys over them.
    let labels = ["negative".to_string(), "positive".to_string()];
    let mut keys = Map::new();
    keys.insert("filters".to_string(), 16.into());
    let config = architectures::complete_config("text_cnn", &keys, Vocabulary::of(&encoder), &labels)?;

    // Each parameter starts from the seed and its own name.
    let parameters = Parameters::new(7, Device::Cpu);
    architectures::build(&parameters.root(), &config)?;
    for (name, tensor) in parameters.named() {
        println!("{name:20} {:?}", tensor.size());
    }

    let folder = std::env::temp_dir().join("tidemill-example-package");
    Package::write(
        &folder,
        &PackageParts {
            name: "example",
            version: "1",
            labels: &labels,
            config: &config,
            parameters: &parameters,
            encoder: &encoder,
            source: Source::default(),
            report_json: None,
        },
    )?;

    let pipeline = Pipeline::open(&folder, &PipelineOptions::default())?;
    println!("{} with {} parameters", folder.display(), pipeline.parameters_count());
    for (text, answer) in texts.iter().zip(pipeline.classify(&texts)?) {
        let label = pipeline.labels().get(answer.label()).map_or("?", String::as_str);
        println!("{label:10} {:.3}  {text}", answer.probability());
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
