//! `tidemill.v1.TextClassification`: the typed service. See `proto/tidemill/v1/text_classification.proto`.

use futures::stream::BoxStream;
use tidemill_proto::v1::classify_stream_response::Outcome;
use tidemill_proto::v1::text_classification_server::TextClassification;
use tidemill_proto::v1::{
    Classification, ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, ClassifyStreamResponse, LabelProbability,
};
use tonic::{Request, Response, Status, Streaming};

use super::{Base, admitted, answer, stream};
use crate::admitted::Admitted;
use crate::model::ClassifierHandle;
use crate::model_info::ModelInfo;
use crate::refusal::Refusal;

async fn classify(
    base: &Base,
    method: &'static str,
    request: ClassifyRequest,
    admitted: &Admitted,
) -> Result<ClassifyResponse, Refusal> {
    let model = &base
        .models
        .of(&admitted.caller)
        .find::<ClassifierHandle>(&request.model, &request.model_version, "model")
        .await?;
    base.limits().check(&request.texts, "texts")?;
    let classified = answer(method, model, request.texts, "texts", admitted).await?;
    let info = model.info();
    let top_k = usize::try_from(request.top_k).unwrap_or(usize::MAX);
    let classifications = classified.answers.iter().map(|row| ranked(info, row, top_k)).collect();
    Ok(ClassifyResponse { model: info.name.clone(), model_version: info.version.clone(), classifications })
}

#[tonic::async_trait]
impl TextClassification for Base {
    async fn classify(&self, request: Request<ClassifyRequest>) -> Result<Response<ClassifyResponse>, Status> {
        let admitted = admitted(&request);
        Ok(Response::new(classify(self, "Classify", request.into_inner(), &admitted).await?))
    }

    type ClassifyStreamStream = BoxStream<'static, Result<ClassifyStreamResponse, Status>>;

    async fn classify_stream(
        &self,
        request: Request<Streaming<ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        Ok(Response::new(self.answer_stream(request, |base, message: ClassifyStreamRequest, admitted| async move {
            let answer = match message.request {
                Some(request) => classify(&base, "ClassifyStream", request, &admitted).await,
                None => Err(stream::missing()),
            };
            let outcome = match answer {
                Ok(response) => Outcome::Response(response),
                Err(refusal) => Outcome::Error(stream::error(refusal)),
            };
            ClassifyStreamResponse { id: message.id, outcome: Some(outcome) }
        })))
    }
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
