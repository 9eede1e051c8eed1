//! The word that ends a load before its time.

use tokio::sync::watch;

/// Ends every load that has its [`Stop`].
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Heard by a load; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stopper {
    /// A stopper and what hears it.
    pub fn new() -> (Stopper, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Stop(receiver))
    }

    /// Ends them: no more requests, and the figures so far.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A word that never comes.
pub fn never() -> Stop {
    Stopper::new().1
}

impl Stop {
    /// Whether the word was given.
    pub fn given(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for it.
    pub(crate) async fn heard(&mut self) {
        if self.0.wait_for(|stopped| *stopped).await.is_err() {
            // The stopper is gone without a word.
            std::future::pending::<()>().await;
        }
    }
}
