//! Opaque models: TorchScript modules (`.pt`) and AOTInductor packages (`.pt2`), of which nothing is known but the tensors
//! that they take and give.
//!
//! Opening such a file runs code that it holds: only what the operator has allowed comes here. What a model takes and
//! gives is said by a TOML file beside it (`scorer.toml` beside `scorer.pt`, a [`Signature`]); a TorchScript module may do
//! without, and then its arguments have the names that its code gives them. Tensors are checked against the signature
//! before libtorch sees them. Element types and calls are in `tidemill_torch::opaque`.

mod signature;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::TchError;
use tidemill_data::toml_file::TomlError;
pub use tidemill_torch::opaque::{Element, Form};
use tidemill_torch::opaque::{Input, OpaqueModule, Output};

pub use signature::{MAX_DIMENSIONS, MAX_TENSORS, Signature, TensorSignature};

/// Why an opaque model could not be opened or called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpaqueError {
    /// libtorch cannot open it.
    #[error("{}: libtorch cannot open this {}: {}", path.display(), named(*form), first_line(reason))]
    Open {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        form: Form,
        /// libtorch's sentence.
        reason: TchError,
    },
    /// The file beside it cannot be read.
    #[error(transparent)]
    Sidecar(#[from] TomlError),
    /// The file beside it makes no sense, or not for this model.
    #[error("{}: {problem}", path.display())]
    Signature {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to write.
        problem: String,
    },
    /// An input is not as the signature has it.
    #[error("the tensor {tensor:?} {problem}")]
    Input {
        /// Its name.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// The model failed on its inputs, or gave what its signature does not say. It is unharmed.
    #[error("{0}")]
    Run(String),
}

/// A tensor by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTensor<B> {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub element: Element,
    /// Its sizes; none for a scalar.
    pub shape: Vec<i64>,
    /// Its elements, little-endian, row-major.
    pub bytes: B,
}

/// What a file of this name holds, if it is one of an opaque model.
pub fn form(path: &Path) -> Option<Form> {
    match path.extension()?.to_str()? {
        "pt" => Some(Form::TorchScript),
        "pt2" => Some(Form::AotInductor),
        _ => None,
    }
}

/// An opened model.
#[derive(Debug)]
pub struct OpaqueModel {
    module: OpaqueModule,
    signature: Signature,
}

/// Requests of one likeness run together: their place, 0 where the model takes batches, and of each input its element and
/// its dimensions but the first.
type Likeness<'a> = (usize, Vec<(Element, &'a [i64])>);

impl OpaqueModel {
    /// Opens a model, for the CPU. This may run code that the file holds.
    ///
    /// # Errors
    /// Where the file or the one beside it cannot be read, or they do not fit each other.
    pub fn open(path: &Path, form: Form) -> Result<OpaqueModel, OpaqueError> {
        let sidecar = path.with_extension("toml");
        let given = Signature::beside(path)?;
        if given.is_none() && form == Form::AotInductor && path.is_file() {
            let problem = "no such file; it must name the inputs and outputs of the package beside it".to_owned();
            return Err(OpaqueError::Signature { path: sidecar, problem });
        }
        let failed = |reason| OpaqueError::Open { path: path.to_owned(), form, reason };
        let module = OpaqueModule::open(path, form).map_err(failed)?;
        let signature = match form {
            Form::AotInductor => given.unwrap_or_default(),
            Form::TorchScript => {
                let arguments = module.arguments().map_err(failed)?;
                let required = arguments.names.get(..arguments.required).unwrap_or(&arguments.names);
                match given {
                    None => Signature::of_names(required),
                    Some(given) => in_order(given, &arguments.names, required.len())
                        .map_err(|problem| OpaqueError::Signature { path: sidecar, problem })?,
                }
            }
        };
        Ok(OpaqueModel { module, signature })
    }

    /// What it takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Answers requests whose inputs [`Signature::check`] has passed: where the model takes batches, those that agree in
    /// all but their rows run as one call; otherwise each is a call.
    ///
    /// # Errors
    /// [`OpaqueError::Run`] where the model refuses some of them, or gives something else than its signature says.
    pub fn run<B: AsRef<[u8]>>(
        &mut self,
        requests: &[&[NamedTensor<B>]],
    ) -> Result<Vec<Vec<NamedTensor<Vec<u8>>>>, OpaqueError> {
        let mut groups: BTreeMap<Likeness<'_>, Vec<usize>> = BTreeMap::new();
        for (place, request) in requests.iter().enumerate() {
            let alone = if self.signature.max_batch_size.is_some() { 0 } else { place };
            let inputs = self.signature.inputs.iter().filter_map(|known| request.iter().find(|i| i.name == known.name));
            let key = inputs.map(|input| (input.element, input.shape.get(1..).unwrap_or_default())).collect();
            groups.entry((alone, key)).or_default().push(place);
        }
        let mut answers: Vec<_> = requests.iter().map(|_| Vec::new()).collect();
        for places in groups.into_values() {
            let group: Vec<&[NamedTensor<B>]> =
                places.iter().filter_map(|place| requests.get(*place).copied()).collect();
            for (place, answer) in places.into_iter().zip(self.call(&group)?) {
                if let Some(slot) = answers.get_mut(place) {
                    *slot = answer;
                }
            }
        }
        Ok(answers)
    }

