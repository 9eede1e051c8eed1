//! The pool: a fixed number of HTTP/2 connections in turn, in the clear or over TLS, and a bound on the calls that are open on
//! all of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::error::{ClientError, innermost};
use crate::options::ClientOptions;
use crate::tls::Tls;

const USER_AGENT: &str = concat!("tidemill-client/", env!("CARGO_PKG_VERSION"));
/// Asks whether the other end is still there, while calls are open.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Bytes that may be on their way to us for one stream and for one connection.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Channels {
    channels: Vec<Channel>,
    next: AtomicUsize,
    open: Arc<Semaphore>,
    address: String,
}

impl Channels {
    /// Connections that come about with the first call each; within a tokio runtime.
    pub(crate) fn lazy(address: &str, options: &ClientOptions) -> Result<Channels, ClientError> {
        let way = Way::to(address, options)?;
        let channels = (0..options.connections).map(|_| way.lazy()).collect();
        Ok(Channels::new(channels, address, options))
    }

    /// The same, but the first connection is made now, so that a wrong address is noticed now.
    pub(crate) async fn connect(address: &str, options: &ClientOptions) -> Result<Channels, ClientError> {
        let way = Way::to(address, options)?;
        let connected = tokio::time::timeout(options.connect_timeout, way.connect()).await;
        let unreachable = |reason| ClientError::Unreachable { address: address.to_owned(), reason };
        let first = connected
            .map_err(|_| unreachable(format!("no connection within {} s", options.connect_timeout.as_secs_f64())))?
            .map_err(|error| unreachable(innermost(&error)))?;
        let others = (1..options.connections).map(|_| way.lazy());
        Ok(Channels::new(std::iter::once(first).chain(others).collect(), address, options))
    }

    fn new(channels: Vec<Channel>, address: &str, options: &ClientOptions) -> Channels {
        let open = Arc::new(Semaphore::new(options.max_open));
        Channels { channels, next: AtomicUsize::new(0), open, address: address.to_owned() }
    }

    /// Where they lead.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The connection whose turn it is.
    pub(crate) fn next(&self) -> Option<Channel> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len().max(1);
        self.channels.get(turn).cloned()
    }

    /// A place among the open calls; given back when dropped.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.open).acquire_owned().await.ok()
    }
}

/// The way to a server: its address and how it is spoken to.
#[derive(Debug)]
struct Way {
    endpoint: Endpoint,
    tls: Option<Tls>,
}

impl Way {
    fn to(address: &str, options: &ClientOptions) -> Result<Way, ClientError> {
        options.check()?;
        let wrong = |problem: &str| ClientError::Address { address: address.to_owned(), problem: problem.to_owned() };
        let url = match (address.split_once("://"), &options.tls) {
            (None, None) => format!("http://{address}"),
            (None, Some(_)) => format!("https://{address}"),
            (Some(("http", _)), None) | (Some(("https", _)), Some(_)) => address.to_owned(),
            (Some(("https", _)), None) => {
                return Err(wrong("asks for TLS; say which authorities are believed (ClientOptions::tls, --ca FILE)"));
            }
            (Some(("http", _)), Some(_)) => return Err(wrong("is in the clear, but TLS is asked for; write https://")),
            _ => return Err(wrong("has a scheme other than http and https; write HOST:PORT, such as 127.0.0.1:8080")),
        };
        let is_whole = |uri: &Uri| uri.port().is_some() && uri.host().is_some_and(|host| !host.is_empty());
        if !url.parse::<Uri>().is_ok_and(|uri| is_whole(&uri)) {
            return Err(wrong("is not HOST:PORT, such as 127.0.0.1:8080"));
        }
        let endpoint = Endpoint::from_shared(url)
            .map_err(|error| wrong(&format!("cannot be used: {}", innermost(&error))))?
            .user_agent(USER_AGENT)
            .map_err(|error| wrong(&format!("cannot be used: {}", innermost(&error))))?
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(options.connect_timeout);
        Ok(Way { endpoint, tls: options.tls.clone() })
    }

    fn lazy(&self) -> Channel {
        match &self.tls {
            None => self.endpoint.connect_lazy(),
            Some(tls) => self.endpoint.connect_with_connector_lazy(secure(tls.clone())),
        }
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.tls {
            None => self.endpoint.connect().await,
            Some(tls) => self.endpoint.connect_with_connector(secure(tls.clone())).await,
        }
    }
}

/// What makes connections over TLS.
fn secure(
    tls: Tls,
) -> impl tower::Service<Uri, Response = TokioIo<TlsStream<TcpStream>>, Error = io::Error, Future: Send> + Send + 'static
{
    tower::service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move {
            let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default());
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let socket = TcpStream::connect((bare, port)).await?;
            socket.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(tls.connect(bare, socket).await?))
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        let problem = |address| Way::to(address, &ClientOptions::default()).unwrap_err().to_string();
        assert!(Way::to("localhost:8080", &ClientOptions::default()).is_ok());
        assert!(Way::to("http://[::1]:8080", &ClientOptions::default()).is_ok());
        assert!(problem("localhost").contains("HOST:PORT"));
        assert!(problem("a b:1").contains("HOST:PORT"));
        assert!(problem("https://localhost:1").contains("TLS"));
        assert!(problem("grpc://localhost:1").contains("scheme"));
    }

    #[tokio::test]
    async fn connections_take_turns() {
        let options = ClientOptions { connections: 3, ..ClientOptions::default() };
        let channels = Channels::lazy("localhost:1", &options).unwrap();
        assert_eq!(channels.channels.len(), 3);
        for _ in 0..4 {
            assert!(channels.next().is_some());
        }
        assert_eq!(channels.next.load(Ordering::Relaxed), 4);
    }
}
