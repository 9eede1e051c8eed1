//! Streams of requests: answered in their order, a bounded number under way at once, ended when nothing comes for too long
//! or the server shuts.

use futures::stream::{self, BoxStream, StreamExt as _};
use tidemill_proto::google;
use tonic::{Request, Status, Streaming};

use super::{Base, admitted};
use crate::admitted::Admitted;
use crate::refusal::Refusal;

impl Base {
    /// Answers a stream's messages by `answer`, each by one message.
    pub(super) fn answer_stream<M, R, F>(
        &self,
        request: Request<Streaming<M>>,
        answer: impl Fn(Base, M, Admitted) -> F + Send + 'static,
    ) -> BoxStream<'static, Result<R, Status>>
    where
        M: Send + 'static,
        R: Send + 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let admitted = admitted(&request);
        let reading = Some((self.clone(), request.into_inner(), admitted.clone()));
        let messages = stream::unfold(reading, |reading| async move {
            let (mut base, mut messages, admitted) = reading?;
            match base.next_message(&mut messages, &admitted).await {
                Ok(Some(message)) => Some((Ok(message), Some((base, messages, admitted)))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        let base = self.clone();
        let answers = messages.map(move |message| {
            let answer = message.map(|message| answer(base.clone(), message, admitted.clone()));
            async move { Ok(answer?.await) }
        });
        answers.buffered(self.max_under_way).boxed()
    }

    // The client's messages, until it ends, the server shuts, the deadline passes or nothing comes for too long.
    async fn next_message<M>(&mut self, messages: &mut Streaming<M>, admitted: &Admitted) -> Result<Option<M>, Status> {
        let late = async {
            match admitted.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.shut.wait_for(|shut| *shut) => Err(Refusal::ShuttingDown.into()),
            () = late => Err(Refusal::DeadlineExceeded.into()),
            message = paced(messages, admitted) => message,
            () = tokio::time::sleep(self.max_idle) => Err(Refusal::Idle(self.max_idle).into()),
        }
    }
}

// The next message, no sooner than its caller's key may make a request, while that key is good.
async fn paced<M>(messages: &mut Streaming<M>, admitted: &Admitted) -> Result<Option<M>, Status> {
    let message = messages.message().await?;
    if message.is_some() {
        if !admitted.caller.is_valid() {
            return Err(
                Refusal::Unauthenticated { problem: "is part of a stream whose API key is no longer good" }.into()
            );
        }
        admitted.caller.pace().await;
    }
    Ok(message)
}

/// A message of a stream that holds no request.
pub(super) fn missing() -> Refusal {
    Refusal::invalid("request", "is missing")
}

/// A refusal as part of a message.
pub(super) fn error(refusal: Refusal) -> google::rpc::Status {
    google::rpc::Status::from(&Status::from(refusal))
}
