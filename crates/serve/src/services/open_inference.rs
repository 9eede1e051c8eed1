//! `inference.GRPCInferenceService`: the Open Inference Protocol, for models of every kind. See
//! `proto/inference/grpc_service.proto`.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value, json};
use tidemill_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use tonic::{Request, Response, Status};

use super::tensors::{
    self, EMBEDDING, ENTITIES, GENERATED_TEXT, LABEL, PROBABILITIES, QUERY, SCORE, TEXT, Values, add,
};
use super::{Base, admitted, answer, embedding, entities, generation, most_probable};
use crate::admission::Admitted;
use crate::generation::tool_choice::CallReader;
use crate::generation::{GenerateRequest, GeneratorHandle, Input, SamplingConfig};
use crate::model::{ClassifierHandle, EmbedderHandle, EntitiesHandle, Model, RerankerHandle, TextToTextHandle};
use crate::refusal::Refusal;
use crate::tasks::{Purpose, TextOrTokens, TextToTextInput};

/// What the protocol calls the framework of a model: libtorch on safetensors.
const PLATFORM: &str = "tidemill_safetensors";
const METHOD: &str = "ModelInfer";

/// The values of each output of a model, by its name.
type Outputs = BTreeMap<&'static str, Values>;

impl Base {
    async fn infer(&self, request: ModelInferRequest, admitted: &Admitted) -> Result<ModelInferResponse, Refusal> {
        let model =
            self.models.of(&admitted.caller).find_any(&request.model_name, &request.model_version, "model_name")?;
        tensors::check_count(&request, self.limits())?;
        let wanted = tensors::requested(&request, tensors::outputs(model))?;
        let mut outputs = match model {
            Model::Classifier(model) => self.classified(model, &request, admitted).await?,
            Model::Embedder(model) => self.embedded(model, &request, admitted).await?,
            Model::Reranker(model) => self.scored(model, &request, admitted).await?,
            Model::Entities(model) => self.found(model, &request, admitted).await?,
            Model::TextToText(model) => self.rewritten(model, &request, admitted).await?,
            Model::Generator(model) => self.generated(model, &request, admitted).await?,
        };
        let mut response = tensors::response(model.info(), &request);
        for name in wanted {
            if let Some(values) = outputs.remove(name) {
                add(&mut response, name, values, !request.raw_input_contents.is_empty())?;
            }
        }
        Ok(response)
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
        let key = &admitted.key;
        let input =
            |text| TextToTextInput { text, purpose: purpose.clone(), max_tokens, beams, truncate, key: key.clone() };
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
            let (sampling, key) = (sampling.clone(), admitted.key.clone());
            let request = GenerateRequest { input: Input::Text(text), sampling, format: None, key };
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

fn parameters(given: &BTreeMap<String, InferParameter>) -> Map<String, Value> {
    let value = |parameter: &InferParameter| match &parameter.parameter_choice {
        None => Value::Null,
        Some(ParameterChoice::BoolParam(value)) => json!(value),
        Some(ParameterChoice::Int64Param(value)) => json!(value),
        Some(ParameterChoice::StringParam(value)) => json!(value),
        Some(ParameterChoice::DoubleParam(value)) => json!(value),
        Some(ParameterChoice::Uint64Param(value)) => json!(value),
    };
    given.iter().map(|(name, parameter)| (name.clone(), value(parameter))).collect()
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
        let model = self.models.of(&caller).find_any(&name, &version, "name");
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
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let caller = admitted(&request).caller;
        let ModelMetadataRequest { name, version } = request.into_inner();
        let model = self.models.of(&caller).find_any(&name, &version, "name")?;
        let info = model.info();
        Ok(Response::new(ModelMetadataResponse {
            name: info.name.clone(),
            versions: vec![info.version.clone()],
            platform: PLATFORM.to_owned(),
            inputs: tensors::input_metadata(model),
            outputs: tensors::output_metadata(model),
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let admitted = admitted(&request);
        Ok(Response::new(self.infer(request.into_inner(), &admitted).await?))
    }
}
