//! The least that a tonic server of the protocol can do: it reads `ModelInfer`'s message and gives its tensors back.

use tidemill_proto::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use tidemill_proto::inference::model_infer_response::InferOutputTensor;
use tidemill_proto::inference::*;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

struct Echo;

/// Starts it, and gives where it listens.
pub(crate) fn start(servers: &Runtime) -> String {
    let listener = servers.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = GrpcInferenceServiceServer::new(Echo);
    let server = tonic::transport::Server::builder().add_service(service);
    // As our server's: with Nagle's algorithm an answer may wait 40 ms for the other side's acknowledgement.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    servers.spawn(async move { server.serve_with_incoming(incoming).await });
    address
}

#[tonic::async_trait]
impl GrpcInferenceService for Echo {
    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let output = |input: model_infer_request::InferInputTensor| InferOutputTensor {
            name: "y".to_owned(),
            datatype: input.datatype,
            shape: input.shape,
            ..InferOutputTensor::default()
        };
        Ok(Response::new(ModelInferResponse {
            model_name: request.model_name,
            id: request.id,
            outputs: request.inputs.into_iter().map(output).collect(),
            raw_output_contents: request.raw_input_contents,
            ..ModelInferResponse::default()
        }))
    }
}
