//! Small checkpoints of encoders, out of what `crates/model/tests/fixtures/make_encoders.py` has stored: random weights,
//! and what `transformers` says of some texts.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill_model::tasks::TaskOptions;
use tidemill_model::{Weights, weights};

pub(crate) struct Fixture {
    weights: Weights,
    about: Value,
}

impl Fixture {
    pub(crate) fn open(name: &str) -> Fixture {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/encoders");
        let about = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        Fixture {
            weights: Weights::open(&folder.join(format!("{name}.safetensors"))).unwrap(),
            about: serde_json::from_slice(&about).unwrap(),
        }
    }

    /// What `transformers` answers to the texts of a task.
    pub(crate) fn answers(&self, task: &str) -> &Value {
        &self.about["answers"][task]
    }

    /// A checkpoint of `class`, with the head that the fixture stores under `head` and with these labels, if any.
    pub(crate) fn checkpoint(&self, class: &str, head: Option<&str>, labels: Option<&[&str]>) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let prefix = self.about["prefix"].as_str().unwrap();
        let device = TaskOptions::default().device;
        let named = self.weights.names().filter_map(|name| {
            let (part, rest) = name.split_once('.')?;
            let name_there = match part {
                "base" => format!("{prefix}.{rest}"),
                part if Some(part) == head => rest.to_string(),
                _ => return None,
            };
            let tensor = self.weights.tensor(name, device).unwrap();
            // A head of fewer labels has the first of its rows.
            let fewer = labels.filter(|_| rest.starts_with("classifier.")).map(|labels| labels.len() as i64);
            Some((name_there, fewer.map_or(tensor.shallow_clone(), |count| tensor.narrow(0, 0, count).contiguous())))
        });
        weights::write(&folder.path().join("model.safetensors"), &named.collect::<Vec<_>>()).unwrap();
        let mut config = self.about["config"].clone();
        config["architectures"] = json!([class]);
        if let Some(labels) = labels {
            let named = labels.iter().enumerate().map(|(id, label)| (id.to_string(), json!(label)));
            config["id2label"] = Value::Object(named.collect());
        }
        let files = [
            ("config.json", &config),
            ("tokenizer.json", &self.about["tokenizer"]),
            ("tokenizer_config.json", &self.about["tokenizer_config"]),
        ];
        for (file, value) in files {
            std::fs::write(folder.path().join(file), serde_json::to_vec(value).unwrap()).unwrap();
        }
        folder
    }
}

pub(crate) fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string()).collect()
}

pub(crate) fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}
