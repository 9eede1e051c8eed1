//! `inference.GRPCInferenceService`: the Open Inference Protocol, for models of every kind. See
//! `proto/inference/grpc_service.proto`.

mod model_config;
mod model_repository;
mod model_statistics;
mod shared_memory;

use std::collections::BTreeMap;

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value, json};
use tidemill_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::{
    InferParameter, ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest,
    ModelStatisticsResponse, ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse,
};
use tonic::{Request, Response, Status, Streaming};

pub(crate) use shared_memory::Regions;

use super::tensors::{
    self, ANSWER, EMBEDDING, ENTITIES, GENERATED_TEXT, LABEL, PROBABILITIES, QUERY, QUESTION, SCORE, TEXT, Values, add,
};
use super::{Base, admitted, answer, embedding, entities, generation, most_probable, opaque};
use crate::admitted::Admitted;
use crate::generation::tool_choice::CallReader;
use crate::generation::{GenerateRequest, GeneratorHandle, Input, SamplingConfig};
use crate::model::{
    AnswererHandle, ClassifierHandle, EmbedderHandle, EntitiesHandle, Model, RerankerHandle, TextToTextHandle,
};
use crate::priority::{self, Priority};
use crate::refusal::Refusal;
use crate::tasks::{Purpose, QuestionInput, TextOrTokens, TextToTextInput};

const METHOD: &str = "ModelInfer";

/// The extensions of the protocol that this server has, by the names that Triton gives them.
const EXTENSIONS: [&str; 6] = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
    "system_shared_memory",
];

/// The parameter that says how soon an answer is wanted.
const PRIORITY: &str = "priority";
/// Parameters of a request that say how a stream is to be answered, not how a model is to be run.
const OF_STREAMS: [&str; 1] = ["triton_enable_empty_final_response"];
/// Parameters by which Triton's clients say how a request is to be scheduled. They are no model's; all but the
/// priority are passed over.
const OF_SCHEDULING: [&str; 5] = [PRIORITY, "sequence_end", "sequence_id", "sequence_start", "timeout"];
/// The parameter of an answer that tells whether it is the last to its request.
const FINAL: &str = "triton_final_response";

/// The values of each output of a model, by its name.
type Outputs = BTreeMap<&'static str, Values>;

impl Base {
    /// Runs a model; tensors may lie in shared memory.
    pub(crate) async fn infer(
        &self,
        mut request: ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<ModelInferResponse, Refusal> {
        let admitted = prioritised(&request, admitted)?;
        let targets = self.regions.resolve(&mut request, self.max_message_bytes)?;
        let mut response = self.run(request, &admitted).await?;
        shared_memory::deliver(targets, &mut response)?;
        Ok(response)
    }

    async fn run(&self, request: ModelInferRequest, admitted: &Admitted) -> Result<ModelInferResponse, Refusal> {
        let model = self
            .models
            .of(&admitted.caller)
            .find_any(&request.model_name, &request.model_version, "model_name")
            .await?;
        let model = &model;
        tensors::check_count(&request, self.limits())?;
        match model {
            Model::Opaque(model) => return opaque::infer(METHOD, model, request, admitted).await,
            Model::Identity(_) => return opaque::echo(model, request),
            _ => {}
        }
        let wanted = tensors::requested(&request, tensors::outputs(model))?;
        let mut outputs = match model {
            Model::Classifier(model) => self.classified(model, &request, admitted).await?,
            Model::Embedder(model) => self.embedded(model, &request, admitted).await?,
            Model::Reranker(model) => self.scored(model, &request, admitted).await?,
            Model::Entities(model) => self.found(model, &request, admitted).await?,
            Model::Answerer(model) => self.read_out(model, &request, admitted).await?,
            Model::TextToText(model) => self.rewritten(model, &request, admitted).await?,
            Model::Generator(model) => self.generated(model, &request, admitted).await?,
            Model::Opaque(_) | Model::Identity(_) => Outputs::new(),
        };
        let mut response = tensors::response(model.info(), &request);
        for name in wanted {
            if let Some(values) = outputs.remove(name) {
                add(&mut response, name, values, !request.raw_input_contents.is_empty())?;
            }
        }
        Ok(response)
    }

    // The answers to one request of a stream. A model that writes answers one text piece by piece.
    async fn infer_streamed(
        self,
        mut request: ModelInferRequest,
        admitted: Admitted,
    ) -> BoxStream<'static, ModelStreamInferResponse> {
        let (id, name) = (request.id.clone(), request.model_name.clone());
        request.parameters.retain(|name, _| !OF_STREAMS.contains(&name.as_str()));
        let refused = move |refusal: Refusal| {
            let infer_response = ModelInferResponse { id, model_name: name, ..ModelInferResponse::default() };
            ModelStreamInferResponse { error_message: refusal.to_string(), infer_response: Some(infer_response) }
        };
        let pieces = async { self.pieces(&request, &prioritised(&request, &admitted)?).await };
        let begun = match pieces.await {
            Ok(None) => self.infer(request, &admitted).await.map(|response| {
                let response = marked(response, true);
                stream::once(std::future::ready(answered(response))).boxed()
            }),
            Ok(Some(pieces)) => Ok(pieces),
            Err(refusal) => Err(refusal),
        };
        begun.unwrap_or_else(|refusal| stream::once(std::future::ready(refused(refusal))).boxed())
    }

