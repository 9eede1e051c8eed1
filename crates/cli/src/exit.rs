//! Exit codes: what a script can rely on, and how an error is printed.

use std::fmt;
use std::process::ExitCode;

/// A run that was stopped by Ctrl-C or SIGTERM and left a state to go on from.
#[derive(Debug)]
pub(crate) struct Interrupted(pub(crate) String);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}

/// A failure of our own or of libtorch, rather than of what was asked.
#[derive(Debug)]
pub(crate) struct Internal(pub(crate) String);

impl fmt::Display for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Internal {}

/// Print the error, if any, and give the exit code: 0, 1 (internal), 2 (refused) or 130 (interrupted).
pub(crate) fn report(outcome: anyhow::Result<()>, json: bool) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    if broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    let code = if error.is::<Interrupted>() {
        130
    } else if error.is::<Internal>() {
        1
    } else {
        2
    };
    if json {
        eprintln!("{}", serde_json::json!({ "event": "error", "code": code, "message": format!("{error:#}") }));
    } else {
        eprintln!("{} {error:#}", crate::terminal::red("error:"));
    }
    ExitCode::from(code)
}

/// A reader that went away (`tidemill predict … | head`) is no error.
fn broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}
