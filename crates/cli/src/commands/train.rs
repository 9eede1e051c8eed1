//! `tidemill train RECIPE`: from raw files to a package, a report and a history, in one run folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tidemill_train::{Override, Recipe, Resume, TrainError, TrainOptions};

use crate::commands::print_json;
use crate::exit::Interrupted;
use crate::progress;
use crate::terminal::bold;

/// Train a model by a recipe, and evaluate and pack it
///
/// The run folder holds history.jsonl, TensorBoard events, checkpoints, report.json, report.txt, report.html and package/.
/// A run that was stopped or killed goes on from its last checkpoint when started again, to the same weights.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The recipe
    recipe: PathBuf,

    /// The run folder; default: runs/NAME, by the recipe's name
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Lay a key over the recipe's, such as training.epochs=3; can be given again
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<Override>,

    /// Begin anew even if the run folder has checkpoints
    #[arg(long)]
    restart: bool,

    /// Threads within one operation; goes before the recipe's
    #[arg(long, value_name = "N")]
    threads: Option<i32>,
}

const EXAMPLES: &str = "\
Examples:
  tidemill train recipe.toml --output run
  tidemill train recipe.toml --output run --set training.epochs=3 --set optimiser.learning_rate=0.0005
  tidemill train recipe.toml --output run --json | jq .event";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let recipe = Recipe::read_with(&arguments.recipe, &arguments.set)?;
    let output = arguments.output.unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
    let options = TrainOptions {
        resume: if arguments.restart { Resume::Never } else { Resume::Auto },
        threads: arguments.threads,
        stop: Some(stop_on_signals()?),
        ..TrainOptions::new(&output)
    };
    let outcome = {
        let mut observer = progress::observer(json);
        tidemill_train::train(&recipe, &options, observer.as_mut())
    };
    let outcome = match outcome {
        Err(TrainError::Stopped { step, .. }) => {
            let again = format!("stopped at step {step}; start the same command again to go on from there");
            return Err(Interrupted(again).into());
        }
        other => other?,
    };
    if json {
        return print_json(&json!({ "event": "finished", "package": outcome.package, "report": outcome.report }));
    }
    println!("{}", outcome.report);
    println!("{}  {}", bold("Package"), outcome.package.display());
    println!("{}   {}", bold("Report"), output.join("report.html").display());
    Ok(())
}

/// A flag that the first Ctrl-C or SIGTERM raises; a second one ends the process at once.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            if crate::commands::serve::signalled().await.is_ok() {
                flag.store(true, Ordering::Relaxed);
                eprintln!("stopping at the next step; once more to stop at once");
                let _ = crate::commands::serve::signalled().await;
                std::process::exit(130);
            }
        });
    })?;
    Ok(stop)
}
