//! Serving a TorchScript module or an AOTInductor package, which runs code of its own: only by the operator's leave. Its
//! requests wait in a batch model's line; those whose signature has a batch share calls.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use tidemill_model::opaque::{Form, NamedTensor, OpaqueModel, Signature};
use tonic::codegen::Bytes;

use crate::batch::{self, BatchHandle, BatchModel, Input, Opened, Prepared};
use crate::config::ServerConfig;
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::model_info::ModelInfo;
use crate::model_path::ModelPath;
use crate::statistics::Statistics;
use crate::thread::{Loading, Readiness};

/// The tensors of one request, which the signature has passed.
#[derive(Clone, Debug)]
pub(crate) struct TensorRequest {
    pub(crate) tensors: Vec<NamedTensor<Bytes>>,
    /// Their rows: what batches are measured by.
    pub(crate) rows: usize,
}

/// The tensors of one answer.
pub(crate) type Tensors = Vec<NamedTensor<Vec<u8>>>;

/// A handle on an opaque model.
#[derive(Clone, Debug)]
pub(crate) struct OpaqueHandle {
    pub(crate) batch: BatchHandle<TensorRequest, Tensors>,
    pub(crate) signature: Arc<Signature>,
    pub(crate) form: Form,
}

impl OpaqueHandle {
    pub(crate) fn info(&self) -> &ModelInfo {
        self.batch.info()
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        self.batch.readiness()
    }

    pub(crate) fn statistics(&self) -> &Statistics {
        self.batch.statistics()
    }

    pub(crate) fn close(&self) {
        self.batch.close();
    }
}

/// Starts a thread that opens the model and serves it.
pub(crate) fn start(
    path: ModelPath,
    form: Form,
    config: &ServerConfig,
    metrics: Arc<Metrics>,
) -> Result<Loading, ServeError> {
    if !config.allow_code {
        return Err(ServeError::CodeNotAllowed { path: path.path });
    }
    let place = path.path.clone();
    let failed = move |error: &dyn Error| ServeError::Open { path: place.clone(), reason: error.to_string() };
    let sidecar = Signature::beside(&path.path).map_err(|error| failed(&error))?;
    // A request is one item; its rows count as tokens do. Without a batch each call is one request's.
    let rows = sidecar.and_then(|signature| signature.max_batch_size);
    let line = ServerConfig {
        max_batch_size: rows.unwrap_or(1),
        max_batch_tokens: rows.unwrap_or(usize::MAX),
        ..config.clone()
    };
    let threads = config.threads().most();
    // The module itself says what it takes where no file does: known once it is open, on its thread.
    let opened = Arc::new(OnceLock::new());
    let known = Arc::clone(&opened);
    let wrap = move |batch| {
        let signature = opened.get().map_or_else(|| Arc::new(Signature::default()), Arc::clone);
        Model::Opaque(OpaqueHandle { batch, signature, form })
    };
    batch::spawn(path.label(), &line, metrics, wrap, move || {
        tidemill_torch::set_threads(threads);
        let model = OpaqueModel::open(&path.path, form).map_err(|error| failed(&error))?;
        let signature = known.get_or_init(|| Arc::new(model.signature().clone()));
        let version = path.version.clone().unwrap_or_else(|| signature.version.clone());
        let info = ModelInfo { name: path.label(), version, labels: Vec::new() };
        let prepare = |request: TensorRequest| Ok(Prepared { tokens: request.rows, item: request });
        Ok((info, Opened { model: Batched(model), prepare: Arc::new(prepare) }))
    })
}

impl Input for TensorRequest {
    // There is no tokeniser to read them.
    fn bytes(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        self.rows
    }
}

struct Batched(OpaqueModel);

impl BatchModel for Batched {
    type Item = TensorRequest;
    type Answer = Tensors;

    fn answer(&mut self, items: &[&TensorRequest]) -> Result<Vec<Tensors>, Box<dyn Error + Send + Sync>> {
        let requests: Vec<&[NamedTensor<Bytes>]> = items.iter().map(|item| item.tensors.as_slice()).collect();
        Ok(self.0.run(&requests)?)
    }

    fn size(items: &[&TensorRequest]) -> usize {
        items.iter().map(|item| item.rows).sum()
    }
}
