//! The Open Inference Protocol over HTTP, `/v2`: JSON and, by the binary tensor extension, tensors as bytes after it. What a
//! request means is the gRPC service's: here it is put into its messages, and its answers into JSON.

mod description;
mod elements;
mod infer;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemill_proto::inference::grpc_inference_service_server::GrpcInferenceService as _;
use tidemill_proto::inference::{
    ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest, RepositoryIndexRequest,
    RepositoryModelLoadRequest, RepositoryModelUnloadRequest, ServerMetadataRequest, ServerReadyRequest,
    SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusRequest, SystemSharedMemoryUnregisterRequest,
};
use tonic::{Code, Status};

use super::{Http, advise, status};
use crate::admitted::{Admitted, Reason};
use crate::refusal::Refusal;

/// The paths of the protocol.
pub(super) fn routes() -> Router<Http> {
    let of_models = [
        ("", get(model)),
        ("/ready", get(model_ready)),
        ("/config", get(config)),
        ("/stats", get(statistics)),
        ("/infer", post(infer::infer)),
    ];
    let router = Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
        .route("/v2/systemsharedmemory/status", get(regions))
        .route("/v2/systemsharedmemory/unregister", post(unregister))
        .route("/v2/systemsharedmemory/region/{region}/status", get(regions))
        .route("/v2/systemsharedmemory/region/{region}/register", post(register))
        .route("/v2/systemsharedmemory/region/{region}/unregister", post(unregister));
    let router = of_models.into_iter().fold(router, |router, (below, method)| {
        let versioned = format!("/v2/models/{{model}}/versions/{{version}}{below}");
        router.route(&format!("/v2/models/{{model}}{below}"), method.clone()).route(&versioned, method)
    });
    router.layer(from_fn(not_by_a_page))
}

// A page in a browser may send what a form may without asking first, to a server on its reader's machine too. It says where
// it comes from then; for other content types the browser asks, and is not answered.
async fn not_by_a_page(request: Request<Body>, next: Next) -> Response {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default().to_ascii_lowercase();
    let is_asked_first =
        ["application/json", "application/octet-stream"].iter().any(|k| kind.starts_with(k.as_bytes()));
    if request.method() == Method::POST && request.headers().contains_key(ORIGIN) && !is_asked_first {
        let problem = "of a page must come with the header Content-Type: application/json";
        return refused(&Refusal::invalid("body", problem));
    }
    next.run(request).await
}

/// A refusal in this protocol's shape.
#[derive(Debug)]
pub(super) enum Refused {
    Here(Refusal),
    ByGrpc(Status),
}

#[derive(Debug, Serialize)]
struct Problem<'a> {
    error: &'a str,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused::Here(refusal)
    }
}

// What the gRPC service refuses.
impl From<Status> for Refused {
    fn from(refused: Status) -> Refused {
        Refused::ByGrpc(refused)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let refused = match self {
            Refused::Here(refusal) => return refused(&refusal),
            Refused::ByGrpc(refused) => refused,
        };
        let status = match refused.code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::FailedPrecondition | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        problem(status, refused.message())
    }
}

/// What is answered in the place of an answer.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let mut response = problem(status(refusal), &refusal.to_string());
    response.extensions_mut().insert(Reason(refusal.reason()));
    advise(&mut response, refusal);
    response
}

/// Whether a path is one of this protocol's, there or not.
pub(super) fn is_below(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// No such path.
pub(super) fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "there is nothing at this path; GET /v2 lists the extensions that there are")
}

/// A path that is asked in another way than it answers.
pub(super) fn wrong_method(method: &Method) -> Response {
    let other = if *method == Method::POST { "GET" } else { "POST" };
    problem(StatusCode::METHOD_NOT_ALLOWED, &format!("this path answers {other}, not {method}"))
}

fn problem(status: StatusCode, error: &str) -> Response {
    (status, Json(Problem { error })).into_response()
}

/// The model that a path names; of which version, where it says so.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    model: String,
    #[serde(default)]
    version: String,
}

#[derive(Debug, Default, Deserialize)]
struct Region {
    #[serde(default)]
    region: String,
}

/// A gRPC request that stands for this one: what the gate said of it goes with it.
fn asked<T>(message: T, admitted: Option<&Admitted>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(admitted) = admitted {
        request.extensions_mut().insert(admitted.clone());
    }
    request
}

fn admitted(request: &Request<Body>) -> Option<Admitted> {
    request.extensions().get().cloned()
}

async fn server(State(http): State<Http>) -> Result<Json<Value>, Refused> {
    let server = http.base.server_metadata(asked(ServerMetadataRequest {}, None)).await?.into_inner();
    Ok(Json(json!({"name": server.name, "version": server.version, "extensions": server.extensions})))
}

async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

// The protocol has a status below 500 for what is not ready. Triton's clients look at the status, KServe's at the answer.
fn not_ready(what: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, &format!("the {what} is not ready"))
}

async fn ready(State(http): State<Http>) -> Result<Response, Refused> {
    let ready = http.base.server_ready(asked(ServerReadyRequest {}, None)).await?.into_inner().ready;
    Ok(if ready { Json(json!({"ready": true})).into_response() } else { not_ready("server") })
}

async fn model_ready(
    State(http): State<Http>,
    Path(named): Path<Named>,
    request: Request<Body>,
) -> Result<Response, Refused> {
    let asking = ModelReadyRequest { name: named.model.clone(), version: named.version };
    let ready = http.base.model_ready(asked(asking, admitted(&request).as_ref())).await?.into_inner().ready;
    Ok(if ready { Json(json!({"name": named.model, "ready": true})).into_response() } else { not_ready("model") })
}

