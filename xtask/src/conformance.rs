//! `cargo xtask conformance`: the built server as clients meet it that were not written for it, and beside Triton where there
//! is one.
//!
//! Owns the servers, the list of scripts and the table. What is asked, and what must come, is in
//! `xtask/peers/conformance/`: a script a client, which prints a line a case.
mod chromium;
mod outcome;
mod triton;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::environment::Peer;
use crate::manifest::Depth;
use crate::server::Server;
use crate::{cache, checkout, progress, setup, steps};
use outcome::{Outcome, Tally};
use triton::Triton;

/// `kserve` and `tritonclient.grpc` cannot be imported together: both bring the protocol's messages along.
const PEER: Peer = Peer {
    name: "conformance",
    imports: "google.rpc, grpc_health, grpc_reflection, grpc_status, kserve, openai, playwright, tritonclient.http, trustme",
};
/// Names a folder with `server/pytriton/tritonserver` and `client/bin/perf_analyzer` in it; docs/CLIENTS.md says how to make
/// one.
const TRITON: &str = "TIDEMILL_TRITON";

/// The cases of one client.
struct Script {
    /// Below `xtask/peers/conformance/`.
    file: &'static str,
    /// What the table calls it.
    client: &'static str,
    /// What it is given besides the server's address.
    needs: &'static [Need],
}

/// What a script needs besides `--address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// `--guarded`: a server with keys and TLS; `--folder`: where they are.
    Guarded,
    /// `--triton-grpc`, `--triton-http`. Without Triton the script is left out.
    Triton,
    /// `--perf-analyzer`: Triton's load generator. Without it the script is left out.
    PerfAnalyzer,
    /// A Chromium on the `PATH`.
    Chromium,
}

const SCRIPTS: [Script; 19] = [
    Script { file: "triton_grpc.py", client: "tritonclient.grpc", needs: &[] },
    Script { file: "triton_grpc_aio.py", client: "tritonclient.grpc.aio", needs: &[] },
    Script { file: "triton_stream.py", client: "tritonclient.grpc, streams", needs: &[] },
    Script { file: "triton_http.py", client: "tritonclient.http", needs: &[] },
    Script { file: "datatypes.py", client: "datatypes", needs: &[] },
    Script { file: "shared_memory.py", client: "shared memory", needs: &[] },
    Script { file: "health.py", client: "grpcio-health-checking", needs: &[] },
    Script { file: "repository.py", client: "repository", needs: &[] },
    Script { file: "errors_grpc.py", client: "errors, gRPC", needs: &[] },
    Script { file: "errors_http.py", client: "errors, HTTP", needs: &[] },
    Script { file: "reflection.py", client: "grpcio-reflection", needs: &[] },
    Script { file: "typed_services.py", client: "tidemill.v1", needs: &[] },
    Script { file: "openai_client.py", client: "openai", needs: &[] },
    Script { file: "kserve_clients.py", client: "kserve", needs: &[] },
    Script { file: "keys_and_tls.py", client: "keys and TLS", needs: &[Need::Guarded] },
    Script { file: "differences.py", client: "beside Triton", needs: &[Need::Triton] },
    Script { file: "perf_analyzer.py", client: "perf_analyzer", needs: &[Need::PerfAnalyzer] },
    Script { file: "examples.py", client: "docs/clients", needs: &[] },
    Script { file: "page.py", client: "the page, in Chromium", needs: &[Need::Guarded, Need::Chromium] },
];

/// Options of `cargo xtask conformance`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Run this script alone, `triton_grpc` for example; may be repeated.
    #[arg(long, value_name = "SCRIPT")]
    only: Vec<String>,
}

/// Runs the subcommand.
pub(crate) fn run(options: &Options, cache_folder: Option<&Path>) -> Result<()> {
    let root = checkout::root()?;
    setup::ensure(cache_folder, Depth::Quick)?;
    let built = checkout::cargo(&root)
        .args(["build", "--workspace", "--bin", "tidemill"])
        .status()
        .context("cargo does not run")?;
    if !built.success() {
        bail!("The program does not build.");
    }
    check(&root, cache_folder, &options.only)
}

/// The scripts against the program that is built, as a step.
pub(crate) fn step<'a>(root: &'a Path, cache_folder: Option<&'a Path>) -> steps::Step<'a> {
    steps::step("conformance", move || check(root, cache_folder, &[]))
}

fn check(root: &Path, cache_folder: Option<&Path>, only: &[String]) -> Result<()> {
    let scripts = chosen(only)?;
    let cache = cache::folder(cache_folder)?;
    let python = PEER.ready(root, &cache)?;
    if scripts.iter().any(|script| script.needs.contains(&Need::Chromium)) {
        chromium::ensure()?;
    }
    let folder = cache.join("conformance").join(std::process::id().to_string());
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made.", folder.display()))?;
    let run = Run { scripts: root.join("xtask/peers/conformance"), python, folder: folder.clone() };
    let program = checkout::target_folder(root).join("debug").join(format!("tidemill{}", std::env::consts::EXE_SUFFIX));
    run.prepare(&program)?;
    let servers = Servers::start(&run, &program)?;
    let mut tally = Tally::default();
    for script in scripts {
        run.script(script, &servers, &mut tally)?;
    }
    servers.stop().with_context(|| format!("A server did not end well; its log is in {}.", folder.display()))?;
    if tally.failures() > 0 {
        bail!("{}\nThe servers' logs are in {}.", tally.summary(), folder.display());
    }
    progress::done(&tally.summary());
    cache::remove(&folder)
}

