//! TLS to a server, and mutual TLS: which authorities are believed, and who the client says that it is. Knows nothing of gRPC
//! but that it needs HTTP/2.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::ClientError;

const HTTP_2: &[u8] = b"h2";

/// How a client speaks TLS (1.2 and 1.3, by `rustls`) to a server. Cheap to clone.
///
/// ```no_run
/// use tidemill_client::{Client, ClientOptions, Tls};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = Tls::trusting(&std::fs::read("ca.pem")?)?;
/// // Mutual TLS, where the server wants it.
/// let tls = tls.with_identity(&std::fs::read("client.pem")?, &std::fs::read("client-key.pem")?)?;
/// let options = ClientOptions { tls: Some(tls), ..ClientOptions::default() };
/// let client = Client::connect("https://tidemill.example.org:8080", options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tls {
    roots: Arc<RootCertStore>,
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Believes the servers whose certificates these authorities sign, and no others: one or more certificates, PEM.
    ///
    /// # Errors
    /// What holds no certificate.
    pub fn trusting(authorities: &[u8]) -> Result<Tls, ClientError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("the authorities", authorities)? {
            roots.add(certificate).map_err(|error| wrong("the authorities", error.to_string()))?;
        }
        let roots = Arc::new(roots);
        Ok(Tls { config: configured(&roots, None)?, roots, server_name: None })
    }

    /// The same, but the client shows this certificate, followed by those between it and its root, and proves by its
    /// private key that it is its own. Both PEM.
    ///
    /// # Errors
    /// What holds no certificate or no key, and a key that is another certificate's.
    pub fn with_identity(self, certificate: &[u8], key: &[u8]) -> Result<Tls, ClientError> {
        let chain = certificates("the certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            wrong("the key", "holds no private key in PEM; it begins with \"-----BEGIN PRIVATE KEY-----\"".to_owned())
        })?;
        Ok(Tls { config: configured(&self.roots, Some((chain, key)))?, ..self })
    }

    /// The same, but the server's certificate must be for this name in the place of the address's host: for a server that is
    /// reached by another name than its own.
    ///
    /// # Errors
    /// What is neither a name nor an IP address.
    pub fn with_server_name(self, name: &str) -> Result<Tls, ClientError> {
        Ok(Tls { server_name: Some(server_name(name).map_err(|error| wrong("the server's name", error))?), ..self })
    }

    /// Shakes hands with the server at the other end of `socket`, which was reached as `host`.
    ///
    /// # Errors
    /// A server that is not believed, that does not believe this client, or that does not speak HTTP/2 over TLS.
    pub async fn connect(&self, host: &str, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(io::Error::other)?,
        };
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, socket).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(HTTP_2) => Ok(stream),
            _ => Err(io::Error::other("the server speaks TLS, but not HTTP/2, which gRPC needs")),
        }
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn configured(roots: &Arc<RootCertStore>, identity: Option<Identity>) -> Result<Arc<ClientConfig>, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("the protocol", error.to_string()))?
        .with_root_certificates(Arc::clone(roots));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            wrong("the certificate", format!("cannot be used with the key; is it this certificate's? ({error})"))
        })?,
    };
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let none = || wrong(what, "holds no certificate in PEM; it begins with \"-----BEGIN CERTIFICATE-----\"".to_owned());
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned()).map_err(|_| format!("{name:?} is neither a name nor an IP address"))
}

fn wrong(what: &'static str, problem: String) -> ClientError {
    ClientError::Tls { what, problem }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn identity(name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn files_that_are_not_what_they_should_be_are_named() {
        let (certificate, key) = identity("a");
        let (_, other_key) = identity("b");
        let refused = |tls: Result<Tls, ClientError>| tls.unwrap_err().to_string();
        assert!(refused(Tls::trusting(b"")).contains("the authorities"));
        assert!(refused(Tls::trusting(key.as_bytes())).contains("BEGIN CERTIFICATE"));
        let tls = Tls::trusting(certificate.as_bytes()).unwrap();
        let with = |key: &str| tls.clone().with_identity(certificate.as_bytes(), key.as_bytes());
        assert!(refused(with(&certificate)).contains("BEGIN PRIVATE KEY"));
        assert!(refused(with(&other_key)).contains("is it this certificate's"), "{}", refused(with(&other_key)));
        assert!(!refused(with(&other_key)).contains("BEGIN"), "no key is repeated");
        with(&key).unwrap();
        assert!(refused(tls.clone().with_server_name("a b")).contains("a b"));
        tls.with_server_name("[::1]").unwrap();
    }
}
