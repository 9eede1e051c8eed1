//! Models of which nothing is known but tensors in and tensors out: TorchScript modules and AOTInductor packages.
//!
//! Both hold code, which runs when such a file is opened and when it is called: whoever opens one must trust it. Owns the
//! way from bytes to tensors and back; knows nothing of names on the wire or of what a model expects (`tidemill-model`).

use crate::ffi::{self, RawInput, RawOpaque, RawOutputs};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{null, null_mut};
use tch::TchError;

/// A library of nothing but the name `libtorch.so`, see `shim/opaque.cpp`; empty where there is no need of one.
const STUB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libtorch_name.so"));

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A module as `torch.jit.save` writes it, `.pt`.
    TorchScript,
    /// A package as `torch._inductor.aoti_compile_and_package` writes it, `.pt2`: a library for one kind of processor.
    AotInductor,
}

/// The type of a tensor's elements. Its name is that of the Open Inference Protocol.
///
/// ```
/// use tidemill_torch::opaque::Element;
///
/// assert_eq!((Element::Bf16.name(), Element::Bf16.bytes()), ("BF16", 2));
/// assert_eq!(Element::named("UINT64"), Some(Element::Uint64));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Element {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bf16,
}

/// Each element type, its name, its number in libtorch (`c10::ScalarType`), and its bytes.
const ELEMENTS: [(Element, &str, i32, usize); 13] = [
    (Element::Bool, "BOOL", 11, 1),
    (Element::Uint8, "UINT8", 0, 1),
    (Element::Uint16, "UINT16", 27, 2),
    (Element::Uint32, "UINT32", 28, 4),
    (Element::Uint64, "UINT64", 29, 8),
    (Element::Int8, "INT8", 1, 1),
    (Element::Int16, "INT16", 2, 2),
    (Element::Int32, "INT32", 3, 4),
    (Element::Int64, "INT64", 4, 8),
    (Element::Fp16, "FP16", 5, 2),
    (Element::Fp32, "FP32", 6, 4),
    (Element::Fp64, "FP64", 7, 8),
    (Element::Bf16, "BF16", 15, 2),
];

impl Element {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The type of this name.
    pub fn named(name: &str) -> Option<Element> {
        ELEMENTS.into_iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Bytes that one takes.
    pub fn bytes(self) -> usize {
        self.row().3
    }

    fn row(self) -> (Element, &'static str, i32, usize) {
        ELEMENTS.into_iter().find(|row| row.0 == self).unwrap_or(ELEMENTS[0])
    }

    fn of(scalar_type: i32) -> Option<Element> {
        ELEMENTS.into_iter().find(|row| row.2 == scalar_type).map(|row| row.0)
    }
}

/// A tensor to call a model with.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The type of its elements.
    pub element: Element,
    /// Its sizes, none below zero.
    pub shape: Vec<i64>,
    /// Its elements in the processor's byte order, row-major, in pieces that lie one after the other. They are copied once,
    /// into the tensor. A byte of a bool is 0 or 1.
    pub pieces: Vec<&'a [u8]>,
}

/// A tensor that a model gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its key, where the model gives a dictionary.
    pub name: Option<String>,
    /// The type of its elements.
    pub element: Element,
    /// Its sizes.
    pub shape: Vec<i64>,
    /// Its elements in the processor's byte order, row-major.
    pub bytes: Vec<u8>,
}

/// The arguments of a TorchScript module's `forward`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Their names, in order.
    pub names: Vec<String>,
    /// How many of them have no default.
    pub required: usize,
}

/// An opened model.
#[derive(Debug)]
pub struct OpaqueModule(RawOpaque);

impl Drop for OpaqueModule {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the shim and is not used again.
        unsafe { ffi::tm_opaque_free(self.0) };
    }
}

