//! The server's configuration: every bound and its default, in one type. It can be read from TOML; durations are written
//! with their unit ("500us", "2ms", "30s", "5m").

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_model::Scheduling;
use tonic::codegen::http::Uri;

use crate::model_path::ModelPath;
use crate::repository::config::RepositoryConfig;
use crate::tls::TlsFiles;

/// What a server listens on, what it serves, and where its bounds are.
///
/// ```
/// use tidemill_serve::ServerConfig;
///
/// let config = ServerConfig { max_batch_size: 32, ..ServerConfig::default() };
/// assert_eq!(config.address.to_string(), "127.0.0.1:8080");
/// config.check()?;
/// # Ok::<(), tidemill_serve::ServeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where to listen. Port 0 takes a free one. Default: `127.0.0.1:8080`.
    pub address: SocketAddr,
    /// Packages and checkpoints to serve, one model each: a folder, a `.gguf`, `.pt` or `.pt2` file, or
    /// `builtin:identity`; `NAME=PATH` gives another name than the file's. Default: none.
    pub packages: Vec<ModelPath>,
    /// A folder of models that come and go while the server runs. Default: none.
    pub repository: Option<RepositoryConfig>,
    /// Whether TorchScript modules (`.pt`) and AOTInductor packages (`.pt2`) are opened: both run code of their own, with
    /// all that this process may do. Default: false.
    pub allow_code: bool,
    /// Threads that libtorch uses within one operation of one model. Default (absent): the processors that this process may
    /// use, shared out between the models of `packages`, at least one each; one for a package that runs a batch in a few
    /// milliseconds, which is measured when it is opened.
    pub threads: Option<i32>,

    /// The file of API keys; with one, every call but a probe needs a key of it. Read again when it changes. Default
    /// (absent): none, and everybody may call.
    pub keys: Option<PathBuf>,
    /// TLS, and mutual TLS. The files are read again when they change. Default (absent): none.
    pub tls: Option<TlsFiles>,
    /// Listen on an address that other machines reach, though anybody could then call: there are neither keys nor mutual
    /// TLS; and answer there under whatever host name a request has. Default: false.
    pub allow_anyone: bool,
    /// The calls that manage the server.
    pub admin: AdminConfig,

    /// Where traces are sent. Default (absent): nowhere.
    pub traces: Option<TracesConfig>,

    /// Most texts that a model is given at once. A longer request is run in parts. Default: 64.
    pub max_batch_size: usize,
    /// How long the first text of a batch may wait for others to join it when the model is idle. While the model is busy
    /// the next batch forms by itself, so that waiting rarely pays. Default: 0.
    #[serde(with = "tidemill_data::duration")]
    pub max_delay: Duration,
    /// Sizes that batches are best of. A model that waits for more (`max_delay`) runs as soon as that many texts wait, and
    /// takes the largest of these sizes that is there. Default: none, whatever waits.
    pub preferred_batch_sizes: Vec<usize>,
    /// How many of each model run side by side, each with its own weights; not of models that generate. Default: 1.
    pub instances: usize,
    /// What differs from this for single models, by their names; goes before what their packages say. Default: nothing.
    pub models: BTreeMap<String, Scheduling>,
    /// Most tokens that an encoder is given at once. Default: 16,384.
    pub max_batch_tokens: usize,
    /// Most texts that may wait for one model; beyond it requests are refused at once. At least `max_texts`.
    /// Default: 4,096.
    pub max_queue: usize,

    /// The precision of checkpoints' matrices; encoders take float32 or bfloat16. Default (absent): as they are stored.
    pub precision: Option<CheckpointPrecision>,
    /// The longest context of a model that generates, prompt and answer together, in tokens. Default (absent): the
    /// checkpoint's own, up to 8,192.
    pub max_context: Option<usize>,
    /// A smaller checkpoint that drafts for the decoders served, all of which must have its tokens; their answers do not
    /// change. Default: none.
    pub draft: Option<PathBuf>,
    /// Bytes that the keys and values of a model that generates may take. Default (absent): 1 GiB, taken as it is used.
    pub cache_bytes: Option<usize>,
    /// Most sequences that a model generates at once. Default: 64.
    pub max_sequences: usize,
    /// Most requests that may wait for a model that generates; beyond it they are refused at once. Default: 256.
    pub max_waiting: usize,
    /// Longest time for one answer that is generated, streamed or not. Default: 10 min.
    #[serde(with = "tidemill_data::duration")]
    pub max_generation_time: Duration,
    /// Most tokens of an answer that may wait for a slow reader; beyond it the answer is cut off. Default: 4,096.
    pub max_stream_backlog: usize,

    /// Whether callers may register regions of system shared memory, which are this machine's: with it a caller can have
    /// the server read and write every object that its user may. Default: no.
    pub shared_memory: bool,

    /// Most texts in a request. Default: 1,024.
    pub max_texts: usize,
    /// Most bytes of UTF-8 in a text. Default: 64 KiB.
    pub max_text_bytes: usize,
    /// Most tensors in a request of the Open Inference Protocol, inputs and outputs each. Default: 64.
    pub max_tensors: usize,
    /// Most bytes in a message. Default: 4 MiB.
    pub max_message_bytes: usize,
    /// Most inference requests, streams included, that may be open at once on the whole server; beyond it they are
    /// refused at once. Default: 1,024.
    pub max_requests: usize,
    /// Longest time for one unary request, from its headers to its answer, whatever deadline its caller has set.
    /// Default: 60 s.
    #[serde(with = "tidemill_data::duration")]
    pub max_request_time: Duration,
    /// Requests of one stream that may be under way at once; beyond it the stream is not read. Default: 16.
    pub max_stream_requests: usize,
    /// Longest time that a stream may lie idle before it is ended. Default: 5 min.
    #[serde(with = "tidemill_data::duration")]
    pub max_stream_idle: Duration,

    /// Most connections. Beyond it new ones wait, unaccepted, for another to close. Default: 900, below the usual limit
    /// of 1,024 open files.
    pub max_connections: usize,
    /// Longest time that a connection may take over TLS's handshake, and then to begin to ask. Default: 10 s.
    #[serde(with = "tidemill_data::duration")]
    pub max_opening_time: Duration,
    /// Most TLS handshakes under way at once; beyond it the oldest is given up for the newest. Default: 128.
    pub max_handshakes: usize,
    /// How long a connection may stay open without a request, of HTTP/1.1 30 s at most, or without reading its answers.
    /// Default: 5 min.
    #[serde(with = "tidemill_data::duration")]
    pub max_connection_idle: Duration,
    /// Longest time that a request's message may take to arrive, of those that are one message. Default: 30 s.
    #[serde(with = "tidemill_data::duration")]
    pub max_receive_time: Duration,
    /// Most HTTP/2 streams open at once on a connection. Default: 256.
    pub max_connection_streams: u32,
    /// Most bytes of headers in a request, as HTTP/2 counts them. Default: 16 KiB.
    pub max_header_bytes: u32,
    /// How often an HTTP/2 ping asks whether the other end of a connection is still there. Default: 30 s.
    #[serde(with = "tidemill_data::duration")]
    pub keep_alive_interval: Duration,
    /// How long its answer may take before the connection is closed. Default: 20 s.
    #[serde(with = "tidemill_data::duration")]
    pub keep_alive_timeout: Duration,

    /// How long a server that was told to stop may go on to finish what it had accepted. Default: 20 s.
    #[serde(with = "tidemill_data::duration")]
    pub grace: Duration,
}

