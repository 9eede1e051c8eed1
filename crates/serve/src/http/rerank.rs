//! `/v1/rerank` and `/rerank`: texts ranked by a query, as Text Embeddings Inference has it. A `model` may be named, for a
//! server that has several.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::{Http, advise, body, status};
use crate::admitted::{Admitted, Reason};
use crate::model::RerankerHandle;
use crate::refusal::Refusal;
use crate::services::embedding;

#[derive(Debug, Deserialize)]
struct Fields {
    model: Option<String>,
    query: String,
    texts: Vec<String>,
    raw_scores: Option<bool>,
    return_text: Option<bool>,
    truncate: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Rank {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Debug, Serialize)]
struct Problem {
    error: String,
    error_type: &'static str,
}

/// A refusal in this interface's shape.
#[derive(Debug)]
pub(super) struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        refused(&self.0)
    }
}

/// What is answered in the place of a ranking.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let error_type = match refusal {
        Refusal::Invalid { .. }
        | Refusal::TooLong { .. }
        | Refusal::TooLarge { .. }
        | Refusal::HeadTooLarge { .. }
        | Refusal::TooLate => "Validation",
        Refusal::UnknownModel { .. } | Refusal::UnknownRegion { .. } => "NotFound",
        Refusal::Unauthenticated { .. } | Refusal::Forbidden { .. } => "Unauthorized",
        Refusal::QueueFull { .. }
        | Refusal::TooManyRequests { .. }
        | Refusal::TooFast { .. }
        | Refusal::KeyBusy { .. }
        | Refusal::TooSlow => "Overloaded",
        Refusal::NotReady { .. } | Refusal::CannotLoad { .. } | Refusal::Unreadable { .. } | Refusal::ShuttingDown => {
            "Unhealthy"
        }
        Refusal::Stopped { .. } | Refusal::Failed { .. } | Refusal::DeadlineExceeded | Refusal::Idle(_) => "Backend",
    };
    let mut response = (status(refusal), Json(Problem { error: refusal.to_string(), error_type })).into_response();
    response.extensions_mut().insert(Reason(refusal.reason()));
    advise(&mut response, refusal);
    response
}

pub(super) async fn rank(State(http): State<Http>, request: Request<Body>) -> Result<Response, Refused> {
    let admitted: Admitted = request.extensions().get().cloned().unwrap_or_default();
    let base = &http.base;
    let fields: Fields = body::fields(&body::read(request, base.max_message_bytes).await?)?;
    let models = base.models.of(&admitted.caller);
    let model = &models.find::<RerankerHandle>(fields.model.as_deref().unwrap_or_default(), "", "model").await?;
    base.limits().check(&fields.texts, "texts")?;
    base.limits().check_length(fields.query.len(), || "query".to_owned())?;
    let with_text = fields.return_text.unwrap_or(false);
    let texts = if with_text { fields.texts.clone() } else { Vec::new() };
    let (truncate, raw) = (fields.truncate.unwrap_or(false), fields.raw_scores.unwrap_or(false));
    let ranked = embedding::rank("/v1/rerank", model, &fields.query, fields.texts, truncate, raw, &admitted);
    let ranks =
        ranked.await?.0.into_iter().map(|(index, score)| Rank { index, score, text: texts.get(index).cloned() });
    Ok(Json(ranks.collect::<Vec<Rank>>()).into_response())
}