impl OpaqueModule {
    /// Opens a file, for the CPU. This may run code that the file holds.
    ///
    /// # Errors
    /// [`TchError::Torch`] with libtorch's sentence where it is not such a file, is damaged or is for another processor.
    pub fn open(path: &Path, form: Form) -> Result<OpaqueModule, TchError> {
        let path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| TchError::Torch("the path has a zero byte".to_owned()))?;
        let mut model = null_mut();
        // SAFETY: the path is a NUL-terminated string and the stub as long as is said; both outlive the call, which stores a
        // model on success.
        ffi::check(unsafe {
            match form {
                Form::TorchScript => ffi::tm_opaque_open_script(&mut model, path.as_ptr()),
                Form::AotInductor => {
                    ffi::tm_opaque_open_compiled(&mut model, path.as_ptr(), STUB.as_ptr(), STUB.len() as i64)
                }
            }
        })?;
        Ok(OpaqueModule(model))
    }

    /// What `forward` takes; nothing is known of an AOTInductor package.
    ///
    /// # Errors
    /// [`TchError::Torch`] where libtorch cannot say.
    pub fn arguments(&self) -> Result<Arguments, TchError> {
        let (mut names, mut required) = (null_mut(), 0);
        // SAFETY: the model is open; on success the shim stores a text that is now ours, and a number.
        ffi::check(unsafe { ffi::tm_opaque_arguments(&mut names, &mut required, self.0) })?;
        let names = ffi::text(names).unwrap_or_default();
        let names = names.lines().map(str::to_owned).collect();
        Ok(Arguments { names, required: usize::try_from(required).unwrap_or_default() })
    }

    /// Calls the model, without gradients: a tensor, or each of a tuple, a list or a dictionary.
    ///
    /// # Errors
    /// [`TchError::Torch`] with libtorch's sentence where the model refuses its inputs or gives something else than tensors
    /// of the types here.
    pub fn run(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Output>, TchError> {
        if inputs.iter().any(|input| input.shape.iter().any(|size| *size < 0)) {
            return Err(TchError::Torch("a tensor has a size below zero".to_owned()));
        }
        let pieces: Vec<(Vec<*const u8>, Vec<i64>)> = inputs
            .iter()
            .map(|input| input.pieces.iter().map(|piece| (piece.as_ptr(), piece.len() as i64)).unzip())
            .collect();
        let raw = |(input, (data, sizes)): (&Input<'_>, &(Vec<*const u8>, Vec<i64>))| RawInput {
            scalar_type: input.element.row().2,
            dims: input.shape.len() as i64,
            shape: input.shape.as_ptr(),
            pieces: data.len() as i64,
            data: data.as_ptr(),
            sizes: sizes.as_ptr(),
        };
        let raw: Vec<RawInput> = inputs.iter().zip(&pieces).map(raw).collect();
        let mut outputs = null_mut();
        // SAFETY: every pointer is to as many elements as is said beside it and outlives the call, which copies them; the
        // model is open and, `self` being exclusive, called by nobody else.
        ffi::check(unsafe { ffi::tm_opaque_run(&mut outputs, self.0, raw.as_ptr(), raw.len() as i64) })?;
        Outputs(outputs).read()
    }
}

// What one call gave, until it is read.
struct Outputs(RawOutputs);

impl Drop for Outputs {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the shim and is not used again.
        unsafe { ffi::tm_outputs_free(self.0) };
    }
}

impl Outputs {
    fn read(self) -> Result<Vec<Output>, TchError> {
        // SAFETY: the outputs are alive.
        let count = unsafe { ffi::tm_outputs_count(self.0) };
        (0..count).map(|index| self.output(index)).collect()
    }

    fn output(&self, index: i64) -> Result<Output, TchError> {
        let (mut name, mut shape, mut data) = (null(), null(), null());
        let (mut scalar_type, mut dims, mut bytes) = (0, 0, 0);
        // SAFETY: `index` is below the count; what is stored is alive as long as the outputs are.
        unsafe {
            ffi::tm_outputs_describe(
                self.0,
                index,
                &mut name,
                &mut scalar_type,
                &mut dims,
                &mut shape,
                &mut data,
                &mut bytes,
            );
        }
        let element = Element::of(scalar_type).ok_or_else(|| {
            TchError::Torch(format!(
                "the model gives a tensor of libtorch's type {scalar_type}, which has no name here"
            ))
        })?;
        // SAFETY: the shim gives a NUL-terminated string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        Ok(Output {
            name: (!name.is_empty()).then_some(name),
            element,
            shape: copied(shape, dims),
            bytes: copied(data, bytes),
        })
    }
}

fn copied<T: Clone>(first: *const T, count: i64) -> Vec<T> {
    match usize::try_from(count) {
        // SAFETY: the shim stored where `count` elements lie; an empty tensor may have none to point to.
        Ok(count) if count > 0 && !first.is_null() => unsafe { std::slice::from_raw_parts(first, count) }.to_vec(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_an_error_with_a_sentence() {
        let file = std::env::temp_dir().join(format!("tidemill-opaque-{}.pt2", std::process::id()));
        std::fs::write(&file, b"PK\x03\x04 and then nothing of use").unwrap();
        for form in [Form::TorchScript, Form::AotInductor] {
            let error = OpaqueModule::open(&file, form).unwrap_err().to_string();
            assert!(error.len() > 20, "{error}");
            assert!(OpaqueModule::open(Path::new("/no/such/file"), form).is_err());
        }
        std::fs::remove_file(&file).unwrap();
    }
}
