//! The server's life: listen, load, say that it is ready, serve, and on the word stop accepting, finish and end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::admission::{Admission, Gate};
use crate::config::ServerConfig;
use crate::connections::{self, Door};
use crate::error::ServeError;
use crate::follow;
use crate::health;
use crate::http;
use crate::keys::Keys;
use crate::metrics::{Metrics, UPKEEP};
use crate::model::Model;
use crate::models::Models;
use crate::repository::{Repository, RepositoryConfig, RepositoryMode};
use crate::services::{self, Base};
use crate::source::ModelSource;
use crate::thread::{Readiness, Running};
use crate::tls::Tls;

/// How long idle connections may take to close once every request is answered.
const CLOSING_TIME: Duration = Duration::from_millis(250);

/// Places for connections at the address of management, beside `max_connections`, so that it is never crowded out.
const MANAGEMENT_CONNECTIONS: usize = 32;

/// Streams that the other end has reset before they were looked at. Beyond it the connection is closed, as one that only
/// opens and resets (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// Streams that were reset for what the other end did wrong. Beyond it the connection is closed. What serves us has no bound
/// unless it is given one.
const MAX_ERROR_RESETS: usize = 256;

/// Bytes of requests that may lie unread on a connection. `h2` closes a connection on which more small frames lie unread
/// than half of this pays for, at some 200 bytes each: a client that sends thousands of small requests ahead on a stream of
/// a busy model is not to be taken for a hostile one. A stream's own window stays tonic's, 1 MiB.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// How often to look whether the models' threads have ended.
const JOIN_INTERVAL: Duration = Duration::from_millis(1);

/// Serves the packages and checkpoints of `config` until `shutdown` resolves.
///
/// Listens first, so that a taken address fails at once; then opens every model, each on its own thread; then calls
/// `ready` with the address it listens on, port 0 resolved, and takes requests. When `shutdown` resolves, health turns to
/// NOT_SERVING, no connection and no request is accepted any more, and those that were are finished, for `config.grace` at
/// most.
///
/// To be called within a multi-threaded tokio runtime.
///
/// # Errors
/// A configuration that does not make sense, an address that cannot be listened on, a model that cannot be opened, two
/// models of one name; each named.
///
/// ```no_run
/// use tidemill_serve::{ServerConfig, serve};
///
/// # async fn example() -> Result<(), tidemill_serve::ServeError> {
/// let config = ServerConfig { packages: vec!["models/sentiment".into()], ..ServerConfig::default() };
/// let interrupted = async {
///     let _ = tokio::signal::ctrl_c().await;
/// };
/// serve(config, interrupted, |address| println!("listening on {address}")).await
/// # }
/// ```
pub async fn serve(
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if config.packages.is_empty() && config.repository.is_none() {
        return Err(ServeError::NoModels);
    }
    let sources = config.packages.iter().cloned().map(ModelSource::path).collect();
    serve_models(config, sources, shutdown, ready).await
}

/// Serves the packages and checkpoints of `config`, and takes each configuration of `reloads`: the files of keys and of TLS
/// are read again, the bounds on one request change, and what needs a restart is named in the log. What is wrong changes
/// nothing and is logged. The next configuration is asked for when one has been taken. Otherwise as [`serve`].
///
/// # Errors
/// As [`serve`].
pub async fn serve_reloaded(
    config: ServerConfig,
    reloads: impl Stream<Item = ServerConfig> + Send,
    shutdown: impl Future<Output = ()> + Send,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if config.packages.is_empty() && config.repository.is_none() {
        return Err(ServeError::NoModels);
    }
    let sources = config.packages.iter().cloned().map(ModelSource::path).collect();
    serve_all(config, sources, reloads, shutdown, ready).await
}

/// Serves these models, and nothing that `config.packages` names; otherwise as [`serve`].
///
/// # Errors
/// As [`serve`].
pub async fn serve_models(
    config: ServerConfig,
    sources: Vec<ModelSource>,
    shutdown: impl Future<Output = ()> + Send,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    serve_all(config, sources, stream::pending(), shutdown, ready).await
}

