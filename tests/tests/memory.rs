//! What serving takes of the machine's memory, and that it takes no more however many requests there were.
//!
//! `TIDEMILL_MEMORY_REQUESTS` sets how many, 24,000 by default; of them the first hundredth, and 4,000 at least, are not
//! compared.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use tidemill_tests::{Server, reviews, small_recipe, tidemill, train_sentiment};

/// Most bytes that the server of a sentiment model may have resident.
const MOST: u64 = 250_000_000;
/// Requests of one run of the load.
const PART: u64 = 100_000;

/// Sends so many requests, one text each, over four connections.
fn load(folder: &Path, server: &Server, requests: u64) {
    let arguments = ["bench", &server.address, "--text", "texts.txt", "--concurrency", "16", "--connections", "4"];
    // In parts, each of which ends within the bound on a command.
    for first in (0..requests).step_by(PART as usize) {
        let part = PART.min(requests - first).to_string();
        let arguments = [&arguments[..], &["--warm-up", "0", "--json", "--requests", &part]].concat();
        let run = tidemill(folder, &arguments).success().json()["runs"][0].take();
        assert_eq!(run["answered"].to_string(), part, "{run}");
    }
}

#[test]
fn a_sentiment_model_takes_little_memory_and_requests_leave_it_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let all = std::env::var("TIDEMILL_MEMORY_REQUESTS").map_or(24_000, |requests| requests.parse().unwrap());
    // As wide as `docs/recipes/sentiment-reviews.toml` has it.
    let recipe = small_recipe("").replace("embedding_dim = 16\nfilters = 8", "embedding_dim = 128");
    train_sentiment(folder, 400, &recipe.replace("epochs = 4", "epochs = 1"));
    let texts: String = reviews(500).lines().map(|line| line.split('\t').next().unwrap().to_owned() + "\n").collect();
    std::fs::write(folder.join("texts.txt"), texts).unwrap();

    let server = Server::start(folder, &["run/package"]);
    let first = (all / 100).max(4_000);
    load(folder, &server, first);
    let before = server.resident();
    load(folder, &server, all - first);
    let after = server.resident();
    println!("{before} bytes resident after {first} requests, {after} after {all}");
    assert!(after < MOST, "{after} bytes are resident");
    assert!(after as f64 <= before as f64 * 1.05, "{before} bytes after {first} requests, {after} after {all}");
}
