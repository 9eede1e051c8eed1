//! Rotary positions over a flat batch: Su et al. 2021, "RoFormer".

use tch::{Device, Tensor};
use tidemill_torch::encode;

use crate::error::ModelError;

/// Cosines and sines for every position, `[positions, head_dim / 2]` float32.
#[derive(Debug)]
pub struct RotaryTable {
    cosine: Tensor,
    sine: Tensor,
}

impl RotaryTable {
    /// Angles `position · theta^(-2i / head_dim)`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when the device refuses.
    pub fn new(theta: f64, head_dim: i64, positions: i64, device: Device) -> Result<RotaryTable, ModelError> {
        // In float32 as the field computes them, so that large positions turn alike.
        let frequency = |i: i64| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32);
        let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
        let angles: Vec<f32> = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
            .collect();
        let table = |function: fn(f32) -> f32| -> Result<Tensor, ModelError> {
            let values: Vec<f32> = angles.iter().map(|angle| function(*angle)).collect();
            Ok(Tensor::f_from_slice(&values)?.f_view([positions, head_dim / 2])?.f_to_device(device)?)
        };
        Ok(RotaryTable { cosine: table(f32::cos)?, sine: table(f32::sin)? })
    }

    /// Turns the queries and keys of `[tokens, 3 · heads · head_dim]` by the tokens' positions, `[tokens]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when a position lies outside the table.
    pub fn turn(&self, qkv: Tensor, heads: i64, positions: &Tensor) -> Result<Tensor, ModelError> {
        Ok(encode::rotated(qkv, heads, &self.cosine, &self.sine, positions)?)
    }
}
