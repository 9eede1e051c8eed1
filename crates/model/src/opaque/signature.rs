//! What an opaque model takes and gives, as the TOML file beside it says, or as far as the model itself does.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tidemill_data::toml_file;
use tidemill_torch::opaque::Element;

use super::{NamedTensor, OpaqueError};

/// Most tensors of one call.
pub const MAX_TENSORS: usize = 64;
/// Most dimensions of a tensor.
pub const MAX_DIMENSIONS: usize = 32;

/// The inputs and outputs of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The model's version. Default: `1`.
    #[serde(default = "first")]
    pub version: String,
    /// Most rows of one call. With it the first dimension of every tensor is that of the batch, and the rows of several
    /// callers run as one; without it each request is a call of its own.
    pub max_batch_size: Option<usize>,
    /// What it takes, in the order of its arguments.
    #[serde(default)]
    pub inputs: Vec<TensorSignature>,
    /// What it gives, in order, or by the keys of the dictionary that it gives. None: whatever it gives.
    #[serde(default)]
    pub outputs: Vec<TensorSignature>,
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSignature {
    /// Its name.
    pub name: String,
    /// The type of its elements. Absent: any.
    pub datatype: Option<Element>,
    /// Its sizes, -1 for one that is free. Absent: any.
    pub shape: Option<Vec<i64>>,
}

impl Default for Signature {
    fn default() -> Signature {
        Signature::of_names(&[])
    }
}

impl Signature {
    /// What the file beside a model says, `scorer.toml` beside `scorer.pt`; nothing where there is none.
    ///
    /// # Errors
    /// It cannot be read or makes no sense; the file and the key are named.
    pub fn beside(model: &Path) -> Result<Option<Signature>, OpaqueError> {
        let path = model.with_extension("toml");
        if !path.is_file() {
            return Ok(None);
        }
        let signature: Signature = toml_file::read(&path)?;
        match signature.problem() {
            Some(problem) => Err(OpaqueError::Signature { path, problem }),
            None => Ok(Some(signature)),
        }
    }

    /// A signature that knows no more than the names of the inputs.
    pub(super) fn of_names(names: &[String]) -> Signature {
        let input = |name: &String| TensorSignature { name: name.clone(), datatype: None, shape: None };
        let inputs = names.iter().map(input).collect();
        Signature { version: first(), max_batch_size: None, inputs, outputs: Vec::new() }
    }

