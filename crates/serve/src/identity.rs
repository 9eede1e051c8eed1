//! The built-in model that gives back what it is given: for measuring the server itself. No libtorch is on its way.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::model_info::ModelInfo;
use crate::model_path::ModelPath;
use crate::statistics::Statistics;
use crate::thread::{self, Loading, Readiness, Serving};

/// Its input, of any datatype and shape, and its output.
pub(crate) const INPUT: &str = "x";
pub(crate) const OUTPUT: &str = "y";

/// A handle on the identity model.
#[derive(Clone, Debug)]
pub(crate) struct IdentityHandle {
    info: Arc<ModelInfo>,
    readiness: Readiness,
    statistics: Statistics,
    close: SyncSender<()>,
}

impl IdentityHandle {
    pub(crate) fn info(&self) -> &ModelInfo {
        &self.info
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(crate) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    pub(crate) fn close(&self) {
        // Full: it was told before. Gone: it has ended.
        let _ = self.close.try_send(());
    }
}

/// Starts it. Its thread does nothing but live as long as the model is served, as every model's does.
pub(crate) fn start(path: &ModelPath, metrics: &Arc<Metrics>) -> Result<Loading, ServeError> {
    let version = path.version.clone().unwrap_or_else(|| "1".to_owned());
    let info = ModelInfo { name: path.label(), version, labels: Vec::new() };
    let statistics = Statistics::new(metrics.requests(&info));
    thread::spawn(path.label(), move |tell| {
        let (close, closed) = sync_channel(1);
        let (_serving, readiness) = Serving::new(&info.name, || ());
        let handle = IdentityHandle { info: Arc::new(info), readiness, statistics, close };
        if tell.send(Ok(Model::Identity(handle))).is_ok() {
            // An error means that every handle is gone.
            let _ = closed.recv();
        }
    })
}
