//! NVIDIA's Triton beside our server: an identity model for each datatype that its Python backend has.
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// As a model's configuration has them. Its backend gives no BF16 to Python.
const DATATYPES: [&str; 13] = [
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "STRING",
];

/// The process; ended when dropped.
#[derive(Debug)]
pub(super) struct Triton {
    child: Child,
    http: String,
    grpc: String,
    perf_analyzer: PathBuf,
}

impl Triton {
    /// Starts the server in `folder` (`server/pytriton/tritonserver` below it) on models in `scratch`, and waits until it is
    /// ready. `model` is the models' code.
    pub(super) fn start(folder: &Path, scratch: &Path, model: &Path) -> Result<Triton> {
        let folder = folder.canonicalize().with_context(|| format!("{} is not there.", folder.display()))?;
        let repository = scratch.join("triton");
        for datatype in DATATYPES {
            let place = repository.join(format!("identity_{}", datatype.to_lowercase()));
            fs::create_dir_all(place.join("1"))?;
            fs::write(place.join("config.pbtxt"), config(datatype))?;
            fs::copy(model, place.join("1/model.py"))?;
        }
        let log = scratch.join("triton.log");
        let [http, grpc, metrics] = [free_port()?, free_port()?, free_port()?];
        let home = folder.join("server/pytriton/tritonserver");
        let output = File::create(&log).with_context(|| format!("{} cannot be written.", log.display()))?;
        let child = Command::new(home.join("bin/tritonserver"))
            .arg("--model-repository")
            .arg(&repository)
            .arg("--backend-directory")
            .arg(home.join("backends"))
            .args(["--http-address=127.0.0.1", "--grpc-address=127.0.0.1"])
            // Loading and unloading are answered in this mode alone.
            .args(["--model-control-mode=explicit", "--load-model=*"])
            .args([format!("--http-port={http}"), format!("--grpc-port={grpc}"), format!("--metrics-port={metrics}")])
            .env("LD_LIBRARY_PATH", folder.join("server/nvidia_pytriton.libs"))
            // Its backend is built for the system's Python.
            .env("PYTHONHOME", "/usr")
            .env("PYTHONPATH", "/usr/lib/python3/dist-packages")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{} does not run.", home.join("bin/tritonserver").display()))?;
        let mut triton = Triton {
            child,
            http: format!("127.0.0.1:{http}"),
            grpc: format!("127.0.0.1:{grpc}"),
            perf_analyzer: folder.join("client/bin/perf_analyzer"),
        };
        let started = Instant::now();
        while !is_ready(&triton.http) {
            if let Some(status) = triton.child.try_wait()? {
                bail!("It ended at once ({status}); its log is {}.", log.display());
            }
            if started.elapsed() > START {
                bail!("It was not ready within {} s; its log is {}.", START.as_secs(), log.display());
            }
            std::thread::sleep(POLL);
        }
        Ok(triton)
    }

    /// Where it speaks gRPC, `host:port`.
    pub(super) fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Its load generator.
    pub(super) fn perf_analyzer(&self) -> &Path {
        &self.perf_analyzer
    }

    /// Where it speaks HTTP, `host:port`.
    pub(super) fn http(&self) -> &str {
        &self.http
    }
}

impl Drop for Triton {
    fn drop(&mut self) {
        // Asked first: killed, it would leave its models' processes and their shared memory behind.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < STOP && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL);
        }
        // Nothing more can be done for it here, whatever these return.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(datatype: &str) -> String {
    let tensor = |name: &str| format!("[{{ name: \"{name}\" data_type: TYPE_{datatype} dims: [-1] }}]");
    format!("backend: \"python\"\nmax_batch_size: 0\ninput {}\noutput {}\n", tensor("x"), tensor("y"))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("No port is free.")?;
    Ok(listener.local_addr()?.port())
}

fn is_ready(address: &str) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        socket.read_exact(&mut answer)?;
        Ok(answer.ends_with(b" 200"))
    };
    asked().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_the_datatype_of_both_tensors() {
        assert_eq!(config("BOOL").matches("TYPE_BOOL").count(), 2);
    }
}
