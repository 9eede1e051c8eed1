//! A started server process: the address that it announces, and its orderly end.
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// The process; killed when dropped while it runs.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: String,
    log: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Server {
    /// Starts it with its standard error in the file `log`, and waits for its
    /// `{"event":"listening"}`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Server> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The server must not outlive this process: from here on a signal is looked at, not
            // died of.
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let file = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut child = command
            // A group of its own: Ctrl-C reaches this process alone, which then tells the server
            // once.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .context("the program does not run")?;
        let output = child.stdout.take();
        let mut server = Server { child, address: String::new(), log: log.to_owned(), interrupted };
        server.address = server.announced(output.context("the program has no standard output")?)?;
        Ok(server)
    }

    /// Where it listens, `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Asks it to finish by SIGTERM; an error when it does not, or when its exit code is not 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("it cannot be sent SIGTERM")?;
        self.ended()
    }

    /// Waits for Ctrl-C or SIGTERM, then stops it.
    pub(crate) fn wait_for_interrupt(mut self) -> Result<()> {
        while !self.interrupted.load(Ordering::Relaxed) {
            if let Some(status) = self.child.try_wait()? {
                return self.judge(status);
            }
            std::thread::sleep(POLL);
        }
        self.stop()
    }

    fn announced(&mut self, output: ChildStdout) -> Result<String> {
        let (sender, receiver) = mpsc::channel();
        // Reads to the end, so that the server never waits for a reader.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + START;
        loop {
            match receiver.recv_timeout(POLL) {
                Ok(line) => {
                    if let Some(address) = address_in(&line) {
                        return Ok(address);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("it ended at once ({status}){}", self.last_words());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!("it announced no address within {} s{}", START.as_secs(), self.last_words());
            }
        }
    }

    fn ended(&mut self) -> Result<()> {
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return self.judge(status);
            }
            std::thread::sleep(POLL);
        }
        bail!("it had not ended {} s after SIGTERM{}", STOP.as_secs(), self.last_words());
    }

    fn judge(&self, status: ExitStatus) -> Result<()> {
        if !status.success() {
            bail!("it ended with {status}{}", self.last_words());
        }
        Ok(())
    }

    /// The end of what it wrote, as a continuation of an error.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(5));
        last.fold(String::new(), |words, line| words + "\n    " + line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Nothing more can be done for it here, whatever these return.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The address in the line that announces it.
fn address_in(line: &str) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    (event["event"] == "listening").then(|| event["address"].as_str().map(str::to_owned))?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const ANNOUNCE: &str = r#"echo noise; echo '{"event":"listening","address":"127.0.0.1:7"}'"#;

    #[test]
    fn the_address_is_read_and_an_orderly_end_is_success() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("trap 'exit 0' TERM; {ANNOUNCE}; while true; do sleep 0.05; done");
        let server = Server::start(shell(&script), &folder.path().join("log")).unwrap();
        assert_eq!(server.address(), "127.0.0.1:7");
        server.stop().unwrap();
    }

    #[test]
    fn an_end_with_another_code_is_an_error_with_the_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = format!("trap 'echo lost it >&2; exit 3' TERM; {ANNOUNCE}; while true; do sleep 0.05; done");
        let error = Server::start(shell(&script), &log).unwrap().stop().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("lost it"), "{error}");
        let error = Server::start(shell("echo port in use >&2; exit 2"), &log).unwrap_err().to_string();
        assert!(error.contains("ended at once") && error.contains("port in use"), "{error}");
    }
}
