//! Models as tensors of the Open Inference Protocol: which tensors each kind takes and gives, reading texts out of a
//! request, and writing answers into a response.

use tidemill_model::opaque::{Form, TensorSignature};
use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::inference::model_infer_response::InferOutputTensor;
use tidemill_proto::inference::model_metadata_response::TensorMetadata;
use tidemill_proto::inference::{ModelInferRequest, ModelInferResponse};
use tidemill_proto::tensor::{
    Datatype, TensorError, bytes_contents, decode_bytes, element_count, encode_bytes, encode_fp32, filled_lists,
    fp32_contents, tensor_metadata,
};

use super::TextLimits;
use crate::identity;
use crate::model::Model;
use crate::model_info::ModelInfo;
use crate::refusal::Refusal;

/// The names of the tensors.
pub(super) const TEXT: &str = "text";
pub(super) const QUERY: &str = "query";
pub(super) const QUESTION: &str = "question";
pub(super) const PROBABILITIES: &str = "probabilities";
pub(super) const LABEL: &str = "label";
pub(super) const EMBEDDING: &str = "embedding";
pub(super) const SCORE: &str = "score";
pub(super) const ENTITIES: &str = "entities";
pub(super) const ANSWER: &str = "answer";
pub(super) const GENERATED_TEXT: &str = "generated_text";

/// Parameters of a tensor that would change where its bytes are or what they mean. They are refused, never ignored.
const UNSUPPORTED: [&str; 4] =
    ["classification", "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"];

/// What the model takes, of those whose tensors are the same for all of a kind: BYTES but for the identity model's.
pub(super) fn inputs(model: &Model) -> &'static [&'static str] {
    match model {
        Model::Reranker(_) => &[QUERY, TEXT],
        Model::Answerer(_) => &[QUESTION, TEXT],
        Model::Opaque(_) => &[],
        Model::Identity(_) => &[identity::INPUT],
        _ => &[TEXT],
    }
}

/// What the model gives.
pub(super) fn outputs(model: &Model) -> &'static [&'static str] {
    match model {
        Model::Classifier(_) => &[PROBABILITIES, LABEL],
        Model::Embedder(_) => &[EMBEDDING],
        Model::Reranker(_) => &[SCORE],
        Model::Entities(_) => &[ENTITIES],
        Model::Answerer(_) => &[ANSWER, SCORE],
        Model::TextToText(_) | Model::Generator(_) => &[GENERATED_TEXT],
        Model::Opaque(_) => &[],
        Model::Identity(_) => &[identity::OUTPUT],
    }
}

/// What the protocol calls the framework of a model.
pub(super) fn platform(model: &Model) -> &'static str {
    match model {
        Model::Opaque(model) => match model.form {
            Form::TorchScript => "pytorch_torchscript",
            Form::AotInductor => "pytorch_aotinductor",
        },
        Model::Identity(_) => "tidemill_identity",
        _ => "tidemill_safetensors",
    }
}

/// The inputs as metadata has them.
pub(super) fn input_metadata(model: &Model) -> Vec<TensorMetadata> {
    let input = |name: &&'static str| match *name {
        identity::INPUT => tensor_metadata(name, Datatype::Fp32, &[-1]),
        QUERY => tensor_metadata(name, Datatype::Bytes, &[1]),
        _ => tensor_metadata(name, Datatype::Bytes, &[-1]),
    };
    match model {
        Model::Opaque(model) => model.signature.inputs.iter().map(signed).collect(),
        _ => inputs(model).iter().map(input).collect(),
    }
}

/// The outputs as metadata has them.
pub(super) fn output_metadata(model: &Model) -> Vec<TensorMetadata> {
    let labels = i64::try_from(model.info().labels.len()).unwrap_or(i64::MAX);
    let output = |name: &&'static str| match *name {
        PROBABILITIES => tensor_metadata(name, Datatype::Fp32, &[-1, labels]),
        EMBEDDING => tensor_metadata(name, Datatype::Fp32, &[-1, -1]),
        SCORE | identity::OUTPUT => tensor_metadata(name, Datatype::Fp32, &[-1]),
        _ => tensor_metadata(name, Datatype::Bytes, &[-1]),
    };
    match model {
        Model::Opaque(model) => model.signature.outputs.iter().map(signed).collect(),
        _ => outputs(model).iter().map(output).collect(),
    }
}

