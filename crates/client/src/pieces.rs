//! An answer that comes in pieces, or the answers to a stream of requests.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Sleep, sleep_until};
use tonic::Streaming;

use crate::call::Call;
use crate::error::ClientError;

/// An answer that comes in pieces, or the answers to a stream of requests: a [`Stream`] of messages, which ends after the first
/// error. Dropping it cancels the
/// call, and the server stops its work.
///
/// ```
/// use futures::TryStreamExt as _;
/// use tidemill_client::v1::GenerateStreamResponse;
/// use tidemill_client::{ClientError, Pieces};
///
/// async fn whole(pieces: Pieces<GenerateStreamResponse>) -> Result<String, ClientError> {
///     pieces.try_fold(String::new(), async |text, piece| Ok(text + &piece.text)).await
/// }
/// ```
#[derive(Debug)]
pub struct Pieces<A> {
    first: Option<A>,
    rest: Option<Streaming<A>>,
    end: Option<Pin<Box<Sleep>>>,
    call: Call,
    // While it is there, requests are sent.
    requests: Option<oneshot::Sender<()>>,
    // Given back with the stream.
    _place: Option<OwnedSemaphorePermit>,
}

impl<A> Pieces<A> {
    /// A stream whose first message is there.
    pub(crate) fn begun(
        first: Option<A>,
        rest: Streaming<A>,
        call: Call,
        place: Option<OwnedSemaphorePermit>,
    ) -> Pieces<A> {
        let pieces = Pieces::open(rest, call, place);
        // A stream that ended before its first message has nothing more to say.
        let rest = pieces.rest.filter(|_| first.is_some());
        Pieces { first, rest, ..pieces }
    }

    /// A stream of which nothing has come.
    pub(crate) fn open(rest: Streaming<A>, call: Call, place: Option<OwnedSemaphorePermit>) -> Pieces<A> {
        let end = call.end.map(|end| Box::pin(sleep_until(end)));
        Pieces { first: None, rest: Some(rest), end, call, requests: None, _place: place }
    }

    /// The answers to a stream of requests, which is given up with them.
    pub(crate) fn answering(self, requests: oneshot::Sender<()>) -> Pieces<A> {
        Pieces { requests: Some(requests), ..self }
    }

    /// The next piece; nothing after the last.
    ///
    /// # Errors
    /// The server's status, a connection that broke, or the deadline; the stream has then ended.
    pub async fn next(&mut self) -> Option<Result<A, ClientError>>
    where
        A: Unpin,
    {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl<A: Unpin> Stream for Pieces<A> {
    type Item = Result<A, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let problem = match Pin::new(rest).poll_next(context) {
            Poll::Ready(Some(Ok(piece))) => return Poll::Ready(Some(Ok(piece))),
            Poll::Ready(Some(Err(status))) => Some(self.call.failed(status)),
            Poll::Ready(None) => None,
            Poll::Pending => {
                let over = self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready());
                if !over {
                    return Poll::Pending;
                }
                Some(self.call.too_late())
            }
        };
        self.rest = None;
        self.requests = None;
        Poll::Ready(problem.map(Err))
    }
}
