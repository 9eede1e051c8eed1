//! A client of Tidemill's own services and of every server of the Open Inference Protocol.
//!
//! Owns what every caller would write again: a bounded pool of connections, tries with growing pauses, one deadline over
//! all of them, streams of pieces, TLS, keys and request ids. Knows nothing of models; the messages are those of
//! `tidemill-proto`, which documents them.
//!
//! ```no_run
//! use std::time::Duration;
//! use tidemill_client::{Client, ClientError, ClientOptions};
//! use tidemill_client::v1::{ChatMessage, ChatRequest, ClassifyRequest};
//!
//! # async fn example() -> Result<(), ClientError> {
//! let options = ClientOptions { deadline: Some(Duration::from_secs(5)), ..ClientOptions::default() };
//! let client = Client::connect("127.0.0.1:8080", options).await?;
//!
//! let request = ClassifyRequest { texts: vec!["a fine film".into()], ..ClassifyRequest::default() };
//! for label in &client.classify(request).await?.classifications[0].labels {
//!     println!("{} {:.3}", label.label, label.probability);
//! }
//!
//! let message = ChatMessage { role: "user".into(), content: "What is a tide mill?".into(), ..ChatMessage::default() };
//! let request = ChatRequest { messages: vec![message], ..ChatRequest::default() };
//! let mut pieces = client.with_deadline(Duration::from_secs(60)).chat_stream(request).await?;
//! while let Some(piece) = pieces.next().await {
//!     print!("{}", piece?.content);
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod call;
mod channels;
mod client;
mod error;
mod open_inference;
mod options;
mod pieces;
mod retry;
mod tasks;
mod tensors;
mod tls;

pub use client::Client;
pub use error::ClientError;
pub use options::ClientOptions;
pub use pieces::Pieces;
pub use retry::RetryPolicy;
pub use tensors::{Infer, Output, OutputError};
pub use tidemill_proto::{inference, tensor, v1};
pub use tls::Tls;
pub use tonic::Code;
