//! One call: its headers, its tries and pauses, and the deadline over all of them.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use prost::Message;
use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::client::Client;
use crate::error::{ClientError, Transport, innermost, transport_failure};
use crate::pieces::Pieces;

/// Which try this is, from the second on: gRPC's proposal A6.
const PREVIOUS_TRIES: &str = "grpc-previous-rpc-attempts";
const REQUEST_ID: &str = "x-request-id";

impl Client {
    /// Calls a method with one answer by its path, such as `/tidemill.v1.Embedding/Embed`: for services that have no
    /// method here.
    ///
    /// # Errors
    /// Every [`ClientError`] of a call.
    pub async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, ClientError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let (mut call, _place) = Call::begin(self).await?;
        loop {
            let (grpc, head) = call.next_try()?;
            let sent = call.in_time(unary(grpc, path, head.map(|()| request.clone()))).await;
            match sent {
                Ok(Ok(answer)) => return Ok(answer),
                failure => call.pause_after(failure.map(Result::err)).await?,
            }
        }
    }

    /// Calls a method that answers by a stream. Comes back with the first message, until which it is tried again like
    /// any other call.
    ///
    /// # Errors
    /// Every [`ClientError`] of a call; from the first message on, they come by the stream.
    pub async fn call_stream<Q, A>(&self, path: &'static str, request: Q) -> Result<Pieces<A>, ClientError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let (mut call, place) = Call::begin(self).await?;
        loop {
            let (grpc, head) = call.next_try()?;
            let sent = call.in_time(begun::<Q, A>(grpc, path, head.map(|()| request.clone()))).await;
            match sent {
                Ok(Ok((first, rest))) => return Ok(Pieces::begun(first, rest, call, place)),
                failure => call.pause_after(failure.map(Result::err)).await?,
            }
        }
    }

    /// Calls a method that answers a stream of requests by a stream. Comes back as soon as the server takes the call;
    /// `requests` is read as the server reads, and its end is told to the server. It is tried once: what was taken from
    /// `requests` cannot be taken again.
    ///
    /// # Errors
    /// Every [`ClientError`] of a call; later ones come by the stream.
    pub async fn call_streams<Q, A>(
        &self,
        path: &'static str,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Pieces<A>, ClientError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (mut call, place) = Call::begin(self).await?;
        let (grpc, head) = call.next_try()?;
        // Requests that may still come hold the call open: they end when nobody waits for answers any more.
        let (awaited, given_up) = oneshot::channel();
        let requests = requests.take_until(given_up);
        match call.in_time(opened::<Q, A>(grpc, path, head.map(|()| requests))).await {
            Ok(Ok(answers)) => Ok(Pieces::open(answers, call, place).answering(awaited)),
            Ok(Err(status)) => Err(call.failed(status)),
            Err(TooLate) => Err(call.too_late()),
        }
    }
}

async fn unary<Q, A>(mut grpc: Grpc<Channel>, path: &'static str, request: Request<Q>) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    Ok(grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await?.into_inner())
}

/// A stream up to its first message.
async fn begun<Q, A>(
    mut grpc: Grpc<Channel>,
    path: &'static str,
    request: Request<Q>,
) -> Result<(Option<A>, Streaming<A>), Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<Q, A>::default();
    let mut rest = grpc.server_streaming(request, PathAndQuery::from_static(path), codec).await?.into_inner();
    Ok((rest.message().await?, rest))
}

/// A stream for a stream of requests, before its first message.
async fn opened<Q, A>(
    mut grpc: Grpc<Channel>,
    path: &'static str,
    requests: Request<impl Stream<Item = Q> + Send + 'static>,
) -> Result<Streaming<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(grpc.streaming(requests, PathAndQuery::from_static(path), codec).await?.into_inner())
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Call {
    client: Client,
    id: MetadataValue<Ascii>,
    pub(crate) end: Option<Instant>,
    tries: u32,
}

impl Call {
    /// Waits for a place among the open calls; that counts towards the deadline.
    async fn begin(client: &Client) -> Result<(Call, Option<OwnedSemaphorePermit>), ClientError> {
        let id = client.request_id.clone().map_or_else(random_id, Ok)?;
        let end = client.deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let call = Call { client: client.clone(), id, end, tries: 0 };
        let place = call.in_time(client.channels.place()).await.map_err(|TooLate| call.too_late())?;
        Ok((call, place))
    }

    /// The connection and the headers of the next try.
    fn next_try(&mut self) -> Result<(Grpc<Channel>, Request<()>), ClientError> {
        self.tries += 1;
        let Some(channel) = self.client.channels.next() else {
            return Err(self.failed(Status::unavailable("the pool has no connection")));
        };
        let grpc = Grpc::new(channel).max_decoding_message_size(self.client.options.max_message_bytes);
        let mut head = Request::new(());
        if let Some(end) = self.end {
            head.set_timeout(end.saturating_duration_since(Instant::now()));
        }
        let metadata = head.metadata_mut();
        metadata.insert(REQUEST_ID, self.id.clone());
        if let Some(authorization) = &self.client.authorization {
            metadata.insert("authorization", authorization.clone());
        }
        if self.tries > 1 {
            metadata.insert(PREVIOUS_TRIES, MetadataValue::from(self.tries - 1));
        }
        Ok((grpc, head))
    }

    /// Sleeps until the next try, or says why there is none.
    async fn pause_after(&self, failure: Result<Option<Status>, TooLate>) -> Result<(), ClientError> {
        let Ok(status) = failure else {
            return Err(self.too_late());
        };
        let status = status.unwrap_or_else(|| Status::unknown("no status"));
        let luck = rand::rng().random::<f64>();
        let pause = self.client.options.retry.pause(&status, self.tries, luck);
        match pause.filter(|pause| self.has_time_for(*pause)) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(self.failed(status)),
        }
    }

    async fn in_time<A>(&self, work: impl Future<Output = A>) -> Result<A, TooLate> {
        match self.end {
            None => Ok(work.await),
            Some(end) => timeout_at(end, work).await.map_err(|_| TooLate),
        }
    }

    fn has_time_for(&self, pause: Duration) -> bool {
        let after = Instant::now().checked_add(pause);
        self.end.is_none_or(|end| after.is_some_and(|after| after < end))
    }

    pub(crate) fn too_late(&self) -> ClientError {
        let deadline = self.client.deadline.unwrap_or_default();
        ClientError::DeadlineExceeded { deadline, tries: self.tries, request_id: self.id() }
    }

    pub(crate) fn failed(&self, status: Status) -> ClientError {
        match transport_failure(&status) {
            Some(Transport::TimedOut) => self.too_late(),
            Some(Transport::Unconnected) => {
                let address = self.client.channels.address().to_owned();
                ClientError::Unreachable { address, reason: innermost(&status) }
            }
            _ => ClientError::Refused { status: Box::new(status), tries: self.tries, request_id: self.id() },
        }
    }

    fn id(&self) -> String {
        self.id.to_str().unwrap_or_default().to_owned()
    }
}

/// The deadline passed.
struct TooLate;

fn random_id() -> Result<MetadataValue<Ascii>, ClientError> {
    let id = format!("{:032x}", rand::rng().random::<u128>());
    MetadataValue::try_from(id).map_err(|error| ClientError::Option { name: "request id", problem: error.to_string() })
}
