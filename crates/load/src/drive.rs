//! The load itself: callers in a closed loop, or a rate in an open one; warm-up, window, and the last answers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::arrivals::{Arrivals, Spacing, due_times};
use crate::connections::{Connections, DEADLINE_EXCEEDED, Exchange};
use crate::error::LoadError;
use crate::measured::{Measured, Recorder};
use crate::requests::Requests;
use crate::stop::Stop;

/// Most callers, and most open requests of an open loop.
const MOST_OPEN: usize = 65_536;
/// After a failure a caller of a closed loop waits, so that a server that refuses is not only asked faster.
const PAUSE: Duration = Duration::from_millis(1);
/// The pacer looks whether to end at least as often.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// What a load is.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// When requests come.
    pub arrivals: Arrivals,
    /// How long requests are sent before any is counted. Default 1 s.
    pub warm_up: Duration,
    /// When it ends.
    pub length: Length,
    /// How long one request may take; sent as `grpc-timeout`. Default 30 s.
    pub deadline: Duration,
    /// Requests go by `ModelStreamInfer`, one stream a caller, instead of `ModelInfer`. In a closed loop alone.
    pub streams: bool,
    /// Most requests of an open loop that are open at once; those due beyond it count as `UNSENT`. Default 4,096.
    pub max_open: usize,
    /// What Poisson arrivals are drawn by.
    pub seed: u64,
}

/// When a load ends, the warm-up not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After this time.
    Time(Duration),
    /// After this many requests.
    Requests(u64),
}

impl Load {
    /// One caller for this time.
    pub fn for_time(time: Duration) -> Load {
        Load {
            arrivals: Arrivals::Closed { concurrency: 1 },
            warm_up: Duration::from_secs(1),
            length: Length::Time(time),
            deadline: Duration::from_secs(30),
            streams: false,
            max_open: 4096,
            seed: 0,
        }
    }

    fn check(&self) -> Result<(), LoadError> {
        let wrong = |name, problem: &str| Err(LoadError::Setting { name, problem: problem.to_owned() });
        match self.arrivals {
            Arrivals::Closed { concurrency } if !(1..=MOST_OPEN).contains(&concurrency) => {
                return wrong("the concurrency", "is not from 1 to 65,536");
            }
            Arrivals::Open { rate, .. } if !(rate > 0.0 && rate <= 1e6) => {
                return wrong("the rate", "is not above 0 and at most 1,000,000 a second");
            }
            Arrivals::Open { .. } if self.streams => {
                return wrong("streams", "need callers: give a concurrency in the place of a rate");
            }
            _ => {}
        }
        if !(1..=MOST_OPEN).contains(&self.max_open) {
            return wrong("the number of open requests", "is not from 1 to 65,536");
        }
        if self.deadline.is_zero() || matches!(self.length, Length::Time(time) if time.is_zero()) {
            return wrong("a time", "must be above 0");
        }
        if self.length == Length::Requests(0) {
            return wrong("the number of requests", "must be at least 1");
        }
        Ok(())
    }
}

