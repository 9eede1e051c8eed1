//! `tidemill inspect PACKAGE`: what a package is, without running it.

use std::path::PathBuf;

use serde_json::json;
use tidemill_model::{Manifest, Package, Weights};

use crate::commands::print_json;
use crate::terminal::bold;

/// Show what a package is: task, labels, architecture, preprocessing, weights, where it came from
#[derive(clap::Args)]
#[command(after_help = "Example: tidemill inspect run/package --tensors")]
pub(crate) struct Arguments {
    /// The package's folder
    package: PathBuf,

    /// List every tensor with its type and shape
    #[arg(long)]
    tensors: bool,
}

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let package = Package::open(&arguments.package)?;
    let weights = package.weights()?;
    let tensors = tensors(&weights);
    let parameters: i64 = tensors.iter().map(|t| t.shape.iter().product::<i64>()).sum();
    if json {
        return print_json(&json!({
            "manifest": package.manifest(), "config": package.config(), "bytes": package.bytes(),
            "parameters": parameters,
            "tensors": tensors.iter().map(|t| json!({ "name": t.name, "type": t.kind, "shape": t.shape })).collect::<Vec<_>>(),
        }));
    }
    print_manifest(package.manifest());
    print_section("config", package.config());
    println!("{}  {parameters} in {} tensors, {} on disk", bold("parameters"), tensors.len(), size(package.bytes()));
    if arguments.tensors {
        for tensor in tensors {
            println!("  {:<44} {:<9} {:?}", tensor.name, tensor.kind, tensor.shape);
        }
    }
    println!("every digest matches");
    Ok(())
}

struct Tensor {
    name: String,
    kind: String,
    shape: Vec<i64>,
}

fn tensors(weights: &Weights) -> Vec<Tensor> {
    let tensor = |name: &str| Tensor {
        name: name.to_owned(),
        kind: weights.kind(name).map(|kind| format!("{kind:?}").to_lowercase()).unwrap_or_default(),
        shape: weights.shape(name).unwrap_or_default().to_vec(),
    };
    weights.names().map(tensor).collect()
}

fn print_manifest(manifest: &Manifest) {
    println!("{} {}  {}", bold(&manifest.name), manifest.version, manifest.task);
    println!("{}  {}", bold("labels"), manifest.labels.join(", "));
    for (side, signatures) in [("input", &manifest.signature.inputs), ("output", &manifest.signature.outputs)] {
        for tensor in signatures {
            println!("{}  {} {} {:?}", bold(side), tensor.name, tensor.datatype, tensor.shape);
        }
    }
    if let Ok(serde_json::Value::Object(map)) = serde_json::to_value(&manifest.preprocessing) {
        print_section("preprocessing", &map);
    }
    if let Ok(serde_json::Value::Object(map)) = serde_json::to_value(&manifest.source) {
        print_section("source", &map);
    }
    for (name, file) in &manifest.files {
        println!("{}  {name}  {}", bold("file"), size(file.bytes));
    }
}

fn print_section(title: &str, map: &serde_json::Map<String, serde_json::Value>) {
    println!("{}", bold(title));
    for (key, value) in map {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        println!("  {key:<24} {text}");
    }
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
