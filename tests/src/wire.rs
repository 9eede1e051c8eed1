//! HTTP/2 to a server without a library of gRPC between: bytes that need not be messages, streams that are held open and
//! dropped, answers that are not read.

use std::time::Duration;

use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Names and values of a request's head.
pub type Head<'a> = &'a [(&'a str, &'a str)];

/// The head of a request of gRPC.
pub const GRPC: Head<'_> = &[("content-type", "application/grpc")];

/// The head of a request with a JSON body.
pub const JSON: Head<'_> = &[("content-type", "application/json")];

/// A connection that lives until it is dropped.
pub struct Wire {
    address: String,
    sender: SendRequest<Bytes>,
    driver: AbortHandle,
}

/// A request whose stream is open.
pub struct OpenStream {
    /// Where more of the request goes.
    pub sending: SendStream<Bytes>,
    response: ResponseFuture,
}

/// What came of a request.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// gRPC's status, where there is one.
    pub grpc_status: Option<u16>,
    /// The body.
    pub body: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub async fn open(address: &str) -> Wire {
        Wire::with_window(address, 1 << 20).await
    }

    /// Connects, and lets so many bytes of each answer come before they are read.
    pub async fn with_window(address: &str, window: u32) -> Wire {
        let socket = TcpStream::connect(address).await.expect("the server accepts connections");
        let mut builder = h2::client::Builder::new();
        // By the window of a connection it is bounded how many small frames may lie unread, or `h2` ends it.
        builder.initial_window_size(window).initial_connection_window_size(8 << 20).enable_push(false);
        let (sender, connection) = builder.handshake(socket).await.expect("HTTP/2");
        // Whoever waits for an answer is told why the connection ended.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Wire { address: address.to_owned(), sender, driver }
    }

    /// Opens a stream with a part of a request.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn begin(&self, path: &str, head: Head<'_>, body: Bytes, ends: bool) -> Result<OpenStream, h2::Error> {
        let mut request = Request::post(format!("http://{}{path}", self.address)).header("te", "trailers");
        for (name, value) in head {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut sending) = sender.send_request(request, false)?;
        sending.send_data(body, ends)?;
        Ok(OpenStream { sending, response })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The stream or the connection has ended without one.
    pub async fn ask(&self, path: &str, head: Head<'_>, body: Bytes) -> Result<Answer, h2::Error> {
        let answer = async { self.begin(path, head, body, true).await?.answer().await };
        tokio::time::timeout(ANSWER_LIMIT, answer).await.expect("an answer in time")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl OpenStream {
    /// The answer's head, and its body, which is not yet read. What is not given back of it is not sent for.
    ///
    /// # Errors
    /// The stream or the connection has ended without one.
    pub async fn head(self) -> Result<(http::response::Parts, RecvStream, SendStream<Bytes>), h2::Error> {
        let (head, body) = self.response.await?.into_parts();
        Ok((head, body, self.sending))
    }

    /// The whole answer.
    ///
    /// # Errors
    /// The stream or the connection has ended without one.
    pub async fn answer(self) -> Result<Answer, h2::Error> {
        let (head, mut stream, _sending) = self.head().await?;
        let mut body = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        let trailers = stream.trailers().await?.unwrap_or_default();
        let grpc_status = grpc_status(&trailers).or_else(|| grpc_status(&head.headers));
        Ok(Answer { status: head.status.as_u16(), grpc_status, body })
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A message with gRPC's five bytes before it.
pub fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("a small message");
    [&[0], &length.to_be_bytes()[..], &bytes].concat().into()
}
