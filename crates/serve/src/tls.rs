//! TLS, and mutual TLS: certificates and keys out of PEM files, read again as a whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};

/// The protocols that are offered within TLS.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the server's certificate lies, and whose certificates it takes of its callers. All are PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The server's certificate, followed by those between it and its root.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Certificates of the authorities that sign callers' certificates. With it a caller needs one: mutual TLS.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// The same, paths that are relative taken from `folder`.
    pub fn within(&self, folder: &Path) -> TlsFiles {
        TlsFiles {
            certificate: folder.join(&self.certificate),
            key: folder.join(&self.key),
            client_ca: self.client_ca.as_ref().map(|path| folder.join(path)),
        }
    }

    fn all(&self) -> Vec<PathBuf> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten().cloned().collect()
    }
}

/// What is wrong with a file of TLS's. Never repeats what it holds.
#[derive(Debug, thiserror::Error)]
#[error("TLS: the {what} {}: {problem}", path.display())]
pub struct TlsError {
    /// Which file.
    what: &'static str,
    /// Where it lies.
    path: PathBuf,
    /// What is wrong and what to do.
    problem: String,
}

/// How the server speaks TLS, as the files last said. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn open(files: &TlsFiles) -> Result<Tls, TlsError> {
        Ok(Tls { files: files.clone(), current: Arc::new(RwLock::new(Arc::new(read(files)?))) })
    }

    /// Reads the files again, for connections from now on. When they cannot be used everything stays as it was.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// What the next connection is to speak.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.files.all()
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let certificate = |problem: String| TlsError { what: "certificate", path: files.certificate.clone(), problem };
    let chain = certificates("certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes("key", &files.key)?).map_err(|_| TlsError {
        what: "key",
        path: files.key.clone(),
        problem: "holds no private key in PEM; it begins with \"-----BEGIN PRIVATE KEY-----\"".to_owned(),
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| certificate(error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = |problem: String| TlsError { what: "client_ca", path: path.clone(), problem };
            let mut roots = RootCertStore::empty();
            for root in certificates("client_ca", path)? {
                roots.add(root).map_err(|error| wrong(format!("holds a certificate that is none: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let key = files.key.display();
        certificate(format!("cannot be used with the key {key}; is it this certificate's? ({error})"))
    })?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |problem: &str| TlsError { what, path: path.to_owned(), problem: problem.to_owned() };
    let none = "holds no certificate in PEM; it begins with \"-----BEGIN CERTIFICATE-----\"";
    let bytes = bytes(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|_| wrong(none))?;
    if found.is_empty() { Err(wrong(none)) } else { Ok(found) }
}

fn bytes(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError {
        what,
        path: path.to_owned(),
        problem: format!("cannot be read: {error}"),
    })
}