    // What is wrong with it, for its author.
    fn problem(&self) -> Option<String> {
        if self.max_batch_size == Some(0) {
            return Some("`max_batch_size` is 0; write at least 1, or leave it out".to_owned());
        }
        for (key, tensors) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            if tensors.len() > MAX_TENSORS {
                return Some(format!("`{key}` has {} tensors; at most {MAX_TENSORS} are served", tensors.len()));
            }
            for (index, tensor) in tensors.iter().enumerate() {
                if let Some(problem) = self.tensor_problem(tensor) {
                    return Some(format!("`{key}[{index}]` ({:?}) {problem}", tensor.name));
                }
                if tensors.iter().take(index).any(|other| other.name == tensor.name) {
                    return Some(format!("`{key}[{index}]` has the name {:?} of another", tensor.name));
                }
            }
        }
        (self.max_batch_size.is_some() && (self.inputs.is_empty() || self.outputs.is_empty()))
            .then(|| "`max_batch_size` needs `inputs` and `outputs` whose first dimension is the batch".to_owned())
    }

    fn tensor_problem(&self, tensor: &TensorSignature) -> Option<&'static str> {
        let shape = tensor.shape.as_deref();
        if tensor.name.is_empty() {
            return Some("has no name");
        }
        if shape.is_some_and(|shape| shape.len() > MAX_DIMENSIONS || shape.iter().any(|size| *size < -1)) {
            return Some("has a wrong shape: at most 32 sizes, -1 for one that is free");
        }
        (self.max_batch_size.is_some() && shape.and_then(<[i64]>::first) != Some(&-1))
            .then_some("needs a shape that begins with -1, the rows of the batch, because of `max_batch_size`")
    }

    /// Checks the inputs of one request, in any order: names, types, shapes, and bytes against shapes. Gives how many rows
    /// they have; 1 where the model takes no batches.
    ///
    /// # Errors
    /// [`OpaqueError::Input`] names the tensor and says what is wrong.
    pub fn check<B: AsRef<[u8]>>(&self, tensors: &[NamedTensor<B>]) -> Result<usize, OpaqueError> {
        for (index, tensor) in tensors.iter().enumerate() {
            let wrong = |problem: String| Err(OpaqueError::Input { tensor: tensor.name.clone(), problem });
            let Some(signature) = self.inputs.iter().find(|known| known.name == tensor.name) else {
                return wrong(format!("is not an input of the model; it takes {}", names(&self.inputs)));
            };
            if tensors.iter().take(index).any(|other| other.name == tensor.name) {
                return wrong("is there twice".to_owned());
            }
            if let Some(problem) = signature.mismatch(tensor.element, &tensor.shape) {
                return wrong(problem);
            }
            let (found, bytes) = (tensor.bytes.as_ref(), byte_count(tensor.element, &tensor.shape));
            match bytes {
                None => return wrong(format!("has a shape of more bytes than can be counted, {:?}", tensor.shape)),
                Some(bytes) if bytes != found.len() => {
                    return wrong(format!("takes {bytes} bytes by its shape and has {}", found.len()));
                }
                Some(_) => {}
            }
            if tensor.element == Element::Bool && found.iter().any(|byte| *byte > 1) {
                return wrong("has an element that is neither 0 nor 1".to_owned());
            }
        }
        if let Some(missing) = self.inputs.iter().find(|known| tensors.iter().all(|given| given.name != known.name)) {
            return Err(OpaqueError::Input { tensor: missing.name.clone(), problem: "is missing".to_owned() });
        }
        self.rows(tensors)
    }

    fn rows<B>(&self, tensors: &[NamedTensor<B>]) -> Result<usize, OpaqueError> {
        let Some(max) = self.max_batch_size else { return Ok(1) };
        let mut rows = None;
        for tensor in tensors {
            let wrong = |problem| Err(OpaqueError::Input { tensor: tensor.name.clone(), problem });
            let found = tensor.shape.first().and_then(|size| usize::try_from(*size).ok()).unwrap_or_default();
            if found > max {
                return wrong(format!("has {found} rows; a request may have {max}"));
            }
            if rows.is_some_and(|rows| rows != found) {
                return wrong(format!("has {found} rows, another tensor {}", rows.unwrap_or_default()));
            }
            rows = Some(found);
        }
        Ok(rows.unwrap_or_default())
    }
}

impl TensorSignature {
    /// What does not fit, as a sentence without its subject.
    pub(super) fn mismatch(&self, element: Element, shape: &[i64]) -> Option<String> {
        if let Some(wanted) = self.datatype.filter(|wanted| *wanted != element) {
            return Some(format!("is {}; the model's is {}", element.name(), wanted.name()));
        }
        if shape.len() > MAX_DIMENSIONS {
            return Some(format!("has {} dimensions; at most {MAX_DIMENSIONS} are taken", shape.len()));
        }
        let wanted = self.shape.as_deref().unwrap_or(shape);
        let fits = shape.iter().zip(wanted).all(|(size, wanted)| *size >= 0 && (*wanted == -1 || size == wanted));
        (!fits || shape.len() != wanted.len()).then(|| format!("has the shape {shape:?}; the model's is {wanted:?}"))
    }
}

/// The bytes that a tensor takes. No part of the product may overflow either, sizes of 0 left out: libtorch multiplies
/// them for its strides.
fn byte_count(element: Element, shape: &[i64]) -> Option<usize> {
    let mut whole = i64::try_from(element.bytes()).ok()?;
    for size in shape {
        whole = whole.checked_mul((*size).max(1))?;
    }
    if shape.contains(&0) { Some(0) } else { usize::try_from(whole).ok() }
}

/// The names of tensors, for a message.
fn names(tensors: &[TensorSignature]) -> String {
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" and ") }
}

fn first() -> String {
    "1".to_owned()
}
