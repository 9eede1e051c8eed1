//! `tidemill new TASK`: a commented recipe to start from.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};

/// Write a commented recipe for a task
#[derive(clap::Args)]
#[command(after_help = "Example: tidemill new text-classification --output recipe.toml")]
pub(crate) struct Arguments {
    /// What the model shall do
    task: Task,

    /// File to write; standard output without it. A file that exists is left alone
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Task {
    /// One of several labels for a text: sentiment, topic, spam …
    TextClassification,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let recipe = match arguments.task {
        Task::TextClassification => include_str!("../../recipes/text-classification.toml"),
    };
    let Some(path) = arguments.output else {
        return Ok(std::io::stdout().lock().write_all(recipe.as_bytes())?);
    };
    if path.exists() {
        bail!("{}: already there; it is left as it was. Name another file with --output", path.display());
    }
    let mut file =
        std::fs::File::create_new(&path).with_context(|| format!("{}: cannot be written", path.display()))?;
    file.write_all(recipe.as_bytes()).with_context(|| format!("{}: cannot be written", path.display()))?;
    eprintln!("wrote {}; next: tidemill data {}", path.display(), path.display());
    Ok(())
}
