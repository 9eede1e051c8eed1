//! The methods of the Open Inference Protocol. Their messages are documented in `proto/inference/grpc_service.proto`.

use futures::{Stream, StreamExt as _};
use tidemill_proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ModelStreamInferResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};

use crate::client::Client;
use crate::error::ClientError;
use crate::pieces::Pieces;

impl Client {
    /// Whether the process is alive.
    ///
    /// # Errors
    /// Every [`ClientError`] of a call, here and below.
    pub async fn server_live(&self) -> Result<bool, ClientError> {
        let path = "/inference.GRPCInferenceService/ServerLive";
        Ok(self.call::<_, ServerLiveResponse>(path, ServerLiveRequest {}).await?.live)
    }

    /// Whether every model is ready.
    pub async fn server_ready(&self) -> Result<bool, ClientError> {
        let path = "/inference.GRPCInferenceService/ServerReady";
        Ok(self.call::<_, ServerReadyResponse>(path, ServerReadyRequest {}).await?.ready)
    }

    /// Whether this model is ready, in whichever version is loaded.
    pub async fn model_ready(&self, model: &str) -> Result<bool, ClientError> {
        let path = "/inference.GRPCInferenceService/ModelReady";
        let request = ModelReadyRequest { name: model.to_owned(), ..ModelReadyRequest::default() };
        Ok(self.call::<_, ModelReadyResponse>(path, request).await?.ready)
    }

    /// The server's name, version and extensions of the protocol.
    pub async fn server_metadata(&self) -> Result<ServerMetadataResponse, ClientError> {
        self.call("/inference.GRPCInferenceService/ServerMetadata", ServerMetadataRequest {}).await
    }

    /// The tensors that a model takes and gives.
    pub async fn model_metadata(&self, model: &str) -> Result<ModelMetadataResponse, ClientError> {
        let path = "/inference.GRPCInferenceService/ModelMetadata";
        self.call(path, ModelMetadataRequest { name: model.to_owned(), ..ModelMetadataRequest::default() }).await
    }

    /// Runs a model. [`Infer`](crate::Infer) writes the request, [`Output`](crate::Output) reads the answer.
    pub async fn infer(&self, request: impl Into<ModelInferRequest>) -> Result<ModelInferResponse, ClientError> {
        self.call("/inference.GRPCInferenceService/ModelInfer", request.into()).await
    }
    /// Runs a model on a stream of requests, by Triton's extension of the protocol. Each answer holds a response or, in
    /// `error_message`, why there is none; a model that writes text gives several for a request, the last of which says so.
    pub async fn infer_stream<R: Into<ModelInferRequest> + 'static>(
        &self,
        requests: impl Stream<Item = R> + Send + 'static,
    ) -> Result<Pieces<ModelStreamInferResponse>, ClientError> {
        self.call_streams("/inference.GRPCInferenceService/ModelStreamInfer", requests.map(Into::into)).await
    }
}
