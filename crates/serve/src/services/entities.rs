//! `tidemill.v1.Entities`: the spans that name something. See `proto/tidemill/v1/entities.proto`.

use futures::stream::BoxStream;
use tidemill_proto::v1::entities_server::Entities;
use tidemill_proto::v1::find_entities_stream_response::Outcome;
use tidemill_proto::v1::{
    self, FindEntitiesRequest, FindEntitiesResponse, FindEntitiesStreamRequest, FindEntitiesStreamResponse,
    TextEntities,
};
use tonic::{Request, Response, Status, Streaming};

use super::{Base, admitted, answer, stream};
use crate::admitted::Admitted;
use crate::model::EntitiesHandle;
use crate::refusal::Refusal;
use crate::tasks::Entity;

async fn find(
    base: &Base,
    method: &'static str,
    request: FindEntitiesRequest,
    admitted: &Admitted,
) -> Result<FindEntitiesResponse, Refusal> {
    let model = &base
        .models
        .of(&admitted.caller)
        .find::<EntitiesHandle>(&request.model, &request.model_version, "model")
        .await?;
    base.limits().check(&request.texts, "texts")?;
    if !(0.0..=1.0).contains(&request.min_score) {
        return Err(Refusal::invalid("min_score", "must be between 0 and 1"));
    }
    let found = answer(method, model, request.texts.clone(), "texts", admitted).await?;
    let info = model.info();
    let texts = request.texts.iter().zip(&found.answers).map(|(text, entities)| {
        let kept = entities.iter().filter(|entity| entity.score >= request.min_score);
        TextEntities { entities: kept.map(|entity| on_the_wire(entity, text)).collect() }
    });
    Ok(FindEntitiesResponse { model: info.name.clone(), model_version: info.version.clone(), texts: texts.collect() })
}

fn on_the_wire(entity: &Entity, text: &str) -> v1::Entity {
    let place = |character: usize| u32::try_from(character).unwrap_or(u32::MAX);
    v1::Entity {
        label: entity.label.clone(),
        score: entity.score,
        start: place(entity.start),
        end: place(entity.end),
        text: span(text, entity).to_owned(),
    }
}

/// The characters of `text` that are an entity.
pub(super) fn span<'a>(text: &'a str, entity: &Entity) -> &'a str {
    let byte = |character: usize| text.char_indices().nth(character).map_or(text.len(), |(byte, _)| byte);
    text.get(byte(entity.start)..byte(entity.end)).unwrap_or_default()
}

#[tonic::async_trait]
impl Entities for Base {
    async fn find(&self, request: Request<FindEntitiesRequest>) -> Result<Response<FindEntitiesResponse>, Status> {
        let admitted = admitted(&request);
        Ok(Response::new(find(self, "Find", request.into_inner(), &admitted).await?))
    }

    type FindStreamStream = BoxStream<'static, Result<FindEntitiesStreamResponse, Status>>;

    async fn find_stream(
        &self,
        request: Request<Streaming<FindEntitiesStreamRequest>>,
    ) -> Result<Response<Self::FindStreamStream>, Status> {
        Ok(Response::new(self.answer_stream(
            request,
            |base, message: FindEntitiesStreamRequest, admitted| async move {
                let answer = match message.request {
                    Some(request) => find(&base, "FindStream", request, &admitted).await,
                    None => Err(stream::missing()),
                };
                let outcome = match answer {
                    Ok(response) => Outcome::Response(response),
                    Err(refusal) => Outcome::Error(stream::error(refusal)),
                };
                FindEntitiesStreamResponse { id: message.id, outcome: Some(outcome) }
            },
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_counted_in_characters() {
        let entity = |start, end| Entity { label: "LOC".into(), score: 1.0, start, end };
        assert_eq!(span("in Zürich, ja", &entity(3, 9)), "Zürich");
        assert_eq!(span("Zürich", &entity(0, 99)), "Zürich");
        assert_eq!(span("Zürich", &entity(5, 2)), "");
    }
}
