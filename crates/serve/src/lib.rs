//! The model server: packages behind gRPC.
//!
//! ```text
//! socket ── connections ── admission ── services ── model ── queue ── executor ── pipeline
//!           how many       how many     wire in,    handle   line,    thread      texts in,
//!                          and how long wire out             bounded             probabilities out
//! ```
//!
//! Each model belongs to one thread. Async code never calls a model: it puts texts into the model's line and waits. What
//! waits together runs together: the next batch forms while the last one runs. Everything has a bound, in
//! [`ServerConfig`]; at the bound the caller is told at once. A caller that leaves, or whose deadline passes, gives up its
//! place before the model sees its texts.
//!
//! On the wire are `tidemill.v1.TextClassification`, the Open Inference Protocol's `inference.GRPCInferenceService`, gRPC
//! health (the whole server under the empty name, each model under its own) and reflection.
//!
//! The server hands plain texts to pipelines and knows nothing of tensors of libtorch's.

#![forbid(unsafe_code)]

mod admission;
mod classifier;
mod config;
mod connections;
mod error;
mod executor;
mod model;
mod models;
mod package;
mod queue;
mod refusal;
mod server;
mod services;
mod source;

pub use classifier::Classifier;
pub use config::ServerConfig;
pub use error::ServeError;
pub use model::ModelInfo;
pub use server::{serve, serve_models};
pub use source::ModelSource;