/// Runs a load and gives what it measured. Ends early, with the figures so far, when `stop` is given.
///
/// # Errors
/// A load that makes no sense. A server that fails is no error: its failures are counted.
pub async fn drive(
    connections: &Connections,
    requests: &Requests,
    load: &Load,
    mut stop: Stop,
) -> Result<Measured, LoadError> {
    load.check()?;
    let run = Arc::new(Run {
        connections: connections.clone(),
        requests: requests.clone(),
        load: load.clone(),
        started: Instant::now(),
        turns: AtomicU64::new(0),
        tickets: AtomicU64::new(0),
        open: AtomicUsize::new(0),
        open_measured: AtomicU64::new(0),
        phase: Mutex::new(Phase { recorder: Recorder::new()?, ended: None }),
    });
    let mut work = JoinSet::new();
    match load.arrivals {
        Arrivals::Closed { concurrency } => {
            for caller in 0..concurrency {
                work.spawn(Arc::clone(&run).call(caller as u64));
            }
        }
        Arrivals::Open { rate, spacing } => {
            work.spawn(Arc::clone(&run).arrive(rate, spacing));
        }
    }
    let time = match load.length {
        Length::Time(time) => load.warm_up.saturating_add(time),
        Length::Requests(_) => Duration::MAX,
    };
    let mut stopped = false;
    tokio::select! {
        () = wait_until(run.started.checked_add(time)) => {}
        () = all(&mut work) => {}
        () = stop.heard() => stopped = true,
    }
    run.end();
    // Those who wait are heard out, for as long as one may wait; unless we are told to go.
    if !stopped {
        tokio::select! {
            () = all_answered(&run, &mut work) => {}
            () = wait_until(Instant::now().checked_add(load.deadline)) => {}
            () = stop.heard() => stopped = true,
        }
    }
    work.abort_all();
    let mut phase = run.phase();
    phase.recorder.failed("UNFINISHED", run.open_measured.load(Ordering::Relaxed));
    let ended = phase.ended.unwrap_or_else(Instant::now);
    let elapsed = ended.saturating_duration_since(run.measured_from());
    Ok(Measured { recorder: phase.recorder.clone(), elapsed, stopped })
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

async fn all(work: &mut JoinSet<()>) {
    while work.join_next().await.is_some() {}
}

async fn all_answered(run: &Run, work: &mut JoinSet<()>) {
    all(work).await;
    while run.open.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A load under way.
struct Run {
    connections: Connections,
    requests: Requests,
    load: Load,
    started: Instant,
    /// Requests sent so far, warm-up included.
    turns: AtomicU64,
    /// Those of them that count towards the wanted number.
    tickets: AtomicU64,
    /// Open now, of an open loop.
    open: AtomicUsize,
    /// Open now and counted.
    open_measured: AtomicU64,
    phase: Mutex<Phase>,
}

struct Phase {
    recorder: Recorder,
    ended: Option<Instant>,
}

impl Run {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measured_from(&self) -> Instant {
        self.started.checked_add(self.load.warm_up).unwrap_or(self.started)
    }

    /// No more requests, and answers no longer count towards the throughput.
    fn end(&self) {
        let mut phase = self.phase();
        phase.ended.get_or_insert_with(Instant::now);
    }

    /// Whether a request that is due now is sent; `None` when all is over, else whether it counts.
    fn admit(&self, due: Instant) -> Option<bool> {
        if self.phase().ended.is_some() {
            return None;
        }
        if due < self.measured_from() {
            return Some(false);
        }
        match self.load.length {
            Length::Requests(wanted) if self.tickets.fetch_add(1, Ordering::Relaxed) >= wanted => None,
            _ => Some(true),
        }
    }

    /// One caller of a closed loop.
    async fn call(self: Arc<Run>, caller: u64) {
        let mut stream: Option<Exchange> = None;
        loop {
            let due = Instant::now();
            let Some(counts) = self.admit(due) else {
                return;
            };
            let answer = if self.load.streams {
                self.by_stream(&mut stream, caller, due, counts).await
            } else {
                self.send(due, counts).await
            };
            if !answer {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn send(&self, due: Instant, counts: bool) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let open = Open::new(self, counts);
        let answer = self.connections.infer(turn, self.requests.turn(turn), self.load.deadline).await;
        open.close(due, answer)
    }

    async fn by_stream(&self, stream: &mut Option<Exchange>, caller: u64, due: Instant, counts: bool) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let open = Open::new(self, counts);
        let exchange = async {
            let opened = match stream {
                Some(opened) => opened,
                None => stream.insert(self.connections.stream(caller).await?),
            };
            opened.infer(self.requests.turn(turn)).await
        };
        let answer = tokio::time::timeout(self.load.deadline, exchange).await.unwrap_or(Err(DEADLINE_EXCEEDED));
        if answer.is_err() {
            *stream = None;
        }
        open.close(due, answer)
    }

    /// The requests of an open loop. A thread of its own wakes for each, for tokio's clock ticks in milliseconds.
    async fn arrive(self: Arc<Run>, rate: f64, spacing: Spacing) {
        let (due, mut times) = mpsc::channel(self.load.max_open);
        let run = Arc::clone(&self);
        let pacer = std::thread::Builder::new().name("pacer".to_owned()).spawn(move || run.pace(rate, spacing, &due));
        if pacer.is_err() {
            return;
        }
        let mut work = JoinSet::new();
        while let Some(due) = times.recv().await {
            while work.try_join_next().is_some() {}
            let Some(counts) = self.admit(due) else {
                break;
            };
            if self.open.load(Ordering::Relaxed) >= self.load.max_open {
                if counts {
                    self.phase().recorder.failed("UNSENT", 1);
                }
                continue;
            }
            if counts {
                self.phase().recorder.late(due.elapsed());
            }
            self.open.fetch_add(1, Ordering::Relaxed);
            let run = Arc::clone(&self);
            work.spawn(async move {
                run.send(due, counts).await;
                run.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
        // Waits for the answers; dropped when the load is told to go.
        all(&mut work).await;
    }

    fn pace(&self, rate: f64, spacing: Spacing, due: &mpsc::Sender<Instant>) {
        for after in due_times(rate, spacing, self.load.seed) {
            let Some(time) = self.started.checked_add(after) else {
                return;
            };
            while let left = time.saturating_duration_since(Instant::now())
                && !left.is_zero()
            {
                if due.is_closed() {
                    return;
                }
                std::thread::sleep(left.min(LONGEST_SLEEP));
            }
            if self.phase().ended.is_some() || due.blocking_send(time).is_err() {
                return;
            }
        }
    }
}

/// A request that is open, counted so until it is closed or given up.
struct Open<'a> {
    run: &'a Run,
    counts: bool,
}

impl<'a> Open<'a> {
    fn new(run: &'a Run, counts: bool) -> Open<'a> {
        if counts {
            run.open_measured.fetch_add(1, Ordering::Relaxed);
        }
        Open { run, counts }
    }

    /// Records what came of it; whether it was an answer.
    fn close(self, due: Instant, answer: Result<usize, &'static str>) -> bool {
        let now = Instant::now();
        let mut phase = self.run.phase();
        match answer {
            Ok(bytes) => {
                if self.counts {
                    phase.recorder.answered(now.saturating_duration_since(due));
                }
                if phase.ended.is_none() && now >= self.run.measured_from() {
                    phase.recorder.came(bytes);
                }
            }
            Err(code) if self.counts => phase.recorder.failed(code, 1),
            Err(_) => {}
        }
        if self.counts {
            self.run.open_measured.fetch_sub(1, Ordering::Relaxed);
        }
        answer.is_ok()
    }
}
