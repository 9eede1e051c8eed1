//! Tensors in system shared memory, as Triton's clients have it: a region is registered under a name, and a tensor says
//! where in a region it lies.
//!
//! Regions are read and written through their descriptors, never mapped: a client that cuts its region off gets an error,
//! and the server no signal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use rustix::fs::Mode;
use rustix::shm::{self, OFlags};
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::system_shared_memory_status_response::RegionStatus;
use tidemill_proto::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, SystemSharedMemoryRegisterRequest,
};

use crate::refusal::Refusal;
use crate::thread::lock;

const REGION: &str = "shared_memory_region";
const OFFSET: &str = "shared_memory_offset";
const SIZE: &str = "shared_memory_byte_size";

/// Most regions that are registered at once.
const MAX_REGIONS: usize = 1024;
/// Most characters of a region's name and key.
const MAX_NAME: usize = 255;

type Parameters = BTreeMap<String, InferParameter>;

/// The regions of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Regions {
    is_allowed: bool,
    by_name: Arc<Mutex<BTreeMap<String, Arc<Region>>>>,
}

#[derive(Debug)]
struct Region {
    file: File,
    key: String,
    offset: u64,
    size: u64,
}

/// Where an output goes.
#[derive(Debug)]
pub(super) struct Target {
    output: String,
    region: Arc<Region>,
    offset: u64,
    size: u64,
}

impl Regions {
    /// No regions; none will be registered unless `is_allowed`.
    pub(crate) fn new(is_allowed: bool) -> Regions {
        Regions { is_allowed, by_name: Arc::default() }
    }

