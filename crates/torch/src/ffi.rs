//! The shim's C functions, and the one place where their pointers and messages become tensors and errors.

use std::ffi::{CStr, c_char, c_void};
use tch::{TchError, Tensor};
use torch_sys::C_tensor;

pub(crate) type Message = *mut c_char;
/// Null stands for an absent tensor.
pub(crate) type Input = *const C_tensor;

/// The shim's `Matrix`, which it alone looks into.
pub(crate) type RawMatrix = *mut c_void;

/// The shim's `opaque::Model` and what one call of it gave, which it alone looks into.
pub(crate) type RawOpaque = *mut c_void;
pub(crate) type RawOutputs = *mut c_void;

/// One tensor of a call of an opaque model: the shim's `opaque::Input`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawInput {
    pub(crate) scalar_type: i32,
    pub(crate) dims: i64,
    pub(crate) shape: *const i64,
    pub(crate) pieces: i64,
    pub(crate) data: *const *const u8,
    pub(crate) sizes: *const i64,
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    // Of the C library: it takes any number, and locks what it works on.
    pub(crate) safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
}

unsafe extern "C" {
    fn tm_free(text: Message);
    pub(crate) safe fn tm_onednn_available() -> bool;
    pub(crate) safe fn tm_blocked_available() -> bool;
    pub(crate) safe fn tm_set_flush_denormal(on: bool) -> bool;

    pub(crate) fn tm_linear(
        result: *mut *mut C_tensor,
        input: Input,
        weight: Input,
        bias: Input,
        forward: i32,
        grad_input: i32,
        grad_weight: i32,
    ) -> Message;
    pub(crate) fn tm_product(result: *mut *mut C_tensor, pass: i32, kernel: i32, left: Input, right: Input) -> Message;
    pub(crate) fn tm_pack(result: *mut *mut C_tensor, weight: Input, rows: i64) -> Message;
    pub(crate) fn tm_packed_linear(result: *mut *mut C_tensor, input: Input, packed: Input, bias: Input) -> Message;

    pub(crate) fn tm_recurrent(
        result: *mut *mut C_tensor,
        gated: bool,
        input: Input,
        lengths: Input,
        weights: *const Input,
        directions: i32,
        forward: i32,
        grad_input: i32,
        grad_weight: i32,
    ) -> Message;

    pub(crate) fn tm_gelu_dropout(result: *mut *mut C_tensor, input: Input, probability: f64) -> Message;
    pub(crate) fn tm_dropout_add_layer_norm(
        sum: *mut *mut C_tensor,
        normed: *mut *mut C_tensor,
        x: Input,
        residual: Input,
        probability: f64,
        weight: Input,
        bias: Input,
        epsilon: f64,
    ) -> Message;

    pub(crate) fn tm_embedding(result: *mut *mut C_tensor, weight: Input, ids: Input, padding: i64) -> Message;
    pub(crate) fn tm_text_conv_max(
        result: *mut *mut C_tensor,
        embedded: Input,
        weight: Input,
        bias: Input,
        lengths: Input,
    ) -> Message;

    pub(crate) fn tm_panel_pack(result: *mut *mut C_tensor, weight: Input) -> Message;
    pub(crate) fn tm_panel_linear(
        result: *mut *mut C_tensor,
        input: Input,
        packed: Input,
        outputs: i64,
        bias: Input,
        activation: i32,
        float_output: bool,
    ) -> Message;
    pub(crate) fn tm_embed(
        result: *mut *mut C_tensor,
        tables: *const Input,
        ids: *const Input,
        count: i64,
        weight: Input,
        bias: Input,
        epsilon: f64,
        bfloat: bool,
    ) -> Message;
    pub(crate) fn tm_add_layer_norm(
        result: *mut *mut C_tensor,
        x: Input,
        residual: Input,
        keep: bool,
        weight: Input,
        bias: Input,
        epsilon: f64,
        bfloat: bool,
    ) -> Message;
    pub(crate) fn tm_activated(result: *mut *mut C_tensor, x: Input, activation: i32) -> Message;
    pub(crate) fn tm_rotated(
        result: *mut *mut C_tensor,
        qkv: Input,
        heads: i64,
        cosine: Input,
        sine: Input,
        positions: Input,
    ) -> Message;
    pub(crate) fn tm_varlen_attention(
        result: *mut *mut C_tensor,
        qkv: Input,
        bounds: *const i64,
        texts: i64,
        heads: i64,
        scale: f64,
        window: i64,
    ) -> Message;
    pub(crate) fn tm_pool(
        result: *mut *mut C_tensor,
        hidden: Input,
        bounds: *const i64,
        texts: i64,
        pooling: i32,
        normalised: bool,
    ) -> Message;
    pub(crate) fn tm_normalise_rows(rows: Input) -> Message;
    pub(crate) safe fn tm_limit_level(wanted: i32) -> i32;
    pub(crate) fn tm_matrix_from_tensor(result: *mut RawMatrix, weight: Input, precision: i32) -> Message;
    pub(crate) fn tm_matrix_from_groups(
        result: *mut RawMatrix,
        outputs: i64,
        inputs: i64,
        group: i64,
        values: *const i8,
        scales: *const f32,
        minima: *const f32,
    ) -> Message;
    pub(crate) fn tm_matrix_concatenated(result: *mut RawMatrix, parts: *const RawMatrix, count: i64) -> Message;
    pub(crate) fn tm_matrix_free(matrix: RawMatrix);
    pub(crate) fn tm_matrix_describe(matrix: RawMatrix, numbers: *mut i64);
    pub(crate) fn tm_matrix_linear(result: *mut *mut C_tensor, matrix: RawMatrix, x: Input, bias: Input) -> Message;
    pub(crate) fn tm_matrix_rows(result: *mut *mut C_tensor, matrix: RawMatrix, ids: Input) -> Message;

    pub(crate) fn tm_rms_norm(
        result: *mut *mut C_tensor,
        residual: *mut C_tensor,
        x: Input,
        weight: Input,
        eps: f64,
        offset: f64,
    ) -> Message;
    pub(crate) fn tm_gated(result: *mut *mut C_tensor, x: Input, activation: i32) -> Message;
    pub(crate) fn tm_rotate(
        done: *mut bool,
        x: *mut C_tensor,
        cos: Input,
        sin: Input,
        positions: Input,
        interleaved: bool,
    ) -> Message;
    pub(crate) fn tm_store(
        done: *mut bool,
        cache_keys: Input,
        cache_values: Input,
        keys: Input,
        values: Input,
        slots: Input,
    ) -> Message;
    pub(crate) fn tm_attention(
        result: *mut *mut C_tensor,
        queries: Input,
        keys: Input,
        values: Input,
        block_tables: Input,
        query_starts: Input,
        contexts: Input,
        scale: f64,
        window: i64,
        softcap: f64,
    ) -> Message;

    pub(crate) fn tm_adam(lists: *const *const Input, count: i64, options: *const f64, decoupled: bool) -> Message;
    pub(crate) fn tm_sgd(
        lists: *const *const Input,
        count: i64,
        options: *const f64,
        nesterov: bool,
        first: bool,
    ) -> Message;
    pub(crate) fn tm_adagrad(lists: *const *const Input, count: i64, options: *const f64) -> Message;
    pub(crate) fn tm_opaque_open_script(result: *mut RawOpaque, path: *const c_char) -> Message;
    pub(crate) fn tm_opaque_open_compiled(
        result: *mut RawOpaque,
        path: *const c_char,
        stub: *const u8,
        stub_size: i64,
    ) -> Message;
    pub(crate) fn tm_opaque_free(model: RawOpaque);
    pub(crate) fn tm_opaque_arguments(names: *mut Message, required: *mut i64, model: RawOpaque) -> Message;
    pub(crate) fn tm_opaque_run(
        result: *mut RawOutputs,
        model: RawOpaque,
        inputs: *const RawInput,
        count: i64,
    ) -> Message;
    pub(crate) fn tm_outputs_count(outputs: RawOutputs) -> i64;
    pub(crate) fn tm_outputs_describe(
        outputs: RawOutputs,
        index: i64,
        name: *mut *const c_char,
        scalar_type: *mut i32,
        dims: *mut i64,
        shape: *mut *const i64,
        data: *mut *const u8,
        bytes: *mut i64,
    );
    pub(crate) fn tm_outputs_free(outputs: RawOutputs);

    pub(crate) fn tm_clear_gradients(tensors: *const Input, count: i64) -> Message;
}

