//! A model's parameters by name. A variable's path in the code is its tensor's name in the checkpoint, so that weights
//! load without a table of renames. Owns where the numbers come from: an initialiser, a file, or the parameters
//! of a model that is being trained. Knows nothing of layers or optimisers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use tch::{Device, Kind, TchError, Tensor};
use tidemill_torch::{Groups, Matrix, Precision};

use crate::error::{ModelError, WeightsError};
use crate::init::Init;
use crate::weights::{self, TensorSource, Weights};

/// The parameters of one model, in the order in which its layers asked for them.
///
/// # Example
/// ```
/// use tidemill_model::{Init, Parameters};
/// use tch::Device;
///
/// let parameters = Parameters::new(7, Device::Cpu);
/// let classifier = parameters.root().sub("classifier");
/// let weight = classifier.get("weight", &[2, 8], Init::XavierUniform)?;
/// assert_eq!(parameters.named()[0].0, "classifier.weight");
/// assert!(weight.requires_grad());
/// # Ok::<(), tidemill_model::ModelError>(())
/// ```
pub struct Parameters {
    source: Source,
    device: Device,
    precision: Option<Precision>,
    taken: RefCell<Vec<(String, Tensor)>>,
    /// The matrices that were taken in their own form: how many numbers they hold, and how.
    matrices: RefCell<BTreeMap<String, (usize, Precision)>>,
}

enum Source {
    /// Fresh, and to be trained.
    Initialised { seed: u64 },
    /// Out of files, never to change.
    Stored(Box<dyn TensorSource>),
    /// The tensors of other parameters, which may change under us.
    Shared(BTreeMap<String, Tensor>),
}

impl Parameters {
    /// Parameters for training: each starts by its initialiser, from a stream of the seed and its own name.
    pub fn new(seed: u64, device: Device) -> Parameters {
        Parameters::from_source(Source::Initialised { seed }, device)
    }

    /// Parameters for inference, out of files, which they do not depend on once they are read. They have no gradients,
    /// and layers may pack them.
    pub fn stored(source: Box<dyn TensorSource>, device: Device) -> Parameters {
        Parameters::from_source(Source::Stored(source), device)
    }

