//! What checkpoints are for, one file a task: typed inputs to typed outputs over a loaded model.

pub mod generation;
pub mod text_to_text;
