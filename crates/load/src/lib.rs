//! Load for a server of the Open Inference Protocol, and what the server makes of it.
//!
//! ```text
//! metadata ── requests ── connections ── drive ── measured ── plot
//!             encoded     raw HTTP/2     callers  latency,    SVG
//!             once        and gRPC       or rate  errors
//! ```
//!
//! Owns the requests' bytes, the arrival of requests and the figures. Knows nothing of models, and does as little as it
//! can for a request: messages are encoded before the first is sent and are not copied, answers are counted and not
//! read, so that what is measured is the server. Latency is from the time when a request was due, not from when it could
//! be sent: a server that stalls is charged for all whom it keeps waiting (Gil Tene, "How NOT to Measure Latency", 2015).
//! Percentiles are `hdrhistogram`'s, to three digits.
//!
//! ```no_run
//! use std::time::Duration;
//! use tidemill_load::{Arrivals, Connections, Load, drive, never};
//!
//! # async fn example(requests: tidemill_load::Requests) -> Result<(), tidemill_load::LoadError> {
//! let connections = Connections::open("127.0.0.1:8080", 1, None).await?;
//! let load = Load { arrivals: Arrivals::Closed { concurrency: 8 }, ..Load::for_time(Duration::from_secs(10)) };
//! let measured = drive(&connections, &requests, &load, never()).await?;
//! println!("{:.0} requests/s, p99 {:?}", measured.per_second(), measured.latency(0.99));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod arrivals;
mod connections;
mod contents;
mod drive;
mod error;
mod measured;
mod plot;
mod requests;
mod stop;

pub use arrivals::{Arrivals, Spacing};
pub use connections::Connections;
pub use contents::Contents;
pub use drive::{Length, Load, drive};
pub use error::LoadError;
pub use measured::{Measured, Recorder};
pub use plot::plot;
pub use requests::Requests;
pub use stop::{Stop, Stopper, never};
