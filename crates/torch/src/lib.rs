//! What libtorch offers and `tch` does not wrap, with a safe Rust face: a linear layer that takes the faster of several
//! matrix-product kernels, fused recurrent layers, text convolution, what encoders do between their products, fused
//! optimiser steps.
//!
//! Owns the C++ shim (`shim/*.cpp`) and everything unsafe around it; knows nothing of models, data or training. Which
//! kernel is the faster is measured on the processor at hand ([`choice`]), never guessed from its name.
//!
//! ```
//! use tch::{Device, Kind, Tensor};
//! # fn main() -> Result<(), tch::TchError> {
//! let input = Tensor::f_randn([5, 7, 64], (Kind::Float, Device::Cpu))?;
//! let weight = Tensor::f_randn([32, 64], (Kind::Float, Device::Cpu))?.set_requires_grad(true);
//! let output = tidemill_torch::choice::linear(&input, &weight, None)?;
//! assert_eq!(output.size(), [5, 7, 32]);
//! output.f_sum(Kind::Float)?.f_backward()?;
//! assert_eq!(weight.grad().size(), [32, 64]);
//! # Ok(()) }
//! ```

mod activation;
pub mod choice;
pub mod decode;
mod dropout;
pub mod encode;
mod ffi;
pub mod fused;
mod linear;
mod matrix;
pub mod opaque;
mod packed;
mod recurrent;
mod text;
mod threads;
mod view;

pub use activation::Activation;
pub use dropout::{dropout_add_layer_norm, gelu_dropout};
pub use linear::{Kernel, LinearKernels, linear};
pub use matrix::{Groups, Matrix, Precision};
pub use packed::PackedWeight;
pub use recurrent::{RecurrentWeights, gru, lstm};
pub use text::{embedding, text_conv_max};
pub use threads::{
    blocked_available, limit_level, onednn_available, set_flush_denormal, set_threads, threads, trim_memory,
};
pub use view::floats;