// As a signature has it: a type that it leaves open is empty, and so is a shape.
fn signed(tensor: &TensorSignature) -> TensorMetadata {
    let datatype = tensor.datatype.map_or_else(String::new, |element| element.name().to_owned());
    TensorMetadata { name: tensor.name.clone(), datatype, shape: tensor.shape.clone().unwrap_or_default() }
}

/// Checks that a request has no more tensors than it may, before any is looked at.
pub(super) fn check_count(request: &ModelInferRequest, limits: TextLimits) -> Result<(), Refusal> {
    let max = limits.max_tensors;
    for (field, count) in [
        ("inputs", request.inputs.len()),
        ("outputs", request.outputs.len()),
        ("raw_input_contents", request.raw_input_contents.len()),
    ] {
        if count > max {
            return Err(Refusal::invalid(field, format!("has {count} tensors; a request may hold {max}")));
        }
    }
    Ok(())
}

/// The outputs that a request asks for, in its order; all of them when it names none.
pub(super) fn requested<'a>(request: &ModelInferRequest, all: &[&'a str]) -> Result<Vec<&'a str>, Refusal> {
    if request.outputs.is_empty() {
        return Ok(all.to_vec());
    }
    let mut wanted = Vec::new();
    for (index, output) in request.outputs.iter().enumerate() {
        let field = || format!("outputs[{index}].name");
        let found = all.iter().find(|known| **known == output.name);
        let Some(found) = found else {
            let problem = format!("is not an output of the model; it gives {}", all.join(" and "));
            return Err(Refusal::invalid(field(), problem));
        };
        if wanted.contains(found) {
            return Err(Refusal::invalid(field(), format!("asks for {found} twice")));
        }
        check_parameters(output.parameters.keys(), || format!("outputs[{index}].parameters"))?;
        wanted.push(*found);
    }
    Ok(wanted)
}

/// The texts of a request's tensors, checked: those of each name in `names`, in that order.
pub(super) fn texts<const N: usize>(
    request: &ModelInferRequest,
    names: [&str; N],
    limits: TextLimits,
) -> Result<[Vec<String>; N], Refusal> {
    if request.inputs.len() != N {
        let problem = format!("has {} tensors; the model takes {N}, {}", request.inputs.len(), names.join(" and "));
        return Err(Refusal::invalid("inputs", problem));
    }
    let raw = &request.raw_input_contents;
    if !raw.is_empty() && raw.len() != N {
        let problem = format!("has {} elements for {N} tensors; send one for each", raw.len());
        return Err(Refusal::invalid("raw_input_contents", problem));
    }
    let mut all = [const { None }; N];
    for (index, input) in request.inputs.iter().enumerate() {
        let field = format!("inputs[{index}].name");
        let place = names.iter().position(|name| *name == input.name);
        let Some(place) = place.and_then(|place| all.get_mut(place)) else {
            return Err(Refusal::invalid(
                field,
                format!("is not an input of the model; it takes {}", names.join(" and ")),
            ));
        };
        if place.is_some() {
            return Err(Refusal::invalid(field, "is there twice"));
        }
        let count = check_declared(input, index, limits)?;
        *place = Some(match raw.get(index) {
            None => typed_texts(input, index, count, limits)?,
            Some(_) if input.contents.is_some() => {
                let problem = "is set, and raw_input_contents too; send one of them";
                return Err(Refusal::invalid(format!("inputs[{index}].contents"), problem));
            }
            Some(raw) => {
                let field = format!("raw_input_contents[{index}]");
                let elements = decode_bytes(raw, count).map_err(tensor_problem(&field))?;
                strings(elements, limits, &field)?
            }
        });
    }
    Ok(all.map(Option::unwrap_or_default))
}

/// The values of an output, and its shape.
pub(super) enum Values {
    Floats(Vec<f32>, Vec<usize>),
    Texts(Vec<String>),
}

/// An answer without outputs yet.
pub(super) fn response(info: &ModelInfo, request: &ModelInferRequest) -> ModelInferResponse {
    ModelInferResponse {
        model_name: info.name.clone(),
        model_version: info.version.clone(),
        id: request.id.clone(),
        ..ModelInferResponse::default()
    }
}

