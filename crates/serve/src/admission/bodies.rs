//! The bodies of requests and answers: one must arrive in time, the other keeps its request's place until it is sent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::Request;

use super::account::{Account, set_bound_code};
use crate::connections::{Busy, ConnectionInfo};
use crate::refusal::Refusal;

// What an open request holds: if it is of inference one of the server's places, one of its key's, where that has a bound, and
// its connection.
pub(super) struct Place {
    pub(super) _server: Option<OwnedSemaphorePermit>,
    pub(super) _key: Option<OwnedSemaphorePermit>,
    pub(super) connection: Option<Busy>,
}

// The same request, whose body fails when it has not arrived in time: one that trickles in holds a place no longer.
pub(super) fn received_within(limit: Duration, request: Request<Body>) -> Request<Body> {
    let late = Box::pin(tokio::time::sleep(limit));
    request.map(|body| Body::new(Arriving { body, late }))
}

struct Arriving {
    body: Body,
    late: Pin<Box<Sleep>>,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.late.as_mut().poll(context).map(|()| Some(Err(Refusal::TooLate.into()))),
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(super) fn busy(request: &Request<Body>) -> Option<Busy> {
    request.extensions().get::<ConnectionInfo>().map(ConnectionInfo::busy)
}

// A response's body that keeps the request's place until it is sent or dropped.
pub(super) struct Held {
    body: Body,
    // Of a request of inference.
    account: Option<Account>,
    place: Place,
}

impl Held {
    pub(super) fn new(body: Body, account: Option<Account>, place: Place) -> Held {
        if let Some(connection) = &place.connection {
            connection.offers();
        }
        Held { body, account, place }
    }

    fn end(&mut self) {
        if let Some(account) = &mut self.account {
            account.outcome = account.outcome.or(Some("ok"));
        }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let span = self.account.as_ref().map(|account| account.trace.span().clone());
        let entered = span.as_ref().map(tracing::Span::enter);
        let mut frame = Pin::new(&mut self.body).poll_frame(context);
        drop(entered);
        match &mut frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    set_bound_code(trailers);
                    if let Some(account) = &mut self.account {
                        account.note_grpc(trailers);
                    }
                }
            }
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        if let Some(connection) = &self.place.connection {
            if frame.is_pending() { connection.has_sent() } else { connection.offers() }
        }
        if self.body.is_end_stream() {
            self.end();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
