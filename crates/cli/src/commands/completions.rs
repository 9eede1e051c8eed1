//! `tidemill completions SHELL`: a completion script on standard output.

use clap::CommandFactory;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "Example: tidemill completions bash > ~/.local/share/bash-completion/completions/tidemill")]
pub(crate) struct Arguments {
    /// The shell to complete in
    shell: clap_complete::Shell,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::Cli::command(), "tidemill", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
    Ok(())
}
