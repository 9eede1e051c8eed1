//! Colour and progress only where a person looks on: a terminal, no `NO_COLOR`, or when asked for.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use owo_colors::OwoColorize;

static COLOUR: AtomicBool = AtomicBool::new(false);

/// When to colour what is printed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into files and pipes
    Always,
    /// Never
    Never,
}

pub(crate) fn set_colour(colour: Colour) {
    let on = match colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => interactive() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    };
    COLOUR.store(on, Ordering::Relaxed);
}

/// Whether progress can be drawn: standard error is a terminal that moves its cursor.
pub(crate) fn interactive() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

pub(crate) fn red(text: &str) -> String {
    paint(text, |t| t.red().bold().to_string())
}

pub(crate) fn green(text: &str) -> String {
    paint(text, |t| t.green().bold().to_string())
}

pub(crate) fn yellow(text: &str) -> String {
    paint(text, |t| t.yellow().to_string())
}

pub(crate) fn bold(text: &str) -> String {
    paint(text, |t| t.bold().to_string())
}

fn paint(text: &str, style: impl Fn(&str) -> String) -> String {
    if COLOUR.load(Ordering::Relaxed) { style(text) } else { text.to_owned() }
}
