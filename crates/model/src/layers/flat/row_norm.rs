//! Layer normalisation of rows, alone or with the addition before it: Ba et al. 2016.

use tch::{Kind, Tensor};
use tidemill_torch::encode::{self, Norm};

use crate::error::ModelError;
use crate::init::Init;
use crate::layers::StreamNorm;
use crate::parameters::Path;

/// Parameters `weight` and, mostly, `bias` `[width]`, always float32; gives numbers of one kind.
#[derive(Debug)]
pub struct RowNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    epsilon: f64,
    kind: Kind,
}

impl RowNorm {
    /// Takes `weight`, started at one, and where `bias` says so `bias`, started at zero. Gives numbers of `kind`.
    ///
    /// # Errors
    /// As [`Path::get`].
    pub fn new(path: &Path, width: i64, epsilon: f64, bias: bool, kind: Kind) -> Result<RowNorm, ModelError> {
        Ok(RowNorm {
            weight: path.get("weight", &[width], Init::Ones)?,
            bias: bias.then(|| path.get("bias", &[width], Init::Zeros)).transpose()?,
            epsilon,
            kind,
        })
    }

    /// `norm(rows)`
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, rows: &Tensor) -> Result<Tensor, ModelError> {
        Ok(encode::layer_norm(rows, self.parts(), self.kind)?)
    }

    /// `norm(rows + residual)`
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn add(&self, rows: &Tensor, residual: &Tensor) -> Result<Tensor, ModelError> {
        Ok(encode::add_layer_norm(rows, residual, self.parts(), self.kind)?)
    }

    /// `norm(rows + residual)`, and the sum takes the residual's place.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn accumulate(&self, rows: &Tensor, residual: &mut Tensor) -> Result<Tensor, ModelError> {
        if rows.requires_grad() || residual.requires_grad() {
            *residual = residual.f_add(rows)?;
            return self.forward(residual);
        }
        Ok(encode::accumulate_layer_norm(rows, residual, self.parts(), self.kind)?)
    }

    pub(super) fn parts(&self) -> Norm<'_> {
        Norm { weight: &self.weight, bias: self.bias.as_ref(), epsilon: self.epsilon }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

impl StreamNorm for RowNorm {
    fn norm(&self, sum: &Tensor) -> Result<Tensor, ModelError> {
        self.forward(sum)
    }

    fn add_and_norm(&self, update: &Tensor, sum: &mut Tensor) -> Result<Tensor, ModelError> {
        self.accumulate(update, sum)
    }
}
