//! An answer that comes in pieces.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Streaming;

use crate::call::Call;
use crate::error::ClientError;

/// An answer that comes in pieces: a [`Stream`] of messages, which ends after the first error. Dropping it cancels the
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
    // Given back with the stream.
    _place: Option<OwnedSemaphorePermit>,
}

impl<A> Pieces<A> {
    pub(crate) fn new(
        first: Option<A>,
        rest: Streaming<A>,
        end: Option<Instant>,
        call: Call,
        place: Option<OwnedSemaphorePermit>,
    ) -> Pieces<A> {
        // A stream that ended before its first message has nothing more to say.
        let rest = first.is_some().then_some(rest);
        Pieces { first, rest, end: end.map(|end| Box::pin(sleep_until(end))), call, _place: place }
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
        Poll::Ready(problem.map(Err))
    }
}
