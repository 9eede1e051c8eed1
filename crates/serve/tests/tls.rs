//! TLS as callers meet it, over a real socket: both protocols, callers' certificates, files that change, and handshakes that
//! never end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Each test program uses its own part of the support.
#![allow(dead_code)]

#[path = "support/http.rs"]
mod http;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::ask;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use support::{Listening, by_length_source, listen};
use tempfile::TempDir;
use tidemill_serve::{ServerConfig, TlsFiles, serve_models};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An authority, and what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }
}

/// The server's files.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(identity: &Identity, client_ca: Option<&Authority>) -> Files {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        files.write(identity);
        if let Some(authority) = client_ca {
            std::fs::write(files.folder.path().join("ca.pem"), authority.pem()).unwrap();
        }
        files
    }

    fn write(&self, identity: &Identity) {
        std::fs::write(self.folder.path().join("cert.pem"), &identity.certificate).unwrap();
        std::fs::write(self.folder.path().join("key.pem"), &identity.key).unwrap();
    }

    fn config(&self) -> ServerConfig {
        let ca = self.folder.path().join("ca.pem");
        let tls = TlsFiles {
            certificate: self.folder.path().join("cert.pem"),
            key: self.folder.path().join("key.pem"),
            client_ca: ca.exists().then_some(ca),
        };
        ServerConfig { tls: Some(tls), ..ServerConfig::default() }
    }

    async fn serve(&self, config: ServerConfig) -> Listening {
        listen(config, vec![by_length_source("length")]).await
    }
}

/// A connection of a client that trusts `authority`, perhaps with a certificate of its own, speaking `protocol`.
async fn connect(
    address: SocketAddr,
    authority: &Authority,
    identity: Option<&Identity>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("tide.test").unwrap(), stream).await
}

async fn is_healthy(stream: TlsStream<TcpStream>) -> bool {
    ask(stream, "GET /healthz", "", "").await.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_offered_and_nothing_is_said_in_the_clear() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign("tide.test"), None);
    let server = files.serve(files.config()).await;

    let stream = connect(server.address, &authority, None, b"http/1.1").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(is_healthy(stream).await);

    let mut stream = connect(server.address, &authority, None, b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the server's SETTINGS");

    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: tide.test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    drop(stream);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_client_authority_callers_need_its_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let files = Files::new(&authority.sign("tide.test"), Some(&authority));
    let server = files.serve(files.config()).await;
    let known = authority.sign("caller.test");
    assert!(is_healthy(connect(server.address, &authority, Some(&known), b"http/1.1").await.unwrap()).await);
    for identity in [None, Some(stranger.sign("caller.test"))] {
        // With TLS 1.3 a client learns of its refusal when it reads.
        let refused = match connect(server.address, &authority, identity.as_ref(), b"http/1.1").await {
            Err(_) => true,
            Ok(mut stream) => {
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n").await;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.is_err() && answer.is_empty()
            }
        };
        assert!(refused);
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_are_taken_as_a_pair_and_bad_ones_change_nothing() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(&old.sign("tide.test"), None);
    let server = files.serve(files.config()).await;
    let mut open = connect(server.address, &old, None, b"http/1.1").await.unwrap();

    // The certificate without its key: half of a change.
    let next = new.sign("tide.test");
    std::fs::write(files.folder.path().join("cert.pem"), &next.certificate).unwrap();
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert!(is_healthy(connect(server.address, &old, None, b"http/1.1").await.unwrap()).await);

    files.write(&next);
    let started = Instant::now();
    while connect(server.address, &new, None, b"http/1.1").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(5), "the files were not read again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(connect(server.address, &old, None, b"http/1.1").await.is_err());
    // A connection that is open goes on.
    open.write_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    open.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end_keep_nobody_out() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign("tide.test"), None);
    let config = ServerConfig { max_handshakes: 4, max_connections: 8, ..files.config() };
    let server = files.serve(config).await;
    // More than there are places, and none of them says a word.
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let started = Instant::now();
    assert!(is_healthy(connect(server.address, &authority, None, b"http/1.1").await.unwrap()).await);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // The oldest were given up.
    assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_has_its_time() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign("tide.test"), None);
    let config = ServerConfig { max_opening_time: Duration::from_millis(100), ..files.config() };
    let server = files.serve(config).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), silent.read(&mut [0; 1])).await.expect("it is closed");
    assert_eq!(ended.unwrap_or(0), 0);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_named_at_the_start() {
    let authority = Authority::new();
    let identity = authority.sign("tide.test");
    let (other, nothing) = (authority.sign("tide.test"), String::new());
    let mismatched = Identity { certificate: identity.certificate.clone(), key: other.key };
    let keyless = Identity { certificate: identity.certificate.clone(), key: nothing.clone() };
    let empty = Identity { certificate: nothing, key: identity.key.clone() };
    for (identity, says) in [(mismatched, "key.pem"), (keyless, "key.pem"), (empty, "cert.pem")] {
        let files = Files::new(&identity, None);
        let config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..files.config() };
        let never = std::future::pending();
        let started = serve_models(config, vec![by_length_source("length")], never, |_| panic!("it started")).await;
        let message = started.unwrap_err().to_string();
        assert!(message.contains("TLS") && message.contains(says), "{message}");
        assert!(!message.contains("BEGIN PRIVATE KEY-----\n"), "{message}");
    }
}
