//! One file a command: its arguments, and a `run` that reads top to bottom.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod health;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod new;
mod observe;
pub(crate) mod predict;
pub(crate) mod serve;
pub(crate) mod supervisor;
pub(crate) mod train;

use std::io::Write;

/// Lets libtorch use this many threads; without a number, all that this process may use.
pub(crate) fn use_threads(count: Option<i32>) {
    let all = std::thread::available_parallelism().map_or(1, |count| count.get() as i32);
    tidemill_torch::set_threads(count.unwrap_or(all));
}

/// Print one JSON value and a newline to standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
