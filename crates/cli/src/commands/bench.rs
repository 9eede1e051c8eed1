//! `tidemill bench ADDRESS`: load for a running server, and its latency, throughput and errors as a table, JSON and curves.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tidemill_load::{Arrivals, Connections, Contents, Length, Load, Measured, Requests, Spacing, Stop, Stopper, drive};

use crate::exit::Interrupted;
use crate::remote::{self, TlsArguments};
use crate::terminal::{bold, yellow};
use crate::texts::lines;

/// Most texts of --text that are read, and most bytes of them: what is beyond is not sent.
const MOST_TEXTS: usize = 100_000;
const MOST_TEXT_BYTES: usize = 64 << 20;
const PERCENTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Measure a running server: ours, or any other of the Open Inference Protocol
///
/// Sends ModelInfer requests by gRPC, filled as the model's metadata says: random numbers and texts, or the lines of
/// --text. With --concurrency so many callers send one request after the other; with --rate requests are sent at that
/// rate, whatever the server does, and a latency counts from when its request was due. Ctrl-C ends it with the figures so
/// far.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The server; TIDEMILL_API_KEY holds its key, if it wants one
    #[arg(value_name = "[https://]HOST:PORT")]
    address: String,

    /// The model's name on that server; may be left out when it serves one model and is ours
    #[arg(long, value_name = "NAME", default_value = "")]
    model: String,

    /// Callers at once, a run for each number
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', default_value = "1", conflicts_with = "rate")]
    concurrency: Vec<usize>,

    /// Requests a second, a run for each number
    #[arg(long, value_name = "R[,R…]", value_delimiter = ',')]
    rate: Vec<f64>,

    /// What lies between the requests of --rate
    #[arg(long, value_enum, default_value_t = Arrive::Constant, requires = "rate")]
    arrivals: Arrive,

    /// How long each run lasts after the warm-up
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    duration: Duration,

    /// End each run after so many requests instead
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    requests: Option<u64>,

    /// How long each run goes on before anything counts
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds_or_none)]
    warm_up: Duration,

    /// The shape of an input whose dimensions vary, such as x:1,256; without it they are 1
    #[arg(long, value_name = "NAME:DIMS", value_parser = shape)]
    shape: Vec<(String, Vec<i64>)>,

    /// Fill text inputs from this file, one text a line, instead of with random letters
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// HTTP/2 connections; requests take them in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,

    /// Send by ModelStreamInfer, one stream a caller, where the server has it
    #[arg(long, conflicts_with = "rate")]
    streams: bool,

    /// How long one request may take
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    deadline: Duration,

    /// Most requests of --rate that are open at once; those due beyond it are counted as UNSENT
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "rate")]
    max_open: usize,

    /// What random contents and Poisson arrivals are drawn by
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Draw latency by percentile, and throughput by concurrency or rate
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    #[command(flatten)]
    tls: TlsArguments,
}

/// What lies between requests.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Arrive {
    /// The same time always
    Constant,
    /// Random times, as between callers who know nothing of each other
    Poisson,
}

const EXAMPLES: &str = "\
Examples:
  tidemill bench 127.0.0.1:8080 --model sentiment --text reviews.txt --concurrency 1,8,64
  tidemill bench 127.0.0.1:8080 --model sentiment --rate 500 --arrivals poisson --duration 60
  tidemill bench 127.0.0.1:8001 --model identity --shape x:1,256 --concurrency 32 --plot curves.svg
  tidemill bench 127.0.0.1:8080 --json > figures.json";

