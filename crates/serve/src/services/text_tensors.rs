//! A text classifier as tensors of the Open Inference Protocol: which tensors it takes and gives, reading the texts out of
//! a request, and writing the answer into a response.

use tidemill_proto::inference::model_infer_request::InferInputTensor;
use tidemill_proto::inference::model_infer_response::InferOutputTensor;
use tidemill_proto::inference::model_metadata_response::TensorMetadata;
use tidemill_proto::inference::{ModelInferRequest, ModelInferResponse};
use tidemill_proto::tensor::{
    Datatype, TensorError, bytes_contents, decode_bytes, element_count, encode_bytes, encode_fp32, filled_lists,
    fp32_contents, tensor_metadata,
};

use super::{TextLimits, most_probable};
use crate::model::{Classified, ModelInfo};
use crate::refusal::Refusal;

/// The name of the input.
const TEXT: &str = "text";

/// Parameters of a tensor that would change where its bytes are or what they mean. They are refused, never ignored.
const UNSUPPORTED: [&str; 4] =
    ["classification", "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"];

/// An output of a text classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// FP32, `[n, labels]`.
    Probabilities,
    /// BYTES, `[n]`: the most probable label.
    Label,
}

impl Output {
    const ALL: [Output; 2] = [Output::Probabilities, Output::Label];

    fn name(self) -> &'static str {
        match self {
            Output::Probabilities => "probabilities",
            Output::Label => "label",
        }
    }
}

/// What the model takes.
pub(super) fn inputs() -> Vec<TensorMetadata> {
    vec![tensor_metadata(TEXT, Datatype::Bytes, &[-1])]
}

/// What the model gives.
pub(super) fn outputs(info: &ModelInfo) -> Vec<TensorMetadata> {
    let labels = i64::try_from(info.labels.len()).unwrap_or(i64::MAX);
    vec![
        tensor_metadata(Output::Probabilities.name(), Datatype::Fp32, &[-1, labels]),
        tensor_metadata(Output::Label.name(), Datatype::Bytes, &[-1]),
    ]
}

/// The outputs that a request asks for, in its order; all of them when it names none.
pub(super) fn requested(request: &ModelInferRequest) -> Result<Vec<Output>, Refusal> {
    if request.outputs.is_empty() {
        return Ok(Output::ALL.to_vec());
    }
    let mut wanted = Vec::new();
    for (index, output) in request.outputs.iter().enumerate() {
        let field = || format!("outputs[{index}].name");
        let found = Output::ALL.into_iter().find(|known| known.name() == output.name);
        let Some(found) = found else {
            return Err(Refusal::invalid(field(), "is not an output of the model; it gives probabilities and label"));
        };
        if wanted.contains(&found) {
            return Err(Refusal::invalid(field(), format!("asks for {} twice", found.name())));
        }
        check_parameters(output.parameters.keys(), || format!("outputs[{index}].parameters"))?;
        wanted.push(found);
    }
    Ok(wanted)
}

/// The texts of a request, checked.
pub(super) fn texts(request: &ModelInferRequest, limits: TextLimits) -> Result<Vec<String>, Refusal> {
    let [input] = request.inputs.as_slice() else {
        let problem = format!("has {} tensors; the model takes one, text", request.inputs.len());
        return Err(Refusal::invalid("inputs", problem));
    };
    let count = check_declared(input, limits)?;
    if request.raw_input_contents.is_empty() {
        return typed_texts(input, count, limits);
    }
    let [raw] = request.raw_input_contents.as_slice() else {
        let problem = format!("has {} elements for one tensor; send one for each", request.raw_input_contents.len());
        return Err(Refusal::invalid("raw_input_contents", problem));
    };
    if input.contents.is_some() {
        let problem = "is set, and raw_input_contents too; send one of them";
        return Err(Refusal::invalid("inputs[0].contents", problem));
    }
    let elements = decode_bytes(raw, count).map_err(tensor_problem("raw_input_contents[0]"))?;
    strings(elements, limits, "raw_input_contents[0]")
}

/// The answer, with the outputs that are wanted; raw when the request was.
pub(super) fn response(
    info: &ModelInfo,
    request: ModelInferRequest,
    wanted: &[Output],
    classified: &Classified,
) -> Result<ModelInferResponse, Refusal> {
    let is_raw = !request.raw_input_contents.is_empty();
    let mut response = ModelInferResponse {
        model_name: info.name.clone(),
        model_version: info.version.clone(),
        id: request.id,
        ..ModelInferResponse::default()
    };
    let rows = classified.probabilities.as_slice();
    let texts = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    for &output in wanted {
        let mut tensor = InferOutputTensor { name: output.name().to_owned(), ..Default::default() };
        let values = || rows.iter().flatten().copied();
        let labels = || rows.iter().filter_map(|row| info.labels.get(most_probable(row)));
        match output {
            Output::Probabilities => {
                let width = i64::try_from(info.labels.len()).unwrap_or(i64::MAX);
                tensor.datatype = Datatype::Fp32.name().to_owned();
                tensor.shape = vec![texts, width];
                if is_raw {
                    let count = rows.len().saturating_mul(info.labels.len());
                    response.raw_output_contents.push(encode_fp32(values(), count));
                } else {
                    tensor.contents = Some(fp32_contents(values().collect()));
                }
            }
            Output::Label => {
                tensor.datatype = Datatype::Bytes.name().to_owned();
                tensor.shape = vec![texts];
                if is_raw {
                    let raw = encode_bytes(labels()).map_err(tensor_problem("label"))?;
                    response.raw_output_contents.push(raw);
                } else {
                    let labels = labels().map(|label| label.clone().into_bytes().into());
                    tensor.contents = Some(bytes_contents(labels.collect()));
                }
            }
        }
        response.outputs.push(tensor);
    }
    Ok(response)
}

// Name, datatype, shape and parameters of the input; how many texts it declares.
fn check_declared(input: &InferInputTensor, limits: TextLimits) -> Result<usize, Refusal> {
    if input.name != TEXT {
        return Err(Refusal::invalid("inputs[0].name", "is not an input of the model; it takes text"));
    }
    let datatype: Datatype = input.datatype.parse().map_err(tensor_problem("inputs[0].datatype"))?;
    if datatype != Datatype::Bytes {
        let problem = format!("is {datatype}; texts are BYTES");
        return Err(Refusal::invalid("inputs[0].datatype", problem));
    }
    check_parameters(input.parameters.keys(), || "inputs[0].parameters".to_owned())?;
    let field = "inputs[0].shape";
    let count = element_count(&input.shape).map_err(tensor_problem(field))?;
    if !matches!(input.shape.as_slice(), [_] | [_, 1]) {
        return Err(Refusal::invalid(field, "is neither [n] nor [n, 1]"));
    }
    limits.check_count(count, field)?;
    Ok(count)
}

fn typed_texts(input: &InferInputTensor, count: usize, limits: TextLimits) -> Result<Vec<String>, Refusal> {
    let field = "inputs[0].contents";
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
    let found = contents.bytes_contents.len();
    if found != count {
        let error = TensorError::ElementCount { expected: count, found };
        return Err(tensor_problem("inputs[0].contents.bytes_contents")(error));
    }
    let elements = contents.bytes_contents.iter().map(|element| element.as_ref());
    strings(elements, limits, "inputs[0].contents.bytes_contents")
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

fn check_parameters<'a>(
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