async fn serve_all(
    config: ServerConfig,
    sources: Vec<ModelSource>,
    reloads: impl Stream<Item = ServerConfig> + Send,
    shutdown: impl Future<Output = ()> + Send,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    config.check()?;
    let written = config.clone();
    let keys = config.keys.as_deref().map(Keys::open).transpose()?;
    let tls = config.tls.as_ref().map(Tls::open).transpose()?;
    let listener = bind(config.address).await?;
    let address = listener.local_addr().map_err(|source| ServeError::Bind { address: config.address, source })?;
    let management = match config.admin.listens() {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let live = Live { written, keys, tls };
    let metrics = Arc::new(Metrics::new()?);
    let (models, mut threads) = load(sources, &config, &metrics).await?;
    let health = HealthReporter::new();
    let health_service = health::service(&health);
    let lasting: Vec<(String, Readiness)> =
        models.all().iter().map(|model| (model.info().name.clone(), model.readiness().clone())).collect();
    let repository = match &config.repository {
        Some(repository) => Some(open_repository(repository, &config, &models, &metrics, &health).await?),
        None => None,
    };
    let served =
        Served { models: &models, lasting, repository: repository.as_ref(), metrics: &metrics, health: &health };
    let listeners = (listener, management);
    let result = run(&config, &live, listeners, (served, health_service), reloads, shutdown, || ready(address)).await;
    for model in models.all() {
        model.close();
    }
    threads.extend(repository.iter().flat_map(Repository::take_threads));
    let stopping = result.as_ref().copied().unwrap_or_else(|_| Instant::now());
    join(threads, &models, stopping + config.grace).await;
    result.map(drop)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::AddressInUse { address },
        _ => ServeError::Bind { address, source },
    })
}

// The configuration as it was given, and what stands in files that are read again while the server runs.
struct Live {
    written: ServerConfig,
    keys: Option<Keys>,
    tls: Option<Tls>,
}

impl Live {
    // Takes every configuration that comes. Never ends.
    async fn follow(&self, reloads: impl Stream<Item = ServerConfig> + Send, gate: &Gate) {
        let mut reloads = pin!(reloads);
        while let Some(config) = reloads.next().await {
            self.take(&config, gate);
        }
        std::future::pending().await
    }

    fn take(&self, config: &ServerConfig, gate: &Gate) {
        match gate.limits().take(&self.written, config) {
            Err(error) => tracing::error!(%error, "the configuration stays as it was"),
            Ok(restart) if restart.is_empty() => tracing::info!("the configuration was read again"),
            Ok(restart) => {
                let keys = restart.join(", ");
                tracing::warn!(keys, "the configuration was read again; these need a restart");
            }
        }
        self.keys.iter().for_each(follow::reload);
        self.tls.iter().for_each(follow::reload);
    }
}

// Opens all at once and waits for all, so that a failure leaves no thread at work behind it.
async fn load(
    sources: Vec<ModelSource>,
    config: &ServerConfig,
    metrics: &Arc<Metrics>,
) -> Result<(Models, Vec<JoinHandle<()>>), ServeError> {
    let started = Instant::now();
    let mut places = Vec::new();
    let mut loading = Vec::new();
    for source in sources {
        let starting = source.start(config, Arc::clone(metrics))?;
        places.push(starting.place.clone());
        loading.push(starting.opened());
    }
    let mut models = Vec::new();
    let mut threads = Vec::new();
    for (opened, place) in join_all(loading).await.into_iter().zip(places) {
        let Running { model, thread } = opened?;
        let info = model.info();
        tracing::info!(model = info.name, version = info.version, does = model.does(), "loaded");
        models.push((model, place));
        threads.push(thread);
    }
    let took_ms = started.elapsed().as_millis();
    tracing::info!(models = models.len(), took_ms, "all models are loaded");
    Ok((Models::new(models)?, threads))
}

// Its models are loaded; those that cannot be are reported, and the others are served.
async fn open_repository(
    config: &RepositoryConfig,
    server: &ServerConfig,
    models: &Models,
    metrics: &Arc<Metrics>,
    health: &HealthReporter,
) -> Result<Repository, ServeError> {
    let repository = Repository::open(config.clone(), server, models, metrics, health)?;
    let failed = |source| ServeError::Repository { path: config.path.clone(), source };
    repository.begin().await.map_err(failed)?;
    Ok(repository)
}

// What a server serves.
struct Served<'a> {
    models: &'a Models,
    /// Those from outside the repository, which do not come and go.
    lasting: Vec<(String, Readiness)>,
    repository: Option<&'a Repository>,
    metrics: &'a Arc<Metrics>,
    health: &'a HealthReporter,
}

