//! `tidemill.v1.TextClassification`: the typed service. See `proto/tidemill/v1/text_classification.proto`.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tidemill_proto::google;
use tidemill_proto::v1::classify_stream_response::Outcome;
use tidemill_proto::v1::text_classification_server::TextClassification;
use tidemill_proto::v1::{
    Classification, ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, ClassifyStreamResponse, LabelProbability,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::{TextLimits, classify};
use crate::admission::Deadline;
use crate::config::ServerConfig;
use crate::model::ModelInfo;
use crate::models::Models;
use crate::refusal::Refusal;

/// The service, over the server's models.
#[derive(Clone, Debug)]
pub(crate) struct TextClassificationService {
    models: Models,
    limits: TextLimits,
    max_under_way: usize,
    max_idle: Duration,
    shut: watch::Receiver<bool>,
}

impl TextClassificationService {
    pub(crate) fn new(models: Models, config: &ServerConfig, shut: watch::Receiver<bool>) -> Self {
        TextClassificationService {
            models,
            limits: TextLimits::new(config),
            max_under_way: config.max_stream_requests,
            max_idle: config.max_stream_idle,
            shut,
        }
    }

    async fn answer(
        &self,
        method: &'static str,
        request: ClassifyRequest,
        deadline: Deadline,
    ) -> Result<ClassifyResponse, Refusal> {
        let model = self.models.find(&request.model, &request.model_version, "model")?;
        self.check(&request.texts)?;
        let classified = classify(method, model, request.texts, deadline).await?;
        let info = model.info();
        let top_k = usize::try_from(request.top_k).unwrap_or(usize::MAX);
        let classifications = classified.probabilities.iter().map(|row| ranked(info, row, top_k)).collect();
        Ok(ClassifyResponse { model: info.name.clone(), model_version: info.version.clone(), classifications })
    }

    fn check(&self, texts: &[String]) -> Result<(), Refusal> {
        if texts.is_empty() {
            return Err(Refusal::invalid("texts", "is empty; send at least one text"));
        }
        self.limits.check_count(texts.len(), "texts")?;
        for (index, text) in texts.iter().enumerate() {
            self.limits.check_length(text.len(), || format!("texts[{index}]"))?;
        }
        Ok(())
    }

    async fn answer_one_of_stream(&self, message: ClassifyStreamRequest, deadline: Deadline) -> ClassifyStreamResponse {
        let answer = match message.request {
            Some(request) => self.answer("ClassifyStream", request, deadline).await,
            None => Err(Refusal::invalid("request", "is missing")),
        };
        let outcome = match answer {
            Ok(response) => Outcome::Response(response),
            Err(refusal) => Outcome::Error(google::rpc::Status::from(&Status::from(refusal))),
        };
        ClassifyStreamResponse { id: message.id, outcome: Some(outcome) }
    }

    // The client's messages, until it ends, the server shuts, the deadline passes or nothing comes for too long.
    async fn next_message(
        &mut self,
        messages: &mut Streaming<ClassifyStreamRequest>,
        deadline: Deadline,
    ) -> Result<Option<ClassifyStreamRequest>, Status> {
        let late = async {
            match deadline.0 {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.shut.wait_for(|shut| *shut) => Err(Refusal::ShuttingDown.into()),
            () = late => Err(Refusal::DeadlineExceeded.into()),
            message = messages.message() => message,
            () = tokio::time::sleep(self.max_idle) => Err(Refusal::Idle(self.max_idle).into()),
        }
    }
}

#[tonic::async_trait]
impl TextClassification for TextClassificationService {
    async fn classify(&self, request: Request<ClassifyRequest>) -> Result<Response<ClassifyResponse>, Status> {
        let deadline = deadline_of(&request);
        Ok(Response::new(self.answer("Classify", request.into_inner(), deadline).await?))
    }

    type ClassifyStreamStream = BoxStream<'static, Result<ClassifyStreamResponse, Status>>;

    async fn classify_stream(
        &self,
        request: Request<Streaming<ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let deadline = deadline_of(&request);
        let reading = Some((self.clone(), request.into_inner()));
        let messages = stream::unfold(reading, move |reading| async move {
            let (mut service, mut messages) = reading?;
            match service.next_message(&mut messages, deadline).await {
                Ok(Some(message)) => Some((Ok(message), Some((service, messages)))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        let service = self.clone();
        let answers = messages
            .map(move |message| {
                let service = service.clone();
                async move { Ok(service.answer_one_of_stream(message?, deadline).await) }
            })
            .buffered(self.max_under_way);
        Ok(Response::new(answers.boxed()))
    }
}

fn deadline_of<T>(request: &Request<T>) -> Deadline {
    request.extensions().get().copied().unwrap_or_default()
}

// The most probable labels first; equal ones stay in the model's order.
fn ranked(info: &ModelInfo, probabilities: &[f32], top_k: usize) -> Classification {
    let mut pairs: Vec<(&String, f32)> = info.labels.iter().zip(probabilities.iter().copied()).collect();
    pairs.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    let kept = if top_k == 0 { pairs.len() } else { top_k };
    let labels = pairs
        .into_iter()
        .take(kept)
        .map(|(label, probability)| LabelProbability { label: label.clone(), probability })
        .collect();
    Classification { labels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_ranked_and_cut() {
        let info =
            ModelInfo { name: "m".into(), version: "1".into(), labels: vec!["a".into(), "b".into(), "c".into()] };
        let names = |top_k| -> Vec<String> {
            let ranked = ranked(&info, &[0.2, 0.6, 0.2], top_k);
            ranked.labels.into_iter().map(|label| label.label).collect()
        };
        assert_eq!(names(0), ["b", "a", "c"]);
        assert_eq!(names(2), ["b", "a"]);
        assert_eq!(names(9), ["b", "a", "c"]);
    }
}