async fn model(
    State(http): State<Http>,
    Path(named): Path<Named>,
    request: Request<Body>,
) -> Result<Json<Value>, Refused> {
    let asking = ModelMetadataRequest { name: named.model, version: named.version };
    let answer = http.base.model_metadata(asked(asking, admitted(&request).as_ref())).await?.into_inner();
    Ok(Json(description::metadata(&answer)))
}

async fn config(
    State(http): State<Http>,
    Path(named): Path<Named>,
    request: Request<Body>,
) -> Result<Json<Value>, Refused> {
    let asking = ModelConfigRequest { name: named.model, version: named.version };
    let answer = http.base.model_config(asked(asking, admitted(&request).as_ref())).await?.into_inner();
    Ok(Json(description::config(&answer.config.unwrap_or_default())))
}

async fn statistics(
    State(http): State<Http>,
    Path(named): Path<Named>,
    request: Request<Body>,
) -> Result<Json<Value>, Refused> {
    let asking = ModelStatisticsRequest { name: named.model, version: named.version };
    let answer = http.base.model_statistics(asked(asking, admitted(&request).as_ref())).await?.into_inner();
    Ok(Json(description::statistics(&answer.model_stats)))
}

async fn all_statistics(State(http): State<Http>, request: Request<Body>) -> Result<Json<Value>, Refused> {
    let asking = ModelStatisticsRequest::default();
    let answer = http.base.model_statistics(asked(asking, admitted(&request).as_ref())).await?.into_inner();
    Ok(Json(description::statistics(&answer.model_stats)))
}

#[derive(Debug, Default, Deserialize)]
struct IndexFields {
    ready: Option<bool>,
}

async fn index(State(http): State<Http>, request: Request<Body>) -> Result<Json<Value>, Refused> {
    let admitted = admitted(&request);
    let fields: IndexFields = fields(request, http.base.max_message_bytes).await?;
    let asking = RepositoryIndexRequest { ready: fields.ready.unwrap_or_default(), ..Default::default() };
    let answer = http.base.repository_index(asked(asking, admitted.as_ref())).await?.into_inner();
    let models = answer.models.into_iter().map(|model| {
        let mut line = json!({"name": model.name, "state": model.state});
        for (key, value) in [("version", model.version), ("reason", model.reason)] {
            if !value.is_empty() {
                line[key] = Value::String(value);
            }
        }
        line
    });
    Ok(Json(Value::Array(models.collect())))
}

#[derive(Debug, Default, Deserialize)]
struct LoadFields {
    parameters: Option<serde_json::Map<String, Value>>,
}

async fn load(
    State(http): State<Http>,
    Path(named): Path<Named>,
    request: Request<Body>,
) -> Result<StatusCode, Refused> {
    let admitted = admitted(&request);
    let fields: LoadFields = fields(request, http.base.max_message_bytes).await?;
    let parameters = fields.parameters.unwrap_or_default().into_iter().map(|(name, _)| (name, Default::default()));
    let asking = RepositoryModelLoadRequest {
        model_name: named.model,
        parameters: parameters.collect(),
        ..RepositoryModelLoadRequest::default()
    };
    http.base.repository_model_load(asked(asking, admitted.as_ref())).await?;
    Ok(StatusCode::OK)
}

async fn unload(
    State(http): State<Http>,
    Path(named): Path<Named>,
    request: Request<Body>,
) -> Result<StatusCode, Refused> {
    let asking = RepositoryModelUnloadRequest { model_name: named.model, ..RepositoryModelUnloadRequest::default() };
    http.base.repository_model_unload(asked(asking, admitted(&request).as_ref())).await?;
    Ok(StatusCode::OK)
}

async fn regions(
    State(http): State<Http>,
    region: Option<Path<Region>>,
    request: Request<Body>,
) -> Result<Json<Value>, Refused> {
    let asking = SystemSharedMemoryStatusRequest { name: region.map(|region| region.0.region).unwrap_or_default() };
    let answer = http.base.system_shared_memory_status(asked(asking, admitted(&request).as_ref())).await?.into_inner();
    let regions = answer.regions.into_values().map(|region| {
        json!({"name": region.name, "key": region.key, "offset": region.offset, "byte_size": region.byte_size})
    });
    Ok(Json(Value::Array(regions.collect())))
}

#[derive(Debug, Deserialize)]
struct RegisterFields {
    key: String,
    offset: Option<u64>,
    byte_size: u64,
}

async fn register(
    State(http): State<Http>,
    Path(region): Path<Region>,
    request: Request<Body>,
) -> Result<StatusCode, Refused> {
    let admitted = admitted(&request);
    let body = elements::body(request, http.base.max_message_bytes).await?;
    let fields: RegisterFields = super::body::fields(&elements::parse(&body)?)?;
    let asking = SystemSharedMemoryRegisterRequest {
        name: region.region,
        key: fields.key,
        offset: fields.offset.unwrap_or_default(),
        byte_size: fields.byte_size,
    };
    http.base.system_shared_memory_register(asked(asking, admitted.as_ref())).await?;
    Ok(StatusCode::OK)
}

async fn unregister(
    State(http): State<Http>,
    region: Option<Path<Region>>,
    request: Request<Body>,
) -> Result<StatusCode, Refused> {
    let name = region.map(|region| region.0.region).unwrap_or_default();
    let asking = SystemSharedMemoryUnregisterRequest { name };
    http.base.system_shared_memory_unregister(asked(asking, admitted(&request).as_ref())).await?;
    Ok(StatusCode::OK)
}

// The fields of a body that may be left out altogether.
async fn fields<T: for<'de> Deserialize<'de> + Default>(request: Request<Body>, max: usize) -> Result<T, Refusal> {
    let body = elements::body(request, max).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    super::body::fields(&elements::parse(&body)?)
}
