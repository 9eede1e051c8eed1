//! Training: recipes, optimisers, schedules, the training loop, checkpoints that resume exactly.
//!
//! Owns everything between a recipe and a finished package. Reads data by `tidemill-data`, builds and runs models by
//! `tidemill-model`, evaluates by `tidemill-eval`. Knows nothing of sockets or terminals: an [`Observer`] hears what
//! happens.
//!
//! ```no_run
//! use tidemill_train::{Recipe, Silent, TrainOptions, train};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let recipe = Recipe::read("reviews.toml".as_ref())?;
//! let outcome = train(&recipe, &TrainOptions::new("runs/reviews"), &mut Silent)?;
//! println!("{}", outcome.report);
//! println!("packed in {}", outcome.package.display());
//! # Ok(()) }
//! ```

mod average;
mod checkpoint;
mod error;
mod gradients;
mod history;
mod loss;
mod observer;
pub mod optimisers;
mod pace;
pub mod recipe;
mod run;
mod run_folder;
pub mod schedules;
pub mod settings;
pub mod tensorboard;
mod trainer;
mod training_loop;
mod validation;

pub use error::TrainError;
pub use loss::Loss;
pub use observer::{Event, Observer, Silent};
pub use recipe::{Override, Recipe, RecipeError};
pub use run::{Outcome, Resume, TrainOptions, train};
pub use trainer::{StepFigures, Trainer};
