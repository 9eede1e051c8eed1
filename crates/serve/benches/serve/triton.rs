//! The identity model and a package's TextCNN in Triton's Python backend, its one backend on a machine without a GPU, and
//! `perf_analyzer`.
//!
//! `TIDEMILL_BENCH_PYTHON` names a Python of the system's version that has torch, tokenizers and safetensors, for the
//! TextCNN. `TIDEMILL_BENCH_TRITON` is a folder with `server/pytriton/tritonserver` (PyPI's `nvidia-pytriton`) and
//! `client/bin/perf_analyzer` (PyPI's `tritonclient`); docs/CLIENTS.md has the commands.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{CALLERS, Figures, Generator, MANY, Served, goal, report, requests, text_requests, texts};

const NAMED: &str = "TIDEMILL_BENCH_TRITON";
const PYTHON: &str = "TIDEMILL_BENCH_PYTHON";
const START: Duration = Duration::from_secs(60);
const CONFIG: &str = r#"name: "identity"
backend: "python"
max_batch_size: 128
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] }]
dynamic_batching {}
"#;
const MODEL: &str = r#"import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        tensor = lambda request: triton.get_input_tensor_by_name(request, "x").as_numpy()
        return [triton.InferenceResponse([triton.Tensor("y", tensor(request))]) for request in requests]
"#;

const TEXT_MODEL: &str = include_str!("text_cnn_model.py");

/// Models here and there, in turn: the identity model by requests of 1 KB, and a text classifier.
pub(crate) fn beside_triton(generator: &Generator, identity: Option<&str>, package: Option<&Served>) {
    let Some(folder) = std::env::var_os(NAMED).map(PathBuf::from) else {
        println!("skipped: Triton: {NAMED} names no folder; docs/CLIENTS.md says how to make one");
        return;
    };
    if let Some(identity) = identity {
        match Triton::start(&folder, "identity", CONFIG, MODEL) {
            Ok(triton) => identities(generator, &folder, &triton, identity),
            Err(problem) => println!("skipped: Triton's identity model: {problem}"),
        }
    }
    let Some(package) = package else {
        return;
    };
    let Some(python) = std::env::var_os(PYTHON) else {
        println!("skipped: Triton's text classifier: {PYTHON} names no Python with torch, tokenizers and safetensors");
        return;
    };
    let started = modules(Path::new(&python)).and_then(|modules| {
        // By the code itself: what the environment says does not reach the backend's process.
        let code = format!("import sys\n\nsys.path.insert(0, {:?})\n{TEXT_MODEL}", modules.display().to_string());
        Triton::start(&folder, &package.model, &text_config(package), &code)
    });
    match started {
        Ok(triton) => classifiers(generator, &triton, package),
        Err(problem) => println!("skipped: Triton's text classifier: {problem}"),
    }
}

/// One text a request, from as many callers as the bench of batching has.
fn classifiers(generator: &Generator, triton: &Triton, package: &Served) {
    let (plain, batched) = (text_requests(&package.model, &[1]), text_requests(&package.model, &[1, 1]));
    let apart = generator.greatest_difference(&package.address, &triton.address, &package.model, &texts());
    println!("greatest difference of a probability between the two: {apart:.1e}");
    assert!(apart < 1e-3, "Triton's model is another one");
    let (mut ours, mut theirs) = (Figures::NONE, Figures::NONE);
    for _ in 0..generator.rounds {
        theirs = theirs.better(generator.measure(&triton.address, &batched, MANY));
        ours = ours.better(generator.measure(&package.address, &plain, MANY));
    }
    let name = format!("serve texts, {MANY} callers, by PyTorch in Triton");
    goal(&name, "texts/s", (theirs.per_second, ours.per_second), (2.0, "higher"));
}

fn identities(generator: &Generator, folder: &Path, triton: &Triton, identity: &str) {
    let elements = 256;
    let plain = requests("identity", &[elements]);
    // There the first dimension is the batch's.
    let batched = requests("identity", &[1, elements]);
    for callers in CALLERS {
        let (mut ours, mut theirs) = (Figures::NONE, Figures::NONE);
        for _ in 0..generator.rounds {
            theirs = theirs.better(generator.measure(&triton.address, &batched, callers));
            ours = ours.better(generator.measure(identity, &plain, callers));
        }
        report(&format!("serve 1 KB, {callers} callers, by Triton"), (theirs, ours), 1.5, 1.0);
        let analysed = perf_analyzer(folder, &triton.address, callers)
            .and_then(|theirs| Ok((theirs, perf_analyzer(folder, identity, callers)?)));
        match analysed {
            Ok(figures) => {
                report(&format!("serve 1 KB, {callers} callers, by Triton, perf_analyzer"), figures, 1.5, 1.0)
            }
            Err(problem) => println!("skipped: perf_analyzer: {problem}"),
        }
    }
}

/// A running `tritonserver`, ended when dropped.
struct Triton {
    child: Child,
    address: String,
    repository: tempfile::TempDir,
}