    // The answer to one text in pieces, if the model is one that writes.
    async fn pieces(
        &self,
        request: &ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<Option<BoxStream<'static, ModelStreamInferResponse>>, Refusal> {
        let model = self
            .models
            .of(&admitted.caller)
            .find_any(&request.model_name, &request.model_version, "model_name")
            .await?;
        let Model::Generator(model) = model else { return Ok(None) };
        let mut request = request.clone();
        if !self.regions.resolve(&mut request, self.max_message_bytes)?.is_empty() {
            return Ok(None);
        }
        tensors::requested(&request, &[GENERATED_TEXT])?;
        let [texts] = tensors::texts(&request, [TEXT], self.limits())?;
        let [text] = <[String; 1]>::try_from(texts).map_err(|texts| {
            Refusal::invalid(
                "inputs[0].shape",
                format!("has {} texts; a stream answers one text a request", texts.len()),
            )
        })?;
        let sampling = sampling(&model.defaults(), &request.parameters)?;
        let asked = GenerateRequest { input: Input::Text(text), sampling, format: None, turn: admitted.turn() };
        let generation = generation::start("ModelStreamInfer", &model, asked, admitted).await?;
        let (empty, is_raw) = (tensors::response(model.info(), &request), !request.raw_input_contents.is_empty());
        let admitted = admitted.clone();
        let pieces = stream::unfold(Some((generation, empty)), move |state| {
            let admitted = admitted.clone();
            async move {
                let (mut generation, empty) = state?;
                let piece = match generation.next().await? {
                    Ok(piece) => piece,
                    Err(refusal) => {
                        admitted.note_broken(&refusal);
                        let error_message = refusal.to_string();
                        return Some((ModelStreamInferResponse { error_message, infer_response: Some(empty) }, None));
                    }
                };
                let mut response = marked(empty.clone(), piece.usage.is_some());
                match add(&mut response, GENERATED_TEXT, Values::Texts(vec![piece.text]), is_raw) {
                    Ok(()) => Some((answered(response), Some((generation, empty)))),
                    Err(refusal) => {
                        let error_message = refusal.to_string();
                        Some((ModelStreamInferResponse { error_message, infer_response: Some(empty) }, None))
                    }
                }
            }
        });
        Ok(Some(pieces.boxed()))
    }

