//! `/v1/models`: what is served.

use axum::Json;
use axum::extract::{Extension, Path, State};
use serde::Serialize;

use super::errors::Refused;
use crate::admitted::Admitted;
use crate::http::Http;
use crate::model::Model;

#[derive(Debug, Serialize)]
pub(in crate::http) struct List {
    object: &'static str,
    data: Vec<ModelObject>,
}

#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The longest context of a model that generates, as vLLM tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<usize>,
}

impl ModelObject {
    fn new(model: &Model, created: u64) -> ModelObject {
        let max_model_len = match model {
            Model::Generator(generator) => Some(generator.context_length()),
            _ => None,
        };
        let id = model.info().name.clone();
        ModelObject { id, object: "model", created, owned_by: "tidemill", max_model_len }
    }
}

pub(in crate::http) async fn list(State(http): State<Http>, Extension(admitted): Extension<Admitted>) -> Json<List> {
    let models = http.base.models.of(&admitted.caller);
    let data = models.newest().iter().map(|model| ModelObject::new(model, http.started)).collect();
    Json(List { object: "list", data })
}

pub(in crate::http) async fn one(
    State(http): State<Http>,
    Extension(admitted): Extension<Admitted>,
    Path(name): Path<String>,
) -> Result<Json<ModelObject>, Refused> {
    let model = http.base.models.of(&admitted.caller).find_any(&name, "", "model").await?;
    Ok(Json(ModelObject::new(&model, http.started)))
}