impl Triton {
    /// Serves one model of this configuration and code.
    fn start(folder: &Path, name: &str, config: &str, code: &str) -> Result<Triton, String> {
        let said = |error: std::io::Error| error.to_string();
        let folder = std::fs::canonicalize(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let repository = tempfile::tempdir().map_err(said)?;
        let model = repository.path().join(name);
        std::fs::create_dir_all(model.join("1")).map_err(said)?;
        std::fs::write(model.join("config.pbtxt"), config).map_err(said)?;
        std::fs::write(model.join("1/model.py"), code).map_err(said)?;
        let ports = [free_port(), free_port(), free_port()];
        let home = folder.join("server/pytriton/tritonserver");
        let child = Command::new(home.join("bin/tritonserver"))
            .arg("--model-repository")
            .arg(repository.path())
            .arg("--backend-directory")
            .arg(home.join("backends"))
            .args(["--http-address=127.0.0.1", "--grpc-address=127.0.0.1"])
            .args([format!("--http-port={}", ports[0]), format!("--grpc-port={}", ports[1])])
            .arg(format!("--metrics-port={}", ports[2]))
            .env("LD_LIBRARY_PATH", folder.join("server/nvidia_pytriton.libs"))
            // Its backend is built for the system's Python.
            .env("PYTHONHOME", "/usr")
            .env("PYTHONPATH", "/usr/lib/python3/dist-packages")
            .stdout(Stdio::null())
            .stderr(File::create(repository.path().join("log")).map_err(said)?)
            .spawn()
            .map_err(|error| format!("{}: {error}", home.display()))?;
        let mut triton = Triton { child, address: format!("127.0.0.1:{}", ports[1]), repository };
        let started = Instant::now();
        while !ready(ports[0]) {
            if let Ok(Some(status)) = triton.child.try_wait() {
                let log = std::fs::read_to_string(triton.repository.path().join("log")).unwrap_or_default();
                let why = log.lines().find(|line| line.contains("Error")).unwrap_or("it did not say why");
                return Err(format!("tritonserver ended with {status}: {}", why.trim()));
            }
            if started.elapsed() > START {
                return Err(format!("tritonserver was not ready within {} s", START.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(triton)
    }
}

impl Drop for Triton {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text_config(package: &Served) -> String {
    format!(
        "name: {:?}\nbackend: \"python\"\nmax_batch_size: 64\n\
         input [{{ name: \"text\" data_type: TYPE_STRING dims: [1] }}]\n\
         output [{{ name: \"probabilities\" data_type: TYPE_FP32 dims: [{}] }}]\n\
         dynamic_batching {{}}\n\
         parameters {{ key: \"package\" value: {{ string_value: {:?} }} }}\n",
        package.model,
        package.pipeline.labels().len(),
        package.folder.display().to_string()
    )
}

/// The folder that a Python imports from, if it has what the model needs.
fn modules(python: &Path) -> Result<PathBuf, String> {
    let script = "import torch, tokenizers, safetensors, sysconfig; print(sysconfig.get_paths()['purelib'])";
    let output = Command::new(python).args(["-c", script]).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{} lacks torch, tokenizers or safetensors", python.display()));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn ready(port: u16) -> bool {
    let answer = || -> std::io::Result<Vec<u8>> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = vec![0; 64];
        let length = socket.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    };
    answer().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

/// What Triton's own generator measures of a server.
fn perf_analyzer(folder: &Path, address: &str, callers: usize) -> Result<Figures, String> {
    let table = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let output = Command::new(folder.join("client/bin/perf_analyzer"))
        .args(["-m", "identity", "-u", address, "-i", "grpc", "--shape", "x:256", "--percentile", "99"])
        .args(["--concurrency-range", &callers.to_string(), "--measurement-interval", "2000"])
        // As many trials as are asked for, however they spread: the machine is shared.
        .args(["--max-trials", "3", "--stability-percentage", "999", "-f"])
        .arg(table.path())
        .env("LD_LIBRARY_PATH", libraries(folder)?)
        .output()
        .map_err(|error| error.to_string())?;
    let text = std::fs::read_to_string(table.path()).unwrap_or_default();
    let mut lines = text.lines();
    let (header, row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let column = |name: &str| {
        let index = header.split(',').position(|column| column.trim() == name)?;
        row.split(',').nth(index)?.trim().parse::<f64>().ok()
    };
    match (column("Inferences/Second"), column("p99 latency")) {
        (Some(per_second), Some(p99)) => Ok(Figures { per_second, p99: p99 / 1e3 }),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
            Err(format!("{address}: {last}"))
        }
    }
}

/// The folder of the CUDA library that `perf_analyzer` is linked to, without using it.
fn libraries(folder: &Path) -> Result<PathBuf, String> {
    let lib = folder.join("client/lib");
    let pythons = std::fs::read_dir(&lib).map_err(|error| format!("{}: {error}", lib.display()))?;
    let found = pythons.flatten().map(|python| python.path().join("site-packages/nvidia/cuda_runtime/lib"));
    found.into_iter().find(|path| path.is_dir()).ok_or_else(|| format!("no cuda_runtime below {}", lib.display()))
}