    // One call for requests that agree in all but their rows.
    fn call<B: AsRef<[u8]>>(
        &mut self,
        group: &[&[NamedTensor<B>]],
    ) -> Result<Vec<Vec<NamedTensor<Vec<u8>>>>, OpaqueError> {
        let rows: Vec<i64> = group.iter().map(|request| rows(request)).collect();
        let all_rows = rows.iter().sum();
        let mut inputs = Vec::new();
        for signature in &self.signature.inputs {
            let parts = group.iter().filter_map(|request| request.iter().find(|input| input.name == signature.name));
            let parts: Vec<&NamedTensor<B>> = parts.collect();
            let first = parts.first().ok_or_else(|| OpaqueError::Run(format!("{:?} is missing", signature.name)))?;
            let mut shape = first.shape.clone();
            if let (Some(_), Some(size)) = (self.signature.max_batch_size, shape.first_mut()) {
                *size = all_rows;
            }
            let pieces = parts.iter().map(|part| part.bytes.as_ref()).collect();
            inputs.push(Input { element: first.element, shape, pieces });
        }
        let outputs = self.module.run(&inputs).map_err(|error| OpaqueError::Run(first_line(&error)))?;
        let outputs = self.named(outputs)?;
        if self.signature.max_batch_size.is_none() {
            return Ok(vec![outputs]);
        }
        let mut answers: Vec<Vec<NamedTensor<Vec<u8>>>> = group.iter().map(|_| Vec::new()).collect();
        for output in outputs {
            if output.shape.first() != Some(&all_rows) {
                let (name, shape) = (&output.name, &output.shape);
                return Err(OpaqueError::Run(format!("it gave {name:?} the shape {shape:?} for {all_rows} rows")));
            }
            let row_bytes = output.bytes.len() / usize::try_from(all_rows).unwrap_or_default().max(1);
            let mut rest = output.bytes.as_slice();
            for (answer, rows) in answers.iter_mut().zip(&rows) {
                let size = row_bytes.saturating_mul(usize::try_from(*rows).unwrap_or_default()).min(rest.len());
                let (bytes, after) = rest.split_at(size);
                rest = after;
                let shape = std::iter::once(*rows).chain(output.shape.iter().skip(1).copied()).collect();
                let (name, element) = (output.name.clone(), output.element);
                answer.push(NamedTensor { name, element, shape, bytes: bytes.to_vec() });
            }
        }
        Ok(answers)
    }

    // The outputs by their names: a dictionary's keys, else by place.
    fn named(&self, mut outputs: Vec<Output>) -> Result<Vec<NamedTensor<Vec<u8>>>, OpaqueError> {
        let with = |name: String, output: Output| {
            let Output { element, shape, bytes, .. } = output;
            NamedTensor { name, element, shape, bytes }
        };
        if self.signature.outputs.is_empty() {
            let alone = outputs.len() == 1;
            let name = |index| if alone { "output".to_owned() } else { format!("output_{index}") };
            let outputs = outputs.into_iter().enumerate();
            return Ok(outputs.map(|(index, o)| with(o.name.clone().unwrap_or_else(|| name(index)), o)).collect());
        }
        let by_key = outputs.iter().any(|output| output.name.is_some());
        if !by_key && outputs.len() != self.signature.outputs.len() {
            let (found, wanted) = (outputs.len(), self.signature.outputs.len());
            return Err(OpaqueError::Run(format!("it gave {found} tensors; its signature says {wanted}")));
        }
        let mut named = Vec::new();
        for signature in &self.signature.outputs {
            let name = &signature.name;
            let place =
                if by_key { outputs.iter().position(|output| output.name.as_ref() == Some(name)) } else { Some(0) };
            let Some(place) = place else {
                return Err(OpaqueError::Run(format!("it gave no {name:?}, which its signature says")));
            };
            let output = outputs.remove(place);
            if let Some(problem) = signature.mismatch(output.element, &output.shape) {
                return Err(OpaqueError::Run(format!("its output {name:?} {problem} by its signature")));
            }
            named.push(with(name.clone(), output));
        }
        Ok(named)
    }
}

fn rows<B>(request: &[NamedTensor<B>]) -> i64 {
    request.first().and_then(|input| input.shape.first()).copied().unwrap_or(1)
}

// A module is called by place: the inputs must be its first arguments, and those without a default among them.
fn in_order(mut given: Signature, arguments: &[String], required: usize) -> Result<Signature, String> {
    let takes = || arguments.join(", ");
    let count = given.inputs.len();
    let wanted = arguments.get(..count).filter(|_| count >= required);
    let Some(wanted) = wanted else {
        return Err(format!("`inputs` has {count} tensors; the module's forward takes {}", takes()));
    };
    let place = |name: &str| wanted.iter().position(|known| known == name);
    if let Some(other) = given.inputs.iter().find(|input| place(&input.name).is_none()) {
        return Err(format!("`inputs` has {:?}; the module's forward takes {}", other.name, takes()));
    }
    given.inputs.sort_by_key(|input| place(&input.name));
    Ok(given)
}

fn named(form: Form) -> &'static str {
    match form {
        Form::TorchScript => "TorchScript module",
        Form::AotInductor => "AOTInductor package",
    }
}

// libtorch's messages go on for pages: where in its sources, and the model's own code.
fn first_line(error: &TchError) -> String {
    let text = match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = lines.clone().find_map(|line| line.strip_prefix("RuntimeError: "));
    said.or_else(|| lines.clone().next()).unwrap_or("no reason was given").chars().take(300).collect()
}
