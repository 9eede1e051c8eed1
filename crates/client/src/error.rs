//! Why a call has no answer.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, ConnectError, Status, TimeoutExpired};

/// Why a client cannot be made, or a call has no answer. What a request said is in none of them, unless the server's own
/// message repeats it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is none.
    #[error("the address {address:?} {problem}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it and what to write.
        problem: String,
    },
    /// An option does not make sense.
    #[error("the client's option {name} {problem}")]
    Option {
        /// Its name.
        name: &'static str,
        /// What is wrong and what to write.
        problem: String,
    },
    /// What TLS is to be spoken with cannot be used.
    #[error("TLS: {what} {problem}")]
    Tls {
        /// Which part.
        what: &'static str,
        /// What is wrong and what to give.
        problem: String,
    },
    /// Nothing answers there.
    #[error("no server answers at {address}: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// The reason of the operating system or of TLS.
        reason: String,
    },
    /// The server, or the connection to it, gave a status in the place of an answer.
    #[error("the server refused: {} ({:?}; request {request_id}, {tries})", status.message(), status.code(), tries = counted(*tries))]
    Refused {
        /// The last status: its code, message and details.
        status: Box<Status>,
        /// How often the request was sent.
        tries: u32,
        /// What the request was called in `x-request-id`.
        request_id: String,
    },
    /// The deadline passed first.
    #[error("no answer within {} s (request {request_id}, {tries})", deadline.as_secs_f64(), tries = counted(*tries))]
    DeadlineExceeded {
        /// The deadline, over all tries.
        deadline: Duration,
        /// How often the request was sent; 0 when every place of the pool was taken for as long.
        tries: u32,
        /// What the request was called in `x-request-id`.
        request_id: String,
    },
}

impl ClientError {
    /// The gRPC code that stands for it.
    pub fn code(&self) -> Code {
        match self {
            ClientError::Address { .. } | ClientError::Option { .. } | ClientError::Tls { .. } => Code::InvalidArgument,
            ClientError::Unreachable { .. } => Code::Unavailable,
            ClientError::Refused { status, .. } => status.code(),
            ClientError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        }
    }

    /// How often the request was sent.
    pub fn tries(&self) -> u32 {
        match self {
            ClientError::Refused { tries, .. } | ClientError::DeadlineExceeded { tries, .. } => *tries,
            _ => 0,
        }
    }
}

/// What the transport says of itself through a status, in the place of a server's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// There is no connection.
    Unconnected,
    /// The connection broke.
    Broken,
    /// tonic's own clock ran out.
    TimedOut,
}

/// How the transport failed, if it did.
pub(crate) fn transport_failure(status: &Status) -> Option<Transport> {
    let mut failure = None;
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<TimeoutExpired>() {
            return Some(Transport::TimedOut);
        }
        if error.is::<ConnectError>() {
            return Some(Transport::Unconnected);
        }
        if error.is::<tonic::transport::Error>() {
            failure = Some(Transport::Broken);
        }
        source = error.source();
    }
    failure
}

/// The innermost reason of an error: the words of the operating system.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn counted(tries: u32) -> String {
    if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") }
}
