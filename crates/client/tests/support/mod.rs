//! A server that refuses, delays, breaks off and counts as a test has planned.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt as _};
use tidemill_client::v1::chat_server::{Chat, ChatServer};
use tidemill_client::v1::classify_stream_response::Outcome;
use tidemill_client::v1::text_classification_server::{TextClassification, TextClassificationServer};
use tidemill_client::v1::{
    ChatMessage, ChatRequest, ChatResponse, ChatStreamResponse, ClassifyRequest, ClassifyResponse,
    ClassifyStreamRequest, ClassifyStreamResponse,
};
use tokio::net::TcpListener;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Request, Response, Status, Streaming};

/// What the server does.
#[derive(Clone)]
pub(crate) struct Plan {
    /// How many requests are refused before one is answered.
    pub(crate) refusals: usize,
    /// By what.
    pub(crate) status: Arc<dyn Fn() -> Status + Send + Sync>,
    /// How long an answer, or the next message of a stream, takes.
    pub(crate) delay: Duration,
    /// Whether a stream ends by UNAVAILABLE after its first message.
    pub(crate) breaks_off: bool,
    /// How many connections are closed as soon as they are made.
    pub(crate) drop_connections: usize,
}

impl Plan {
    pub(crate) fn refuse(refusals: usize, status: impl Fn() -> Status + Send + Sync + 'static) -> Plan {
        let status = Arc::new(status);
        Plan { refusals, status, delay: Duration::ZERO, breaks_off: false, drop_connections: 0 }
    }
}

type Head = BTreeMap<String, String>;

#[derive(Clone)]
pub(crate) struct Failing {
    pub(crate) address: String,
    plan: Plan,
    seen: Arc<Mutex<Vec<Head>>>,
    connections: Arc<AtomicUsize>,
}

impl Failing {
    pub(crate) async fn start(plan: Plan) -> Failing {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let failing = Failing { address, plan, seen: Arc::default(), connections: Arc::default() };
        let connections = Arc::clone(&failing.connections);
        let dropped = failing.plan.drop_connections;
        let incoming = stream::unfold((listener, connections), move |(listener, connections)| async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                if connections.fetch_add(1, Ordering::Relaxed) >= dropped {
                    return Some((Ok::<_, std::io::Error>(socket), (listener, connections)));
                }
            }
        });
        let server = tonic::transport::Server::builder()
            .add_service(TextClassificationServer::new(failing.clone()))
            .add_service(ChatServer::new(failing.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        failing
    }

    /// The headers of every request so far.
    pub(crate) fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections have been made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let head = metadata.iter().filter_map(|pair| match pair {
            KeyAndValueRef::Ascii(name, value) => Some((name.to_string(), value.to_str().ok()?.to_owned())),
            KeyAndValueRef::Binary(..) => None,
        });
        let count = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(head.collect());
            seen.len()
        };
        tokio::time::sleep(self.plan.delay).await;
        if count <= self.plan.refusals { Err((self.plan.status)()) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl TextClassification for Failing {
    type ClassifyStreamStream = Pin<Box<dyn Stream<Item = Result<ClassifyStreamResponse, Status>> + Send>>;

    async fn classify(&self, request: Request<ClassifyRequest>) -> Result<Response<ClassifyResponse>, Status> {
        self.admit(request.metadata()).await?;
        Ok(Response::new(ClassifyResponse { model: "m".into(), ..ClassifyResponse::default() }))
    }

    async fn classify_stream(
        &self,
        request: Request<Streaming<ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        self.admit(request.metadata()).await?;
        let breaks_off = self.plan.breaks_off;
        let answers = request.into_inner().enumerate().map(move |(index, message)| {
            if breaks_off && index > 0 {
                return Err(Status::unavailable("gone"));
            }
            let response = ClassifyResponse { model: "m".into(), ..ClassifyResponse::default() };
            Ok(ClassifyStreamResponse { id: message?.id, outcome: Some(Outcome::Response(response)) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl Chat for Failing {
    type CompleteStreamStream = Pin<Box<dyn Stream<Item = Result<ChatStreamResponse, Status>> + Send>>;

    async fn complete(&self, request: Request<ChatRequest>) -> Result<Response<ChatResponse>, Status> {
        self.admit(request.metadata()).await?;
        Ok(Response::new(ChatResponse::default()))
    }

    async fn complete_stream(
        &self,
        request: Request<ChatRequest>,
    ) -> Result<Response<Self::CompleteStreamStream>, Status> {
        self.admit(request.metadata()).await?;
        let plan = self.plan.clone();
        let words = stream::iter(["one ", "two ", "three"].into_iter().enumerate()).then(move |(index, word)| {
            let plan = plan.clone();
            async move {
                if index > 0 {
                    tokio::time::sleep(plan.delay).await;
                    if plan.breaks_off {
                        return Err(Status::unavailable("gone"));
                    }
                }
                Ok(ChatStreamResponse { content: word.into(), ..ChatStreamResponse::default() })
            }
        });
        Ok(Response::new(Box::pin(words)))
    }
}

pub(crate) fn classify() -> ClassifyRequest {
    ClassifyRequest { texts: vec!["a".into()], ..ClassifyRequest::default() }
}

pub(crate) fn chat() -> ChatRequest {
    let message = ChatMessage { role: "user".into(), content: "a".into(), ..ChatMessage::default() };
    ChatRequest { messages: vec![message], ..ChatRequest::default() }
}