/// Threads of libtorch within one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// So many: somebody said so.
    Exactly(i32),
    /// At most so many: a model's share of the processors.
    UpTo(i32),
}

impl Threads {
    /// The most that there may be.
    pub(crate) fn most(self) -> i32 {
        let (Threads::Exactly(threads) | Threads::UpTo(threads)) = self;
        threads
    }
}

/// The precision of a checkpoint's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointPrecision {
    /// 32 bits.
    Float32,
    /// 16 bits, with the range of float32.
    Bfloat16,
    /// 8 bits, in groups.
    Int8,
    /// 4 bits, in groups.
    Int4,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            packages: Vec::new(),
            repository: None,
            allow_code: false,
            threads: None,
            keys: None,
            tls: None,
            allow_anyone: false,
            admin: AdminConfig::default(),
            traces: None,
            max_batch_size: 64,
            max_delay: Duration::ZERO,
            preferred_batch_sizes: Vec::new(),
            instances: 1,
            models: BTreeMap::new(),
            max_batch_tokens: 16 * 1024,
            max_queue: 4096,
            precision: None,
            max_context: None,
            draft: None,
            cache_bytes: None,
            max_sequences: 64,
            max_waiting: 256,
            max_generation_time: Duration::from_secs(600),
            max_stream_backlog: 4096,
            shared_memory: false,
            max_texts: 1024,
            max_text_bytes: 64 * 1024,
            max_tensors: 64,
            max_message_bytes: 4 * 1024 * 1024,
            max_requests: 1024,
            max_request_time: Duration::from_secs(60),
            max_stream_requests: 16,
            max_stream_idle: Duration::from_secs(300),
            max_connections: 900,
            max_opening_time: Duration::from_secs(10),
            max_handshakes: 128,
            max_connection_idle: Duration::from_secs(300),
            max_receive_time: Duration::from_secs(30),
            max_connection_streams: 256,
            max_header_bytes: 16 * 1024,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
            grace: Duration::from_secs(20),
        }
    }
}

