//! Tidemill's wire: everything generated from `proto/`, and small typed helpers on it.
//!
//! Knows nothing of models, queues or sockets. The messages and services are generated at build time from the `.proto`
//! files, which document them; the helpers turn tensor contents into plain Rust values and check every length on the way.
//!
//! ```
//! use tidemill_proto::tensor::{Datatype, decode_bytes, element_count, encode_bytes};
//!
//! let raw = encode_bytes(["a tide", "mill"])?;
//! assert_eq!(decode_bytes(&raw, element_count(&[2, 1])?)?, [&b"a tide"[..], b"mill"]);
//! assert_eq!("FP32".parse::<Datatype>()?.size(), Some(4));
//! # Ok::<(), tidemill_proto::tensor::TensorError>(())
//! ```

#![forbid(unsafe_code)]

pub mod tensor;

pub use tidemill::v1;

// The modules nest as the packages do: generated code of one package refers to another by the way between them.
/// The packages `tidemill.*`.
pub mod tidemill {
    /// Tidemill's own typed services, `proto/tidemill/v1/`.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/tidemill.v1.rs"));
    }
}

/// The Open Inference Protocol, `proto/inference/grpc_service.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod inference {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

/// Errors inside messages, `proto/google/rpc/status.proto`.
pub mod google {
    /// The package `google.rpc`.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }

    impl From<&tonic::Status> for rpc::Status {
        /// The same code, message and details, as a message that can be part of another.
        fn from(status: &tonic::Status) -> rpc::Status {
            use prost::Message as _;

            // The details of a status are an encoded google.rpc.Status, by gRPC's own convention.
            let details = rpc::Status::decode(status.details()).unwrap_or_default().details;
            rpc::Status { code: status.code().into(), message: status.message().to_owned(), details }
        }
    }
}

/// An encoded `FileDescriptorSet` of everything above, imports included: what the reflection service shows.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidemill_descriptor.bin"));
