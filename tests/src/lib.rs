//! The harness of the end-to-end tests: it starts the real program as a process and talks to it as a user would.
//!
//! It knows nothing of the crates behind the program except the wire (`tidemill-proto`).
// A harness fails a test by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod certificates;
mod checkpoints;
mod vitals;
mod wire;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use checkpoints::{checkpoint, encoder, lengthened};
pub use vitals::within;
pub use wire::{Answer, GRPC, Head, JSON, OpenStream, Wire, framed};

/// How long any one command of the program may take before the test fails.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// The built program, built first if it is not there or is older than its sources; or what `TIDEMILL_PROGRAM` names.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("TIDEMILL_PROGRAM") {
            return program.into();
        }
        let mut cargo = Command::new(env!("CARGO"));
        // Of the whole workspace, so that dependencies have the features that they have in the tests and are built once.
        cargo.args(["build", "--quiet", "--workspace", "--bin", "tidemill"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(repository()).status().expect("cargo can be run");
        assert!(status.success(), "the program does not build");
        let tests = std::env::current_exe().expect("a test knows its own path");
        let folder = tests.ancestors().nth(2).expect("target/profile/deps/test");
        folder.join(format!("tidemill{}", std::env::consts::EXE_SUFFIX))
    })
}

/// The root of the checkout.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout")
}

/// What a finished command left.
pub struct Finished {
    /// Exit code; -1 when a signal ended it
    pub code: i32,
    /// Standard output
    pub stdout: String,
    /// Standard error
    pub stderr: String,
}

impl Finished {
    /// The same, having checked that the command succeeded.
    pub fn success(self) -> Finished {
        assert_eq!(self.code, 0, "exit code\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// The one JSON value on standard output.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {}", self.stdout))
    }
}

/// Run `tidemill ARGUMENTS` in `folder` to its end.
pub fn tidemill(folder: &Path, arguments: &[&str]) -> Finished {
    finish(start(folder, arguments).stdin(Stdio::null()))
}

/// Run `tidemill ARGUMENTS` in `folder` with `input` on its standard input.
pub fn tidemill_with_input(folder: &Path, arguments: &[&str], input: &str) -> Finished {
    let file = folder.join(".stdin");
    std::fs::write(&file, input).expect("a writable test folder");
    finish(start(folder, arguments).stdin(std::fs::File::open(file).expect("just written")))
}

/// A command that runs `tidemill ARGUMENTS` in `folder`, not yet started.
pub fn start(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(folder).env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}

/// Run a command to its end, within [`COMMAND_LIMIT`].
pub fn finish(command: &mut Command) -> Finished {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let output = output_within(COMMAND_LIMIT, child);
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("the program prints UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn output_within(limit: Duration, mut child: Child) -> Output {
    let mut pipes = (child.stdout.take(), child.stderr.take());
    let drain = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let out = drain(pipes.0.take().map(|p| Box::new(p) as _));
    let err = drain(pipes.1.take().map(|p| Box::new(p) as _));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the program did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: out.join().expect("reader"), stderr: err.join().expect("reader") }
}

/// A running `tidemill serve`, killed when dropped.
pub struct Server {
    child: Child,
    /// Where it listens, `127.0.0.1:PORT`
    pub address: String,
}

impl Server {
    /// Serve packages on a free port, and wait until the server says that it listens.
    pub fn start(folder: &Path, arguments: &[&str]) -> Server {
        let mut all = vec!["serve", "--json", "--address", "127.0.0.1:0"];
        all.extend(arguments);
        Server::of(start(folder, &all).stderr(Stdio::null()))
    }

    /// A `tidemill serve --json` that is not yet started; waits until it says that it listens.
    pub fn of(command: &mut Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let value: serde_json::Value = serde_json::from_str(&line).expect("JSON lines");
                if let (Some("listening"), Some(address)) = (value["event"].as_str(), value["address"].as_str()) {
                    let _ = tell.send(address.to_owned());
                }
            }
        });
        let mut server = Server { child, address: String::new() };
        server.address = told.recv_timeout(COMMAND_LIMIT).expect("a server says where it listens");
        server
    }

    /// As [`Server::start`], with its log in a file.
    pub fn logged(folder: &Path, arguments: &[&str], log: &Path) -> Server {
        let mut all = vec!["serve", "--json", "--address", "127.0.0.1:0"];
        all.extend(arguments);
        Server::of(start(folder, &all).stderr(std::fs::File::create(log).expect("a writable test folder")))
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A connected gRPC channel.
    pub async fn channel(&self) -> tonic::transport::Channel {
        let endpoint = format!("http://{}", self.address).parse::<tonic::transport::Endpoint>().expect("an address");
        endpoint.connect().await.expect("the server accepts connections")
    }

    /// Send SIGTERM without waiting.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Send SIGHUP without waiting.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill");
        assert!(status.success());
    }

    /// Wait for the end and give the exit code.
    pub fn wait(mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the server did not end within {limit:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Made-up film reviews that a small model can learn: `rows` lines of text, tab, label.
pub fn reviews(rows: usize) -> String {
    const GOOD: [&str; 6] = ["wonderful", "moving", "brilliant", "charming", "superb", "delightful"];
    const BAD: [&str; 6] = ["dreadful", "tedious", "clumsy", "dull", "awful", "lifeless"];
    const THINGS: [&str; 7] = ["plot", "cast", "camera", "score", "ending", "dialogue", "pace"];
    const OPENINGS: [&str; 5] = ["A film with a", "What a", "Here comes a", "Nothing but a", "They made a"];
    let mut state = 7_u64;
    let mut pick = move |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut text = String::new();
    for row in 0..rows {
        let (words, label) = if pick(2) == 0 { (&GOOD, "positive") } else { (&BAD, "negative") };
        let (a, b) = (words[pick(6)], words[pick(6)]);
        let (x, y) = (THINGS[pick(7)], THINGS[pick(7)]);
        text += &format!("{} {a} {x} and a {b} {y}, take {row}.\t{label}\n", OPENINGS[pick(5)]);
    }
    text
}

/// A recipe that trains on [`reviews`] within seconds; `extra` is added at the end.
pub fn small_recipe(extra: &str) -> String {
    format!(
        "name = \"sentiment\"\ntask = \"text-classification\"\nseed = 5\n\n\
         [data]\ntrain = \"reviews.tsv\"\nformat = \"tsv\"\nheader = false\ntext = 1\nlabel = 2\n\n\
         [split]\nby = \"stratified\"\nvalidation = 0.15\ntest = 0.15\n\n\
         [tokenizer]\nkind = \"words\"\nlower_case = true\nmax_length = 32\n\n\
         [model]\narchitecture = \"text_cnn\"\nembedding_dim = 16\nfilters = 8\n\n\
         [training]\nepochs = 4\nbatch_size = 16\n\n\
         [optimiser]\nname = \"adam\"\nlearning_rate = 0.01\n{extra}"
    )
}

/// Trains a classifier of some [`reviews`] in `folder`, as [`small_recipe`] or another says: its package is
/// `folder/run/package`, its name `sentiment`.
pub fn train_sentiment(folder: &Path, rows: usize, recipe: &str) {
    std::fs::write(folder.join("reviews.tsv"), reviews(rows)).expect("a writable test folder");
    std::fs::write(folder.join("recipe.toml"), recipe).expect("a writable test folder");
    tidemill(folder, &["train", "recipe.toml", "--output", "run"]).success();
}