// Serves until `shutdown`, and gives the time when that was.
async fn run(
    config: &ServerConfig,
    live: &Live,
    (listener, management): (TcpListener, Option<TcpListener>),
    (served, health_service): (Served<'_>, HealthServer<impl Health>),
    reloads: impl Stream<Item = ServerConfig> + Send,
    shutdown: impl Future<Output = ()> + Send,
    ready: impl FnOnce(),
) -> Result<Instant, ServeError> {
    let Served { models, lasting, repository, metrics, health } = served;
    let gate = Gate::new(config, live.keys.clone());
    let base = Base::new(config, models, repository, gate.limits(), gate.watch());
    let grpc = services::routes(base.clone())?.add_service(health_service);
    let routes = http::beside(grpc, base, metrics);
    let admission = Admission::new(gate.clone(), Arc::clone(metrics), routes.prepare());

    set_health(health, models, ServingStatus::Serving).await;
    let mut tasks = watch_models(health, lasting);
    tasks.spawn(keep_up(Arc::clone(metrics), gate.clone()));
    if let (Some(repository), Some(RepositoryMode::Poll)) = (repository, config.repository.as_ref().map(|r| r.mode)) {
        tasks.spawn(repository.clone().poll());
    }
    if let Some(keys) = live.keys.clone() {
        tasks.spawn(follow::follow(keys));
    }
    if let Some(tls) = live.tls.clone() {
        tasks.spawn(follow::follow(tls));
    }

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let public = connections::accept(listener, Door::Public, live.tls.clone(), config.max_connections, config);
    let management = management.map(|listener| {
        connections::accept(listener, Door::Management, live.tls.clone(), MANAGEMENT_CONNECTIONS, config)
    });
    let management = stream::iter(management).flatten();
    let incoming = stream::select(Box::pin(public), Box::pin(management));
    let mut server = pin!(
        Server::builder()
            .accept_http1(true)
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(config.max_connection_streams)
            .http2_max_header_list_size(config.max_header_bytes)
            .http2_keepalive_interval(Some(config.keep_alive_interval))
            .http2_keepalive_timeout(Some(config.keep_alive_timeout))
            .serve_with_incoming_shutdown(admission, incoming, async {
                let _ = stopped.await;
            })
    );
    ready();
    tokio::select! {
        ended = &mut server => return Ok(ended.map(|()| Instant::now())?),
        () = live.follow(reloads, &gate) => {}
        () = shutdown => {}
    }
    let stopping = Instant::now();

    tracing::info!("shutting down");
    gate.shut();
    set_health(health, models, ServingStatus::NotServing).await;
    let _ = stop.send(());
    let answered = async {
        gate.emptied().await;
        tokio::time::sleep(CLOSING_TIME).await;
    };
    tokio::select! {
        ended = &mut server => ended?,
        () = answered => {}
        () = tokio::time::sleep(config.grace) => {
            tracing::warn!(grace_s = config.grace.as_secs(), "some requests were not finished in time");
        }
    }
    Ok(stopping)
}

// The server as a whole is the empty name; each model and each inference service has its own.
async fn set_health(health: &HealthReporter, models: &Models, status: ServingStatus) {
    for name in std::iter::once("").chain(services::NAMES) {
        health.set_service_status(name, status).await;
    }
    for model in models.newest() {
        health.set_service_status(&model.info().name, status).await;
    }
}

// Folds what was measured; and when requests have come and gone, and none has come for a while, gives back what they took.
async fn keep_up(metrics: Arc<Metrics>, gate: Gate) {
    let mut ticks = tokio::time::interval(UPKEEP);
    let (mut before, mut trimmed) = (0, 0);
    loop {
        ticks.tick().await;
        metrics.upkeep();
        let (entered, is_idle) = gate.traffic();
        if is_idle && entered == before && entered != trimmed {
            let _ = tokio::task::spawn_blocking(tidemill_torch::trim_memory).await;
            trimmed = entered;
        }
        before = entered;
    }
}

// A model that stops by itself cannot come back: it and the server as a whole turn to NOT_SERVING, so that whoever watches
// over the process starts another. The other models go on meanwhile.
fn watch_models(health: &HealthReporter, models: Vec<(String, Readiness)>) -> JoinSet<()> {
    let mut watching = JoinSet::new();
    for (name, readiness) in models {
        let health = health.clone();
        watching.spawn(async move {
            readiness.ended().await;
            health.set_service_status(&name, ServingStatus::NotServing).await;
            health.set_service_status("", ServingStatus::NotServing).await;
        });
    }
    watching
}

// Waits for the models' threads, so that none is inside libtorch while the process ends; not on a thread of the runtime,
// whose own end would then wait for them without a bound. Those that are still at work when the time is up are told to
// leave it.
async fn join(threads: Vec<JoinHandle<()>>, models: &Models, until: Instant) {
    let ended = |threads: &[JoinHandle<()>]| threads.iter().all(JoinHandle::is_finished);
    while !ended(&threads) && Instant::now() < until {
        tokio::time::sleep(JOIN_INTERVAL).await;
    }
    models.all().iter().for_each(Model::abort);
    let until = Instant::now() + CLOSING_TIME;
    while !ended(&threads) {
        if Instant::now() > until {
            tracing::warn!("a model is still at work; leaving without it");
            return;
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    }
    for thread in threads {
        // A panic has been logged where it happened.
        let _ = thread.join();
    }
}