impl ServerConfig {
    /// Checks that the bounds make sense together.
    ///
    /// # Errors
    /// [`ServeError::Config`](crate::ServeError::Config) names the key and says what to write.
    pub fn check(&self) -> Result<(), crate::ServeError> {
        let wrong = |key, problem: String| Err(crate::ServeError::Config { key, problem });
        let at_least_one = [
            ("max_batch_size", self.max_batch_size),
            ("instances", self.instances),
            ("preferred_batch_sizes", self.preferred_batch_sizes.iter().copied().min().unwrap_or(1)),
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_context", self.max_context.unwrap_or(1)),
            ("cache_bytes", self.cache_bytes.unwrap_or(1)),
            ("max_sequences", self.max_sequences),
            ("max_waiting", self.max_waiting),
            ("max_stream_backlog", self.max_stream_backlog),
            ("max_texts", self.max_texts),
            ("max_text_bytes", self.max_text_bytes),
            ("max_message_bytes", self.max_message_bytes),
            ("max_requests", self.max_requests),
            ("max_stream_requests", self.max_stream_requests),
            ("max_connections", self.max_connections),
            ("max_tensors", self.max_tensors),
            ("max_handshakes", self.max_handshakes),
            ("max_connection_streams", self.max_connection_streams as usize),
            ("max_header_bytes", self.max_header_bytes as usize),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                return wrong(key, "is 0; it must be at least 1".to_owned());
            }
        }
        for (key, value) in [("max_requests", self.max_requests), ("max_connections", self.max_connections)] {
            if u32::try_from(value).is_err() {
                return wrong(key, format!("is {value}; it must be below {}", u32::MAX));
            }
        }
        let above_zero = [
            ("max_request_time", self.max_request_time),
            ("max_generation_time", self.max_generation_time),
            ("max_stream_idle", self.max_stream_idle),
            ("max_opening_time", self.max_opening_time),
            ("max_connection_idle", self.max_connection_idle),
            ("max_receive_time", self.max_receive_time),
            ("keep_alive_interval", self.keep_alive_interval),
            ("keep_alive_timeout", self.keep_alive_timeout),
        ];
        for (key, value) in above_zero {
            if value.is_zero() {
                return wrong(key, "is 0; write a duration such as \"30s\"".to_owned());
            }
        }
        if self.max_queue < self.max_texts {
            let (queue, texts) = (self.max_queue, self.max_texts);
            let problem = format!("is {queue}, but one request may hold max_texts = {texts}; raise it or lower that");
            return wrong("max_queue", problem);
        }
        if let Some(repository) = &self.repository {
            repository.check()?;
        }
        for (name, scheduling) in &self.models {
            scheduling.check().map_err(|(key, problem)| {
                let problem = format!("of {name:?}: {key} {problem}");
                crate::ServeError::Config { key: "models", problem }
            })?;
        }
        if let Some(traces) = &self.traces {
            traces.check()?;
        }
        if self.threads.is_some_and(|threads| threads < 1) {
            return wrong("threads", "must be at least 1; leave it out to share all".to_owned());
        }
        self.check_openness()
    }

    /// This with what differs for one model: what its package says, and before that what [`models`](Self::models) says.
    pub(crate) fn of_model(&self, name: &str, package: &Scheduling) -> ServerConfig {
        let own = self.models.get(name).cloned().unwrap_or_default().or(package);
        let mut config = self.clone();
        config.instances = own.instances.unwrap_or(self.instances);
        config.threads = own.threads.or(self.threads);
        config.max_batch_size = own.max_batch_size.unwrap_or(self.max_batch_size);
        config.max_batch_tokens = own.max_batch_tokens.unwrap_or(self.max_batch_tokens);
        config.max_delay = own.max_delay.unwrap_or(self.max_delay);
        config.max_queue = own.max_queue.unwrap_or(self.max_queue);
        config.preferred_batch_sizes = own.preferred_batch_sizes.unwrap_or(config.preferred_batch_sizes);
        config
    }

    /// How many threads libtorch may use within one operation of one model.
    pub(crate) fn threads(&self) -> Threads {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = processors / self.packages.len().max(1) / self.instances.max(1);
        let share = Threads::UpTo(i32::try_from(share).unwrap_or(i32::MAX).max(1));
        self.threads.map_or(share, Threads::Exactly)
    }

    // Whether whoever reaches the server has to say who they are.
    fn is_guarded(&self) -> bool {
        self.keys.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    // An address that other machines reach is not listened on by mistake.
    fn check_openness(&self) -> Result<(), crate::ServeError> {
        let is_open = |address: SocketAddr| !self.is_guarded() && !address.ip().to_canonical().is_loopback();
        let wrong = |key, problem: String| Err(crate::ServeError::Config { key, problem });
        if let Some(address) = self.admin.listens().filter(|address| is_open(*address)) {
            let problem = format!("is {address}, where anybody could manage the server; give keys or tls.client_ca");
            return wrong("admin.address", problem);
        }
        if is_open(self.address) && self.admin.enabled && self.admin.address.is_none() {
            let problem = format!(
                "is true, and anybody who reaches {} could manage the server; give keys or tls.client_ca, or admin.address",
                self.address
            );
            return wrong("admin.enabled", problem);
        }
        if is_open(self.address) && !self.allow_anyone {
            let problem = format!(
                "is {}, which other machines reach, and anybody could call: give keys (`tidemill key new` makes one) or \
                 tls.client_ca, or say allow_anyone = true (--allow-anyone)",
                self.address
            );
            return wrong("address", problem);
        }
        Ok(())
    }
}

