//! `inference.GRPCInferenceService`: the Open Inference Protocol. See `proto/inference/grpc_service.proto`.

use tidemill_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use tidemill_proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{TextLimits, classify, text_tensors};
use crate::admission::Deadline;
use crate::config::ServerConfig;
use crate::model::Model;
use crate::models::Models;
use crate::refusal::Refusal;

/// What the protocol calls the framework of a model: libtorch on safetensors.
const PLATFORM: &str = "tidemill_safetensors";

/// The service, over the server's models.
#[derive(Clone, Debug)]
pub(crate) struct OpenInferenceService {
    models: Models,
    limits: TextLimits,
    shut: watch::Receiver<bool>,
}

impl OpenInferenceService {
    pub(crate) fn new(models: Models, config: &ServerConfig, shut: watch::Receiver<bool>) -> Self {
        OpenInferenceService { models, limits: TextLimits::new(config), shut }
    }

    async fn infer(&self, request: ModelInferRequest, deadline: Deadline) -> Result<ModelInferResponse, Refusal> {
        let model = self.models.find(&request.model_name, &request.model_version, "model_name")?;
        let wanted = text_tensors::requested(&request)?;
        let texts = text_tensors::texts(&request, self.limits)?;
        let classified = classify("ModelInfer", model, texts, deadline).await?;
        text_tensors::response(model.info(), request, &wanted, &classified)
    }

    fn is_shut(&self) -> bool {
        *self.shut.borrow()
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for OpenInferenceService {
    async fn server_live(&self, _request: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _request: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = !self.is_shut() && self.models.all_ready();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = !self.is_shut() && self.models.find(&name, &version, "name").is_ok_and(Model::is_ready);
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _request: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "tidemill".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let info = self.models.find(&name, &version, "name")?.info();
        Ok(Response::new(ModelMetadataResponse {
            name: info.name.clone(),
            versions: vec![info.version.clone()],
            platform: PLATFORM.to_owned(),
            inputs: text_tensors::inputs(),
            outputs: text_tensors::outputs(info),
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let deadline = request.extensions().get().copied().unwrap_or_default();
        Ok(Response::new(self.infer(request.into_inner(), deadline).await?))
    }
}
