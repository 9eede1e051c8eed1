//! Bad input is answered with a sentence that names file, line, column or key, exit code 2, and nothing half written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::Path;

use tidemill_tests::{Finished, reviews, small_recipe, tidemill};

/// Train on `data` (written as `reviews.tsv`) by the small recipe changed by `edit`.
fn train(data: &[u8], edit: impl Fn(String) -> String) -> (tempfile::TempDir, Finished) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reviews.tsv"), data).unwrap();
    std::fs::write(folder.path().join("recipe.toml"), edit(small_recipe(""))).unwrap();
    let finished = tidemill(folder.path(), &["train", "recipe.toml", "--output", "run"]);
    (folder, finished)
}

/// Exit code 2, a sentence with every one of `names`, and no package.
fn refused(folder: &Path, finished: &Finished, names: &[&str]) {
    assert_eq!(finished.code, 2, "{}", finished.stderr);
    for name in names {
        assert!(finished.stderr.contains(name), "{name:?} is not in: {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert!(!folder.join("run/package").exists(), "nothing half written");
}

fn refused_data(data: &[u8], names: &[&str]) {
    let (folder, finished) = train(data, |recipe| recipe);
    refused(folder.path(), &finished, names);
}

fn refused_recipe(edit: impl Fn(String) -> String, names: &[&str]) {
    let (folder, finished) = train(reviews(60).as_bytes(), edit);
    refused(folder.path(), &finished, names);
}

#[test]
fn a_missing_file_and_a_folder() {
    refused_recipe(|r| r.replace("reviews.tsv", "absent.tsv"), &["absent.tsv"]);
    refused_recipe(|r| r.replace("train = \"reviews.tsv\"", "train = \"/tmp\""), &["/tmp"]);
}

#[test]
fn invalid_utf8_names_the_line() {
    let mut data = reviews(60).into_bytes();
    let third = data.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(2).unwrap().0;
    data.splice(third + 1..third + 3, [0xff, 0xfe]);
    refused_data(&data, &["reviews.tsv", "4", "UTF-8"]);
}

#[test]
fn a_truncated_gzip() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(reviews(200).as_bytes()).unwrap();
    let mut bytes = gz.finish().unwrap();
    bytes.truncate(bytes.len() / 2);
    refused_data(&bytes, &["reviews.tsv", "gzip"]);
}

#[test]
fn a_ragged_row_names_the_line_and_can_be_skipped() {
    let mut data = reviews(60);
    let third = data.match_indices('\n').nth(1).unwrap().0 + 1;
    data.insert_str(third, "only one field\n");
    refused_data(data.as_bytes(), &["reviews.tsv", "line 3"]);
    let (folder, finished) = train(data.as_bytes(), |r| r.replace("label = 2", "label = 2\nbad_rows = \"skip\""));
    finished.success();
    assert!(folder.path().join("run/package/tidemill.toml").exists());
}

#[test]
fn splits_that_cannot_be_trained_on() {
    refused_data(b"", &["reviews.tsv"]);
    let one_class: String = reviews(60).lines().filter(|l| l.ends_with("positive")).map(|l| format!("{l}\n")).collect();
    refused_data(one_class.as_bytes(), &["positive"]);
    refused_recipe(
        |r| r.replace("validation = 0.15", "validation = 0.0").replace("test = 0.15", "test = 1.0"),
        &["split"],
    );
}

#[test]
fn misspelt_keys_name_the_nearest() {
    refused_recipe(|r| r.replace("batch_size", "batch_sise"), &["recipe.toml", "batch_sise", "batch_size", "line"]);
    refused_recipe(|r| r.replace("filters", "filtres"), &["filtres", "filters"]);
    refused_recipe(|r| r.replace("\"adam\"", "\"adan\""), &["adan", "adam"]);
    refused_recipe(|r| r.replace("text_cnn", "text_cmm"), &["text_cmm", "text_cnn"]);
    refused_recipe(|r| r.replace("epochs = 4", "epochs = \"four\""), &["recipe.toml", "epochs"]);
    refused_recipe(|_| "this is not = = toml".into(), &["recipe.toml", "line"]);
}

#[test]
fn a_label_never_seen_in_training() {
    let (folder, finished) = train(reviews(200).as_bytes(), |r| r);
    finished.success();
    let folder = folder.path();
    std::fs::write(folder.join("test.tsv"), "A wonderful film\tpositive\nA strange film\tneutral\n").unwrap();
    let eval = ["eval", "run/package", "test.tsv", "--header", "false", "--text", "1", "--label", "2"];
    let finished = tidemill(folder, &eval);
    assert_eq!(finished.code, 2);
    for name in ["test.tsv", "2", "neutral"] {
        assert!(finished.stderr.contains(name), "{}", finished.stderr);
    }

    // a package with one byte changed, and one whose weights have the wrong shape
    let package = folder.join("run/package");
    let weights = package.join("model.safetensors");
    let good = std::fs::read(&weights).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bad).unwrap();
    let finished = tidemill(folder, &["predict", "run/package", "a film"]);
    assert_eq!(finished.code, 2);
    assert!(finished.stderr.contains("model.safetensors"), "{}", finished.stderr);
    std::fs::write(&weights, &good).unwrap();

    let config = package.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let wider = text.replace("\"filters\": 8", "\"filters\": 9").replace("\"filters\":8", "\"filters\":9");
    assert_ne!(text, wider);
    std::fs::write(&config, wider).unwrap();
    let finished = tidemill(folder, &["serve", "run/package", "--address", "127.0.0.1:0"]);
    assert_eq!(finished.code, 2, "digest or shape: {}", finished.stderr);
    assert!(finished.stderr.contains("config.json") || finished.stderr.contains("shape"), "{}", finished.stderr);
}

#[test]
fn an_unwritable_output_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reviews.tsv"), reviews(60)).unwrap();
    std::fs::write(folder.path().join("recipe.toml"), small_recipe("")).unwrap();
    // a file where the folder should be: refused for root too
    std::fs::write(folder.path().join("occupied"), "").unwrap();
    for output in ["occupied", "occupied/run", "/proc/nowhere/run"] {
        let finished = tidemill(folder.path(), &["train", "recipe.toml", "--output", output]);
        refused(folder.path(), &finished, &[output.split('/').next_back().unwrap()]);
    }
}

/// A file system of 1 MiB, if this user may mount one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&small)
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: this user cannot mount a small file system");
        return;
    }
    std::fs::write(folder.path().join("reviews.tsv"), reviews(200)).unwrap();
    let recipe =
        small_recipe("").replace("embedding_dim = 16", "embedding_dim = 1024").replace("filters = 8", "filters = 64");
    std::fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    let finished = tidemill(folder.path(), &["train", "recipe.toml", "--output", "small/run"]);
    let half = small.join("run/package/tidemill.toml").exists();
    let _ = std::process::Command::new("umount").arg("--lazy").arg(&small).status();
    assert_eq!(finished.code, 2, "{}", finished.stderr);
    assert!(finished.stderr.contains("space"), "{}", finished.stderr);
    assert!(!half, "nothing half written");
}