/// The pointer behind `tensor`, or null.
pub(crate) fn pointer(tensor: Option<&Tensor>) -> Input {
    tensor.map_or(std::ptr::null(), Tensor::as_ptr)
}

/// Turns the shim's answer into a result.
pub(crate) fn check(message: Message) -> Result<(), TchError> {
    text(message).map_or(Ok(()), |text| Err(TchError::Torch(text)))
}

/// A text that the shim gave away, or null.
pub(crate) fn text(message: Message) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: a non-null message is a NUL-terminated string that the shim allocated and gave away.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: as above, and it is not used after this.
    unsafe { tm_free(message) };
    Some(text)
}

/// Runs a shim function that stores one tensor; `None` where it stored none.
pub(crate) fn optional_result(call: impl FnOnce(*mut *mut C_tensor) -> Message) -> Result<Option<Tensor>, TchError> {
    let mut result = std::ptr::null_mut();
    check(call(&mut result))?;
    // SAFETY: on success the shim stored null or a tensor that is now ours.
    Ok((!result.is_null()).then(|| unsafe { Tensor::from_ptr(result) }))
}

/// Runs a shim function that stores one tensor.
pub(crate) fn result(call: impl FnOnce(*mut *mut C_tensor) -> Message) -> Result<Tensor, TchError> {
    optional_result(call)?.ok_or_else(|| TchError::Torch("the shim gave no tensor".to_owned()))
}

/// Runs a shim function that says whether it took the work.
pub(crate) fn done(call: impl FnOnce(*mut bool) -> Message) -> Result<bool, TchError> {
    let mut done = false;
    check(call(&mut done))?;
    Ok(done)
}
