//! Named steps that run one after another, each timed, with a summary at the end.
//!
//! Owns what `test`, `lint`, `fmt` and `e2e` have in common. The first failing step ends the run;
//! the summary still comes last.
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::manifest::Depth;
use crate::progress::{self, seconds};
use crate::{checkout, setup};

/// One step: its name, and what it does.
pub(crate) struct Step<'a> {
    name: &'static str,
    action: Box<dyn FnOnce() -> Result<()> + 'a>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Passed(Duration),
    Failed(Duration),
    NotRun,
}

/// Any action as a step.
pub(crate) fn step<'a>(name: &'static str, action: impl FnOnce() -> Result<()> + 'a) -> Step<'a> {
    Step { name, action: Box::new(action) }
}

/// The set-up as a step.
pub(crate) fn set_up(cache_folder: Option<&Path>) -> Step<'_> {
    Step { name: "set-up", action: Box::new(move || setup::ensure(cache_folder, Depth::Quick).map(drop)) }
}

/// A cargo command as a step; `variables` are set for it alone.
pub(crate) fn cargo<'a>(
    name: &'static str,
    root: &'a Path,
    arguments: Vec<String>,
    variables: &'static [(&'static str, &'static str)],
) -> Step<'a> {
    let action = move || {
        let shown: Vec<String> = variables
            .iter()
            .map(|(name, value)| format!("{name}='{value}'"))
            .chain(["cargo".to_owned()])
            .chain(arguments.iter().cloned())
            .collect();
        let shown = shown.join(" ");
        eprintln!("  {shown}");
        let status = checkout::cargo(root)
            .args(&arguments)
            .envs(variables.iter().copied())
            .status()
            .context("cargo does not run")?;
        if !status.success() {
            bail!("`{shown}` failed ({status})");
        }
        Ok(())
    };
    Step { name, action: Box::new(action) }
}

/// Words of a command line.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Whether `cargo NAME` is there.
pub(crate) fn has_cargo_command(root: &Path, name: &str) -> bool {
    let mut command: Command = checkout::cargo(root);
    command.args([name, "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Runs the steps in turn and prints the summary; an error when one failed.
pub(crate) fn run(steps: Vec<Step<'_>>) -> Result<()> {
    let started = Instant::now();
    let count = steps.len();
    let mut outcomes = Vec::with_capacity(count);
    let mut failure = None;
    for (index, step) in steps.into_iter().enumerate() {
        if failure.is_some() {
            outcomes.push((step.name, Outcome::NotRun));
            continue;
        }
        progress::heading(&format!("[{} of {count}] {}", index + 1, step.name));
        let step_started = Instant::now();
        let result = (step.action)();
        let took = step_started.elapsed();
        match result {
            Ok(()) => {
                progress::done(&format!("{} ({})", step.name, seconds(took)));
                outcomes.push((step.name, Outcome::Passed(took)));
            }
            Err(error) => {
                failure = Some(error);
                outcomes.push((step.name, Outcome::Failed(took)));
            }
        }
    }
    progress::heading("Summary");
    eprint!("{}", summary(&outcomes, started.elapsed()));
    failure.map_or(Ok(()), Err)
}

fn summary(outcomes: &[(&str, Outcome)], total: Duration) -> String {
    let width = outcomes.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(5);
    let line = |name: &str, time: &str, word: &str| {
        format!("  {name:<width$}  {time:>12}  {word}").trim_end().to_owned() + "\n"
    };
    let mut text: String = outcomes
        .iter()
        .map(|(name, outcome)| match outcome {
            Outcome::Passed(time) => line(name, &seconds(*time), "passed"),
            Outcome::Failed(time) => line(name, &seconds(*time), "FAILED"),
            Outcome::NotRun => line(name, "", "not run"),
        })
        .collect();
    text.push_str(&line("total", &seconds(total), ""));
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_first_failure_ends_the_run_and_is_returned() {
        let ran = Cell::new(0);
        let step = |name, result: Result<()>| Step {
            name,
            action: Box::new(|| {
                ran.set(ran.get() + 1);
                result
            }),
        };
        let steps = vec![step("one", Ok(())), step("two", Err(anyhow!("no"))), step("three", Ok(()))];
        assert_eq!(run(steps).unwrap_err().to_string(), "no");
        assert_eq!(ran.get(), 2);
    }

    #[test]
    fn the_summary_is_aligned() {
        let second = Duration::from_secs(1);
        let outcomes = [
            ("format", Outcome::Passed(second)),
            ("documentation", Outcome::Failed(second * 200)),
            ("tests", Outcome::NotRun),
        ];
        let expected = "  format                1.0 s  passed\n  \
                          documentation  3 min 20 s  FAILED\n  \
                          tests                        not run\n  \
                          total          3 min 21 s\n";
        let text = summary(&outcomes, second * 201);
        let squeezed = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(squeezed(&text), squeezed(expected));
        let columns: Vec<_> = text.lines().filter_map(|line| line.find(" s")).collect();
        assert!(columns.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}