pub(crate) fn run(arguments: Arguments, json: bool) -> anyhow::Result<()> {
    let contents = contents(arguments.text.as_deref())?;
    if let Some(path) = &arguments.plot {
        // Now, not after a minute's work.
        std::fs::write(path, "").with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(arguments.connections.into()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let runs = runtime.block_on(measure(&arguments, &contents, json))?;
    if let Some(path) = &arguments.plot {
        let axis = if arguments.rate.is_empty() { "concurrency" } else { "requests/s sent" };
        let drawn: Vec<_> = runs.iter().map(|run| (run.name(), run.level, &run.measured)).collect();
        let svg = tidemill_load::plot(&drawn, axis)?;
        std::fs::write(path, svg).with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    if runs.iter().any(|run| run.measured.stopped) {
        return Err(Interrupted("stopped; the figures are those so far".into()).into());
    }
    if runs.iter().all(|run| run.measured.answered() == 0) {
        bail!("no request was answered; the table has the codes of the failures");
    }
    Ok(())
}

/// One run: its concurrency or rate, and what came of it.
struct Run {
    level: f64,
    is_rate: bool,
    measured: Measured,
}

impl Run {
    fn name(&self) -> String {
        if self.is_rate { format!("{} requests/s", self.level) } else { format!("{} callers", self.level) }
    }
}

async fn measure(arguments: &Arguments, contents: &Contents, json: bool) -> anyhow::Result<Vec<Run>> {
    let client = remote::connect(&arguments.address, &arguments.tls).await?;
    let metadata = client.model_metadata(&arguments.model).await?;
    let shapes: BTreeMap<String, Vec<i64>> = arguments.shape.iter().cloned().collect();
    let requests = Requests::for_model(&metadata, &shapes, contents, arguments.seed)?;
    let key = remote::api_key()?;
    let (address, count) = (arguments.address.as_str(), arguments.connections.into());
    let connections = match arguments.tls.read()? {
        None => Connections::open(address, count, key.as_deref()).await?,
        Some(tls) => Connections::open_tls(address, count, key.as_deref(), tls).await?,
    };
    if !json {
        let (different, bytes) = (requests.different(), requests.mean_bytes());
        println!("{} at {}: {different} different requests of {bytes} bytes", metadata.name, arguments.address);
        println!("{}", bold(&header(!arguments.rate.is_empty())));
    }
    let stop = stop_on_interrupt();
    let mut runs = Vec::new();
    for load in loads(arguments) {
        let measured = drive(&connections, &requests, &load, stop.clone()).await?;
        let (level, is_rate) = match load.arrivals {
            Arrivals::Closed { concurrency } => (concurrency as f64, false),
            Arrivals::Open { rate, .. } => (rate, true),
        };
        let run = Run { level, is_rate, measured };
        if !json {
            show(&run)?;
        }
        let stopped = run.measured.stopped;
        runs.push(run);
        if stopped {
            break;
        }
    }
    if json {
        let runs: Vec<_> = runs.iter().map(as_json).collect();
        super::print_json(&json!({
            "address": arguments.address, "model": metadata.name, "request_bytes": requests.mean_bytes(),
            "connections": arguments.connections, "runs": runs,
        }))?;
    }
    Ok(runs)
}

fn loads(arguments: &Arguments) -> Vec<Load> {
    let spacing = match arguments.arrivals {
        Arrive::Constant => Spacing::Constant,
        Arrive::Poisson => Spacing::Poisson,
    };
    let arrivals: Vec<Arrivals> = match arguments.rate.as_slice() {
        [] => arguments.concurrency.iter().map(|&concurrency| Arrivals::Closed { concurrency }).collect(),
        rates => rates.iter().map(|&rate| Arrivals::Open { rate, spacing }).collect(),
    };
    let load = |arrivals| Load {
        arrivals,
        warm_up: arguments.warm_up,
        length: arguments.requests.map_or(Length::Time(arguments.duration), Length::Requests),
        deadline: arguments.deadline,
        streams: arguments.streams,
        max_open: arguments.max_open,
        seed: arguments.seed,
    };
    arrivals.into_iter().map(load).collect()
}

/// Ctrl-C ends the load; a second one ends the program.
fn stop_on_interrupt() -> Stop {
    let (stopper, stop) = Stopper::new();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopper.stop();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
        // Without signals there is no word; the stopper is kept all the same.
        std::future::pending::<()>().await;
    });
    stop
}

fn header(is_rate: bool) -> String {
    let level = if is_rate { "rate" } else { "callers" };
    let percentiles = PERCENTILES.map(|(name, _)| format!("{name:>9}")).join(" ");
    format!("{level:>8} {:>11} {percentiles} {:>9}  ms, but for the first two and the last", "requests/s", "errors")
}

fn show(run: &Run) -> anyhow::Result<()> {
    let measured = &run.measured;
    let mut out = std::io::stdout().lock();
    let percentiles = PERCENTILES.map(|(_, quantile)| format!("{:>9.3}", ms(measured.latency(quantile)))).join(" ");
    let (level, rate, failed) = (run.level, measured.per_second(), measured.failed());
    writeln!(out, "{level:>8} {rate:>11.1} {percentiles} {failed:>9}")?;
    for (code, count) in measured.errors() {
        writeln!(out, "{}", yellow(&format!("{count:>20} {code}")))?;
    }
    if let Some(late) = measured.lateness(0.99)
        && late > measured.latency(0.99) / 10
    {
        let text =
            format!("{:>8} p99 of how late requests were sent, {:.3} ms: part of the latency is ours", "", ms(late));
        writeln!(out, "{}", yellow(&text))?;
    }
    Ok(out.flush()?)
}

fn as_json(run: &Run) -> serde_json::Value {
    let measured = &run.measured;
    let latency: serde_json::Map<_, _> = PERCENTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), ms(measured.latency(*quantile)).into()))
        .collect();
    json!({
        if run.is_rate { "rate" } else { "concurrency" }: run.level,
        "seconds": measured.elapsed.as_secs_f64(), "answered": measured.answered(),
        "requests_per_second": measured.per_second(), "latency_ms": latency,
        "mean_latency_ms": ms(measured.mean_latency()), "sent_late_p99_ms": measured.lateness(0.99).map(ms),
        "errors": measured.errors(), "received_bytes": measured.received_bytes(), "stopped": measured.stopped,
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn contents(text: Option<&Path>) -> anyhow::Result<Contents> {
    let Some(path) = text else {
        return Ok(Contents::Random);
    };
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("{name}: cannot be read"))?;
    let (mut texts, mut bytes) = (Vec::new(), 0);
    for text in lines(BufReader::new(file), name.clone()).take(MOST_TEXTS) {
        let text = text?;
        bytes += text.len();
        if bytes > MOST_TEXT_BYTES {
            break;
        }
        texts.push(text);
    }
    if texts.is_empty() {
        bail!("{name}: is empty; --text takes a file with one text a line");
    }
    Ok(Contents::Texts(texts))
}

/// `NAME:1,256` or `NAME:1x256`; a scalar is `NAME:`.
fn shape(text: &str) -> Result<(String, Vec<i64>), String> {
    let wrong = || "is not NAME:DIMS, such as x:1,256".to_owned();
    let (name, dimensions) = text.rsplit_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
    let dimensions = dimensions.split([',', 'x']).filter(|_| !dimensions.is_empty());
    let dimensions: Result<Vec<i64>, _> = dimensions.map(str::parse).collect();
    Ok((name.to_owned(), dimensions.map_err(|_| wrong())?))
}

fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text).and_then(|time| if time.is_zero() { Err("must be above 0".to_owned()) } else { Ok(time) })
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.strip_suffix('s').unwrap_or(text).parse().map_err(|_| "is not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "is not a time in seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_times_are_read() {
        assert_eq!(shape("x:1,256"), Ok(("x".to_owned(), vec![1, 256])));
        assert_eq!(shape("a:b:3x4"), Ok(("a:b".to_owned(), vec![3, 4])));
        assert_eq!(shape("x:"), Ok(("x".to_owned(), vec![])));
        assert!(shape("x").is_err() && shape(":1").is_err() && shape("x:a").is_err());
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds_or_none("0"), Ok(Duration::ZERO));
        assert!(seconds("0").is_err() && seconds("-1").is_err() && seconds("fast").is_err());
    }
}