/// Adds an output to an answer; raw when the request was.
pub(super) fn add(response: &mut ModelInferResponse, name: &str, values: Values, is_raw: bool) -> Result<(), Refusal> {
    let dimension = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
    let mut tensor = InferOutputTensor { name: name.to_owned(), ..Default::default() };
    match values {
        Values::Floats(values, shape) => {
            tensor.datatype = Datatype::Fp32.name().to_owned();
            tensor.shape = shape.into_iter().map(dimension).collect();
            if is_raw {
                let count = values.len();
                response.raw_output_contents.push(encode_fp32(values, count));
            } else {
                tensor.contents = Some(fp32_contents(values));
            }
        }
        Values::Texts(texts) => {
            tensor.datatype = Datatype::Bytes.name().to_owned();
            tensor.shape = vec![dimension(texts.len())];
            if is_raw {
                response.raw_output_contents.push(encode_bytes(texts).map_err(tensor_problem(name))?);
            } else {
                tensor.contents =
                    Some(bytes_contents(texts.into_iter().map(|text| text.into_bytes().into()).collect()));
            }
        }
    }
    response.outputs.push(tensor);
    Ok(())
}

// Datatype, shape and parameters of an input; how many texts it declares.
fn check_declared(input: &InferInputTensor, index: usize, limits: TextLimits) -> Result<usize, Refusal> {
    let field = format!("inputs[{index}].datatype");
    let datatype: Datatype = input.datatype.parse().map_err(tensor_problem(&field))?;
    if datatype != Datatype::Bytes {
        return Err(Refusal::invalid(field, format!("is {datatype}; texts are BYTES")));
    }
    check_parameters(input.parameters.keys(), || format!("inputs[{index}].parameters"))?;
    let field = format!("inputs[{index}].shape");
    let count = element_count(&input.shape).map_err(tensor_problem(&field))?;
    if !matches!(input.shape.as_slice(), [_] | [_, 1]) {
        return Err(Refusal::invalid(field, "is neither [n] nor [n, 1]"));
    }
    limits.check_count(count, &field)?;
    Ok(count)
}

fn typed_texts(
    input: &InferInputTensor,
    index: usize,
    count: usize,
    limits: TextLimits,
) -> Result<Vec<String>, Refusal> {
    let field = format!("inputs[{index}].contents");
    let Some(contents) = &input.contents else {
        if count == 0 {
            return Ok(Vec::new());
        }
        let problem = "is missing, and so is raw_input_contents; send one of them";
        return Err(Refusal::invalid(field, problem));
    };
    let lists = filled_lists(contents);
    if lists.iter().any(|list| *list != "bytes_contents") {
        let problem = format!("has {}; a BYTES tensor has bytes_contents alone", lists.join(", "));
        return Err(Refusal::invalid(field, problem));
    }
    let field = format!("{field}.bytes_contents");
    let found = contents.bytes_contents.len();
    if found != count {
        return Err(tensor_problem(&field)(TensorError::ElementCount { expected: count, found }));
    }
    strings(contents.bytes_contents.iter().map(|element| element.as_ref()), limits, &field)
}

fn strings<'a>(
    elements: impl IntoIterator<Item = &'a [u8]>,
    limits: TextLimits,
    field: &str,
) -> Result<Vec<String>, Refusal> {
    let mut texts = Vec::new();
    for (index, element) in elements.into_iter().enumerate() {
        let name = || format!("{field}: text {index}");
        limits.check_length(element.len(), name)?;
        let text = std::str::from_utf8(element)
            .map_err(|error| Refusal::invalid(name(), format!("is not UTF-8 from byte {}", error.valid_up_to())))?;
        texts.push(text.to_owned());
    }
    Ok(texts)
}

/// Refuses parameters of a tensor that would change where its bytes are or what they mean.
pub(super) fn check_parameters<'a>(
    names: impl IntoIterator<Item = &'a String>,
    field: impl FnOnce() -> String,
) -> Result<(), Refusal> {
    match names.into_iter().find(|name| UNSUPPORTED.contains(&name.as_str())) {
        Some(name) => Err(Refusal::invalid(field(), format!("has {name}, which is not supported"))),
        None => Ok(()),
    }
}

fn tensor_problem(field: &str) -> impl Fn(TensorError) -> Refusal + '_ {
    move |error| Refusal::invalid(field, error.to_string())
}
