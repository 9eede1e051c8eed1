//! `tidemill.v1.Embedding`: vectors for texts, and texts ranked by a query. See `proto/tidemill/v1/embedding.proto`.

use std::sync::Arc;

use futures::stream::BoxStream;
use tidemill_proto::v1::embed_stream_response::Outcome;
use tidemill_proto::v1::embedding_server::Embedding;
use tidemill_proto::v1::{
    EmbedRequest, EmbedResponse, EmbedStreamRequest, EmbedStreamResponse, EmbeddingVector, RankedText, RerankRequest,
    RerankResponse,
};
use tonic::{Request, Response, Status, Streaming};

use super::{Base, admitted, answer, stream};
use crate::admitted::Admitted;
use crate::batch::Answered;
use crate::model::{EmbedderHandle, RerankerHandle};
use crate::refusal::Refusal;
use crate::tasks::{EmbedInput, RerankInput, TextOrTokens};

/// Embeds texts. With `dimensions`, each vector is cut to its first values and scaled to length 1.
pub(crate) async fn embed(
    method: &'static str,
    model: &EmbedderHandle,
    texts: Vec<TextOrTokens>,
    truncate: bool,
    dimensions: Option<usize>,
    field: &'static str,
    admitted: &Admitted,
) -> Result<Answered<Vec<f32>>, Refusal> {
    let inputs = texts.into_iter().map(|text| EmbedInput { text, truncate }).collect();
    let mut embedded = answer(method, model, inputs, field, admitted).await?;
    if let Some(dimensions) = dimensions {
        for vector in &mut embedded.answers {
            cut(vector, dimensions)?;
        }
    }
    Ok(embedded)
}

/// Scores texts by a query: their indices and scores, the best first, equal ones in order. Scores are any number when
/// `raw`, else between 0 and 1. Gives also how many tokens were read.
pub(crate) async fn rank(
    method: &'static str,
    model: &RerankerHandle,
    query: &str,
    texts: Vec<String>,
    truncate: bool,
    raw: bool,
    admitted: &Admitted,
) -> Result<(Vec<(usize, f32)>, usize), Refusal> {
    let query: Arc<str> = query.into();
    let inputs = texts.into_iter().map(|text| RerankInput { query: Arc::clone(&query), text, truncate }).collect();
    let scored = answer(method, model, inputs, "texts", admitted).await?;
    let logistic = |score: f32| 1.0 / (1.0 + (-score).exp());
    let scores = scored.answers.into_iter().map(|score| if raw { score } else { logistic(score) });
    let mut ranking: Vec<(usize, f32)> = scores.enumerate().collect();
    ranking.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    Ok((ranking, scored.tokens))
}

fn cut(vector: &mut Vec<f32>, dimensions: usize) -> Result<(), Refusal> {
    if dimensions == 0 || dimensions > vector.len() {
        let most = vector.len();
        return Err(Refusal::invalid("dimensions", format!("is {dimensions}; the model's vectors have 1 to {most}")));
    }
    vector.truncate(dimensions);
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
    Ok(())
}

async fn embed_request(
    base: &Base,
    method: &'static str,
    request: EmbedRequest,
    admitted: &Admitted,
) -> Result<EmbedResponse, Refusal> {
    let model = &base
        .models
        .of(&admitted.caller)
        .find::<EmbedderHandle>(&request.model, &request.model_version, "model")
        .await?;
    base.limits().check(&request.texts, "texts")?;
    let texts = request.texts.into_iter().map(TextOrTokens::Text).collect();
    let dimensions = usize::try_from(request.dimensions).ok().filter(|dimensions| *dimensions > 0);
    let embedded = embed(method, model, texts, request.truncate, dimensions, "texts", admitted).await?;
    let info = model.info();
    Ok(EmbedResponse {
        model: info.name.clone(),
        model_version: info.version.clone(),
        embeddings: embedded.answers.into_iter().map(|values| EmbeddingVector { values }).collect(),
        tokens: embedded.tokens as u64,
    })
}

async fn rerank_request(base: &Base, request: RerankRequest, admitted: &Admitted) -> Result<RerankResponse, Refusal> {
    let model = &base
        .models
        .of(&admitted.caller)
        .find::<RerankerHandle>(&request.model, &request.model_version, "model")
        .await?;
    base.limits().check(&request.texts, "texts")?;
    base.limits().check_length(request.query.len(), || "query".to_owned())?;
    let (texts, truncate, raw) = (request.texts, request.truncate, request.raw_scores);
    let (ranking, tokens) = rank("Rerank", model, &request.query, texts, truncate, raw, admitted).await?;
    let top_k = usize::try_from(request.top_k).unwrap_or(usize::MAX);
    let kept = if top_k == 0 { ranking.len() } else { top_k };
    let info = model.info();
    let ranked = |(index, score)| RankedText { index: u32::try_from(index).unwrap_or(u32::MAX), score };
    Ok(RerankResponse {
        model: info.name.clone(),
        model_version: info.version.clone(),
        ranking: ranking.into_iter().take(kept).map(ranked).collect(),
        tokens: tokens as u64,
    })
}

#[tonic::async_trait]
impl Embedding for Base {
    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let admitted = admitted(&request);
        Ok(Response::new(embed_request(self, "Embed", request.into_inner(), &admitted).await?))
    }

    type EmbedStreamStream = BoxStream<'static, Result<EmbedStreamResponse, Status>>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        Ok(Response::new(self.answer_stream(request, |base, message: EmbedStreamRequest, admitted| async move {
            let answer = match message.request {
                Some(request) => embed_request(&base, "EmbedStream", request, &admitted).await,
                None => Err(stream::missing()),
            };
            let outcome = match answer {
                Ok(response) => Outcome::Response(response),
                Err(refusal) => Outcome::Error(stream::error(refusal)),
            };
            EmbedStreamResponse { id: message.id, outcome: Some(outcome) }
        })))
    }

    async fn rerank(&self, request: Request<RerankRequest>) -> Result<Response<RerankResponse>, Status> {
        let admitted = admitted(&request);
        Ok(Response::new(rerank_request(self, request.into_inner(), &admitted).await?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_cut_and_scaled_and_never_longer_than_it_is() {
        let mut vector = vec![3.0, 4.0, 12.0];
        cut(&mut vector, 2).unwrap();
        assert_eq!(vector, [0.6, 0.8]);
        assert!(cut(&mut vector, 3).is_err());
        let mut zero = vec![0.0, 0.0];
        cut(&mut zero, 1).unwrap();
        assert_eq!(zero, [0.0]);
    }
}
