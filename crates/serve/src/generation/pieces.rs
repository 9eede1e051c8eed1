//! The way of an answer's pieces from the generator to its caller. The generator never waits for a caller: one that reads
//! more slowly than it is answered is cut off, unless it is the server itself that collects the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::Piece;

/// Most pieces that may wait for a caller.
#[derive(Debug)]
struct Backlog {
    waiting: AtomicUsize,
    max: AtomicUsize,
}

/// The generator's end.
#[derive(Debug)]
pub(super) struct PieceSender {
    pieces: mpsc::UnboundedSender<Piece>,
    backlog: Arc<Backlog>,
}

/// The caller's end. Dropped, or closed, it tells the generator that nobody reads any more.
#[derive(Debug)]
pub(super) struct PieceReceiver {
    pieces: mpsc::UnboundedReceiver<Piece>,
    backlog: Arc<Backlog>,
}

/// Why a piece was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// As many wait as may.
    TooSlow,
    /// The caller has left.
    Gone,
}

/// A way on which at most `max` pieces wait.
pub(super) fn pieces(max: usize) -> (PieceSender, PieceReceiver) {
    let backlog = Arc::new(Backlog { waiting: AtomicUsize::new(0), max: AtomicUsize::new(max) });
    let (send, receive) = mpsc::unbounded_channel();
    (PieceSender { pieces: send, backlog: Arc::clone(&backlog) }, PieceReceiver { pieces: receive, backlog })
}

impl PieceSender {
    /// Sends a piece, without waiting.
    pub(super) fn send(&self, piece: Piece) -> Result<(), SendError> {
        if self.backlog.waiting.load(Ordering::Relaxed) >= self.backlog.max.load(Ordering::Relaxed) {
            return Err(SendError::TooSlow);
        }
        self.backlog.waiting.fetch_add(1, Ordering::Relaxed);
        self.pieces.send(piece).map_err(|_| SendError::Gone)
    }

    /// Whether the caller has left.
    pub(super) fn is_closed(&self) -> bool {
        self.pieces.is_closed()
    }
}

impl PieceReceiver {
    /// The next piece; `None` when the generator sends no more.
    pub(super) async fn next(&mut self) -> Option<Piece> {
        let piece = self.pieces.recv().await?;
        self.backlog.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(piece)
    }

    /// Any number may wait: an answer that is collected is bounded by its own length, and nobody's reading holds it up.
    pub(super) fn collects(&self) {
        self.backlog.max.store(usize::MAX, Ordering::Relaxed);
    }

    /// Tells the generator that nobody reads any more.
    pub(super) fn close(&mut self) {
        self.pieces.close();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_cut_off_and_a_collector_is_not() {
        let (send, mut receive) = pieces(2);
        let sent = || send.send(Piece::default());
        assert_eq!([sent(), sent(), sent()], [Ok(()), Ok(()), Err(SendError::TooSlow)]);
        receive.next().await.unwrap();
        assert_eq!([sent(), sent()], [Ok(()), Err(SendError::TooSlow)]);
        receive.collects();
        assert_eq!([sent(), sent()], [Ok(()), Ok(())]);
        drop(receive);
        assert_eq!(sent(), Err(SendError::Gone));
        assert!(send.is_closed());
    }
}
