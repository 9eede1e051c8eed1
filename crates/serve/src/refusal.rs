//! Why one request is not answered, and the gRPC status that says so, with `google.rpc` details; what HTTP says is in
//! `http/`. Nothing here repeats what a text said.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// How long a caller that found the server full is advised to wait.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A field is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's path, such as `texts[3]`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such model, or not this version.
    #[error("{message}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The sentence for people, with the nearest name.
        message: String,
    },
    /// No region of shared memory of this name is registered.
    #[error("no region of shared memory is registered as {name:?}")]
    UnknownRegion {
        /// What was asked for.
        name: String,
    },
    /// The model's queue is at its bound.
    #[error("the queue of the model {model:?} is full ({max} are waiting); try again later")]
    QueueFull {
        /// The model.
        model: String,
        /// The bound.
        max: usize,
    },
    /// The server's number of open requests is at its bound.
    #[error("the server has as many open requests as it takes ({max}); try again later")]
    TooManyRequests {
        /// The bound.
        max: usize,
    },
    /// There is no key, or none that counts.
    #[error("the request {problem}; send a key as \"authorization: Bearer KEY\" or \"x-api-key: KEY\"")]
    Unauthenticated {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The caller may not do this.
    #[error("{problem}")]
    Forbidden {
        /// What it may not do, as a sentence.
        problem: String,
    },
    /// The key makes more requests in a second than it may.
    #[error("this key makes more requests than it may; try again in {:.1} s", .retry.as_secs_f64().max(0.1))]
    TooFast {
        /// When there is room for another.
        retry: Duration,
    },
    /// The key has as many requests open as it may.
    #[error("this key has as many open requests as it may ({max}); try again when one has ended")]
    KeyBusy {
        /// The bound.
        max: usize,
    },
    /// Prompt and answer do not fit the model's context.
    #[error("{problem}")]
    TooLong {
        /// What is too long, as a sentence.
        problem: String,
    },
    /// The message is larger than the server reads.
    #[error("the message has more than {max} bytes, and no more are read")]
    TooLarge {
        /// The bound.
        max: usize,
    },
    /// The head of the request is larger than it may be.
    #[error("the headers have more than {max} bytes")]
    HeadTooLarge {
        /// The bound.
        max: usize,
    },
    /// The answer was not read as fast as it was written.
    #[error("the answer was read too slowly and is cut off")]
    TooSlow,
    /// The deadline passed.
    #[error("the deadline passed before the answer was ready")]
    DeadlineExceeded,
    /// The message did not arrive in time.
    #[error("the message was not received in time")]
    TooLate,
    /// A stream lay idle for too long.
    #[error("the stream was idle for {} s", .0.as_secs())]
    Idle(Duration),
    /// The model does not take requests.
    #[error("the model {model:?} is not ready")]
    NotReady {
        /// The model.
        model: String,
    },
    /// A model of the repository cannot be loaded.
    #[error("the model {model:?} cannot be loaded: {reason}")]
    CannotLoad {
        /// The model.
        model: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The repository does not say what it has.
    #[error("the repository cannot be read: {reason}")]
    Unreadable {
        /// Why.
        reason: String,
    },
    /// The server is on its way out.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The model's thread ended while it had this request.
    #[error("the model {model:?} stopped while it had this request")]
    Stopped {
        /// The model.
        model: String,
    },
    /// The model could not run this input.
    #[error("the model {model:?} failed: {reason}")]
    Failed {
        /// The model.
        model: String,
        /// Its error.
        reason: String,
    },
}

impl Refusal {
    /// A field that is wrong.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Refusal {
        Refusal::Invalid { field: field.into(), problem: problem.into() }
    }

    /// Why, in a word that metrics count by.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Refusal::Invalid { .. } | Refusal::TooLong { .. } | Refusal::UnknownRegion { .. } => "invalid",
            Refusal::UnknownModel { .. } => "unknown_model",
            Refusal::QueueFull { .. } | Refusal::TooManyRequests { .. } => "full",
            Refusal::Unauthenticated { .. } => "unauthenticated",
            Refusal::Forbidden { .. } => "forbidden",
            Refusal::TooFast { .. } | Refusal::KeyBusy { .. } => "key_limit",
            Refusal::TooLarge { .. } | Refusal::HeadTooLarge { .. } => "too_large",
            Refusal::TooSlow => "too_slow",
            Refusal::DeadlineExceeded | Refusal::Idle(_) | Refusal::TooLate => "deadline",
            Refusal::NotReady { .. }
            | Refusal::CannotLoad { .. }
            | Refusal::Unreadable { .. }
            | Refusal::ShuttingDown => "unavailable",
            Refusal::Stopped { .. } | Refusal::Failed { .. } => "failed",
        }
    }

    /// When to come back, where that helps.
    pub(crate) fn retry(&self) -> Option<Duration> {
        match self {
            Refusal::QueueFull { .. } | Refusal::TooManyRequests { .. } | Refusal::KeyBusy { .. } => Some(RETRY_DELAY),
            Refusal::TooFast { retry } => Some(*retry),
            _ => None,
        }
    }

    /// The gRPC code that stands for it.
    pub(crate) fn code(&self) -> Code {
        match self {
            Refusal::Invalid { .. } | Refusal::TooLong { .. } => Code::InvalidArgument,
            Refusal::UnknownModel { .. } | Refusal::UnknownRegion { .. } => Code::NotFound,
            Refusal::Unauthenticated { .. } => Code::Unauthenticated,
            Refusal::Forbidden { .. } => Code::PermissionDenied,
            Refusal::QueueFull { .. }
            | Refusal::TooManyRequests { .. }
            | Refusal::TooFast { .. }
            | Refusal::KeyBusy { .. }
            | Refusal::TooLarge { .. }
            | Refusal::HeadTooLarge { .. }
            | Refusal::TooSlow => Code::ResourceExhausted,
            Refusal::DeadlineExceeded | Refusal::Idle(_) | Refusal::TooLate => Code::DeadlineExceeded,
            Refusal::CannotLoad { .. } => Code::FailedPrecondition,
            Refusal::NotReady { .. } | Refusal::Unreadable { .. } | Refusal::ShuttingDown => Code::Unavailable,
            Refusal::Stopped { .. } | Refusal::Failed { .. } => Code::Internal,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let (code, message, retry) = (refusal.code(), refusal.to_string(), refusal.retry());
        let details = match refusal {
            Refusal::Invalid { field, problem } => ErrorDetails::with_bad_request_violation(field, problem),
            Refusal::UnknownModel { name, .. } => ErrorDetails::with_resource_info("model", name, "", message.clone()),
            Refusal::UnknownRegion { name } => {
                ErrorDetails::with_resource_info("shared memory region", name, "", message.clone())
            }
            _ if retry.is_some() => ErrorDetails::with_retry_info(retry),
            _ => return Status::new(code, message),
        };
        Status::with_error_details(code, message, details)
    }
}

/// A gRPC code by the name that its specification gives it.
pub(crate) fn status_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn details_say_what_to_mend_or_when_to_come_back() {
        let status = Status::from(Refusal::invalid("texts[3]", "is too long"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "texts[3]: is too long");
        let details = status.get_details_bad_request().unwrap();
        let violation = details.field_violations.first().unwrap();
        assert_eq!((violation.field.as_str(), violation.description.as_str()), ("texts[3]", "is too long"));

        let status = Status::from(Refusal::QueueFull { model: "m".to_owned(), max: 8 });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(RETRY_DELAY));
    }
}
