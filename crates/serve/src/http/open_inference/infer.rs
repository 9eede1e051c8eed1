//! Inference. The binary tensor extension: the body is JSON, of `Inference-Header-Content-Length` bytes, and then the
//! bytes of those tensors that say `binary_data_size`, one after another.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tidemill_proto::inference::model_infer_response::InferOutputTensor;
use tidemill_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use tidemill_proto::tensor::{Datatype, element_count};

use super::super::{Http, body};
use super::{Named, Refused, elements};
use crate::admitted::Admitted;
use crate::refusal::Refusal;

/// How many bytes of the body are JSON.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
const BINARY_SIZE: &str = "binary_data_size";
const BINARY: &str = "binary_data";
const BINARY_OUTPUT: &str = "binary_data_output";
const REGION: &str = "shared_memory_region";

#[derive(Debug, Deserialize)]
struct Fields {
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<InputFields>,
    #[serde(default)]
    outputs: Vec<OutputFields>,
}

#[derive(Debug, Deserialize)]
struct InputFields {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct OutputFields {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// In which form outputs are wanted: which of them as bytes, and which are in shared memory.
#[derive(Debug, PartialEq)]
struct Wanted {
    all: bool,
    some: BTreeSet<String>,
    none: BTreeSet<String>,
    elsewhere: BTreeSet<String>,
}

impl Wanted {
    fn is_binary(&self, output: &str) -> bool {
        self.some.contains(output) || (self.all && !self.none.contains(output))
    }
}

pub(super) async fn infer(
    State(http): State<Http>,
    Path(named): Path<Named>,
    request: Request<Body>,
) -> Result<Response, Refused> {
    let admitted: Admitted = request.extensions().get().cloned().unwrap_or_default();
    if request.headers().contains_key(CONTENT_ENCODING) {
        return Err(Refusal::invalid("body", "must not be compressed").into());
    }
    let header = header_length(request.headers())?;
    let body = elements::body(request, http.base.max_message_bytes).await?;
    let (request, wanted) = read(named, body, header)?;
    let response = http.base.infer(request, &admitted).await?;
    Ok(write(response, &wanted)?)
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || Refusal::invalid(HEADER_LENGTH.as_str(), "must be a whole number");
    length.map(Some).ok_or_else(wrong)
}

fn read(named: Named, body: Bytes, header: Option<usize>) -> Result<(ModelInferRequest, Wanted), Refusal> {
    let header = header.unwrap_or(body.len());
    if header > body.len() {
        let problem = format!("is {header}, but the body has {} bytes", body.len());
        return Err(Refusal::invalid(HEADER_LENGTH.as_str(), problem));
    }
    let fields: Fields = body::fields(&elements::parse(body.get(..header).unwrap_or_default())?)?;
    let mut left = body.slice(header..);
    let mut request = ModelInferRequest {
        model_name: named.model,
        model_version: named.version,
        id: fields.id.unwrap_or_default(),
        ..ModelInferRequest::default()
    };
    for (index, input) in fields.inputs.into_iter().enumerate() {
        let InputFields { name, shape, datatype, mut parameters, data } = input;
        let field = format!("inputs[{index}]");
        if let Some(size) = parameters.remove(BINARY_SIZE) {
            let wrong = |problem: String| Refusal::invalid(format!("{field}.parameters.{BINARY_SIZE}"), problem);
            let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
            let size = size.ok_or_else(|| wrong("must be a whole number, 0 or more".to_owned()))?;
            if size > left.len() {
                return Err(wrong(format!("is {size}, but only {} bytes are left of the body", left.len())));
            }
            if data.is_some() {
                return Err(wrong("is set, and data too; send one of them".to_owned()));
            }
            request.raw_input_contents.push(left.split_to(size));
        } else if let Some(data) = data {
            let wrong = |error: tidemill_proto::tensor::TensorError| {
                Refusal::invalid(format!("{field}.datatype"), error.to_string())
            };
            let kind: Datatype = datatype.parse().map_err(wrong)?;
            request.raw_input_contents.push(elements::to_raw(kind, &data, &format!("{field}.data"))?);
        } else if !parameters.contains_key(REGION) {
            return Err(Refusal::invalid(format!("{field}.data"), "is missing"));
        }
        let parameters = converted(parameters, &format!("{field}.parameters"))?;
        request.inputs.push(InferInputTensor { name, datatype, shape, parameters, contents: None });
    }
    if !left.is_empty() {
        let problem = format!("goes on for {} bytes after the last tensor", left.len());
        return Err(Refusal::invalid("body", problem));
    }
    let mut parameters = fields.parameters;
    let all = parameters.remove(BINARY_OUTPUT).and_then(|value| value.as_bool()).unwrap_or_default();
    let mut wanted = Wanted { all, some: BTreeSet::new(), none: BTreeSet::new(), elsewhere: BTreeSet::new() };
    request.parameters = converted(parameters, "parameters")?;
    for (index, output) in fields.outputs.into_iter().enumerate() {
        let OutputFields { name, mut parameters } = output;
        match parameters.remove(BINARY).and_then(|value| value.as_bool()) {
            Some(true) => drop(wanted.some.insert(name.clone())),
            Some(false) => drop(wanted.none.insert(name.clone())),
            None => {}
        }
        if parameters.contains_key(REGION) {
            wanted.elsewhere.insert(name.clone());
        }
        let parameters = converted(parameters, &format!("outputs[{index}].parameters"))?;
        request.outputs.push(InferRequestedOutputTensor { name, parameters });
    }
    Ok((request, wanted))
}

fn converted(parameters: Map<String, Value>, field: &str) -> Result<BTreeMap<String, InferParameter>, Refusal> {
    let choice = |value: &Value| match value {
        Value::Bool(value) => Some(ParameterChoice::BoolParam(*value)),
        Value::String(value) => Some(ParameterChoice::StringParam(value.clone())),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Some(ParameterChoice::Int64Param(value)),
            (None, Some(value)) => Some(ParameterChoice::Uint64Param(value)),
            (None, None) => number.as_f64().map(ParameterChoice::DoubleParam),
        },
        _ => None,
    };
    let parameter = |(name, value): (String, Value)| match choice(&value) {
        Some(choice) => Ok((name, InferParameter { parameter_choice: Some(choice) })),
        None => {
            let name: String = name.chars().take(40).collect();
            Err(Refusal::invalid(format!("{field}.{name}"), "must be a boolean, a number or a string"))
        }
    };
    parameters.into_iter().map(parameter).collect()
}

fn write(response: ModelInferResponse, wanted: &Wanted) -> Result<Response, Refusal> {
    let ModelInferResponse { model_name, model_version, id, parameters, outputs, raw_output_contents } = response;
    let mut contents = raw_output_contents.into_iter();
    let mut binary: Vec<Bytes> = Vec::new();
    let mut described = Vec::new();
    for output in outputs {
        let InferOutputTensor { name, datatype, shape, parameters, .. } = output;
        let mut parameters = plain(parameters);
        let mut tensor = json!({"name": name, "datatype": datatype, "shape": shape});
        let raw = contents.next().unwrap_or_default();
        if !wanted.elsewhere.contains(&name) {
            let kind: Option<Datatype> = datatype.parse().ok();
            // Bytes of a type that JSON has no form of, and of texts that are none, can only be sent as they are.
            let listed = match kind {
                Some(kind) if !wanted.is_binary(&name) => {
                    let count = element_count(&shape).unwrap_or_default();
                    Some(elements::from_raw(kind, &raw, count).map_err(|problem| Refusal::invalid(name, problem))?)
                }
                _ => None,
            };
            match listed {
                Some(data) => tensor["data"] = data,
                None => {
                    parameters.insert(BINARY_SIZE.to_owned(), json!(raw.len()));
                    binary.push(raw);
                }
            }
        }
        if !parameters.is_empty() {
            tensor["parameters"] = Value::Object(parameters);
        }
        described.push(tensor);
    }
    let mut answer = json!({"model_name": model_name, "model_version": model_version, "outputs": described});
    if !id.is_empty() {
        answer["id"] = Value::String(id);
    }
    if !parameters.is_empty() {
        answer["parameters"] = Value::Object(plain(parameters));
    }
    if binary.is_empty() {
        return Ok(Json(answer).into_response());
    }
    let header = answer.to_string();
    let length = header.len();
    let whole: Vec<u8> =
        [header.as_bytes()].into_iter().chain(binary.iter().map(|raw| raw.as_ref())).collect::<Vec<_>>().concat();
    let mut response = whole.into_response();
    response.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(length));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

fn plain(parameters: BTreeMap<String, InferParameter>) -> Map<String, Value> {
    let value = |parameter: InferParameter| match parameter.parameter_choice {
        None => Value::Null,
        Some(ParameterChoice::BoolParam(value)) => json!(value),
        Some(ParameterChoice::Int64Param(value)) => json!(value),
        Some(ParameterChoice::Uint64Param(value)) => json!(value),
        Some(ParameterChoice::DoubleParam(value)) => json!(value),
        Some(ParameterChoice::StringParam(value)) => json!(value),
    };
    parameters.into_iter().map(|(name, parameter)| (name, value(parameter))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn named() -> Named {
        Named { model: "m".to_owned(), version: String::new() }
    }

    #[test]
    fn json_and_bytes_are_read_in_their_order() {
        let header = json!({
            "id": "7", "parameters": {"binary_data_output": true, "max_tokens": 3},
            "inputs": [
                {"name": "a", "shape": [2], "datatype": "INT8", "parameters": {"binary_data_size": 2}},
                {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["x"]},
                {"name": "c", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": false}}, {"name": "z"}],
        });
        let header = header.to_string();
        let body = Bytes::from([header.as_bytes(), &[1, 2], &[0, 0, 128, 63]].concat());
        let (request, wanted) = read(named(), body.clone(), Some(header.len())).unwrap();
        let raw: Vec<&[u8]> = request.raw_input_contents.iter().map(|raw| raw.as_ref()).collect();
        assert_eq!(raw, [&[1u8, 2][..], &[1, 0, 0, 0, b'x'], &[0, 0, 128, 63]]);
        assert_eq!(request.parameters.keys().collect::<Vec<_>>(), ["max_tokens"]);
        assert!(!wanted.is_binary("y") && wanted.is_binary("z"));

        let short = read(named(), body.slice(..body.len() - 1), Some(header.len())).unwrap_err().to_string();
        assert!(short.starts_with("inputs[2].parameters.binary_data_size: is 4, but only 3 bytes"), "{short}");
        let beyond = read(named(), body.clone(), Some(body.len() + 1)).unwrap_err().to_string();
        assert!(beyond.contains("but the body has"), "{beyond}");
        let long = Bytes::from([&body[..], &[0]].concat());
        assert!(read(named(), long, Some(header.len())).unwrap_err().to_string().contains("1 bytes after the last"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (header, problem) in [
            (json!({}), "inputs: is missing"),
            (json!({"inputs": [{"name": "a", "shape": [1], "datatype": "FP32"}]}), "inputs[0].data: is missing"),
            (json!({"inputs": [{"name": "a", "shape": [1], "datatype": "FP31", "data": [1]}]}), "inputs[0].datatype: "),
            (json!({"inputs": [], "parameters": {"a": [1]}}), "parameters.a: must be a boolean"),
        ] {
            let body = Bytes::from(header.to_string());
            let refusal = read(named(), body, None).unwrap_err().to_string();
            assert!(refusal.starts_with(problem), "{refusal}");
        }
    }
}
