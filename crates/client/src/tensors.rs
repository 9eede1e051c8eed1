//! Requests of the Open Inference Protocol written from plain values, and its answers read into them. Contents are raw.

use prost::bytes::Bytes;
use tidemill_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tidemill_proto::inference::{ModelInferRequest, ModelInferResponse};
use tidemill_proto::tensor::{
    Datatype, TensorError, decode_bytes, decode_fp32, element_count, encode_bytes, encode_fp32,
};

/// A request to a model, tensor by tensor.
///
/// ```
/// use tidemill_client::Infer;
/// use tidemill_client::inference::ModelInferRequest;
///
/// let request = Infer::of("reviews").texts("text", ["a fine film", "a dull one"])?.fp32("x", &[1, 2], &[0.5, 1.5])?;
/// let request = ModelInferRequest::from(request);
/// assert_eq!(request.inputs[0].shape, [2]);
/// assert_eq!(request.raw_input_contents[1].len(), 8);
/// # Ok::<(), tidemill_client::tensor::TensorError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Infer {
    request: ModelInferRequest,
}

impl Infer {
    /// A request to this model, without tensors yet.
    pub fn of(model: &str) -> Infer {
        Infer { request: ModelInferRequest { model_name: model.to_owned(), ..ModelInferRequest::default() } }
    }

    /// Adds a tensor by its raw contents: row-major, little-endian.
    #[must_use]
    pub fn raw(mut self, name: &str, datatype: Datatype, shape: &[i64], contents: impl Into<Bytes>) -> Infer {
        self.request.inputs.push(InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.name().to_owned(),
            shape: shape.to_vec(),
            ..InferInputTensor::default()
        });
        self.request.raw_input_contents.push(contents.into());
        self
    }

    /// Adds an FP32 tensor.
    ///
    /// # Errors
    /// A shape that does not have as many elements.
    pub fn fp32(self, name: &str, shape: &[i64], values: &[f32]) -> Result<Infer, TensorError> {
        let expected = element_count(shape)?;
        if expected != values.len() {
            return Err(TensorError::ElementCount { expected, found: values.len() });
        }
        Ok(self.raw(name, Datatype::Fp32, shape, encode_fp32(values.iter().copied(), expected)))
    }

    /// Adds a BYTES tensor of shape `[n]`.
    ///
    /// # Errors
    /// A text of 4 GiB or more.
    pub fn texts<T: AsRef<str>>(
        self,
        name: &str,
        texts: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    ) -> Result<Infer, TensorError> {
        let texts = texts.into_iter();
        let shape = [i64::try_from(texts.len()).unwrap_or(i64::MAX)];
        let contents = encode_bytes(texts.map(|text| text.as_ref().as_bytes().to_vec()))?;
        Ok(self.raw(name, Datatype::Bytes, &shape, contents))
    }

    /// Asks for this output; a request that asks for none gets all.
    #[must_use]
    pub fn output(mut self, name: &str) -> Infer {
        self.request.outputs.push(InferRequestedOutputTensor { name: name.to_owned(), ..Default::default() });
        self
    }
}

impl From<Infer> for ModelInferRequest {
    fn from(infer: Infer) -> ModelInferRequest {
        infer.request
    }
}

/// Why an output cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// There is none of this name.
    #[error("the answer has no output {name:?}; it has {known}")]
    Missing {
        /// What was asked for.
        name: String,
        /// Those that it has.
        known: String,
    },
    /// It holds something else.
    #[error("the output {name:?} is {found}, not {wanted}")]
    OtherDatatype {
        /// Its name.
        name: String,
        /// Its datatype.
        found: String,
        /// The datatype to read it as.
        wanted: &'static str,
    },
    /// Its contents do not fit its shape.
    #[error("the output {name:?} cannot be read: {problem}")]
    Contents {
        /// Its name.
        name: String,
        /// What does not fit.
        problem: TensorError,
    },
}

/// One output of an answer.
///
/// ```
/// use tidemill_client::Output;
/// use tidemill_client::inference::ModelInferResponse;
///
/// # fn example(answer: &ModelInferResponse) -> Result<(), tidemill_client::OutputError> {
/// let labels = Output::of(answer, "label")?.texts()?;
/// let probabilities = Output::of(answer, "probabilities")?;
/// println!("{labels:?}: {:?} of shape {:?}", probabilities.fp32()?, probabilities.shape);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Output<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its datatype, as the protocol names it.
    pub datatype: &'a str,
    /// Its shape.
    pub shape: &'a [i64],
    /// Its elements, row-major, little-endian; empty when the answer has typed contents.
    pub raw: &'a [u8],
}

impl<'a> Output<'a> {
    /// The output of this name.
    ///
    /// # Errors
    /// An answer without it.
    pub fn of(answer: &'a ModelInferResponse, name: &str) -> Result<Output<'a>, OutputError> {
        let index = answer.outputs.iter().position(|output| output.name == name);
        let found = index.and_then(|index| Some((answer.outputs.get(index)?, answer.raw_output_contents.get(index))));
        let Some((output, raw)) = found else {
            let names: Vec<&str> = answer.outputs.iter().map(|output| output.name.as_str()).collect();
            return Err(OutputError::Missing { name: name.to_owned(), known: names.join(", ") });
        };
        let raw = raw.map(AsRef::as_ref).unwrap_or_default();
        Ok(Output { name: &output.name, datatype: &output.datatype, shape: &output.shape, raw })
    }

    /// Its numbers, if it is FP32.
    ///
    /// # Errors
    /// Another datatype, or contents that do not fit the shape.
    pub fn fp32(&self) -> Result<Vec<f32>, OutputError> {
        self.check(Datatype::Fp32)?;
        element_count(self.shape).and_then(|count| decode_fp32(self.raw, count)).map_err(|e| self.problem(e))
    }

    /// Its texts, if it is BYTES; bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    /// Another datatype, or contents that do not fit the shape.
    pub fn texts(&self) -> Result<Vec<String>, OutputError> {
        self.check(Datatype::Bytes)?;
        let elements = element_count(self.shape).and_then(|count| decode_bytes(self.raw, count));
        let elements = elements.map_err(|e| self.problem(e))?;
        Ok(elements.into_iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
    }

    fn check(&self, wanted: Datatype) -> Result<(), OutputError> {
        if self.datatype == wanted.name() {
            return Ok(());
        }
        let (name, found) = (self.name.to_owned(), self.datatype.to_owned());
        Err(OutputError::OtherDatatype { name, found, wanted: wanted.name() })
    }

    fn problem(&self, problem: TensorError) -> OutputError {
        OutputError::Contents { name: self.name.to_owned(), problem }
    }
}
