//! The numbers of a tensor as a slice, without a copy.

use tch::{Device, Kind, Tensor};

/// The numbers of a contiguous float32 tensor on the CPU, in order; nothing for any other tensor.
///
/// The tensor must not share its memory with another that is used while the slice lives: give one that was just made.
///
/// ```
/// let mut tensor = tch::Tensor::f_ones([2, 2], (tch::Kind::Float, tch::Device::Cpu))?;
/// tidemill_torch::floats(&mut tensor).unwrap()[3] = 5.0;
/// assert_eq!(tensor.double_value(&[1, 1]), 5.0);
/// # Ok::<(), tch::TchError>(())
/// ```
pub fn floats(tensor: &mut Tensor) -> Option<&mut [f32]> {
    if tensor.kind() != Kind::Float || tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return None;
    }
    let count = tensor.numel();
    if count == 0 {
        return Some(&mut []);
    }
    // SAFETY: a contiguous float32 tensor on the CPU has `count` initialised floats at its data pointer, which lives as long
    // as the tensor, and the tensor is borrowed for as long as the slice.
    Some(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), count) })
}
