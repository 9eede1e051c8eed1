//! A vector for every position of a sequence, added to its token's: learned (Gehring et al. 2017), or waves of sines and
//! cosines (Vaswani et al. 2017) in the two forms that checkpoints were trained with. Made or read once.

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// The vectors, `[rows, width]`, and the row that a sequence's first token takes.
#[derive(Debug)]
pub struct PositionTable {
    table: Tensor,
    first: i64,
    /// A token that has no position: it takes row `first - 1`, and those after it count as if it were not there.
    padding: Option<u32>,
}

impl PositionTable {
    /// Takes `weight`, `[first + positions, width]`: BART leaves its first two rows unused.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn learned(path: &Path, positions: i64, width: i64, first: i64) -> Result<PositionTable, ModelError> {
        let table = path.get("weight", &[first + positions, width], Init::Zeros)?;
        Ok(PositionTable { table, first, padding: None })
    }

    /// All sines first and then all cosines, with wavelengths from 2π to 2π · 10000: Marian's form. Some files hold it as
    /// `weight`, and then it is taken from there.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn sinusoidal(path: &Path, positions: i64, width: i64) -> Result<PositionTable, ModelError> {
        if path.contains("weight") {
            return PositionTable::learned(path, positions, width, 0);
        }
        let at = Tensor::f_arange(positions, (Kind::Double, Device::Cpu))?;
        let waves = |count: i64| -> Result<Tensor, ModelError> {
            let lengths: Vec<f64> = (0..count).map(|i| 10_000_f64.powf(2.0 * i as f64 / width as f64)).collect();
            Ok(at.f_unsqueeze(1)?.f_div(&Tensor::f_from_slice(&lengths)?)?)
        };
        let (sines, cosines) = (waves(width - width / 2)?.f_sin()?, waves(width / 2)?.f_cos()?);
        let table = Tensor::f_cat(&[sines, cosines], 1)?.f_to_kind(Kind::Float)?.f_to_device(path.device())?;
        Ok(PositionTable { table, first: 0, padding: None })
    }

    /// As [`PositionTable::sinusoidal`], with wavelengths that reach 2π · 10000 themselves, and positions that count from
    /// the padding token's id on and pass that token over: fairseq's form, which M2M100 has.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn sinusoidal_after(
        padding: u32,
        positions: i64,
        width: i64,
        device: Device,
    ) -> Result<PositionTable, ModelError> {
        let options = (Kind::Float, Device::Cpu);
        let (padding_row, half) = (i64::from(padding), width / 2);
        let step = -(10_000_f64.ln() / (half - 1).max(1) as f64);
        let frequencies = Tensor::f_arange(half, options)?.f_mul_scalar(step)?.f_exp()?;
        let angles = Tensor::f_arange(padding_row + 1 + positions, options)?.f_outer(&frequencies)?;
        let odd = Tensor::f_zeros([padding_row + 1 + positions, width % 2], options)?;
        let table = Tensor::f_cat(&[angles.f_sin()?, angles.f_cos()?, odd], 1)?;
        let _ = table.f_narrow(0, padding_row, 1)?.f_zero_()?;
        Ok(PositionTable { table: table.f_to_device(device)?, first: padding_row + 1, padding: Some(padding) })
    }

    /// Appends the rows that a sequence's next tokens take to `places`; `before` tokens of it came earlier.
    pub fn places(&self, tokens: &[u32], before: i64, places: &mut Vec<i64>) {
        let mut next = self.first + before;
        for &token in tokens {
            if self.padding == Some(token) {
                places.push(self.first - 1);
            } else {
                places.push(next);
                next += 1;
            }
        }
    }

    /// The vectors of rows that [`PositionTable::places`] gave, `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when a row lies outside the table.
    pub fn rows(&self, places: &[i64]) -> Result<Tensor, ModelError> {
        let places = Tensor::f_from_slice(places)?.f_to_device(self.table.device())?;
        Ok(self.table.f_index_select(0, &places)?)
    }
}