    /// The same tensors again, without gradients, for a second model over the first one's weights: evaluation during
    /// training. In-place updates of the first (an optimiser's step, [`Parameters::load_from`]) show in the second.
    pub fn shared(&self) -> Result<Parameters, ModelError> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in self.taken.borrow().iter() {
            tensors.insert(name.clone(), tensor.f_detach()?);
        }
        Ok(Parameters::from_source(Source::Shared(tensors), self.device))
    }

    fn from_source(source: Source, device: Device) -> Parameters {
        Parameters { source, device, precision: None, taken: RefCell::default(), matrices: RefCell::default() }
    }

    /// Holds the matrices that layers take by [`Path::matrix`] in this precision; without it as they are stored.
    pub fn with_precision(self, precision: Option<Precision>) -> Parameters {
        Parameters { precision, ..self }
    }

    /// The device that all parameters are on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The path that all others start from.
    pub fn root(&self) -> Path<'_> {
        Path { parameters: self, prefix: String::new() }
    }

    /// Every parameter with its name, in the order of creation. The tensors share their storage with the model's.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.taken.borrow().iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }

    /// As [`Parameters::named`], those with gradients alone.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        let mut named = self.named();
        named.retain(|(_, tensor)| tensor.requires_grad());
        named
    }

    /// How many numbers there are in all.
    pub fn count(&self) -> usize {
        let tensors: usize = self.taken.borrow().iter().map(|(_, tensor)| tensor.numel()).sum();
        tensors + self.matrices.borrow().values().map(|(count, _)| count).sum::<usize>()
    }

    /// Whether every matrix that was taken is held in float32.
    pub fn holds_float32(&self) -> bool {
        self.matrices.borrow().values().all(|(_, precision)| *precision == Precision::Float32)
    }

    /// Writes all parameters as safetensors, the same bytes for the same numbers, whole or not at all.
    ///
    /// # Errors
    /// As [`weights::write`].
    pub fn save(&self, file: &std::path::Path) -> Result<(), WeightsError> {
        weights::write(file, &self.named())
    }

    /// Copies a file's numbers into these parameters in place, so that models and optimisers that hold them see the
    /// change. Nothing is copied unless every name and shape agrees.
    ///
    /// # Errors
    /// [`WeightsError::Tensor`] that names the first tensor that is missing, too many, or of another shape.
    pub fn load_from(&self, weights: &Weights) -> Result<(), WeightsError> {
        let named = self.named();
        let refuse = |tensor: &str, problem: String| WeightsError::Tensor {
            file: weights.file().to_path_buf(),
            tensor: tensor.to_string(),
            problem,
        };
        for (name, tensor) in &named {
            let Some(shape) = weights.shape(name) else {
                return Err(refuse(name, "is missing, and the model has it".to_string()));
            };
            if shape != tensor.size() {
                let problem = format!("has the shape {shape:?}, and the model's has {:?}", tensor.size());
                return Err(refuse(name, problem));
            }
        }
        if let Some(name) = self.unused(weights).first() {
            return Err(refuse(name, "is not a tensor of the model".to_string()));
        }
        for (name, mut tensor) in named {
            let stored = weights.tensor(&name, self.device)?;
            tch::no_grad(|| tensor.f_copy_(&stored))
                .map_err(|source| WeightsError::Torch { file: weights.file().to_path_buf(), source })?;
        }
        Ok(())
    }

    /// The tensors on disk that no layer has asked for: what a package must not have.
    pub fn unused(&self, weights: &dyn TensorSource) -> Vec<String> {
        let taken = self.taken.borrow();
        let taken: BTreeSet<&str> = taken.iter().map(|(name, _)| name.as_str()).collect();
        let matrices = self.matrices.borrow();
        let used = |name: &str| taken.contains(name) || matrices.contains_key(name);
        weights.names().into_iter().filter(|name| !used(name)).map(str::to_string).collect()
    }

    fn take(&self, name: String, shape: &[i64], init: Init) -> Result<Tensor, ModelError> {
        let refuse = |problem: String| ModelError::Tensor { tensor: name.clone(), problem };
        if self.taken.borrow().iter().any(|(taken, _)| *taken == name) {
            return Err(refuse("two layers ask for it; give each its own path".to_string()));
        }
        let tensor = match &self.source {
            Source::Initialised { seed } => {
                let tensor = init.tensor(shape, *seed, &name)?.f_to_device(self.device)?;
                tensor.f_set_requires_grad(true)?
            }
            Source::Stored(weights) => {
                let file = weights.file_of(&name).display();
                let problem = |found: &[i64]| {
                    format!("has the shape {found:?} in {file}, but the configuration asks for {shape:?}")
                };
                match (weights.shape(&name), weights.kind(&name)) {
                    (Some(found), _) if found != shape => return Err(refuse(problem(found))),
                    (_, Some(Kind::Float)) => weights.tensor(&name, self.device)?,
                    (_, Some(Kind::Double | Kind::Half | Kind::BFloat16)) => {
                        weights.tensor(&name, self.device)?.f_to_kind(Kind::Float)?
                    }
                    (_, Some(other)) => {
                        return Err(refuse(format!("holds {other:?}, not floating-point numbers")));
                    }
                    (_, None) => {
                        return Err(refuse(format!("is missing in {file}, and the configuration asks for it")));
                    }
                }
            }
            Source::Shared(tensors) => match tensors.get(&name) {
                Some(tensor) if tensor.size() == shape => tensor.shallow_clone(),
                Some(tensor) => {
                    return Err(refuse(format!("has the shape {:?}, not {shape:?}", tensor.size())));
                }
                None => {
                    return Err(refuse("is not among the parameters that are shared".to_string()));
                }
            },
        };
        self.taken.borrow_mut().push((name, tensor.shallow_clone()));
        Ok(tensor)
    }
}