// The scripts asked for, all when none is named.
fn chosen(only: &[String]) -> Result<Vec<&'static Script>> {
    let stem = |script: &Script| script.file.trim_end_matches(".py").to_owned();
    let known: Vec<String> = SCRIPTS.iter().map(stem).collect();
    if let Some(unknown) = only.iter().find(|name| !known.contains(name)) {
        bail!("There is no script called {unknown}. There are: {}.", known.join(", "));
    }
    Ok(SCRIPTS.iter().filter(|script| only.is_empty() || only.contains(&stem(script))).collect())
}

/// What all scripts of one run have in common.
struct Run {
    scripts: PathBuf,
    python: PathBuf,
    folder: PathBuf,
}

impl Run {
    /// Makes checkpoints, keys, certificates and configurations.
    fn prepare(&self, program: &Path) -> Result<()> {
        let mut command = self.command("prepare.py");
        if !command.arg(&self.folder).arg("--program").arg(program).status()?.success() {
            bail!("The servers' files could not be made: the script's words are above.");
        }
        Ok(())
    }

    fn script(&self, script: &Script, servers: &Servers, tally: &mut Tally) -> Result<()> {
        let mut command = self.command(script.file);
        command.args(["--address", servers.open.address()]);
        for need in script.needs {
            match need {
                Need::Guarded => {
                    command.args(["--guarded", servers.guarded.address()]).arg("--folder").arg(&self.folder);
                }
                Need::Triton => {
                    let Some(triton) = &servers.triton else { return left_out(script) };
                    command.args(["--triton-grpc", triton.grpc(), "--triton-http", triton.http()]);
                }
                Need::PerfAnalyzer => {
                    let program = servers.triton.as_ref().map(Triton::perf_analyzer);
                    let Some(program) = program.filter(|program| program.is_file()) else { return left_out(script) };
                    command.arg("--perf-analyzer").arg(program);
                }
                Need::Chromium => {}
            }
        }
        let mut child = command.stdout(Stdio::piped()).spawn().context("Python does not run")?;
        let output = child.stdout.take().context("Python has no standard output")?;
        let (mut cases, before) = (0, tally.failures());
        let tell = |tally: &mut Tally, outcome, case: &str| {
            println!("{}", outcome::row(script.client, outcome, case));
            tally.add(script.client, outcome, case);
        };
        for line in BufReader::new(output).lines() {
            let line = line.context("The script's output cannot be read.")?;
            match Outcome::read(&line) {
                Some((outcome, case)) => {
                    cases += 1;
                    tell(tally, outcome, case);
                }
                None => eprintln!("{line}"),
            }
        }
        let status = child.wait()?;
        // One that breaks off must not pass for what it has said until then.
        if cases == 0 || (!status.success() && tally.failures() == before) {
            let problem = format!("{}: the script ended with {status} after {cases} cases", script.file);
            tell(tally, Outcome::Failed, &problem);
        }
        Ok(())
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.scripts.join(script)).stdin(Stdio::null());
        // The environment's Node.js goes before the machine's.
        command.env("PATH", with_first(self.python.parent()));
        // Nothing is left in the checkout, and a handshake that fails is a case, not a message.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("GRPC_VERBOSITY", "NONE");
        command
    }
}

fn left_out(script: &Script) -> Result<()> {
    progress::note(&format!("{}: left out, {TRITON} names no folder that has it.", script.client));
    Ok(())
}

// The `PATH` with a folder before all others.
fn with_first(folder: Option<&Path>) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folder.map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path)
}

/// What the scripts ask.
struct Servers {
    /// Everything is switched on, for everybody.
    open: Server,
    /// The same program behind keys and TLS.
    guarded: Server,
    triton: Option<Triton>,
}

impl Servers {
    fn start(run: &Run, program: &Path) -> Result<Servers> {
        let start = |name: &str| {
            let mut command = Command::new(program);
            command.args(["serve", "--json", "--address", "127.0.0.1:0", "--config"]);
            command.arg(run.folder.join(format!("{name}.toml"))).env_remove("RUST_LOG");
            Server::start(command, &run.folder.join(format!("{name}.log")))
                .with_context(|| format!("The server of {name}.toml does not start."))
        };
        let triton = match std::env::var_os(TRITON).filter(|named| !named.is_empty()) {
            Some(named) => {
                let model = run.scripts.join("triton_model.py");
                Some(Triton::start(Path::new(&named), &run.folder, &model).context("Triton does not start.")?)
            }
            None => None,
        };
        Ok(Servers { open: start("server")?, guarded: start("guarded")?, triton })
    }

    fn stop(self) -> Result<()> {
        self.guarded.stop()?;
        self.open.stop()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_script_is_forgotten_and_each_is_found_by_its_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/conformance");
        assert!(SCRIPTS.iter().all(|script| folder.join(script.file).is_file()));
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_run = name != "prepare.py" && fs::read_to_string(&path).is_ok_and(|text| text.contains("__main__"));
            assert!(!is_run || SCRIPTS.iter().any(|script| script.file == name), "{name}");
        }
        assert_eq!(chosen(&[]).unwrap().len(), SCRIPTS.len());
        assert_eq!(chosen(&["errors_http".to_owned()]).unwrap()[0].client, "errors, HTTP");
        assert!(chosen(&["nothing".to_owned()]).is_err());
    }

    #[test]
    fn the_environment_goes_before_the_machine() {
        let path = with_first(Some(Path::new("/environment/bin")));
        assert_eq!(std::env::split_paths(&path).next().unwrap(), Path::new("/environment/bin"));
    }
}
