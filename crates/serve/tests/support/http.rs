//! A plain HTTP/1.1 client for the tests beside this folder: one request a connection.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// The status and the JSON of what is answered to a JSON body.
pub(crate) async fn post(address: SocketAddr, path: &str, body: Value) -> (u16, Value) {
    let answer = send(address, path, "application/json", body.to_string().as_bytes()).await;
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

/// The server-sent events that are answered to a JSON body, the data of each.
pub(crate) async fn events(address: SocketAddr, path: &str, body: Value) -> Vec<String> {
    let answer = send(address, path, "application/json", body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("content-type: text/event-stream"), "{}", answer.head);
    answer.body.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// What is answered to a body of any kind.
pub(crate) async fn send(address: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> Answer {
    read(open(address, path, content_type, body).await).await
}

/// What is answered to a GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read(stream).await
}

/// What is answered to a request with these lines in its head, over any connection.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: S, line: &str, head: &str, body: &str) -> Answer {
    let request = format!(
        "{line} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{head}\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    say(stream, &request).await
}

/// What is answered to a request that is written out.
pub(crate) async fn say<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    read(stream).await
}

/// What is answered over a connection of its own to whoever has this key.
pub(crate) async fn ask_with_key(address: SocketAddr, key: &str, line: &str, body: &str) -> Answer {
    let head = if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
    ask(TcpStream::connect(address).await.unwrap(), line, &head, body).await
}

/// A connection on which a request was sent and nothing is read yet.
pub(crate) async fn open(address: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses a body closes before it has read all of it. Its answer is there nevertheless.
    let _ = stream.write_all(body).await;
    stream
}

/// What the server's metrics say under a name and the first of its labels; 0 where they do not.
pub(crate) async fn measured(address: SocketAddr, name: &str) -> f64 {
    let page = get(address, "/metrics").await.body;
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

/// The head, in small letters, and the body of what is answered to a body of any kind.
pub(crate) async fn send_bytes(address: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (head, body) = read_bytes(open(address, path, content_type, body).await).await;
    (head.into_bytes(), body)
}

async fn read<S: AsyncRead + Unpin>(stream: S) -> Answer {
    let (head, body) = read_bytes(stream).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: String::from_utf8(body).unwrap() }
}

async fn read_bytes<S: AsyncRead + Unpin>(mut stream: S) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    // An answer that is not whole is noticed below.
    let _ = stream.read_to_end(&mut bytes).await;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    let body = &bytes[end + 4..];
    let body = if head.contains("transfer-encoding: chunked") { joined(body) } else { body.to_vec() };
    (head, body)
}

// The body of chunks, each behind its length in hexadecimal; an empty one ends it.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk's length");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        rest = &rest[end + 2..];
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}
