//! What the operating system, and the server itself at `/metrics`, say of a running server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::Server;

/// How long one answer over HTTP may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Ticks of a process's times in a second, everywhere on Linux.
const TICKS: u64 = 100;

impl Server {
    /// Bytes of its memory that are resident.
    pub fn resident(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes");
        kilobytes << 10
    }

    /// Files and sockets that it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs").count()
    }

    /// The processors' time that it has used.
    pub fn processor_time(&self) -> Duration {
        let stat = self.proc("stat");
        // After the name, which is in brackets: the 12th and 13th, the times in the program and in the system.
        let after = stat.rsplit(')').next().expect("a name in brackets");
        let ticks: u64 =
            after.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.id())).expect("it runs")
    }

    /// What its metrics say under a name and the first of its labels; 0 where they say nothing.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics");
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    /// The whole answer, head and body, to a request over HTTP.
    pub fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))
    }

    /// The whole answer to a request with a JSON body.
    pub fn post(&self, path: &str, body: &serde_json::Value) -> String {
        let body = body.to_string();
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the server accepts connections");
        stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("a socket");
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer in time");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Waits until a gauge is down to 0, for at most so long.
    pub fn until_zero(&self, gauge: &str, limit: Duration) {
        within(limit, &format!("{gauge} is 0"), || self.metric(gauge) == 0.0);
    }
}

/// Waits for something to become true, for at most so long.
pub fn within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
