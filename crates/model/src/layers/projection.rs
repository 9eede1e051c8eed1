//! A linear layer whose weight never changes, in whatever precision the checkpoint is run: the one product of everything
//! that generates. Several that read the same input are one product.

use tch::Tensor;
use tidemill_torch::Matrix;

use crate::error::ModelError;
use crate::init::Init;
use crate::parameters::Path;

/// `x · weightᵀ + bias` with `weight` `[outputs, inputs]` and perhaps `bias` `[outputs]`.
#[derive(Debug)]
pub struct Projection {
    /// One, unless the parts are held in different precisions.
    matrices: Vec<Matrix>,
    bias: Option<Tensor>,
}

impl Projection {
    /// Takes `weight`, and `bias` where `biased`.
    ///
    /// # Errors
    /// As [`Path::matrix`].
    pub fn new(path: &Path, inputs: i64, outputs: i64, biased: bool) -> Result<Projection, ModelError> {
        Projection::beside(&[(path.clone(), outputs)], inputs, biased)
    }

    /// Several projections of one input as one: their outputs lie one after another.
    ///
    /// # Errors
    /// As [`Path::matrix`].
    pub fn beside(parts: &[(Path, i64)], inputs: i64, biased: bool) -> Result<Projection, ModelError> {
        let matrices = parts.iter().map(|(path, outputs)| path.matrix("weight", *outputs, inputs));
        let mut matrices = matrices.collect::<Result<Vec<_>, _>>()?;
        let kinds: Vec<_> = matrices.iter().map(Matrix::precision).collect();
        if kinds.windows(2).all(|pair| pair.first() == pair.last()) && matrices.len() > 1 {
            matrices = vec![Matrix::concatenated(&matrices)?];
        }
        let bias = || -> Result<Tensor, ModelError> {
            let biases = parts.iter().map(|(path, outputs)| path.get("bias", &[*outputs], Init::Zeros));
            Ok(Tensor::f_cat(&biases.collect::<Result<Vec<_>, _>>()?, 0)?)
        };
        Ok(Projection { matrices, bias: biased.then(bias).transpose()? })
    }

    /// From a weight that had to be turned or reordered first.
    pub fn from_parts(matrix: Matrix, bias: Option<Tensor>) -> Projection {
        Projection { matrices: vec![matrix], bias }
    }

    /// `[…, inputs]` → `[…, outputs]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        if let [matrix] = self.matrices.as_slice() {
            return Ok(matrix.linear(input, self.bias.as_ref())?);
        }
        let parts: Vec<Tensor> =
            self.matrices.iter().map(|matrix| matrix.linear(input, None)).collect::<Result<_, _>>()?;
        let output = Tensor::f_cat(&parts, -1)?;
        Ok(self.bias.as_ref().map_or(Ok(output.shallow_clone()), |bias| output.f_add(bias))?)
    }
}

/// The table of token vectors, `[vocabulary, width]`, which many families use a second time to score the next token; others
/// have a matrix of the same shape for that. Clones share their numbers.
#[derive(Clone, Debug)]
pub struct TokenTable {
    matrix: Matrix,
    head: Option<Matrix>,
}

impl TokenTable {
    /// Takes `weight`.
    ///
    /// # Errors
    /// As [`Path::matrix`].
    pub fn new(path: &Path, vocabulary: i64, width: i64) -> Result<TokenTable, ModelError> {
        Ok(TokenTable { matrix: path.matrix("weight", vocabulary, width)?, head: None })
    }

    /// Takes `weight` of another path to score tokens by.
    ///
    /// # Errors
    /// As [`Path::matrix`].
    pub fn with_head(self, path: &Path) -> Result<TokenTable, ModelError> {
        let head = path.matrix("weight", self.matrix.outputs(), self.matrix.inputs())?;
        Ok(TokenTable { head: Some(head), ..self })
    }

    /// Ids `[tokens]` → `[tokens, width]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when an id lies outside the table.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.matrix.rows(ids)?)
    }

    /// `[tokens, width]` → a score for every token, `[tokens, vocabulary]`.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn scores(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.head.as_ref().unwrap_or(&self.matrix).linear(hidden, None)?)
    }
}
