//! The thread that a model belongs to: started, and told when the model is open; ended, a panic included, so that
//! everybody who waits or comes later is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use crate::error::ServeError;
use crate::model::Model;

/// Where a model's thread says that the model is open, or why not.
pub(crate) type Opened = oneshot::Sender<Result<Model, ServeError>>;

/// A model that is being loaded on its thread.
pub(crate) struct Loading {
    opened: oneshot::Receiver<Result<Model, ServeError>>,
    thread: JoinHandle<()>,
    label: String,
}

/// A model that is ready, and its thread.
pub(crate) struct Running {
    pub(crate) model: Model,
    pub(crate) thread: JoinHandle<()>,
}

/// Starts a thread that opens a model and then serves it. `label` names it until its own name is known.
pub(crate) fn spawn(label: String, body: impl FnOnce(Opened) + Send + 'static) -> Result<Loading, ServeError> {
    let (tell, opened) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name(format!("model {label}"))
        .spawn(move || body(tell))
        .map_err(|source| ServeError::Thread { model: label.clone(), source })?;
    Ok(Loading { opened, thread, label })
}

impl Loading {
    /// Waits until the model is open.
    pub(crate) async fn opened(self) -> Result<Running, ServeError> {
        match self.opened.await {
            Ok(Ok(model)) => Ok(Running { model, thread: self.thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ServeError::Stopped { model: self.label }),
        }
    }
}

/// Whether a model takes requests, as everybody sees it.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    ready: watch::Receiver<bool>,
}

impl Readiness {
    /// False for good once the model's thread has ended.
    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Returns when the model is no longer ready.
    pub(crate) async fn ended(&self) {
        // An error means that the sender, the thread, is gone.
        let _ = self.ready.clone().wait_for(|ready| !ready).await;
    }
}

/// Held by a model's thread for as long as it serves. Whatever ends the thread, a panic included, ends the readiness, and
/// the line before the model, with it.
pub(crate) struct Serving {
    ready: watch::Sender<bool>,
    name: String,
    end_line: Arc<dyn Fn() + Send + Sync>,
}

impl Serving {
    /// `end_line` drops what waits for the model `name`.
    pub(crate) fn new(name: &str, end_line: impl Fn() + Send + Sync + 'static) -> (Serving, Readiness) {
        let (ready, watched) = watch::channel(true);
        let serving = Serving { ready, name: name.to_owned(), end_line: Arc::new(end_line) };
        (serving, Readiness { ready: watched })
    }

    /// For another thread of the same model: whichever ends first ends the readiness of all.
    pub(crate) fn another(&self) -> Serving {
        Serving { ready: self.ready.clone(), name: self.name.clone(), end_line: Arc::clone(&self.end_line) }
    }

    /// To be held while the model runs: in a panic it tells everybody before the callers of the batch learn of it, so that
    /// who calls again is told that the model is not ready, not that it stopped once more.
    pub(crate) fn while_it_runs(&self) -> impl Drop + '_ {
        struct TellFirst<'a>(&'a Serving);
        impl Drop for TellFirst<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.tell();
                }
            }
        }
        TellFirst(self)
    }

    fn tell(&self) {
        self.ready.send_replace(false);
        (self.end_line)();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tell();
        if std::thread::panicking() {
            tracing::error!(model = self.name, "the model's thread panicked; the model is not ready");
        }
    }
}

/// Tells a thread to leave what it has and end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abort(Arc<AtomicBool>);

impl Abort {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A lock whose holder's panic leaves nothing half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
