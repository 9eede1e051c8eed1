//! A server on a free port over a classifier that knows long from short, for the tests beside this folder.

use std::error::Error;
use std::net::SocketAddr;

use tidemill_proto::inference::ModelInferRequest;
use tidemill_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::tensor::encode_bytes;
use tidemill_proto::v1::ClassifyRequest;
use tidemill_proto::v1::text_classification_client::TextClassificationClient;
use tidemill_serve::{ModelInfo, ModelSource, ServeError, ServerConfig, serve_models};
use tokio::sync::oneshot;
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

pub(crate) type Outcomes = Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>>;

/// A server on a free port, stopped when the test says so.
pub(crate) struct Running {
    pub(crate) channel: Channel,
    pub(crate) address: SocketAddr,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) ended: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Running {
    pub(crate) fn typed(&self) -> TextClassificationClient<Channel> {
        TextClassificationClient::new(self.channel.clone())
    }

    pub(crate) fn open(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn health(&self, service: &str) -> Result<i32, Status> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut client = HealthClient::new(self.channel.clone());
        Ok(client.check(request).await?.into_inner().status)
    }

    pub(crate) async fn stop(mut self) -> Result<(), ServeError> {
        self.stop.take().unwrap().send(()).unwrap();
        self.ended.await.unwrap()
    }
}

pub(crate) const SERVING: i32 = 1;
pub(crate) const NOT_SERVING: i32 = 2;

/// A server on a free port that nobody has connected to yet.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Listening {
    pub(crate) async fn stop(self) -> Result<(), ServeError> {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap()
    }
}

pub(crate) async fn listen(config: ServerConfig, sources: Vec<ModelSource>) -> Listening {
    let config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..config };
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, listening) = oneshot::channel();
    let ended = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        serve_models(config, sources, shutdown, |address| tell.send(address).unwrap()).await
    });
    Listening { address: listening.await.unwrap(), stop, ended }
}

pub(crate) async fn start(config: ServerConfig, sources: Vec<ModelSource>) -> Running {
    let Listening { address, stop, ended } = listen(config, sources).await;
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Running { channel, address, stop: Some(stop), ended }
}

pub(crate) fn info(name: &str) -> ModelInfo {
    ModelInfo { name: name.into(), version: "3".into(), labels: vec!["short".into(), "long".into()] }
}

/// "long" for five bytes and more.
pub(crate) fn by_length(texts: &[&str]) -> Outcomes {
    Ok(texts.iter().map(|text| if text.len() < 5 { vec![0.75, 0.25] } else { vec![0.1, 0.9] }).collect())
}

pub(crate) fn by_length_source(name: &str) -> ModelSource {
    ModelSource::classifier(info(name), || Ok(by_length))
}

pub(crate) fn texts(model: &str, texts: &[&str]) -> ClassifyRequest {
    ClassifyRequest {
        model: model.into(),
        texts: texts.iter().map(|text| text.to_string()).collect(),
        ..ClassifyRequest::default()
    }
}

/// Texts as a raw tensor, in a request of the Open Inference Protocol.
pub(crate) fn raw_infer(model: &str, texts: &[&str]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.into(),
        id: "a7".into(),
        inputs: vec![InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![texts.len() as i64],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![encode_bytes(texts).unwrap()],
        ..ModelInferRequest::default()
    }
}