impl Parameters {
    /// A matrix `[outputs, inputs]` as it is stored, or as `turn` makes it of the stored tensor.
    fn matrix(
        &self,
        name: String,
        shape: &[i64],
        turn: Option<impl FnOnce(&Tensor) -> Result<Tensor, TchError>>,
    ) -> Result<Matrix, ModelError> {
        let Source::Stored(source) = &self.source else {
            let problem = "is to be trained, and only weights that never change can be packed".to_string();
            return Err(ModelError::Tensor { tensor: name, problem });
        };
        let file = source.file_of(&name).display();
        let refuse = |problem: String| ModelError::Tensor { tensor: name.clone(), problem };
        let kind = match (source.shape(&name), source.kind(&name)) {
            (Some(found), Some(kind)) if found == shape => kind,
            (Some(found), _) => {
                return Err(refuse(format!(
                    "has the shape {found:?} in {file}, but the configuration asks for {shape:?}"
                )));
            }
            _ => return Err(refuse(format!("is missing in {file}, and the configuration asks for it"))),
        };
        let precision = match kind {
            Kind::Half | Kind::BFloat16 => self.precision.unwrap_or(Precision::BFloat16),
            Kind::Float | Kind::Double => self.precision.unwrap_or(Precision::Float32),
            other => return Err(refuse(format!("holds {other:?}, not floating-point numbers"))),
        };
        let quantised = match (&turn, self.precision) {
            (None, None) => source.quantised(&name)?,
            _ => None,
        };
        let matrix = match (quantised, turn) {
            (Some(quantised), _) => Matrix::from_groups(&Groups {
                outputs: quantised.outputs,
                inputs: quantised.inputs,
                group: quantised.group,
                values: &quantised.values,
                scales: &quantised.scales,
                minima: quantised.minima.as_deref(),
            })?,
            (None, Some(turn)) => Matrix::from_tensor(&turn(&source.tensor(&name, self.device)?)?, precision)?,
            (None, None) => Matrix::from_tensor(&source.tensor(&name, self.device)?, precision)?,
        };
        let count = shape.iter().product::<i64>() as usize;
        self.matrices.borrow_mut().insert(name, (count, matrix.precision()));
        Ok(matrix)
    }
}

impl std::fmt::Debug for Parameters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Parameters({} tensors, {} numbers)", self.taken.borrow().len(), self.count())
    }
}

/// A place in a model: `encoder.layers.0`. Layers take their parameters below it.
#[derive(Clone, Debug)]
pub struct Path<'a> {
    parameters: &'a Parameters,
    prefix: String,
}

impl Path<'_> {
    /// The place `name` below this one. A name may hold dots.
    pub fn sub(&self, name: impl std::fmt::Display) -> Self {
        Path { parameters: self.parameters, prefix: self.name(&name.to_string()) }
    }

    /// The parameter `name` at this place: initialised, stored or shared as the [`Parameters`] are.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when it is asked for twice, missing, or of another shape than `shape`.
    pub fn get(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor, ModelError> {
        self.parameters.take(self.name(name), shape, init)
    }

    /// The matrix `name` `[outputs, inputs]` at this place, in the precision that the [`Parameters`] are to have.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when it is missing, of another shape, or not constant.
    pub fn matrix(&self, name: &str, outputs: i64, inputs: i64) -> Result<Matrix, ModelError> {
        let unturned = None::<fn(&Tensor) -> Result<Tensor, TchError>>;
        self.parameters.matrix(self.name(name), &[outputs, inputs], unturned)
    }

    /// As [`Path::matrix`], of a tensor that is stored in `shape` and has to be turned first.
    ///
    /// # Errors
    /// As [`Path::matrix`], and what `turn` says.
    pub fn matrix_from(
        &self,
        name: &str,
        shape: &[i64],
        turn: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Matrix, ModelError> {
        self.parameters.matrix(self.name(name), shape, Some(turn))
    }

    /// Whether the checkpoint has the tensor `name` at this place.
    pub fn contains(&self, name: &str) -> bool {
        match &self.parameters.source {
            Source::Stored(source) => source.shape(&self.name(name)).is_some(),
            Source::Shared(tensors) => tensors.contains_key(&self.name(name)),
            Source::Initialised { .. } => false,
        }
    }

    /// Whether parameters here never change, so that a layer may keep a packed copy.
    pub fn is_constant(&self) -> bool {
        matches!(self.parameters.source, Source::Stored(_))
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.parameters.device
    }

    /// The full name of `name` at this place.
    pub fn name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}
