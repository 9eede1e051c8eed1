//! `tidemill key new NAME`: a key for `tidemill serve --keys`.

use std::io::{self, Write as _};

use tidemill_serve::NewKey;

use crate::commands::print_json;

/// Make an API key for a server
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a key: print it, this once, and the entry that a file of keys needs
    ///
    /// The key goes to its user. The entry goes into the file that `tidemill serve --keys` reads: it holds the key's
    /// SHA-256, from which nobody makes the key. Nothing is stored here.
    #[command(after_help = EXAMPLES)]
    New {
        /// What logs and limits call it
        name: String,

        /// What it may do: infer:* or infer:MODEL, metrics, admin; may be given several times
        #[arg(long = "scope", value_name = "SCOPE", default_value = "infer:*")]
        scopes: Vec<String>,
    },
}

const EXAMPLES: &str = "\
Examples:
  tidemill key new search-team --scope infer:embedder --scope infer:reranker
  tidemill key new prometheus --scope metrics
  tidemill key new batch 2>/dev/tty >> keys.toml    the key on the terminal, the entry into the file";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let Command::New { name, scopes } = arguments.command;
    let key = NewKey::random(&name, &scopes)?;
    if json {
        return print_json(&serde_json::json!({ "key": key.secret(), "entry": key.entry() }));
    }
    // The entry alone goes to standard output, so that it can be added to a file.
    writeln!(io::stderr(), "the key, shown this once: {}\nthe entry for the file of keys:", key.secret())?;
    write!(io::stdout(), "{}", key.entry())?;
    Ok(io::stdout().flush()?)
}
