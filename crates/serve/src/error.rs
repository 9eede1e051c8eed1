//! Why a server cannot start or go on. What a caller is told about one request is in `refusal.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a server could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A key of the configuration does not make sense.
    #[error("the server's configuration: {key} {problem}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong and what to write.
        problem: String,
    },
    /// Nothing to serve.
    #[error("there is nothing to serve; name at least one package, checkpoint folder, model file or repository")]
    NoModels,
    /// The address is taken.
    #[error(
        "cannot listen on {address}: another program has that port; stop it, or choose another port (port 0 takes a free one)"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file of keys cannot be used.
    #[error("the file of API keys: {0}")]
    Keys(#[from] crate::keys::KeysError),
    /// A file of TLS's cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// A package or checkpoint cannot be opened.
    #[error("cannot open {}: {reason}", path.display())]
    Open {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it and what to do, as its reader says it.
        reason: String,
    },
    /// The repository cannot be read.
    #[error("the repository {} cannot be read: {source}", path.display())]
    Repository {
        /// The folder or URL.
        path: PathBuf,
        /// The operating system's reason, or the store's.
        source: std::io::Error,
    },
    /// A file that runs code of its own, which the operator has not allowed.
    #[error(
        "{}: a TorchScript module (.pt) or AOTInductor package (.pt2) runs code of its own when it is opened and called, \
         and is refused without leave; if you trust where it comes from, give --allow-code or write allow_code = true",
        path.display()
    )]
    CodeNotAllowed {
        /// The file.
        path: PathBuf,
    },
    /// A model of the program's own cannot be opened.
    #[error("cannot open the model {model:?}: {reason}")]
    Own {
        /// Its name.
        model: String,
        /// What the program's own code says.
        reason: String,
    },
    /// Two models have one name.
    #[error("two models are named {name:?}{places}; give one of them another, as NAME=PATH")]
    DuplicateModel {
        /// The name.
        name: String,
        /// The folders, where known.
        places: String,
    },
    /// A thread for a model cannot be started.
    #[error("cannot start a thread for the model {model:?}: {source}")]
    Thread {
        /// The model, or its folder.
        model: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A model stopped while it was being started.
    #[error("the model {model:?} stopped while it was being started")]
    Stopped {
        /// The model, or its folder.
        model: String,
    },
    /// The transport failed.
    #[error("the server's transport failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The registry of metrics cannot be built.
    #[error("the registry of metrics cannot be built: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The reflection service cannot be built.
    #[error("the reflection service cannot be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}
