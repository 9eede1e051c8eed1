//! Connections that carry gRPC messages as bytes: HTTP/2 by `h2`, without a copy of what is sent and without reading what
//! comes back beyond its status.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use h2::client::SendRequest;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri, Version};
use prost::bytes::{Buf as _, Bytes};
use tidemill_client::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::error::LoadError;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Before a connection that broke is made anew.
const PAUSE: Duration = Duration::from_millis(50);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const FRAME_BYTES: u32 = 256 << 10;
/// Most bytes of one answer in a stream, which is held to be told from the next.
const MOST_ANSWER_BYTES: usize = 1 << 30;

/// Why a request has no answer: gRPC's name of the code.
pub(crate) type Code = &'static str;

const CODES: [Code; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// The connection, not the server, failed.
const CONNECTION: Code = "CONNECTION";
pub(crate) const DEADLINE_EXCEEDED: Code = "DEADLINE_EXCEEDED";

/// Some HTTP/2 connections to one server; requests take them in turn.
#[derive(Clone, Debug)]
pub struct Connections {
    slots: Arc<[Slot]>,
    head: Arc<Head>,
}

#[derive(Debug)]
struct Slot {
    current: Mutex<(u64, SendRequest<Bytes>)>,
    renewing: tokio::sync::Mutex<()>,
}

/// Where connections lead, and whether TLS is spoken there.
#[derive(Debug)]
struct Server {
    address: String,
    tls: Option<Tls>,
}

/// What every request begins with.
#[derive(Debug)]
struct Head {
    server: Server,
    infer: Uri,
    stream: Uri,
    headers: HeaderMap,
}

impl Connections {
    /// Opens `count` connections, at least one, to `HOST:PORT`; `api_key` is sent as `authorization: Bearer KEY`.
    /// Within a tokio runtime, which they live on.
    ///
    /// # Errors
    /// An address that is none, or where nothing answers; a key that no header can carry.
    pub async fn open(address: &str, count: usize, api_key: Option<&str>) -> Result<Connections, LoadError> {
        let address = address.strip_prefix("http://").unwrap_or(address);
        Connections::to(Server { address: bare(address), tls: None }, count, api_key).await
    }

    /// The same over TLS; the address may begin with `https://`.
    ///
    /// # Errors
    /// As [`Connections::open`]; a server that is not believed is one where nothing answers.
    pub async fn open_tls(
        address: &str,
        count: usize,
        api_key: Option<&str>,
        tls: Tls,
    ) -> Result<Connections, LoadError> {
        let address = address.strip_prefix("https://").unwrap_or(address);
        Connections::to(Server { address: bare(address), tls: Some(tls) }, count, api_key).await
    }

    async fn to(server: Server, count: usize, api_key: Option<&str>) -> Result<Connections, LoadError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tidemill-load/", env!("CARGO_PKG_VERSION"))));
        if let Some(key) = api_key {
            let value = HeaderValue::try_from(format!("Bearer {key}"));
            let mut value = value.map_err(|_| LoadError::Setting {
                name: "the API key",
                problem: "has a character that no header can carry".to_owned(),
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut slots = Vec::new();
        for _ in 0..count.max(1) {
            let sender = server.connect().await.map_err(|reason| server.unreachable(reason))?;
            slots.push(Slot { current: Mutex::new((0, sender)), renewing: tokio::sync::Mutex::default() });
        }
        let uri = |path| {
            let scheme = if server.tls.is_some() { "https" } else { "http" };
            let parsed = format!("{scheme}://{}{path}", server.address).parse::<Uri>();
            parsed.map_err(|error| server.unreachable(error.to_string()))
        };
        let (infer, stream) = (uri(INFER)?, uri(STREAM_INFER)?);
        Ok(Connections { slots: slots.into(), head: Arc::new(Head { server, infer, stream, headers }) })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Sends one request by the connection of its turn. Gives the bytes of the answer.
    pub(crate) async fn infer(&self, turn: u64, message: Bytes, deadline: Duration) -> Result<usize, Code> {
        let slot = usize::try_from(turn % self.slots.len().max(1) as u64).unwrap_or(0);
        let slot = self.slots.get(slot).ok_or(CONNECTION)?;
        let (generation, sender) = slot.current();
        let request = self.head.request(&self.head.infer, Some(deadline)).ok_or(CONNECTION)?;
        match tokio::time::timeout(deadline, exchange(sender, request, message)).await {
            Err(_) => Err(DEADLINE_EXCEEDED),
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                // A server that resets one stream keeps its connection.
                if error.is_io() || error.is_go_away() {
                    slot.renew(generation, &self.head.server).await;
                }
                Err(code_of(&error))
            }
        }
    }

    /// Opens a stream of requests by the connection of its turn.
    pub(crate) async fn stream(&self, turn: u64) -> Result<Exchange, Code> {
        let slot = usize::try_from(turn % self.slots.len().max(1) as u64).unwrap_or(0);
        let slot = self.slots.get(slot).ok_or(CONNECTION)?;
        let (generation, sender) = slot.current();
        let request = self.head.request(&self.head.stream, None).ok_or(CONNECTION)?;
        let opened = async {
            let (response, sending) = sender.ready().await?.send_request(request, false)?;
            Ok::<_, h2::Error>(Exchange { sending, response: Some(response), body: None, buffer: Vec::new() })
        };
        match opened.await {
            Ok(exchange) => Ok(exchange),
            Err(error) => {
                slot.renew(generation, &self.head.server).await;
                Err(code_of(&error))
            }
        }
    }
}

impl Slot {
    fn current(&self) -> (u64, SendRequest<Bytes>) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the connection anew, once for all who saw this generation break.
    async fn renew(&self, broken: u64, server: &Server) {
        let _turn = self.renewing.lock().await;
        if self.current().0 != broken {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        if let Ok(sender) = server.connect().await {
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = (broken + 1, sender);
        }
    }
}

impl Head {
    fn request(&self, uri: &Uri, deadline: Option<Duration>) -> Option<Request<()>> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(deadline) = deadline {
            // Eight digits at most.
            let ms = deadline.as_millis().clamp(1, 99_999_999);
            let name = HeaderName::from_static("grpc-timeout");
            request.headers_mut().insert(name, HeaderValue::try_from(format!("{ms}m")).ok()?);
        }
        Some(request)
    }
}

impl Server {
    async fn connect(&self) -> Result<SendRequest<Bytes>, String> {
        let connected = async {
            let socket = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
            socket.set_nodelay(true).map_err(|error| error.to_string())?;
            let Some(tls) = &self.tls else { return begin(socket).await };
            let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
            begin(tls.connect(host, socket).await.map_err(|error| error.to_string())?).await
        };
        let late = |_| format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
        tokio::time::timeout(CONNECT_TIMEOUT, connected).await.map_err(late)?
    }

    fn unreachable(&self, reason: String) -> LoadError {
        LoadError::Unreachable { address: self.address.clone(), reason }
    }
}

/// `HOST:PORT` of an address without its scheme.
fn bare(address: &str) -> String {
    address.trim_end_matches('/').to_owned()
}

/// Begins to speak HTTP/2.
async fn begin(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Bytes>, String> {
    let handshake = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .enable_push(false)
        .handshake::<_, Bytes>(socket);
    let (sender, connection) = handshake.await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // Its requests are told why it ended.
        let _ = connection.await;
    });
    Ok(sender)
}

/// One request and its answer: the bytes of it, or its code.
async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    message: Bytes,
) -> Result<Result<usize, Code>, h2::Error> {
    let (response, mut sending) = sender.ready().await?.send_request(request, false)?;
    sending.send_data(message, true)?;
    let (head, mut body) = response.await?.into_parts();
    if !head.status.is_success() {
        return Ok(Err("UNKNOWN"));
    }
    let mut bytes = 0;
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        bytes += length;
        body.flow_control().release_capacity(length)?;
    }
    let trailers = body.trailers().await?;
    Ok(match status(trailers.as_ref().unwrap_or(&head.headers)) {
        "OK" => Ok(bytes),
        code => Err(code),
    })
}

