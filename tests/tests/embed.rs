//! `tidemill embed` and a served encoder, as a user has them: vectors are those of `transformers`, in every form.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use tidemill_proto::v1::EmbedRequest;
use tidemill_proto::v1::embedding_client::EmbeddingClient;
use tidemill_tests::{Server, encoder, tidemill, tidemill_with_input};

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 3e-5, "{a} and {b}");
    }
}

#[test]
fn texts_become_vectors_in_every_form() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let answers = encoder(&folder.join("model"));
    let texts: Vec<&str> = answers["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    std::fs::write(folder.join("texts.txt"), texts.join("\n") + "\n").unwrap();
    let lines = |stdout: &str| stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let expected = |key: &str| answers[key].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();

    let plain = tidemill(folder, &["embed", "model", "texts.txt", "--precision", "float32"]).success();
    let rows = lines(&plain.stdout);
    assert_eq!(rows.len(), texts.len());
    for ((row, text), expected) in rows.iter().zip(&texts).zip(expected("mean")) {
        assert_eq!(row["text"], *text);
        assert_near(&numbers(&row["embedding"]), &expected);
    }

    let objects: Vec<String> = texts.iter().map(|text| json!({"id": text.len(), "body": text}).to_string()).collect();
    let command = ["embed", "model", "-", "--column", "body", "--pooling", "cls", "--precision", "float32"];
    let rows = lines(&tidemill_with_input(folder, &command, &objects.join("\n")).success().stdout);
    for ((row, text), expected) in rows.iter().zip(&texts).zip(expected("cls")) {
        assert_eq!((&row["id"], &row["body"]), (&json!(text.len()), &json!(text)));
        assert_near(&numbers(&row["embedding"]), &expected);
    }

    let whole: Vec<f32> = expected("mean").concat();
    let count = texts.len();
    for file in ["vectors.npy", "vectors.safetensors"] {
        let command = ["--json", "embed", "model", "texts.txt", "--output", file, "--precision", "float32"];
        let about = tidemill(folder, &command).success().json();
        assert_eq!((&about["texts"], &about["dimension"]), (&json!(count), &json!(32)));
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let (head, data) = bytes.split_at(256);
        let found: Vec<f32> = data.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_near(&found, &whole);
        let head = String::from_utf8_lossy(head);
        let shape = if file.ends_with("npy") { "'shape': (4, 32)" } else { "\"shape\":[4,32]" };
        assert!(head.contains(shape), "{head}");
    }
    let litter = std::fs::read_dir(folder).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".partial")
    });
    assert_eq!(litter.count(), 0);
}

#[test]
fn what_cannot_be_embedded_is_said_by_line() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    encoder(&folder.join("model"));
    std::fs::write(folder.join("rows.jsonl"), "{\"text\": \"a\"}\n{\"body\": \"b\"}\n").unwrap();
    std::fs::write(folder.join("list.jsonl"), "[1]\n").unwrap();
    std::fs::write(folder.join("texts.txt"), "a\n").unwrap();
    let refused = |arguments: &[&str], part: &str| {
        let finished = tidemill(folder, &[&["embed", "model"], arguments].concat());
        assert_eq!(finished.code, 2, "{}", finished.stderr);
        assert!(finished.stderr.contains(part) && !finished.stderr.contains("panicked"), "{}", finished.stderr);
    };
    refused(&["rows.jsonl", "--output", "a.npy"], "rows.jsonl, line 2: there is no \"text\"; there are: body");
    assert!(!folder.join("a.npy").exists(), "nothing half written");
    refused(&["list.jsonl"], "list.jsonl, line 1: not a JSON object");
    refused(&["absent.txt"], "absent.txt: cannot be read");
    refused(&["rows.jsonl", "--output", "a.csv"], "ends in .npy, .safetensors or .jsonl");
    refused(&["texts.txt", "--prompt", "query"], "there is no prompt \"query\"");
    refused(&["texts.txt", "--max-length", "2"], "no room beside 2 special");
    assert_eq!(tidemill(folder, &["embed", "rows.jsonl", "rows.jsonl"]).code, 2);
}

#[tokio::test]
async fn a_served_encoder_embeds() {
    let temporary = tempfile::tempdir().unwrap();
    let answers = encoder(&temporary.path().join("model"));
    let server = Server::start(temporary.path(), &["model", "--precision", "float32"]);
    let mut client = EmbeddingClient::new(server.channel().await);
    let text = answers["texts"][0].as_str().unwrap().to_owned();
    let request = EmbedRequest { texts: vec![text], ..EmbedRequest::default() };
    let answer = client.embed(request).await.unwrap().into_inner();
    assert_eq!(answer.model, "model");
    assert_near(&answer.embeddings[0].values, &numbers(&answers["mean"][0]));
}
