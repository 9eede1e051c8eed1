//! Accepting connections, a bounded number of them, and TLS's handshakes. At the bound, or when the process is out of file
//! descriptors, new ones wait in the operating system's own line; those that are open are not disturbed. One that does not
//! begin, on which nothing is asked for long, or whose answers are not read, is closed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::config::ServerConfig;
use crate::tls::Tls;

/// How long to leave the listener alone after it failed, as it does without free file descriptors.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

/// A connection has begun when this much was read: HTTP/2's preface, or a good part of a request's head.
const BEGINNING: usize = 24;

/// Which listener a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// `address`.
    Public,
    /// `admin.address`.
    Management,
}

/// What a request may know of its connection: an extension of every request.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    /// Where the other end is.
    pub(crate) remote: Option<IpAddr>,
    /// Which listener it came to.
    pub(crate) door: Door,
    activity: Arc<Activity>,
}

impl ConnectionInfo {
    /// To be held while a request of the connection is open.
    pub(crate) fn busy(&self) -> Busy {
        self.activity.open.fetch_add(1, Ordering::Relaxed);
        let request = self.activity.requests.fetch_add(1, Ordering::Relaxed);
        Busy { activity: Arc::clone(&self.activity), request }
    }
}

#[derive(Debug)]
struct Activity {
    open: AtomicUsize,
    // How many there have been.
    requests: AtomicUsize,
    // When it was opened, or its last request ended.
    since: Mutex<Instant>,
    // Requests with a piece of their answer that the other end does not take, and since when.
    unread: Mutex<BTreeMap<usize, Instant>>,
}

impl Activity {
    fn unread(&self) -> MutexGuard<'_, BTreeMap<usize, Instant>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is open on a connection.
#[derive(Debug)]
pub(crate) struct Busy {
    activity: Arc<Activity>,
    request: usize,
}

impl Busy {
    /// A piece of the answer is there to be sent.
    pub(crate) fn offers(&self) {
        self.activity.unread().insert(self.request, Instant::now());
    }

    /// What there was has been sent.
    pub(crate) fn has_sent(&self) {
        self.activity.unread().remove(&self.request);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.has_sent();
        *self.activity.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.activity.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long connections may take over what, and how many handshakes are under way at once.
#[derive(Clone, Copy, Debug)]
struct Patience {
    opening: Duration,
    idle: Duration,
    max_handshakes: usize,
}

/// A connection, which holds one of the listener's places for as long as it is open.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    info: ConnectionInfo,
    patience: Patience,
    // How much of the beginning was read.
    read: usize,
    opened: Instant,
    timer: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The connections that come to a listener, at most `max` open at once, each having shaken hands where there is TLS.
pub(crate) fn accept(
    listener: TcpListener,
    door: Door,
    tls: Option<Tls>,
    max: usize,
    config: &ServerConfig,
) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
    let patience = Patience {
        opening: config.max_opening_time,
        idle: config.max_connection_idle,
        max_handshakes: config.max_handshakes,
    };
    let places = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
    let acceptor = Acceptor { listener, door, tls, places, patience, handshakes: Handshakes::default() };
    stream::unfold(acceptor, async |mut acceptor| Some((Ok(acceptor.next().await?), acceptor)))
}

struct Acceptor {
    listener: TcpListener,
    door: Door,
    tls: Option<Tls>,
    places: Arc<Semaphore>,
    patience: Patience,
    handshakes: Handshakes,
}

impl Acceptor {
    async fn next(&mut self) -> Option<Connection> {
        loop {
            let accepted = tokio::select! {
                Some(connection) = self.handshakes.next() => return Some(connection),
                accepted = accept_one(&self.listener, &self.places) => accepted?,
            };
            let (stream, place) = accepted;
            let remote = stream.peer_addr().ok().map(|address| address.ip().to_canonical());
            let opened = Instant::now();
            let activity = Arc::new(Activity {
                open: AtomicUsize::new(0),
                requests: AtomicUsize::new(0),
                since: Mutex::new(opened),
                unread: Mutex::default(),
            });
            let info = ConnectionInfo { remote, door: self.door, activity };
            let patience = self.patience;
            let open = move |socket| Connection {
                socket,
                info,
                patience,
                read: 0,
                opened: Instant::now(),
                timer: Box::pin(sleep_until(Instant::now() + patience.opening)),
                _place: place,
            };
            let Some(tls) = &self.tls else { return Some(open(Socket::Plain(stream))) };
            let acceptor = TlsAcceptor::from(tls.current());
            self.handshakes.begin(patience, async move {
                match acceptor.accept(stream).await {
                    Ok(stream) => Some(open(Socket::Tls(Box::new(stream)))),
                    Err(error) => {
                        tracing::debug!(%error, "a TLS handshake failed");
                        None
                    }
                }
            });
        }
    }
}

async fn accept_one(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers must not wait for more. A connection that is gone fails here, and later for all to see.
                let _ = stream.set_nodelay(true);
                return Some((stream, place));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

// Handshakes under way. Beyond the bound the oldest is given up for the newest, so that those that never end keep nobody out.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<Option<Connection>>,
    oldest: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn begin(&mut self, patience: Patience, handshake: impl Future<Output = Option<Connection>> + Send + 'static) {
        self.oldest.retain(|task| !task.is_finished());
        if self.oldest.len() >= patience.max_handshakes
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        let bounded = async move { timeout(patience.opening, handshake).await.ok().flatten() };
        self.oldest.push_back(self.tasks.spawn(bounded));
    }

    // The next connection whose handshake succeeds; nothing when none is under way.
    async fn next(&mut self) -> Option<Connection> {
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Some(connection)) = ended {
                return Some(connection);
            }
        }
        None
    }
}

impl Connection {
    // When the connection is to be closed, if nothing changes until then.
    fn closing_time(&self) -> Instant {
        if self.read < BEGINNING {
            return self.opened + self.patience.opening;
        }
        if self.info.activity.open.load(Ordering::Relaxed) > 0 {
            let oldest = self.info.activity.unread().values().min().copied();
            return oldest.unwrap_or_else(Instant::now) + self.patience.idle;
        }
        *self.info.activity.since.lock().unwrap_or_else(PoisonError::into_inner) + self.patience.idle
    }

    // What a write came to: an error when the other end has not read for too long.
    fn or_closing(&mut self, polled: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Pending => self.poll_closing(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
            ready => ready,
        }
    }

    // Ready when nothing more is to be expected of the other end.
    fn poll_closing(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            let closing = self.closing_time();
            if closing <= Instant::now() {
                tracing::debug!("a connection on which nothing was asked or read is closed");
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(closing);
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        match polled {
            Poll::Ready(result) => {
                let had_begun = self.read >= BEGINNING;
                self.read = self.read.saturating_add(buffer.filled().len() - before);
                if !had_begun && self.read >= BEGINNING {
                    let closing = self.closing_time();
                    self.timer.as_mut().reset(closing);
                }
                Poll::Ready(result)
            }
            // An end that was not sent, but will do as well.
            Poll::Pending => self.poll_closing(context).map(Ok),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.or_closing(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Socket::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        self.or_closing(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(stream) => stream.is_write_vectored(),
            Socket::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(context),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