/// A stream of requests, each of which is answered before the next is sent.
pub(crate) struct Exchange {
    sending: h2::SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    body: Option<h2::RecvStream>,
    buffer: Vec<u8>,
}

impl Exchange {
    /// Sends one request and waits for its answer. After an error but one in an answer the stream has ended.
    pub(crate) async fn infer(&mut self, message: Bytes) -> Result<usize, Code> {
        self.sending.send_data(message, false).map_err(|error| code_of(&error))?;
        if let Some(response) = self.response.take() {
            let (head, body) = response.await.map_err(|error| code_of(&error))?.into_parts();
            if body.is_end_stream() {
                return Err(status(&head.headers));
            }
            self.body = Some(body);
        }
        let body = self.body.as_mut().ok_or(CONNECTION)?;
        loop {
            if let Some(length) = whole(&self.buffer)? {
                // ModelStreamInferResponse: field 1 is an error's text, field 2 the answer.
                let is_error = self.buffer.get(crate::requests::FRAME) == Some(&0x0a);
                self.buffer.drain(..length);
                return if is_error { Err("UNKNOWN") } else { Ok(length) };
            }
            let Some(chunk) = body.data().await else {
                let trailers = body.trailers().await.map_err(|error| code_of(&error))?;
                return Err(trailers.as_ref().map_or(CONNECTION, |trailers| match status(trailers) {
                    "OK" => CONNECTION,
                    code => code,
                }));
            };
            let chunk = chunk.map_err(|error| code_of(&error))?;
            self.buffer.extend_from_slice(&chunk);
            body.flow_control().release_capacity(chunk.len()).map_err(|error| code_of(&error))?;
        }
    }
}

/// The length of the first message in the buffer with its frame, once it is whole.
fn whole(buffer: &[u8]) -> Result<Option<usize>, Code> {
    let Some((frame, rest)) = buffer.split_first_chunk::<{ crate::requests::FRAME }>() else {
        return Ok(None);
    };
    let length = usize::try_from((&frame[1..]).get_u32()).unwrap_or(usize::MAX);
    if length > MOST_ANSWER_BYTES {
        return Err("OUT_OF_RANGE");
    }
    Ok((rest.len() >= length).then_some(crate::requests::FRAME + length))
}

fn status(headers: &HeaderMap) -> Code {
    let code = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    code.and_then(|code| CODES.get(code).copied()).unwrap_or("UNKNOWN")
}

fn code_of(error: &h2::Error) -> Code {
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => "UNAVAILABLE",
        Some(h2::Reason::CANCEL) => "CANCELLED",
        Some(h2::Reason::ENHANCE_YOUR_CALM) => "RESOURCE_EXHAUSTED",
        _ => CONNECTION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        assert_eq!(whole(&[0, 0, 0, 0]), Ok(None));
        assert_eq!(whole(&[0, 0, 0, 0, 2, 9]), Ok(None));
        assert_eq!(whole(&[0, 0, 0, 0, 2, 9, 9, 0]), Ok(Some(7)));
        assert_eq!(whole(&[0, 0xff, 0, 0, 0]), Err("OUT_OF_RANGE"));
    }
}