/// The calls that manage the server: loading and unloading models. They need the scope `admin` where there are keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Whether they are answered at all. Default: false.
    pub enabled: bool,
    /// Where they are answered, and nothing that uses a model is. Default (absent): where everything else is.
    pub address: Option<SocketAddr>,
}

impl AdminConfig {
    /// The address to listen on besides the server's own.
    pub(crate) fn listens(&self) -> Option<SocketAddr> {
        self.address.filter(|_| self.enabled)
    }
}

/// Traces, by OpenTelemetry: a span for each request of inference, in the trace that its caller has begun if it has
/// (`traceparent`, by W3C Trace Context).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// A collector that takes OTLP over gRPC in the clear, such as the one on this machine: `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Of the requests that are not in a trace yet the part whose traces are kept, from 0 to 1; a caller's own trace is
    /// kept if the caller keeps it. Default: 1.
    #[serde(default = "everything")]
    pub share: f64,
}

impl TracesConfig {
    fn check(&self) -> Result<(), crate::ServeError> {
        let wrong = |key, problem: String| Err(crate::ServeError::Config { key, problem });
        let is_address =
            self.endpoint.parse::<Uri>().is_ok_and(|uri| uri.authority().is_some() && uri.scheme_str() == Some("http"));
        if !is_address {
            return wrong("traces.endpoint", "is no address such as \"http://127.0.0.1:4317\"".to_owned());
        }
        if !(0.0..=1.0).contains(&self.share) {
            return wrong("traces.share", format!("is {}; it must be from 0 to 1", self.share));
        }
        Ok(())
    }
}

