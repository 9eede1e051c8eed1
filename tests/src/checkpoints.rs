//! Checkpoints for the tests: the stored ones, and changed copies of them.

use std::path::Path;

use serde_json::{Value, json};

use crate::repository;

/// Where a stored checkpoint lies.
pub fn checkpoint(name: &str) -> String {
    let folder = repository().join("crates/model/tests/fixtures/checkpoints").join(name);
    folder.canonicalize().expect("a stored checkpoint").display().to_string()
}

/// Copies a stored decoder with rotary positions to `folder`, with a chat template and room for `context` tokens, so that
/// it can be made to work for as long as a test wants.
pub fn lengthened(name: &str, folder: &Path, context: usize) {
    std::fs::create_dir_all(folder).expect("a writable test folder");
    for entry in std::fs::read_dir(checkpoint(name)).expect("a stored checkpoint") {
        let path = entry.expect("a stored checkpoint").path();
        std::fs::copy(&path, folder.join(path.file_name().expect("a file"))).expect("a writable test folder");
    }
    let set = |file: &str, key: &str, value: Value| {
        let file = folder.join(file);
        let mut object: Value = serde_json::from_slice(&std::fs::read(&file).expect("copied")).expect("JSON");
        object[key] = value;
        std::fs::write(file, object.to_string()).expect("a writable test folder");
    };
    set("config.json", "max_position_embeddings", json!(context));
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}";
    set("tokenizer_config.json", "chat_template", json!(template));
}

/// An encoder that embeds, in `folder`, out of a stored fixture whose weights are there under `base.`. Gives what
/// `transformers` says of the fixture's texts.
pub fn encoder(folder: &Path) -> Value {
    let fixtures = repository().join("crates/model/tests/fixtures/encoders");
    let read = |name: &str| std::fs::read(fixtures.join(name)).expect("a stored fixture");
    let about: Value = serde_json::from_slice(&read("bert.json")).expect("JSON");
    let stored = read("bert.safetensors");
    let (length, rest) = stored.split_first_chunk::<8>().expect("safetensors");
    let (head, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).expect("a small file"));
    let head: serde_json::Map<String, Value> = serde_json::from_slice(head).expect("a header");
    let (mut named, mut kept) = (serde_json::Map::new(), Vec::new());
    for (name, mut tensor) in head {
        let Some(name) = name.strip_prefix("base.") else { continue };
        let place = |index: usize| tensor["data_offsets"][index].as_u64().expect("an offset") as usize;
        let start = kept.len();
        kept.extend_from_slice(&data[place(0)..place(1)]);
        tensor["data_offsets"] = json!([start, kept.len()]);
        named.insert(name.to_owned(), tensor);
    }
    let head = Value::Object(named).to_string();
    std::fs::create_dir(folder).expect("a writable test folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("a writable test folder");
    write("model.safetensors", &[&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &kept].concat());
    for (file, key) in
        [("config.json", "config"), ("tokenizer.json", "tokenizer"), ("tokenizer_config.json", "tokenizer_config")]
    {
        write(file, about[key].to_string().as_bytes());
    }
    about["answers"]["embedding"].clone()
}