    pub(super) fn register(&self, request: &SystemSharedMemoryRegisterRequest) -> Result<(), Refusal> {
        if !self.is_allowed {
            let problem = "cannot be registered: shared memory is not switched on (shared_memory = true in the server's \
                           configuration)";
            return Err(Refusal::invalid("name", problem));
        }
        let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Refusal::invalid("name", format!("must have 1 to {MAX_NAME} bytes")));
        }
        let inner = key.strip_prefix('/').unwrap_or(key);
        if inner.is_empty() || inner.len() > MAX_NAME || inner.contains(['/', '\0']) || inner.starts_with('.') {
            return Err(Refusal::invalid("key", "must be the name of a shared memory object, such as \"/tensors\""));
        }
        let problem = |problem: String| Refusal::invalid("key", problem);
        let descriptor = shm::open(format!("/{inner}"), OFlags::RDWR, Mode::empty())
            .map_err(|error| problem(format!("cannot be opened: {error}")))?;
        let file = File::from(descriptor);
        let held = file.metadata().map_err(|error| problem(format!("cannot be looked at: {error}")))?.len();
        if offset.checked_add(*byte_size).is_none_or(|end| end > held) {
            let problem = format!("goes to byte {} + {byte_size}, but the object has {held} bytes", offset);
            return Err(Refusal::invalid("byte_size", problem));
        }
        let mut regions = lock(&self.by_name);
        if regions.contains_key(name) {
            return Err(Refusal::invalid("name", "is registered already; unregister it first"));
        }
        if regions.len() >= MAX_REGIONS {
            return Err(Refusal::invalid("name", format!("would be one region too many; there may be {MAX_REGIONS}")));
        }
        regions.insert(name.clone(), Arc::new(Region { file, key: key.clone(), offset: *offset, size: *byte_size }));
        Ok(())
    }

    /// Forgets a region, or all; one that is not known is no error.
    pub(super) fn unregister(&self, name: &str) {
        let mut regions = lock(&self.by_name);
        if name.is_empty() { regions.clear() } else { drop(regions.remove(name)) }
    }

    pub(super) fn status(&self, name: &str) -> Result<BTreeMap<String, RegionStatus>, Refusal> {
        let regions = lock(&self.by_name);
        if !name.is_empty() && !regions.contains_key(name) {
            return Err(unknown(name));
        }
        let wanted = regions.iter().filter(|(own, _)| name.is_empty() || name == *own);
        let status = |(name, region): (&String, &Arc<Region>)| {
            let Region { key, offset, size, .. } = &**region;
            let status = RegionStatus { name: name.clone(), key: key.clone(), offset: *offset, byte_size: *size };
            (name.clone(), status)
        };
        Ok(wanted.map(status).collect())
    }

    /// Puts tensors that lie in regions into the request, and says where its outputs go. At most `max` bytes are read.
    pub(super) fn resolve(&self, request: &mut ModelInferRequest, max: usize) -> Result<Vec<Target>, Refusal> {
        let is_elsewhere = |parameters: &Parameters| parameters.contains_key(REGION);
        if request.inputs.iter().any(|input| is_elsewhere(&input.parameters)) {
            self.read_inputs(request, max)?;
        }
        let mut targets = Vec::new();
        for (index, output) in request.outputs.iter_mut().enumerate() {
            let field = format!("outputs[{index}].parameters");
            if let Some((region, offset, size)) = self.place(&mut output.parameters, &field)? {
                targets.push(Target { output: output.name.clone(), region, offset, size });
            }
        }
        Ok(targets)
    }

    fn read_inputs(&self, request: &mut ModelInferRequest, max: usize) -> Result<(), Refusal> {
        let mut left = max;
        let mut raw = std::mem::take(&mut request.raw_input_contents).into_iter();
        for (index, input) in request.inputs.iter_mut().enumerate() {
            let field = format!("inputs[{index}].parameters");
            let bytes = match self.place(&mut input.parameters, &field)? {
                Some((region, offset, size)) => {
                    let count = usize::try_from(size).ok().filter(|count| *count <= left);
                    let count = count.ok_or(Refusal::TooLarge { max })?;
                    left -= count;
                    let mut bytes = vec![0; count];
                    let read = region.file.read_exact_at(&mut bytes, offset);
                    read.map_err(|error| Refusal::invalid(field, format!("names bytes that cannot be read: {error}")))?;
                    bytes.into()
                }
                None => raw.next().ok_or_else(|| {
                    let problem = "must be in shared memory or in raw_input_contents, as the others are";
                    Refusal::invalid(format!("inputs[{index}]"), problem)
                })?,
            };
            request.raw_input_contents.push(bytes);
        }
        request.raw_input_contents.extend(raw);
        Ok(())
    }

    // The region that a tensor names, where its bytes begin in the object, and how many there are.
    fn place(&self, parameters: &mut Parameters, field: &str) -> Result<Option<(Arc<Region>, u64, u64)>, Refusal> {
        let Some(name) = parameters.remove(REGION) else { return Ok(None) };
        let wrong = |problem: String| Refusal::invalid(field, problem);
        let Some(ParameterChoice::StringParam(name)) = name.parameter_choice else {
            return Err(wrong(format!("has {REGION} that is no string")));
        };
        let mut number = |key: &str| match parameters.remove(key).map(|parameter| parameter.parameter_choice) {
            None => Ok(None),
            Some(Some(ParameterChoice::Int64Param(value))) => {
                u64::try_from(value).map(Some).map_err(|_| wrong(format!("has {key} below zero")))
            }
            Some(Some(ParameterChoice::Uint64Param(value))) => Ok(Some(value)),
            Some(_) => Err(wrong(format!("has {key} that is no whole number"))),
        };
        let (offset, size) = (number(OFFSET)?.unwrap_or_default(), number(SIZE)?);
        let region = lock(&self.by_name).get(&name).cloned();
        let region = region.ok_or_else(|| unknown(&name))?;
        let size = size.ok_or_else(|| wrong(format!("has {REGION}, but not {SIZE}")))?;
        if offset.checked_add(size).is_none_or(|end| end > region.size) {
            return Err(wrong(format!("goes beyond the region's {} bytes", region.size)));
        }
        let offset = region.offset.saturating_add(offset);
        Ok(Some((region, offset, size)))
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::UnknownRegion { name: name.chars().take(80).collect() }
}

/// Moves outputs to where they are wanted; their contents in the answer are empty then. The answer must be raw.
pub(super) fn deliver(targets: Vec<Target>, response: &mut ModelInferResponse) -> Result<(), Refusal> {
    if targets.is_empty() {
        return Ok(());
    }
    if response.raw_output_contents.len() != response.outputs.len() {
        let problem = "go to shared memory, and the request has typed contents; send raw_input_contents";
        return Err(Refusal::invalid("outputs", problem));
    }
    for (output, bytes) in response.outputs.iter().zip(&mut response.raw_output_contents) {
        let Some(target) = targets.iter().find(|target| target.output == output.name) else { continue };
        let wrong = |problem: String| Refusal::invalid(format!("outputs: {}", output.name), problem);
        let size = bytes.len() as u64;
        if size > target.size {
            return Err(wrong(format!("has {size} bytes, and its place in shared memory {}", target.size)));
        }
        let written = target.region.file.write_all_at(bytes, target.offset);
        written.map_err(|error| wrong(format!("cannot be written to shared memory: {error}")))?;
        // Clients count the contents by their outputs.
        bytes.clear();
    }
    Ok(())
}
