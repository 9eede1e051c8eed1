//! `tidemill data RECIPE`: what reading, cleaning and splitting would do, without training.

use std::path::PathBuf;

use tidemill_train::{Override, Recipe};

use crate::commands::print_json;

/// Show what cleaning and splitting would do to a recipe's data
///
/// Rows read, dropped and changed by each step with examples, the sides of the split, histograms of lengths and labels.
#[derive(clap::Args)]
#[command(after_help = "Example: tidemill data recipe.toml --set data.train=reviews.tsv")]
pub(crate) struct Arguments {
    /// The recipe
    recipe: PathBuf,

    /// Lay a key over the recipe's; can be given again
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<Override>,
}

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let recipe = Recipe::read_with(&arguments.recipe, &arguments.set)?;
    let spool = std::env::temp_dir();
    let prepared = tidemill_data::prepare(&recipe.data, &recipe.clean, &recipe.split, recipe.seed, &spool)?;
    if json {
        return print_json(&prepared.report);
    }
    print!("{}", prepared.report);
    Ok(())
}
