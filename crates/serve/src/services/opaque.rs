//! Models that take and give tensors of any datatype: `ModelInfer` alone asks them.

use std::time::Duration;

use tidemill_model::opaque::{Element, NamedTensor, OpaqueError};
use tidemill_proto::inference::{ModelInferRequest, ModelInferResponse};
use tidemill_proto::tensor::Datatype;
use tonic::codegen::Bytes;

use super::contents::{self, Contents, Tensor};
use super::{answer, tensors};
use crate::admitted::Admitted;
use crate::identity;
use crate::model::Model;
use crate::opaque::{OpaqueHandle, TensorRequest, Tensors};
use crate::refusal::Refusal;

/// Runs a request on an opaque model. Its parameters come back with the answer.
pub(super) async fn infer(
    method: &'static str,
    model: &OpaqueHandle,
    mut request: ModelInferRequest,
    admitted: &Admitted,
) -> Result<ModelInferResponse, Refusal> {
    let signed: Vec<&str> = model.signature.outputs.iter().map(|output| output.name.as_str()).collect();
    // What a model without a signature gives is known when it has given it.
    if !signed.is_empty() {
        tensors::requested(&request, &signed)?;
    }
    let is_raw = contents::is_raw(&request);
    let tensors: Vec<NamedTensor<Bytes>> =
        contents::take(&mut request)?.into_iter().enumerate().map(named).collect::<Result<_, _>>()?;
    let rows = model.signature.check(&tensors).map_err(refused)?;
    let inputs = vec![TensorRequest { tensors, rows }];
    let mut answers = answer(method, &model.batch, inputs, "inputs", admitted).await?.answers;
    let mut given: Tensors = answers.pop().unwrap_or_default();

    let all: Vec<String> = given.iter().map(|output| output.name.clone()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut outputs = Vec::new();
    for name in tensors::requested(&request, &all)? {
        if let Some(place) = given.iter().position(|output| output.name == name) {
            outputs.push(answered(given.swap_remove(place))?);
        }
    }
    let mut response = tensors::response(model.info(), &request);
    contents::put(&mut response, outputs, is_raw)?;
    response.parameters = request.parameters;
    Ok(response)
}

/// Gives back the tensor that the identity model was given, and the request's parameters. Raw contents are never copied.
pub(super) fn echo(model: &Model, request: ModelInferRequest) -> Result<ModelInferResponse, Refusal> {
    let mut counted = model.statistics().begin();
    let answer = echoed(model, request);
    if answer.is_ok() {
        // It has no line to wait in; Triton's perf_analyzer looks for the version of a model that has done something in these.
        model.statistics().note_wait(Duration::ZERO);
        model.statistics().note_batch(1, counted.arrived().elapsed());
    }
    counted.note(1, &answer);
    answer
}

fn echoed(model: &Model, mut request: ModelInferRequest) -> Result<ModelInferResponse, Refusal> {
    if !model.readiness().is_ready() {
        return Err(Refusal::NotReady { model: model.info().name.clone() });
    }
    tensors::requested(&request, tensors::outputs(model))?;
    let is_raw = contents::is_raw(&request);
    let mut tensors = contents::take(&mut request)?;
    let (Some(mut tensor), true) = (tensors.pop(), tensors.is_empty()) else {
        return Err(Refusal::invalid("inputs", format!("has not one tensor; the model takes {}", identity::INPUT)));
    };
    if tensor.name != identity::INPUT {
        let problem = format!("is not an input of the model; it takes {}", identity::INPUT);
        return Err(Refusal::invalid("inputs[0].name", problem));
    }
    tensor.name = identity::OUTPUT.to_owned();
    let mut response = tensors::response(model.info(), &request);
    contents::put(&mut response, vec![tensor], is_raw)?;
    response.parameters = request.parameters;
    Ok(response)
}

fn named((index, tensor): (usize, Tensor)) -> Result<NamedTensor<Bytes>, Refusal> {
    let Tensor { name, datatype, shape, contents } = tensor;
    let element = Element::named(datatype.name()).ok_or_else(|| {
        Refusal::invalid(
            format!("inputs[{index}].datatype"),
            format!("is {datatype}, which libtorch has no tensors of"),
        )
    })?;
    let bytes = contents.into_raw(datatype).map_err(|problem| Refusal::invalid(format!("inputs[{index}]"), problem))?;
    Ok(NamedTensor { name, element, shape, bytes })
}

fn answered(tensor: NamedTensor<Vec<u8>>) -> Result<Tensor, Refusal> {
    let NamedTensor { name, element, shape, bytes } = tensor;
    let datatype: Datatype =
        element.name().parse().map_err(|error| Refusal::invalid(name.as_str(), format!("{error}")))?;
    Ok(Tensor { name, datatype, shape, contents: Contents::Raw(bytes.into()) })
}

fn refused(error: OpaqueError) -> Refusal {
    match error {
        OpaqueError::Input { tensor, problem } => {
            let tensor: String = tensor.chars().take(80).collect();
            Refusal::invalid("inputs", format!("the tensor {tensor:?} {problem}"))
        }
        other => Refusal::invalid("inputs", other.to_string()),
    }
}