    async fn classified(
        &self,
        model: &ClassifierHandle,
        request: &ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<Outputs, Refusal> {
        let [texts] = tensors::texts(request, [TEXT], self.limits())?;
        let rows = answer(METHOD, model, texts, TEXT, admitted).await?.answers;
        let labels = &model.info().labels;
        let best = rows.iter().filter_map(|row| labels.get(most_probable(row)).cloned()).collect();
        let shape = vec![rows.len(), labels.len()];
        let probabilities = Values::Floats(rows.into_iter().flatten().collect(), shape);
        Ok(Outputs::from([(PROBABILITIES, probabilities), (LABEL, Values::Texts(best))]))
    }

    async fn embedded(
        &self,
        model: &EmbedderHandle,
        request: &ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<Outputs, Refusal> {
        let [texts] = tensors::texts(request, [TEXT], self.limits())?;
        let texts = texts.into_iter().map(TextOrTokens::Text).collect();
        let vectors = embedding::embed(METHOD, model, texts, false, None, TEXT, admitted).await?.answers;
        let shape = vec![vectors.len(), vectors.first().map_or(0, Vec::len)];
        Ok(Outputs::from([(EMBEDDING, Values::Floats(vectors.into_iter().flatten().collect(), shape))]))
    }

    async fn scored(
        &self,
        model: &RerankerHandle,
        request: &ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<Outputs, Refusal> {
        let [queries, texts] = tensors::texts(request, [QUERY, TEXT], self.limits())?;
        let [query] = queries.as_slice() else {
            return Err(Refusal::invalid("inputs", "has not one query; send one for all texts"));
        };
        let count = texts.len();
        let (mut ranking, _) = embedding::rank(METHOD, model, query, texts, false, false, admitted).await?;
        ranking.sort_by_key(|(index, _)| *index);
        let scores = ranking.into_iter().map(|(_, score)| score).collect();
        Ok(Outputs::from([(SCORE, Values::Floats(scores, vec![count]))]))
    }

    async fn found(
        &self,
        model: &EntitiesHandle,
        request: &ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<Outputs, Refusal> {
        let [texts] = tensors::texts(request, [TEXT], self.limits())?;
        let found = answer(METHOD, model, texts.clone(), TEXT, admitted).await?.answers;
        let lists = texts.iter().zip(found).map(|(text, entities)| {
            let entities = entities.iter().map(|entity| {
                json!({
                    "label": entity.label, "score": entity.score, "start": entity.start, "end": entity.end,
                    "text": entities::span(text, entity),
                })
            });
            Value::Array(entities.collect()).to_string()
        });
        Ok(Outputs::from([(ENTITIES, Values::Texts(lists.collect()))]))
    }

    async fn read_out(
        &self,
        model: &AnswererHandle,
        request: &ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<Outputs, Refusal> {
        let [questions, documents] = tensors::texts(request, [QUESTION, TEXT], self.limits())?;
        if questions.len() != documents.len() {
            let problem = format!("has {} questions for {} texts; send one for each", questions.len(), documents.len());
            return Err(Refusal::invalid("inputs", problem));
        }
        let asked = questions.into_iter().zip(documents);
        let asked = asked.map(|(question, document)| QuestionInput { question, document }).collect();
        let found = answer(METHOD, model, asked, TEXT, admitted).await?.answers;
        let (texts, scores): (Vec<String>, Vec<f32>) = found.into_iter().map(|found| (found.text, found.score)).unzip();
        let count = scores.len();
        Ok(Outputs::from([(ANSWER, Values::Texts(texts)), (SCORE, Values::Floats(scores, vec![count]))]))
    }

    async fn rewritten(
        &self,
        model: &TextToTextHandle,
        request: &ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<Outputs, Refusal> {
        let [texts] = tensors::texts(request, [TEXT], self.limits())?;
        let mut given = parameters(&request.parameters);
        let mut take = |name: &str| given.remove(name).filter(|value| !value.is_null());
        let language = |value: Option<Value>| value.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        let count = |value: Option<Value>| value.as_ref().and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let (source, target) = (language(take("source_language")), language(take("target_language")));
        let is_translation = !source.is_empty() || !target.is_empty();
        let purpose = if is_translation { Purpose::Translation { source, target } } else { Purpose::Summary };
        let (max_tokens, beams) = (count(take("max_tokens")), count(take("beams")));
        let truncate = take("truncate").as_ref().and_then(Value::as_bool).unwrap_or_default();
        if let Some(name) = given.keys().next() {
            return Err(Refusal::invalid("parameters", format!("has {:?}, which is not known", shortened(name))));
        }
        let turn = admitted.turn();
        let input =
            |text| TextToTextInput { text, purpose: purpose.clone(), max_tokens, beams, truncate, turn: turn.clone() };
        let inputs = texts.into_iter().map(input).collect();
        let written = self.write(METHOD, model, inputs, (TEXT, "parameters."), admitted).await?;
        Ok(Outputs::from([(GENERATED_TEXT, Values::Texts(written.texts))]))
    }

    // An answer for each text; a bounded number of texts is under way at once.
    async fn generated(
        &self,
        model: &GeneratorHandle,
        request: &ModelInferRequest,
        admitted: &Admitted,
    ) -> Result<Outputs, Refusal> {
        let [texts] = tensors::texts(request, [TEXT], self.limits())?;
        let sampling = sampling(&model.defaults(), &request.parameters)?;
        let generate = async |text| {
            let (sampling, turn) = (sampling.clone(), admitted.turn());
            let request = GenerateRequest { input: Input::Text(text), sampling, format: None, turn };
            let generation = generation::start(METHOD, model, request, admitted).await?;
            let (answers, _) = generation::finish(METHOD, model, generation, CallReader::default()).await?;
            Ok::<String, Refusal>(answers.into_iter().next().map(|answer| answer.text).unwrap_or_default())
        };
        let texts = stream::iter(texts).map(generate).buffered(self.max_under_way).try_collect().await?;
        Ok(Outputs::from([(GENERATED_TEXT, Values::Texts(texts))]))
    }
}

// The request's parameters, named as SamplingConfig has them, over the model's own.
fn sampling(defaults: &SamplingConfig, given: &BTreeMap<String, InferParameter>) -> Result<SamplingConfig, Refusal> {
    let wrong = |problem: String| Refusal::invalid("parameters", problem);
    let known = serde_json::to_value(defaults).map_err(|error| wrong(error.to_string()))?;
    let Value::Object(mut all) = known else { return Ok(defaults.clone()) };
    for (name, value) in parameters(given) {
        if !all.contains_key(&name) {
            return Err(wrong(format!("has {:?}, which is not known", shortened(&name))));
        }
        // One at a time, so that the one that is wrong is named.
        let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
        if serde_json::from_value::<SamplingConfig>(alone).is_err() {
            return Err(wrong(format!("has {name:?} of the wrong type")));
        }
        all.insert(name, value);
    }
    let sampling: SamplingConfig =
        serde_json::from_value(Value::Object(all)).map_err(|_| wrong("cannot be read".to_owned()))?;
    if sampling.n != 1 {
        return Err(wrong("has \"n\"; a text has one answer here".to_owned()));
    }
    Ok(sampling)
}

// What the gate said of a request, and how soon the request itself says that it is wanted; 0 says nothing, as in Triton.
fn prioritised(request: &ModelInferRequest, admitted: &Admitted) -> Result<Admitted, Refusal> {
    use ParameterChoice::{Int64Param, Uint64Param};

    let given = request.parameters.get(PRIORITY).and_then(|parameter| parameter.parameter_choice.as_ref());
    let number = match given {
        None | Some(Int64Param(0) | Uint64Param(0)) => return Ok(admitted.clone()),
        Some(Int64Param(number)) => u64::try_from(*number).ok(),
        Some(Uint64Param(number)) => Some(*number),
        Some(_) => None,
    };
    let asked = number.and_then(Priority::new);
    let asked = asked.ok_or_else(|| Refusal::invalid(format!("parameters[{PRIORITY}]"), priority::PROBLEM))?;
    Ok(Admitted { priority: admitted.caller.priority(Some(asked)), ..admitted.clone() })
}

// What a request says to its model.
fn parameters(given: &BTreeMap<String, InferParameter>) -> Map<String, Value> {
    let value = |parameter: &InferParameter| match &parameter.parameter_choice {
        None => Value::Null,
        Some(ParameterChoice::BoolParam(value)) => json!(value),
        Some(ParameterChoice::Int64Param(value)) => json!(value),
        Some(ParameterChoice::StringParam(value)) => json!(value),
        Some(ParameterChoice::DoubleParam(value)) => json!(value),
        Some(ParameterChoice::Uint64Param(value)) => json!(value),
    };
    let of_models = given.iter().filter(|(name, _)| !OF_SCHEDULING.contains(&name.as_str()));
    of_models.map(|(name, parameter)| (name.clone(), value(parameter))).collect()
}

fn answered(response: ModelInferResponse) -> ModelStreamInferResponse {
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

fn marked(mut response: ModelInferResponse, is_last: bool) -> ModelInferResponse {
    let is_last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(is_last)) };
    response.parameters.insert(FINAL.to_owned(), is_last);
    response
}

fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}

#[tonic::async_trait]
impl GrpcInferenceService for Base {
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
        let caller = admitted(&request).caller;
        let ModelReadyRequest { name, version } = request.into_inner();
        let model = self.models.of(&caller).loaded(&name, &version, "name");
        let ready = !self.is_shut() && model.is_ok_and(|model| model.readiness().is_ready());
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _request: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "tidemill".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let caller = admitted(&request).caller;
        let ModelMetadataRequest { name, version } = request.into_inner();
        let model = self.models.of(&caller).find_any(&name, &version, "name").await?;
        let info = model.info();
        let served = self.models.served(&info.name);
        let versions = served.iter().flat_map(|served| served.versions());
        Ok(Response::new(ModelMetadataResponse {
            name: info.name.clone(),
            versions: versions.map(|model| model.info().version.clone()).collect(),
            platform: tensors::platform(&model).to_owned(),
            inputs: tensors::input_metadata(&model),
            outputs: tensors::output_metadata(&model),
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let admitted = admitted(&request);
        Ok(Response::new(self.infer(request.into_inner(), &admitted).await?))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<tonic::codegen::BoxStream<ModelStreamInferResponse>>, Status> {
        let answers = self.answer_stream(request, |base, message, admitted| base.infer_streamed(message, admitted));
        let answers = answers.flat_map(|answer| match answer {
            Ok(pieces) => pieces.map(Ok).boxed(),
            Err(status) => stream::once(std::future::ready(Err(status))).boxed(),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let caller = admitted(&request).caller;
        let ModelConfigRequest { name, version } = request.into_inner();
        let model = self.models.of(&caller).find_any(&name, &version, "name").await?;
        Ok(Response::new(ModelConfigResponse { config: Some(model_config::of(&model)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let caller = admitted(&request).caller;
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let models = self.models.of(&caller);
        let models = if name.is_empty() {
            models.all()
        } else {
            let named = models.loaded(&name, &version, "name")?;
            let name = &named.info().name;
            match version.is_empty() {
                true => models.all().into_iter().filter(|model| model.info().name == *name).collect(),
                false => vec![named],
            }
        };
        Ok(Response::new(ModelStatisticsResponse { model_stats: models.iter().map(model_statistics::of).collect() }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Ok(Response::new(self.index(request.get_ref()).await?))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        self.load(request.get_ref()).await?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        self.unload(request.get_ref()).await?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<SystemSharedMemoryStatusResponse>, Status> {
        let regions = self.regions.status(&request.get_ref().name)?;
        Ok(Response::new(SystemSharedMemoryStatusResponse { regions }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        self.regions.register(request.get_ref())?;
        Ok(Response::new(SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        self.regions.unregister(&request.get_ref().name);
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }
}