// So that a configuration can be compared; a share is checked to be a number.
impl Eq for TracesConfig {}

fn everything() -> f64 {
    1.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_survive_being_written() {
        let config = ServerConfig::default();
        config.check().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""max_stream_idle":"5m""#), "{text}");
        assert_eq!(serde_json::from_str::<ServerConfig>(&text).unwrap(), config);
    }

    #[test]
    fn durations_have_units_and_unknown_keys_are_errors() {
        let config: ServerConfig = serde_json::from_str(r#"{"max_delay": "1500us"}"#).unwrap();
        assert_eq!(config.max_delay, Duration::from_micros(1500));
        for wrong in [r#""5""#, r#""ms""#, r#""1.5s""#, r#""-1s""#, "5", r#""99999999999999999999s""#] {
            let text = format!(r#"{{"grace": {wrong}}}"#);
            assert!(serde_json::from_str::<ServerConfig>(&text).is_err(), "{text}");
        }
        let error = serde_json::from_str::<ServerConfig>(r#"{"max_bach_size": 3}"#).unwrap_err();
        assert!(error.to_string().contains("max_bach_size"), "{error}");
    }

    #[test]
    fn what_anybody_could_reach_needs_a_word() {
        let open = ServerConfig { address: "0.0.0.0:80".parse().unwrap(), ..ServerConfig::default() };
        let refused = |config: &ServerConfig| config.check().unwrap_err().to_string();
        assert!(refused(&open).contains("--allow-anyone"), "{}", refused(&open));
        let mapped = ServerConfig { address: "[::ffff:10.0.0.1]:80".parse().unwrap(), ..open.clone() };
        assert!(refused(&mapped).contains("--allow-anyone"));
        ServerConfig { address: "[::ffff:127.0.0.1]:80".parse().unwrap(), ..open.clone() }.check().unwrap();
        ServerConfig { keys: Some("keys.toml".into()), ..open.clone() }.check().unwrap();
        let tls = |client_ca| Some(TlsFiles { certificate: "a".into(), key: "b".into(), client_ca });
        ServerConfig { tls: tls(Some("c".into())), ..open.clone() }.check().unwrap();
        assert!(refused(&ServerConfig { tls: tls(None), ..open.clone() }).contains("--allow-anyone"));

        let allowed = ServerConfig { allow_anyone: true, ..open };
        allowed.check().unwrap();
        let managed = |address: Option<&str>| AdminConfig {
            enabled: true,
            address: address.map(|address| address.parse().unwrap()),
        };
        let refused_admin = |address| refused(&ServerConfig { admin: managed(address), ..allowed.clone() });
        assert!(refused_admin(None).contains("admin.enabled"));
        assert!(refused_admin(Some("0.0.0.0:81")).contains("admin.address"));
        ServerConfig { admin: managed(Some("127.0.0.1:81")), ..allowed.clone() }.check().unwrap();
    }

    #[test]
    fn bounds_that_contradict_are_named() {
        let config = ServerConfig { max_queue: 10, ..ServerConfig::default() };
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains("max_queue") && message.contains("max_texts"), "{message}");
        let config = ServerConfig { max_batch_size: 0, ..ServerConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("max_batch_size"));
    }
}
