//! The model server: packages and checkpoints behind gRPC and HTTP, on one port.
//!
//! ```text
//! socket ── connections ── admission ── services, http ── model ── queue ── executor ── pipeline or generator
//!           how many       how many     wire in,          handle   line,    thread      texts in, answers out;
//!                          and how long wire out                   bounded              requests in, tokens out
//! ```
//!
//! Each model belongs to one thread. Async code never calls a model: it puts work into the model's line and waits. What
//! waits together runs together: a batch model's next batch forms while the last one runs (`batch/`), and a generator's
//! requests join and leave between steps (`generation/`). Everything has a bound, in [`ServerConfig`]; at the bound the
//! caller is told at once. A caller that leaves, or whose deadline passes, gives up its place before the model sees its
//! texts, or by the next step.
//!
//! Models are found by name and version (`models.rs`), and may come and go while the server runs (`repository/`).
//!
//! On the wire are the typed services of `tidemill.v1`, the Open Inference Protocol's `inference.GRPCInferenceService`,
//! gRPC health (the whole server under the empty name, each model under its own) and reflection; and over HTTP the same
//! protocol, OpenAI's interface, reranking, probes and metrics.
//!
//! The server hands plain texts and requests to models and knows nothing of tensors of libtorch's.

#![forbid(unsafe_code)]

mod access;
mod admission;
mod admitted;
mod batch;
mod checkpoint;
mod classifier;
mod config;
mod connections;
mod encoder;
mod error;
mod follow;
pub mod generation;
mod health;
mod host;
mod http;
mod identity;
mod ids;
mod keys;
mod limits;
mod metrics;
mod model;
mod model_info;
mod model_path;
mod models;
mod opaque;
mod package;
mod priority;
mod refusal;
mod repository;
mod server;
mod services;
mod shadow;
mod source;
mod statistics;
mod tasks;
mod thread;
mod tls;
mod trace;

pub use batch::{BatchModel, Opened, Prepare, Prepared};
pub use classifier::Classifier;
pub use config::{AdminConfig, CheckpointPrecision, ServerConfig, TracesConfig};
pub use error::ServeError;
pub use keys::{KeysError, NewKey};
pub use model_info::ModelInfo;
pub use model_path::ModelPath;
pub use repository::{
    RepositoryConfig, RepositoryMode, RepositoryModelConfig, ShadowConfig, StoreOptions, VersionPolicy,
};
pub use server::{serve, serve_models, serve_reloaded};
pub use source::ModelSource;
pub use tasks::{EmbedInput, Entity, Purpose, RerankInput, TextOrTokens, TextToTextAnswer, TextToTextInput};
pub use tls::{TlsError, TlsFiles};
